"""`edgeinfer fleet`: the publisher's side of updates: keys, a signed repository, and serving it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.cli.arguments import add_mqtt_arguments, number, stated_mqtt_flags, whole
from edgeinfer.cli.terminal import configure_logging, show
from edgeinfer.errors import EdgeInferError, UsageError

if TYPE_CHECKING:
    from edgeinfer.config import UplinkConfig
    from edgeinfer.fleet.keys import KeyFiles
    from edgeinfer.fleet.repository import FleetRepository, Published

log = logging.getLogger(__name__)

_FOLDER = Path("fleet")
_LISTEN = "127.0.0.1:8321"
_DAY_S = 86_400
_LOOKS_EVERY_S = 60.0
_WARNS_DAYS = 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)

    def action(name: str, summary: str, *, signs: bool = True) -> argparse.ArgumentParser:
        made = actions.add_parser(
            name, help=summary, description=f"{summary}.", formatter_class=parser.formatter_class, allow_abbrev=False
        )
        made.add_argument("--fleet", metavar="DIR", type=Path, default=_FOLDER, help=f"default: {_FOLDER}")
        if signs:
            made.add_argument("--passphrase-file", metavar="FILE", type=Path, help="of the keys; else asked for")
            made.add_argument(
                "--keys",
                metavar="DIR",
                type=Path,
                action="append",
                default=[],
                help="where further keys lie; repeatable",
            )
        return made

    init = action("init", "make the keys and an empty signed repository")
    init.add_argument("--publisher", metavar="NAME", default="", help="who publishes, for the nodes' history")
    for role, days in (("root", 365), ("targets", 90), ("snapshot", 14), ("timestamp", 3)):
        init.add_argument(f"--{role}-days", metavar="N", type=whole, default=days, help=f"its signatures end ({days})")
    _add_publish(action("publish", "check a bundle, run it, and sign it as the next release of a slot"))
    recall = action("recall", "sign an older release again, under a new number that takes the place of the newest")
    recall.add_argument("--slot", metavar="S", required=True)
    recall.add_argument("--to-release", metavar="N", type=whole, help="which one comes back; the one before the newest")
    recall.add_argument("--note", metavar="TEXT", default="", help="why, for the nodes' history")
    rollout = action("rollout", "let the same release have another share of the nodes")
    rollout.add_argument("share", metavar="SHARE", type=share, help="such as 50%%")
    rollout.add_argument("--slot", metavar="S", required=True)
    rollout.add_argument("--release", metavar="N", type=whole, help="the newest one")
    status = action("status", "when signatures end, and which releases are to be had", signs=False)
    status.add_argument("--mqtt", metavar="URL", help="also what the nodes at this broker say of their models")
    add_mqtt_arguments(status)
    rotate = action("rotate", "replace keys, or without a name sign the root metadata for another term")
    rotate.add_argument("names", metavar="KEY", nargs="*", help="root-1, root-2, root-3, targets, online")
    renew = action(
        "renew", "sign snapshot and timestamp anew with the online key: daily, where nothing serves for good"
    )
    renew.add_argument("--targets", action="store_true", help="the releases, too, with the targets key")
    _add_serve(action("serve", "serve the repository over HTTP, or over MQTT, and renew its signatures in time"))


def _add_publish(publish: argparse.ArgumentParser) -> None:
    add = publish.add_argument
    add("bundle", metavar="BUNDLE", help="a folder with a model.toml, or the name of a bundle")
    add("--slot", metavar="S", required=True, help="what nodes name it by, such as detector")
    add("--to", metavar="GROUP", action="append", default=[], help="only for nodes of this group; repeatable")
    add("--rollout", metavar="SHARE", type=share, default=1.0, help="only for this share of the nodes, such as 10%%")
    add("--board", metavar="NAME", action="append", default=[], help="only for this board; repeatable")
    add("--requires", metavar="PKG>=V", action="append", help="oldest version of a package; repeatable")
    add("--floor", metavar="N", type=whole, default=0, help="releases below are never installed again")
    add("--p95-ms", metavar="X", type=number, help="what a frame may take on a node; else judged by the model before")
    add("--memory-mb", metavar="X", type=number, help="what it may take in memory there")
    add("--load-s", metavar="X", type=number, help="what it may take to load there")
    add("--max-abs", metavar="X", type=number, help="how far outputs may lie from the golden ones")
    add("--trial-minutes", metavar="X", type=number, default=10.0, help="how long a node tries it (10)")
    add("--note", metavar="TEXT", default="", help="for the nodes' history")


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--listen", metavar="HOST:PORT", help=f"over HTTP; default: {_LISTEN}, with --mqtt none")
    serve.add_argument(
        "--mqtt", metavar="URL", help="over MQTT 5: mqtt://broker/REPOSITORY, whose name is main if left out"
    )
    serve.add_argument(
        "--desired", metavar="SLOT=N", type=wish, action="append", default=[], help="over MQTT: wish for that release"
    )
    add_mqtt_arguments(serve)


def share(text: str) -> float:
    """`10%` or `0.1`, as 0..1."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share, such as 10%")
    return value


