"""`edgeinfer models`: the models of this node's slots, where they came from, and the way back."""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeinfer.cli.arguments import number
from edgeinfer.cli.terminal import configure_logging, show
from edgeinfer.errors import ModelError, OutputError, UsageError
from edgeinfer.updates.manifest import checked_slot

if TYPE_CHECKING:
    from edgeinfer.config import Config
    from edgeinfer.updates.store import Installed, Store

_SCHEMA = "edgeinfer.models/1"
_ROLES = ("active", "previous", "candidate", "factory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)

    def action(name: str, summary: str, run: Callable[[argparse.Namespace], int]) -> Callable[..., Any]:
        each = actions.add_parser(name, help=summary, description=summary + ".", allow_abbrev=False)
        each.set_defaults(run=run)
        each.add_argument("--debug", action="store_true", help="print the traceback of an error, and debug logs")
        return each.add_argument

    add = action("list", "show which release of each slot is in use, and where its update stands", _list)
    add("--json", action="store_true", help="print one JSON object")

    add = action("add", "put a bundle into a slot by hand, as its factory model, and use it", _add)
    add("bundle", metavar="BUNDLE", type=Path, help="the folder of a bundle, with its model.toml")
    add("--slot", metavar="S", required=True, help="small letters, digits and -, such as detector")

    add = action("verify", "hash every file of every release that is kept, and say which are damaged", _verify)
    add("--slot", metavar="S", help="of this slot only")

    add = action("rollback", "undo what waits or is on trial, else go back to the previous release", _rollback)
    add("slot", metavar="SLOT")
    add("--factory", action="store_true", help="go back to the factory model")
    add("--why", metavar="TEXT", default="asked for by hand", help="is kept in the history")

    add = action("history", "print who did what to a slot, when and why, the oldest first", _history)
    add("slot", metavar="SLOT")
    add("--json", action="store_true", help="print one JSON object")

    add = action("update", "bring in what a repository offers, try it, and let it wait for its trial", _update)
    add("slots", metavar="SLOT", nargs="*", help="only these; else those of the configuration, or all that there are")
    add("--url", metavar="URL", help="http(s)://…, mqtt(s)://BROKER/REPOSITORY, or a folder, such as a USB stick's")
    add("--root", metavar="FILE", type=Path, help="the publisher's root.json, which the trust begins with: once")
    add("--config", metavar="FILE", type=Path, help="take all that is not said here from [updates] in this file")
    add("--node", metavar="NAME", help="who we are, for a rollout to a share of the nodes; else the host's name")
    add("--group", metavar="G", action="append", help="a group that this node is in; repeatable")
    add("--device", metavar="D", help="what the node runs these models on; else as the pipelines say, or auto")
    add("--limit", metavar="T", type=number, help="seconds that one canary may take")


def run(arguments: argparse.Namespace) -> int:
    configure_logging(quiet=True, debug=arguments.debug)
    try:
        return int(arguments.run(arguments))
    except sqlite3.Error as failed:
        raise ModelError(f"the model store cannot be used: {failed}") from failed
    except OSError as failed:
        raise OutputError(f"the model store cannot be written: {failed}") from failed


def _open() -> Store:
    from edgeinfer.updates.store import open_store

    return open_store()


def _known(store: Store, slot: str) -> str:
    """The slot itself. Raises UsageError where nothing was ever put into it."""
    if checked_slot(slot) not in store.slots():
        raise UsageError(f"there is no slot {slot}", hint="edgeinfer models list")
    return slot


def _list(arguments: argparse.Namespace) -> int:
    store = _open()
    states = [store.state(slot) for slot in store.slots()]
    if arguments.json:
        _show_json({"schema": _SCHEMA, "folder": str(store.folder), "slots": [each._asdict() for each in states]})
        return 0
    if not states:
        show("no slots; 'edgeinfer models add BUNDLE --slot detector' makes the first")
        return 0
    rows: list[Sequence[str]] = [("SLOT", "STATE", "ACTIVE", "PREVIOUS", "CANDIDATE", "FLOOR", "MODEL", "SINCE")]
    for each in states:
        active = store.active(each.slot)
        model = "-" if active is None else f"{active.manifest.name} {active.manifest.version}"
        releases = ("-" if number is None else str(number) for number in (each.active, each.previous, each.candidate))
        rows.append((each.slot, each.step, *releases, str(each.floor), model, each.since))
    _show_table(rows)
    for each in states:
        if each.reason is not None:
            show(f"{each.slot}: {each.reason}")
    return 0


def _add(arguments: argparse.Namespace) -> int:
    from edgeinfer.bundle import find_bundle, load_bundle

    bundle = find_bundle(arguments.bundle)
    if not bundle.is_dir():
        raise UsageError(f"{bundle} is a file, and a slot holds bundles", hint="make a folder with a model.toml")
    load_bundle(bundle)
    installed = _open().add(bundle, checked_slot(arguments.slot))
    show(f"slot {installed.slot} uses {installed.manifest.name} {installed.manifest.version}, its factory model")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    store = _open()
    slots = store.slots() if arguments.slot is None else (_known(store, arguments.slot),)
    damaged = 0
    for slot in slots:
        for role in _ROLES:
            installed: Installed | None = getattr(store, role)(slot)
            if installed is None or (role == "candidate" and store.state(slot).step == "fetching"):
                continue
            said = "whole"
            try:
                store.bundle_of(installed)
            except ModelError as wrong:
                said, damaged = wrong.message, damaged + 1
            show(f"{slot} {role}, release {installed.release}: {said}")
    return ModelError.exit_code if damaged else 0


def _rollback(arguments: argparse.Namespace) -> int:
    store = _open()
    coming = store.go_back(_known(store, arguments.slot), arguments.why, to_factory=arguments.factory)
    show(f"slot {coming.slot} uses release {coming.release}, {coming.manifest.name} {coming.manifest.version}")
    return 0


def _history(arguments: argparse.Namespace) -> int:
    store = _open()
    entries = store.history(_known(store, arguments.slot))
    if arguments.json:
        _show_json({"schema": _SCHEMA, "slot": arguments.slot, "history": [each._asdict() for each in entries]})
        return 0
    rows: list[Sequence[str]] = [("AT", "WHO", "WHAT", "RELEASE", "WHY")]
    rows += [
        (each.at, each.who, each.what, "-" if each.release is None else str(each.release), each.why or "")
        for each in entries
    ]
    _show_table(rows)
    return 0


def _update(arguments: argparse.Namespace) -> int:
    from edgeinfer.config import read_config
    from edgeinfer.updates import cage
    from edgeinfer.updates.updater import update

    limit_s = cage.LIMIT_S if arguments.limit is None else arguments.limit
    if not 1 <= limit_s <= 86_400:
        raise UsageError(f"--limit: {limit_s:g} is not between 1 and 86400")
    config = None if arguments.config is None else read_config(arguments.config)
    if arguments.url is None and config is None:
        raise UsageError("it is not said where from", hint="give --url, or --config with a file that has [updates]")
    said = None if config is None else config.updates
    url = arguments.url or (None if said is None else said.url)
    if url is None:
        show(f"{arguments.config} has no [updates]: models stay as they are")
        return 0
    store = _open()
    slots = tuple(map(checked_slot, arguments.slots)) or (() if said is None else said.slots) or store.slots()
    if not slots:
        raise UsageError("there is no slot yet", hint="name one, or 'edgeinfer models add' its factory model")
    from edgeinfer.updates.open import open_remote  # Not before it is needed: it brings in all of tuf.

    root = arguments.root or (Path(said.root) if said is not None and said.root is not None else None)
    groups = arguments.group if arguments.group is not None else () if said is None else said.groups
    remote = open_remote(
        url,
        store,
        root=root,
        node=arguments.node or (None if config is None else config.node),
        groups=groups,
        uplink=None if config is None else config.uplink,
    )
    devices = {slot: arguments.device or _device_of(slot, config) for slot in slots}
    try:
        outcomes = update(store, remote, slots, devices=devices, limit_s=limit_s)
    finally:
        remote.close()
    for each in outcomes:
        which = "" if each.release is None else f", release {each.release}"
        show(f"{each.slot}: {each.what}{which}{': ' if each.why else ''}{each.why}")
    errors = [each.error for each in outcomes if each.error is not None]
    if errors:
        raise errors[0]
    return 0


def _device_of(slot: str, config: Config | None) -> str:
    """What the first pipeline that names the slot runs it on."""
    pipelines = () if config is None else config.pipeline
    return next((each.device for each in pipelines if each.model == f"slot:{slot}"), "auto")


def _show_json(facts: object) -> None:
    show(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())


def _show_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
