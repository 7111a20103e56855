"""One pass of updates: from what a repository offers to a release that waits for its trial, or is refused."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from edgeinfer.board import Board, recognise_board
from edgeinfer.bundle.manifest import read_manifest
from edgeinfer.errors import EdgeInferError, ModelError, UpdateError, UpdateRefused
from edgeinfer.updates import cage
from edgeinfer.updates.manifest import parse_manifest
from edgeinfer.updates.measured import Measured, fault_of, slowness_of
from edgeinfer.updates.remote import Release, Remote
from edgeinfer.updates.store import MAX_BYTES, Installed, Store
from edgeinfer.updates.suitable import reason_against

log = logging.getLogger(__name__)

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp")

What = Literal["up to date", "staged", "waits", "rejected", "unfit", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the pass did for a slot. why: the reason, or how the canary did. error: what the caller may raise."""

    slot: str
    what: What
    release: int | None = None
    why: str = ""
    error: EdgeInferError | None = None


def update(
    store: Store,
    remote: Remote,
    slots: Collection[str],
    *,
    devices: Mapping[str, str] | None = None,
    board: Board | None = None,
    max_bytes: int = MAX_BYTES,
    limit_s: float = cage.LIMIT_S,
) -> tuple[Outcome, ...]:
    """Bring each slot's newest suitable release in, try it in a canary, and let it wait for its trial.

    devices: by slot the word that the node runs it with, `auto` where none. max_bytes: of the whole store. What happens
    to one slot does not keep the others from theirs. Raises UpdateError, UpdateRefused where the repository cannot be
    used at all.
    """
    where = board or recognise_board()
    with store.updating():
        offers = remote.releases(slots)
        return tuple(
            _attend(store, remote, slot, offers, where, (devices or {}).get(slot, "auto"), max_bytes, limit_s)
            for slot in sorted(set(slots))
        )


def _attend(
    store: Store,
    remote: Remote,
    slot: str,
    offers: Sequence[Release],
    board: Board,
    device: str,
    max_bytes: int,
    limit_s: float,
) -> Outcome:
    mine = sorted((each for each in offers if each.slot == slot), key=lambda each: -each.release)
    try:
        release, why = _newest(mine, board)
        if release is None:
            return Outcome(slot, "unfit" if why else "up to date", mine[0].release if mine else None, why)
        return _bring(store, remote, release, device, max_bytes, limit_s)
    except EdgeInferError as failed:
        log.error("slot %s: %s", slot, failed)
        return Outcome(slot, "failed", mine[0].release if mine else None, failed.message, failed)
    except (OSError, sqlite3.Error) as failed:
        log.error("slot %s: the store cannot be written: %s", slot, failed)
        error = UpdateError(f"the model store {store.folder} cannot be written: {failed}")
        return Outcome(slot, "failed", mine[0].release if mine else None, error.message, error)


def _newest(mine: Sequence[Release], board: Board) -> tuple[Release | None, str]:
    """The newest that can run here; else why the newest of all cannot."""
    why = ""
    for each in mine:
        reason = reason_against(parse_manifest(each.manifest), board)
        if reason is None:
            return each, ""
        why = why or f"release {each.release} cannot be used: {reason}"
    return None, why


def _bring(store: Store, remote: Remote, release: Release, device: str, max_bytes: int, limit_s: float) -> Outcome:
    slot, number = release.slot, release.release
    if store.is_in_use(slot, release.manifest):
        return Outcome(slot, "up to date", number)
    if store.denied(release.manifest) is not None:
        return Outcome(slot, "rejected", number, f"refused before: {store.denied(release.manifest)}")
    installed = store.offer(release.manifest)
    if store.state(slot).step in ("staged", "trial"):
        return Outcome(slot, "waits", number)
    try:
        store.fetch(installed, remote.fetch, max_bytes=max_bytes)
    except UpdateRefused as refused:
        store.give_up(slot, refused.message)
        raise
    store.verified(slot)
    return _try(store, slot, device, limit_s)


def _try(store: Store, slot: str, device: str, limit_s: float) -> Outcome:
    installed = store.begin_canary(slot)
    if installed is None:
        state = store.state(slot)
        return Outcome(slot, "rejected", None, state.reason or "")
    measured, fault = _canary(store, installed, device, limit_s)
    if measured.is_ours and measured.fault is not None:
        store.leave_canary(slot, measured.fault)
        raise UpdateError(f"release {installed.release} of {slot} cannot be tried here: {measured.fault}")
    if fault is not None:
        store.reject(slot, fault, who="updater")
        return Outcome(slot, "rejected", installed.release, fault)
    store.pass_canary(slot, measured.in_words())
    return Outcome(slot, "staged", installed.release, measured.in_words())


def _canary(store: Store, installed: Installed, device: str, limit_s: float) -> tuple[Measured, str | None]:
    """How it did, and why it is refused, if it is. Too slow it is only called when it was so twice.

    Raises ModelError where its files have been damaged meanwhile.
    """
    bundle = store.bundle_of(installed)
    in_use = _whole_active(store, installed.slot)
    shown = [*pictures_of(bundle), *([] if in_use is None else pictures_of(in_use))]

    def run() -> Measured:
        return cage.run_candidate(bundle, installed.manifest, device=device, pictures=shown, limit_s=limit_s)

    measured = run()
    if measured.fault is not None and not measured.is_ours:
        return measured, measured.fault
    active = None if in_use is None else _run_active(in_use, device, shown, limit_s)
    if measured.fault is not None and active is not None:
        # The device is here, and computes the other one.
        return replace(measured, is_ours=False), measured.fault
    budget = installed.manifest.budget
    if measured.fault is None and slowness_of(measured, active, budget) is not None:
        measured = run()
    return measured, fault_of(measured, active, budget)


def _run_active(bundle: Path, device: str, shown: Sequence[Path], limit_s: float) -> Measured | None:
    measured = cage.run_active(bundle, device=device, pictures=shown, limit_s=limit_s)
    if measured.fault is None:
        return measured
    log.warning("the active model is no measure for the candidate: %s", measured.fault)
    return None


def _whole_active(store: Store, slot: str) -> Path | None:
    active = store.active(slot)
    try:
        return None if active is None else store.bundle_of(active)
    except ModelError as damaged:
        log.warning("slot %s: %s", slot, damaged)
        return None


def pictures_of(bundle: Path) -> list[Path]:
    """Those among the bundle's golden samples. Raises ModelError."""
    named = dict.fromkeys(each.input for each in read_manifest(bundle).golden)
    return [bundle / name for name in named if name.lower().endswith(_PICTURES)]