def wish(text: str) -> tuple[str, int]:
    slot, sign, release = text.partition("=")
    if not (sign and slot and release.isdecimal() and int(release)):
        raise argparse.ArgumentTypeError(f"{text!r} is no wish, such as detector=7")
    return slot, int(release)


def run(arguments: argparse.Namespace) -> int:
    from importlib.util import find_spec

    configure_logging(quiet=False, debug=arguments.debug)
    if find_spec("tuf") is None:
        raise UsageError("a fleet needs the module 'tuf'", hint="pip install 'edgeinfer[updates]'")
    actions = {
        "init": _init,
        "publish": _publish,
        "recall": _recall,
        "rollout": _rollout,
        "status": _status,
        "rotate": _rotate,
        "renew": _renew,
        "serve": _serve,
    }
    actions[str(arguments.action)](arguments)
    return 0


def _init(arguments: argparse.Namespace) -> None:
    from edgeinfer.fleet.repository import ROOT_KEYS, Expiries, FleetRepository, Settings
    from edgeinfer.tomlfile import convert

    days = {role: getattr(arguments, f"{role}_days") for role in Expiries.__struct_fields__}
    settings = convert({"publisher": arguments.publisher, "expiries": days}, Settings, UsageError)
    repository = FleetRepository.create(arguments.fleet, _keys(arguments, is_new=True), settings)
    show(f"made {repository.served}, and its keys in {arguments.fleet / 'keys'}")
    show(f"nodes need {arguments.fleet / 'root.json'}")
    show(f"now move two of {', '.join(f'{name}.pem' for name in ROOT_KEYS)} away, each to another place")


def _publish(arguments: argparse.Namespace) -> None:
    from edgeinfer.fleet.publish import Wanted, prepared
    from edgeinfer.fleet.repository import Published
    from edgeinfer.updates.manifest import Budget, Trial, checked_slot

    checked_slot(arguments.slot)
    repository = _repository(arguments)
    with repository.locked():
        wanted = Wanted(
            slot=arguments.slot,
            release=repository.next_release(arguments.slot),
            publisher=repository.settings.publisher,
            floor=arguments.floor,
            boards=tuple(arguments.board),
            requires=None if arguments.requires is None else dict(_requirement(each) for each in arguments.requires),
            budget=Budget(arguments.p95_ms, arguments.memory_mb, arguments.load_s),
            trial=Trial(minutes=arguments.trial_minutes),
            max_abs=arguments.max_abs,
            note=arguments.note,
        )
        with prepared(arguments.bundle, wanted, arguments.fleet) as release:
            repository.add(Published(release.manifest, tuple(arguments.to), arguments.rollout), release.files)
            for line in release.measured:
                show(line)
            show(
                f"signed release {wanted.release} of {wanted.slot}: {release.manifest.name} {release.manifest.version}"
            )


def _requirement(text: str) -> tuple[str, str]:
    name, sign, version = text.partition(">=")
    if not (sign and name and version):
        raise UsageError(f"--requires {text!r} is no oldest version", hint="such as 'ai-edge-litert>=2.1'")
    return name.strip(), f">={version.strip()}"


def _recall(arguments: argparse.Namespace) -> None:
    from edgeinfer.clock import Clock
    from edgeinfer.fleet.publish import recalled
    from edgeinfer.fleet.repository import Published

    repository = _repository(arguments)
    with repository.locked():
        releases = _of_slot(repository, arguments.slot)
        bad = releases[-1]
        number = arguments.to_release
        older = [each for each in releases[:-1] if number in (None, each.manifest.release)]
        if not older:
            raise UsageError(f"slot {arguments.slot} has no older release {'' if number is None else number}".rstrip())
        manifest = recalled(
            older[-1].manifest,
            bad.manifest,
            release=repository.next_release(arguments.slot),
            note=arguments.note,
            publisher=repository.settings.publisher,
            clock=Clock(),
        )
        gone = [each for each in releases if each.manifest.release > older[-1].manifest.release]
        repository.add(Published(manifest), {}, without=gone)
    show(
        f"signed release {manifest.release} of {manifest.slot}: release {older[-1].manifest.release} again, instead of"
    )
    show(f"{', '.join(str(each.manifest.release) for each in gone)}, which is no longer to be had")


def _rollout(arguments: argparse.Namespace) -> None:
    repository = _repository(arguments)
    with repository.locked():
        releases = _of_slot(repository, arguments.slot)
        found = [each for each in releases if arguments.release in (None, each.manifest.release)]
        if not found:
            raise UsageError(f"slot {arguments.slot} has no release {arguments.release}")
        repository.set_rollout(found[-1], arguments.share)
    show(f"release {found[-1].manifest.release} of {arguments.slot} is for {arguments.share:.0%} of the nodes")


def _of_slot(repository: FleetRepository, slot: str) -> Sequence[Published]:
    releases = [each for each in repository.releases() if each.manifest.slot == slot]
    if not releases:
        raise UsageError(f"no release of slot {slot!r} was published")
    return releases


