"""The models of a node by content, and which release of each slot is in use."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgeinfer.bundle.manifest import read_manifest
from edgeinfer.clock import Clock
from edgeinfer.errors import ModelError, UpdateError, UpdateRefused
from edgeinfer.paths import state_folder
from edgeinfer.updates.blobs import Blobs
from edgeinfer.updates.control import Control, Entry, Row
from edgeinfer.updates.lifecycle import CANARY_ATTEMPTS, RESTING, Step, may_follow
from edgeinfer.updates.manifest import (
    BUNDLE_BYTES_MAX,
    DEPTH_MAX,
    FILE_BYTES_MAX,
    FILES_MAX,
    Budget,
    FileEntry,
    Manifest,
    Trial,
    checked_slot,
    content_of,
    encode_manifest,
    parse_manifest,
)

__all__ = ["Entry", "Installed", "SlotState", "Step", "Store", "checked_slot", "open_store"]

MAX_BYTES = 2 << 30
"""Of all models of a node together, where nobody says otherwise."""

_TIME_FLOOR = "time_unix_ns"


@dataclass(frozen=True, slots=True)
class Installed:
    """A release that the store knows. sha256: of its manifest."""

    sha256: str
    manifest: Manifest

    @property
    def slot(self) -> str:
        return self.manifest.slot

    @property
    def release(self) -> int:
        return self.manifest.release

    @property
    def files(self) -> Mapping[str, str]:
        """path in its bundle -> sha256."""
        return {path: entry.sha256 for path, entry in self.manifest.files.items()}

    @property
    def trial_s(self) -> float:
        """For so long it has to prove itself."""
        return self.manifest.trial.minutes * 60

    @property
    def p95_ms(self) -> float | None:
        """What it may take for a frame, None where judged by the model before it."""
        return self.manifest.budget.p95_ms


class SlotState(NamedTuple):
    """Where a slot stands; releases by number, None for none. since: RFC 3339; attempts: left of this step."""

    slot: str
    step: Step
    since: str
    reason: str | None
    active: int | None
    previous: int | None
    candidate: int | None
    factory: int | None
    floor: int
    attempts: int


class Store:
    """Everything a node has of its models. Several processes may have it open; each transition is one transaction.

    A transition that the slot's step does not allow, because another process was quicker, changes nothing. Raises
    ModelError for what is not in order, OSError and sqlite3.Error where the disk fails.
    """

    def __init__(self, folder: Path | None = None, clock: Clock | None = None) -> None:
        self.folder = folder or state_folder() / "store"
        self._blobs = Blobs(self.folder)
        self._control = Control(self.folder / "control.db", clock or Clock())

    @property
    def version(self) -> tuple[int, int]:
        """Another one after each change, by whichever process."""
        return self._control.version

    def close(self) -> None:
        """May be called twice."""
        self._control.close()

    # What there is.

    def slots(self) -> tuple[str, ...]:
        return tuple(row.slot for row in self._control.rows())

    def active(self, slot: str) -> Installed | None:
        return self._known(self._control.row(slot).active)

    def previous(self, slot: str) -> Installed | None:
        return self._known(self._control.row(slot).previous)

    def candidate(self, slot: str) -> Installed | None:
        return self._known(self._control.row(slot).candidate)

    def factory(self, slot: str) -> Installed | None:
        return self._known(self._control.row(slot).factory)

    def staged(self, slot: str) -> Installed | None:
        """What waits for a trial, or was in one when its process ended."""
        row = self._control.row(slot)
        return self._known(row.candidate) if row.step in ("staged", "trial") else None

    def state(self, slot: str) -> SlotState:
        row = self._control.row(slot)
        active, previous, candidate, factory = (
            self._number(each) for each in (row.active, row.previous, row.candidate, row.factory)
        )
        return SlotState(
            slot, row.step, row.since, row.reason, active, previous, candidate, factory, row.floor, row.attempts
        )

    def history(self, slot: str) -> tuple[Entry, ...]:
        """The oldest first."""
        return self._control.history(slot)

    def denial(self, installed: Installed) -> str | None:
        """Why it, or the same files under another number, was refused; None where it was not."""
        return self._control.denial(installed.slot, installed.sha256, content_of(installed.manifest))

    def denied(self, manifest: bytes) -> str | None:
        """The same of a manifest that may never have been here. Raises ModelError where it is none."""
        return self.denial(_read(manifest))

    def is_in_use(self, slot: str, manifest: bytes) -> bool:
        """Whether that is the active release."""
        return self._control.row(slot).active == hashlib.sha256(manifest).hexdigest()

    def bundle_of(self, installed: Installed) -> Path:
        """A folder with the bundle, every file of it hashed just now. Raises ModelError where one is not whole."""
        try:
            return self._blobs.bundle(installed.sha256, installed.files)
        except ModelError as damaged:
            which = f"release {installed.release} of {installed.slot}"
            raise ModelError(f"{which} is damaged: {damaged.message}", hint=damaged.hint) from damaged

    # Trusted time.

    def time_floor(self) -> int:
        """The latest moment that was ever raised, in Unix nanoseconds; 0 before the first."""
        return self._control.number(_TIME_FLOOR)

    def raise_time_floor(self, unix_ns: int) -> None:
        """Never down."""
        self._control.raise_number(_TIME_FLOOR, unix_ns)

    # By hand.

    def add(self, bundle: Path, slot: str, *, who: str = "operator") -> Installed:
        """Make that folder the factory model of the slot, release 0, and use it. Raises ModelError, UsageError."""
        with self.updating():
            installed = self._take_in(bundle, slot, 0)
            with self._control.change(slot) as row:
                self._refuse_denied(installed)
                if row.step == "trial":
                    raise ModelError(
                        f"slot {slot} has release {self._number(row.candidate)} on trial", hint="wait for its end"
                    )
                previous = row.previous if row.active in (None, installed.sha256) else row.active
                step: Step = "committed" if row.step in RESTING else row.step
                self._control.set(
                    slot, step, None, active=installed.sha256, factory=installed.sha256, previous=previous
                )
                self._control.note(slot, "factory", 0, who, str(bundle))
        return installed

    def stage(
        self,
        bundle: Path,
        slot: str,
        release: int,
        *,
        trial_s: float = 600.0,
        attempts: int = 3,
        p95_ms: float | None = None,
        who: str = "operator",
    ) -> Installed:
        """Let that folder wait for its trial as that release, unseen by a canary. Raises ModelError: below the floor,
        or denied."""
        trial, budget = Trial(minutes=trial_s / 60, attempts=attempts), Budget(p95_ms=p95_ms)
        with self.updating():
            installed = self._take_in(bundle, slot, release, trial=trial, budget=budget)
            with self._control.change(slot) as row:
                if release <= row.floor:
                    raise ModelError(f"release {release} of {slot} is not above {row.floor}, which was in use already")
                self._refuse_denied(installed)
                self._begin(row, installed, "staged", attempts, who, None)
        return installed

    def go_back(self, slot: str, reason: str, *, to_factory: bool = False, who: str = "operator") -> Installed:
        """Undo what waits or is on trial; else use the previous model, or the factory's, and deny the one in use.

        Raises ModelError where there is nothing to go back to.
        """
        with self._control.change(slot) as row:
            active = self._known(row.active)
            if row.step in ("staged", "trial") and active is not None and not to_factory:
                self._refuse(row, "rolled_back", reason, who)
                return active
            wanted = [row.factory] if to_factory else [row.previous, row.factory]
            found = next((each for each in wanted if each not in (None, row.active)), None)
            coming = self._known(found)
            if coming is None:
                raise ModelError(f"slot {slot} holds nothing to go back to")
            if row.candidate is not None:
                self._refuse(row, "rolled_back", reason, who)
            if active is not None and row.active != row.factory:
                self._deny(active, reason, {row.previous, row.factory})
            self._control.set(
                slot, "rolled_back", reason, active=coming.sha256, previous=None, candidate=None, attempts=0
            )
            self._control.note(slot, "rolled_back", coming.release, who, reason)
            return coming

    # An update, until it waits for its trial.

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Only one process at a time brings releases in. Raises UpdateError where another one does."""
        handle = os.open(self.folder / "update.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UpdateError(f"another update is at work on {self.folder}", hint="wait for its end") from None
            yield
        finally:
            os.close(handle)

    def offer(self, manifest: bytes, *, who: str = "updater") -> Installed:
        """Begin to fetch a release, or go on with it. manifest: its signed bytes.

        Raises ModelError where it is no manifest, UpdateRefused where it is denied, below the floor, or another one
        than was in use under its number, UpdateError where the slot has a model on trial.
        """
        installed = _read(manifest)
        slot, release = installed.slot, installed.release
        with self._control.change(slot) as row:
            if row.candidate == installed.sha256 and row.step not in RESTING:
                return installed
            if release < max(row.floor, 1):
                raise UpdateRefused(f"release {release} of {slot} is below the floor, {max(row.floor, 1)}")
            used = self._control.committed(slot, release)
            if used not in (None, installed.sha256):
                raise UpdateRefused(f"release {release} of {slot} was another one when it was in use")
            reason = self.denial(installed)
            if reason is not None:
                raise UpdateRefused(f"release {release} of {slot} is what was refused before: {reason}")
            if not may_follow(row.step, "fetching"):
                raise UpdateError(f"slot {slot} has release {self._number(row.candidate)} on trial")
            why = " ".join(filter(None, (manifest_source(installed.manifest), installed.manifest.note)))
            self._control.keep(installed.sha256, slot, release, manifest)
            self._begin(row, installed, "fetching", CANARY_ATTEMPTS, who, why or None)
        return installed

    def fetch(
        self, installed: Installed, fetch: Callable[[str, int, Path], None], *, max_bytes: int = MAX_BYTES
    ) -> None:
        """Bring what is missing of it. Raises UpdateError (no room, not all came), UpdateRefused, OSError."""
        missing = {
            entry.sha256: entry.length
            for entry in installed.manifest.files.values()
            if not self._blobs.is_whole(entry.sha256)
        }
        self.make_room(sum(missing.values()), max_bytes=max_bytes)
        for sha256, length in sorted(missing.items()):
            self._blobs.fetch(sha256, length, fetch)

    def make_room(self, needed_bytes: int = 0, *, max_bytes: int = MAX_BYTES) -> None:
        """Collect what no slot names: never an active, previous, candidate or factory model. Raises UpdateError."""
        held = [self._known(each) for row in self._control.rows() for each in row.named]
        releases = [each for each in held if each is not None]
        blobs = {sha256 for each in releases for sha256 in each.files.values()}
        self._control.forget_manifests()
        self._blobs.make_room(needed_bytes, max_bytes, blobs=blobs, bundles={each.sha256 for each in releases})

    def verified(self, slot: str, *, who: str = "updater") -> None:
        """All of the candidate is here, and is what its manifest says."""
        self._step(slot, "verified", who, None)

    def begin_canary(self, slot: str, *, who: str = "updater") -> Installed | None:
        """Count one attempt, durably, before anything is run; None where there is none left, or nothing to be tried."""
        with self._control.change(slot) as row:
            if row.candidate is None or not may_follow(row.step, "canary"):
                return None
            if row.attempts <= 0:
                self._refuse(row, "rejected", "the update ended in each attempt to try it", who)
                return None
            self._control.set(slot, "canary", None, attempts=row.attempts - 1)
            self._control.note(
                slot, "canary", self._number(row.candidate), who, f"{row.attempts - 1} more attempts left"
            )
            return self._known(row.candidate)

    def pass_canary(self, slot: str, report: str, *, who: str = "updater") -> None:
        """The candidate did in its canary what it should, and waits for its trial. report: how it did, in a line."""
        with self._control.change(slot) as row:
            candidate = self._known(row.candidate)
            if candidate is None or row.step != "canary":
                return
            self._control.set(slot, "staged", None, attempts=candidate.manifest.trial.attempts)
            self._control.note(slot, "staged", candidate.release, who, report)

    def leave_canary(self, slot: str, reason: str, *, who: str = "updater") -> None:
        """The candidate could not be tried here, which is not its fault: that attempt does not count."""
        with self._control.change(slot) as row:
            if row.step == "canary":
                self._control.set(slot, "verified", reason, attempts=row.attempts + 1)
                self._control.note(slot, "put_off", self._number(row.candidate), who, reason)

    def give_up(self, slot: str, reason: str, *, who: str = "updater") -> None:
        """Let the candidate go, not denied: that it did not come is not its fault."""
        with self._control.change(slot) as row:
            if row.candidate is None or not may_follow(row.step, "idle"):
                return
            self._control.note(slot, "given_up", self._number(row.candidate), who, reason)
            self._control.set(slot, "idle", reason, candidate=None, attempts=0)

    # The trial.

    def begin_trial(self, slot: str) -> Installed | None:
        """Count one attempt, durably, before anything is loaded; None where there is none left, or nothing waits."""
        with self._control.change(slot) as row:
            if row.step not in ("staged", "trial") or row.candidate is None:
                return None
            if row.attempts <= 0:
                self._refuse(row, "rolled_back", "its process ended in each attempt", "node")
                return None
            self._control.set(slot, "trial", None, attempts=row.attempts - 1)
            self._control.note(
                slot, "trial", self._number(row.candidate), "node", f"{row.attempts - 1} more attempts left"
            )
            return self._known(row.candidate)

    def leave_trial(self, slot: str) -> None:
        """The process ends in good order before the trial does: that attempt does not count."""
        with self._control.change(slot) as row:
            if row.step == "trial":
                self._control.set(slot, "staged", "the trial was left in good order", attempts=row.attempts + 1)

    def commit(self, slot: str, reason: str | None = None) -> None:
        """The candidate has proved itself: it is the active one, and no release below it is taken any more."""
        with self._control.change(slot) as row:
            candidate = self._known(row.candidate)
            if candidate is None or not may_follow(row.step, "committed"):
                return
            self._control.set(
                slot,
                "committed",
                reason,
                active=candidate.sha256,
                previous=row.previous if row.active == candidate.sha256 else row.active,
                candidate=None,
                attempts=0,
                floor=max(row.floor, candidate.release, candidate.manifest.floor),
            )
            self._control.mark_committed(candidate.sha256)
            self._control.note(slot, "committed", candidate.release, "node", reason)

    def roll_back(self, slot: str, reason: str) -> None:
        """The candidate has failed in use: it is denied from now on."""
        with self._control.change(slot) as row:
            self._refuse(row, "rolled_back", reason, "node")

    def reject(self, slot: str, reason: str, *, who: str = "node") -> None:
        """The candidate has failed before it was in use: it is denied from now on."""
        with self._control.change(slot) as row:
            self._refuse(row, "rejected", reason, who)

    def fall_back(self, slot: str, damaged: Installed, reason: str) -> Installed | None:
        """The active one cannot be used: the previous one is active now, else the factory's; None for neither."""
        with self._control.change(slot) as row:
            if row.active != damaged.sha256:
                return self._known(row.active)  # Another process has done it.
            left = [each for each in (row.previous, row.factory) if each not in (None, damaged.sha256)]
            coming = self._known(left[0]) if left else None
            name = None if coming is None else coming.sha256
            self._control.set(slot, row.step, reason, active=name, previous=None)
            self._control.note(slot, "fell_back", None if coming is None else coming.release, "node", reason)
            return coming

    def note(self, slot: str, what: str, why: str) -> None:
        """Something of the candidate for the history, such as how its shadow did."""
        with self._control.change(slot) as row:
            self._control.note(slot, what, self._number(row.candidate), "node", why)

    def _begin(self, row: Row, installed: Installed, step: Step, attempts: int, who: str, why: str | None) -> None:
        if not may_follow(row.step, step):
            raise ModelError(f"slot {row.slot} has release {self._number(row.candidate)} on trial")
        self._control.set(row.slot, step, None, candidate=installed.sha256, attempts=attempts)
        self._control.note(row.slot, step, installed.release, who, why)

    def _step(self, slot: str, step: Step, who: str, why: str | None) -> None:
        with self._control.change(slot) as row:
            if row.candidate is not None and may_follow(row.step, step):
                self._control.set(slot, step, why)
                self._control.note(slot, step, self._number(row.candidate), who, why)

    def _refuse(self, row: Row, step: Step, reason: str, who: str) -> None:
        candidate = self._known(row.candidate)
        if candidate is None or not may_follow(row.step, step):
            return
        self._deny(candidate, reason, {row.active, row.previous, row.factory})
        self._control.note(row.slot, step, candidate.release, who, reason)
        self._control.set(row.slot, step, reason, candidate=None, attempts=0)

    def _deny(self, failed: Installed, reason: str, others: Collection[str | None]) -> None:
        """By manifest and files, but never what another model of the slot is. others: the sha256 of their manifests."""
        held = [each for each in map(self._known, others) if each is not None]
        names = {failed.sha256, content_of(failed.manifest)}
        kept = {each.sha256 for each in held} | {content_of(each.manifest) for each in held}
        self._control.deny(failed.slot, reason, *sorted(names - kept))

    def _refuse_denied(self, installed: Installed) -> None:
        reason = self.denial(installed)
        if reason is not None:
            raise ModelError(f"release {installed.release} of {installed.slot} is what was refused before: {reason}")

    def _known(self, sha256: str | None) -> Installed | None:
        """Read from its manifest, which is hashed."""
        manifest = None if sha256 is None else self._control.manifest(sha256)
        if manifest is None:
            return None
        found = _read(manifest)
        if found.sha256 != sha256:
            raise ModelError(f"{self._control.path}: a manifest is damaged", hint="add the factory model again")
        return found

    def _number(self, sha256: str | None) -> int | None:
        found = self._known(sha256)
        return None if found is None else found.release

    def _take_in(
        self, bundle: Path, slot: str, release: int, *, trial: Trial | None = None, budget: Budget | None = None
    ) -> Installed:
        """Copy a folder in, under a manifest made for it. While it is not named by its slot, nobody may collect."""
        checked_slot(slot)
        facts = read_manifest(bundle)
        files = {}
        for path in _files_of(bundle):
            sha256, length = self._blobs.take_file(bundle / path, FILE_BYTES_MAX)
            files[path] = FileEntry(sha256, length)
        manifest = encode_manifest(
            Manifest(
                schema="edgeinfer.release/1",
                slot=slot,
                release=release,
                name=facts.name,
                version=facts.version,
                files=files,
                trial=trial or Trial(),
                budget=budget or Budget(),
            )
        )
        installed = _read(manifest)
        self._blobs.bundle(installed.sha256, installed.files)
        with self._control.change(slot):
            self._control.keep(installed.sha256, slot, release, manifest)
        return installed


def open_store(folder: Path | None = None, clock: Clock | None = None) -> Store:
    """The store of this node. Raises ModelError where it cannot be opened."""
    try:
        return Store(folder, clock)
    except (OSError, sqlite3.Error) as failed:
        raise ModelError(f"the model store {folder or state_folder() / 'store'} cannot be opened: {failed}") from failed


def manifest_source(manifest: Manifest) -> str:
    """Who published it and when, in words; empty where it does not say."""
    by = f"published by {manifest.publisher}" if manifest.publisher else ""
    at = f"at {manifest.published_at}" if manifest.published_at else ""
    recalls = "" if manifest.recall_of is None else f"to recall release {manifest.recall_of}"
    return " ".join(filter(None, (by, at, recalls)))


def _read(manifest: bytes) -> Installed:
    return Installed(hashlib.sha256(manifest).hexdigest(), parse_manifest(manifest))


def _files_of(bundle: Path) -> list[str]:
    """The paths of a bundle's files within it. Raises ModelError for what no bundle holds."""
    found = []
    total = 0
    for path in sorted(bundle.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path} is neither a file nor a folder")
        if path.is_dir():
            continue
        total += path.stat().st_size
        found.append(path.relative_to(bundle).as_posix())
        if total > BUNDLE_BYTES_MAX or len(found) > FILES_MAX or found[-1].count("/") >= DEPTH_MAX:
            raise ModelError(
                f"{bundle} holds more than a bundle may: {FILES_MAX} files, {BUNDLE_BYTES_MAX} bytes, paths of"
                f" {DEPTH_MAX} parts"
            )
    return found