def _status(arguments: argparse.Namespace) -> None:
    arguments.keys, arguments.passphrase_file = [], None
    repository = _repository(arguments)
    now = datetime.now(timezone.utc)
    for role, expires in repository.expires().items():
        left_days = (expires - now).total_seconds() / _DAY_S
        show(f"{role:<10} {expires:%Y-%m-%d %H:%M} UTC  {f'{left_days:.0f} days' if left_days > 0 else 'EXPIRED'}")
    for each in repository.releases():
        manifest = each.manifest
        to = f"to {', '.join(each.groups)}" if each.groups else "to all"
        recalls = "" if manifest.recall_of is None else f"  recalls {manifest.recall_of}"
        show(
            f"{manifest.slot} {manifest.release}: {manifest.name} {manifest.version}  {to}, {each.rollout:.0%}"
            f"  {manifest.published_at[:16]}{recalls}"
        )
    if arguments.mqtt is not None:
        _show_nodes(_uplink(arguments))


def _show_nodes(config: UplinkConfig) -> None:
    from edgeinfer.fleet.state import models_of_nodes

    for each in models_of_nodes(config):
        show(f"{each.node} {each.slot}: {', '.join(f'{name} {value}' for name, value in each.words)}")


def _rotate(arguments: argparse.Namespace) -> None:
    repository = _repository(arguments)
    with repository.locked():
        repository.rotate(arguments.names)
    root = repository.root.signed
    show(f"signed root metadata {root.version}, with {', '.join(arguments.names) or 'no'} new keys")


def _renew(arguments: argparse.Namespace) -> None:
    repository = _repository(arguments)
    with repository.locked():
        if arguments.targets:
            repository.renew_targets()
        else:
            repository.renew()
    show(f"signed until {repository.expires()['timestamp']:%Y-%m-%d %H:%M} UTC")


def _serve(arguments: argparse.Namespace) -> None:
    from edgeinfer.fleet.broker import FleetResponder
    from edgeinfer.fleet.files import ServedFiles
    from edgeinfer.fleet.keys import may_be_had
    from edgeinfer.fleet.web import FleetServer
    from edgeinfer.updates.exchange import split_url

    repository = _repository(arguments)
    files = ServedFiles(repository.served)
    with contextlib.ExitStack() as stack:
        if arguments.mqtt is not None:
            name = split_url(arguments.mqtt)[1]
            responder = FleetResponder(files, _uplink(arguments), name, wishes=dict(arguments.desired))
            stack.callback(responder.close)
            show(f"serving {repository.served} at {arguments.mqtt} as {name}")
        if arguments.listen is not None or arguments.mqtt is None:
            server = FleetServer(files, arguments.listen or _LISTEN)
            stack.callback(server.close)
            show(f"serving {repository.served} at {server.url}")
        signs = may_be_had(arguments.passphrase_file)
        if not signs:
            log.warning("nobody is here to type the passphrase: the signatures are not renewed; --passphrase-file FILE")
        _warn_of_ends(repository)
        while True:
            if signs:
                _renew_when_due(repository)
            time.sleep(_LOOKS_EVERY_S)


def _warn_of_ends(repository: FleetRepository) -> None:
    """Of what is not renewed here."""
    expires, now = repository.expires(), datetime.now(timezone.utc)
    for role, ends, remedy in (
        ("root", expires["root"], "edgeinfer fleet rotate"),
        ("targets", expires["targets"], "edgeinfer fleet renew --targets"),
    ):
        left_days = (ends - now).total_seconds() / _DAY_S
        if left_days < _WARNS_DAYS:
            log.warning("the signatures of %s end in %.0f days: %s", role, left_days, remedy)


def _renew_when_due(repository: FleetRepository) -> None:
    """What fails is tried again at the next look: it is no reason to serve no longer."""
    try:
        if repository.is_due():
            with repository.locked():
                repository.renew()
            log.info("signatures renewed until %s", repository.expires()["timestamp"])
    except EdgeInferError as failed:
        log.warning("the signatures could not be renewed: %s", failed)


def _repository(arguments: argparse.Namespace) -> FleetRepository:
    from edgeinfer.fleet.repository import FleetRepository

    return FleetRepository(arguments.fleet, _keys(arguments))


def _keys(arguments: argparse.Namespace, *, is_new: bool = False) -> KeyFiles:
    from edgeinfer.fleet.keys import KeyFiles, passphrase_from

    ask = passphrase_from(arguments.passphrase_file, is_new=is_new)
    return KeyFiles(arguments.fleet / "keys", ask, arguments.keys)


def _uplink(arguments: argparse.Namespace) -> UplinkConfig:
    from edgeinfer.updates.exchange import split_url
    from edgeinfer.uplink.subscriber import subscriber_config

    flags: dict[str, Any] = stated_mqtt_flags(arguments)
    return subscriber_config(split_url(arguments.mqtt)[0], **flags)
