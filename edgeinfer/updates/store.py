"""The models of a node by content, and which release of each slot is in use: files in a folder, and `control.db`."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from edgeinfer.clock import Clock, rfc3339
from edgeinfer.durable import sync_folder
from edgeinfer.errors import ModelError, UsageError
from edgeinfer.paths import state_folder

log = logging.getLogger(__name__)

Step = Literal["idle", "staged", "trial", "committed", "rolled_back", "rejected"]

_SLOT = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_FILES_MAX = 64
_DEPTH_MAX = 3
_FILE_BYTES_MAX = 512 << 20
_BUNDLE_BYTES_MAX = 1 << 30
_HISTORY_MAX = 1000
_BUSY_S = 10.0
_CHUNK = 1 << 20

_TABLES = """
CREATE TABLE IF NOT EXISTS releases (sha256 TEXT PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS slots (
    slot TEXT PRIMARY KEY, active TEXT, previous TEXT, candidate TEXT, factory TEXT,
    step TEXT NOT NULL DEFAULT 'idle', attempts INTEGER NOT NULL DEFAULT 0, floor INTEGER NOT NULL DEFAULT 0,
    since TEXT NOT NULL DEFAULT '', reason TEXT
);
CREATE TABLE IF NOT EXISTS denied (sha256 TEXT PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, slot TEXT NOT NULL, at TEXT NOT NULL, what TEXT NOT NULL,
    release INTEGER, who TEXT NOT NULL, why TEXT
);
"""


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A release that lies in the store. sha256: of what names its content; files: path in its bundle -> sha256.

    trial_s: for so long it has to prove itself. p95_ms: what it may take for a frame, None where judged by the model
    before it.
    """

    slot: str
    release: int
    sha256: str
    files: Mapping[str, str]
    trial_s: float = 600.0
    p95_ms: float | None = None


class SlotState(NamedTuple):
    """Where a slot stands; releases by number, None where there is none. since: RFC 3339; attempts: left of a trial."""

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


class Entry(NamedTuple):
    """What was done with a slot: when, RFC 3339; what; with which release; by whom; why."""

    at: str
    what: str
    release: int | None
    who: str
    why: str | None


@dataclass(frozen=True, slots=True)
class _Row:
    """Of a slot: sha256 of its releases."""

    slot: str
    active: str | None
    previous: str | None
    candidate: str | None
    factory: str | None
    step: Step
    attempts: int
    floor: int
    since: str
    reason: str | None


class Store:
    """Everything a node has of its models. Several processes may have it open; each transition is one transaction.

    Raises ModelError for what is not in order, OSError and sqlite3.Error where the disk fails.
    """

    def __init__(self, folder: Path | None = None, clock: Clock | None = None) -> None:
        self.folder = folder or state_folder() / "store"
        self._clock = clock or Clock()
        self._lock = threading.RLock()
        for each in (self.folder, self.folder / "blobs", self.folder / "bundles"):
            each.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            self.folder / "control.db", timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        # Never a WAL: two processes write here, and a power cut must find the last transition or the one before it.
        self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_TABLES)

    @property
    def version(self) -> tuple[int, int]:
        """Another one after each change, by whichever process."""
        with self._lock:
            return self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # What there is.

    def slots(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(slot for (slot,) in self._db.execute("SELECT slot FROM slots ORDER BY slot"))

    def active(self, slot: str) -> Installed | None:
        return self._release(self._row(slot).active)

    def previous(self, slot: str) -> Installed | None:
        return self._release(self._row(slot).previous)

    def candidate(self, slot: str) -> Installed | None:
        return self._release(self._row(slot).candidate)

    def factory(self, slot: str) -> Installed | None:
        return self._release(self._row(slot).factory)

    def staged(self, slot: str) -> Installed | None:
        """What waits for a trial, or was in one when its process ended."""
        row = self._row(slot)
        return self._release(row.candidate) if row.step in ("staged", "trial") else None

    def state(self, slot: str) -> SlotState:
        with self._lock:
            row = self._row(slot)
            releases = [self._release(each) for each in (row.active, row.previous, row.candidate, row.factory)]
        active, previous, candidate, factory = (None if each is None else each.release for each in releases)
        return SlotState(
            slot, row.step, row.since, row.reason, active, previous, candidate, factory, row.floor, row.attempts
        )

    def history(self, slot: str) -> tuple[Entry, ...]:
        """The oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT at, what, release, who, why FROM history WHERE slot = ? ORDER BY number", (slot,)
            ).fetchall()
        return tuple(Entry(*row) for row in rows)

    def bundle_of(self, installed: Installed) -> Path:
        """A folder with the bundle, every file of it hashed just now. Raises ModelError where one is not whole."""
        folder = self.folder / "bundles" / installed.sha256
        for path, sha256 in installed.files.items():
            place, blob = folder / path, self.folder / "blobs" / sha256
            try:
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.link(blob, place)
                found = _sha256_of(place)
            except OSError as lost:
                raise ModelError(
                    f"release {installed.release} of {installed.slot} is not whole: {path}: {lost.strerror}"
                ) from lost
            if found != sha256:
                raise ModelError(f"release {installed.release} of {installed.slot} is damaged: {path} is {found[:12]}…")
        return folder

    # What is done, each in one transaction.

    def add(self, bundle: Path, slot: str, *, who: str = "operator") -> Installed:
        """Make that folder the factory model of the slot, release 0, and use it. Raises ModelError, UsageError."""
        installed = self._take_in(bundle, slot, 0)
        with self._change(slot) as row:
            self._set(slot, "committed", None, active=installed.sha256, factory=installed.sha256, previous=row.active)
            self._note(slot, "factory", 0, who, str(bundle))
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
        """Let that folder wait for its trial as that release. Raises ModelError: below the floor, or denied."""
        installed = self._take_in(bundle, slot, release, trial_s=trial_s, p95_ms=p95_ms)
        with self._change(slot) as row:
            if release <= row.floor:
                raise ModelError(f"release {release} of {slot} is not above {row.floor}, which was in use already")
            denied = self._db.execute("SELECT reason FROM denied WHERE sha256 = ?", (installed.sha256,)).fetchone()
            if denied is not None:
                raise ModelError(f"release {release} of {slot} is what was refused before: {denied[0]}")
            self._set(slot, "staged", None, candidate=installed.sha256, attempts=attempts)
            self._note(slot, "staged", release, who, None)
        return installed

    def begin_trial(self, slot: str) -> Installed | None:
        """Count one attempt, durably, before anything is loaded; None where there is none left, or nothing waits."""
        with self._change(slot) as row:
            if row.step not in ("staged", "trial") or row.candidate is None:
                return None
            if row.attempts <= 0:
                self._refuse(row, "rolled_back", "its process ended in each attempt")
                return None
            self._set(slot, "trial", None, attempts=row.attempts - 1)
            self._note(slot, "trial", self._number(row.candidate), "node", f"{row.attempts - 1} more attempts left")
            return self._release(row.candidate)

    def leave_trial(self, slot: str) -> None:
        """The process ends in good order before the trial does: that attempt does not count."""
        with self._change(slot) as row:
            if row.step == "trial":
                self._set(slot, "staged", "the trial was left in good order", attempts=row.attempts + 1)

    def commit(self, slot: str, reason: str | None = None) -> None:
        """The candidate has proved itself: it is the active one, and no release below it is taken any more."""
        with self._change(slot) as row:
            number = self._number(row.candidate)
            if row.candidate is None or number is None:
                return
            previous = row.previous if row.active == row.candidate else row.active
            self._set(
                slot,
                "committed",
                reason,
                active=row.candidate,
                previous=previous,
                candidate=None,
                floor=max(row.floor, number),
            )
            self._note(slot, "committed", number, "node", reason)

    def roll_back(self, slot: str, reason: str) -> None:
        """The candidate has failed in use: it is denied from now on."""
        with self._change(slot) as row:
            self._refuse(row, "rolled_back", reason)

    def reject(self, slot: str, reason: str) -> None:
        """The candidate has failed before it was in use: it is denied from now on."""
        with self._change(slot) as row:
            self._refuse(row, "rejected", reason)

    def fall_back(self, slot: str, damaged: Installed, reason: str) -> Installed | None:
        """The active one cannot be used: the previous one is active now, else the factory's; None for neither."""
        with self._change(slot) as row:
            if row.active != damaged.sha256:
                return self._release(row.active)  # Another process has done it.
            left = [each for each in (row.previous, row.factory) if each not in (None, damaged.sha256)]
            coming = left[0] if left else None
            self._set(slot, row.step, reason, active=coming, previous=None)
            self._note(slot, "fell_back", self._number(coming), "node", reason)
            return self._release(coming)

    def note(self, slot: str, what: str, why: str) -> None:
        """Something of the candidate for the history, such as how its shadow did."""
        with self._change(slot) as row:
            self._note(slot, what, self._number(row.candidate), "node", why)

    @contextmanager
    def _change(self, slot: str) -> Iterator[_Row]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute("INSERT OR IGNORE INTO slots (slot) VALUES (?)", (slot,))
                yield self._row(slot)
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _row(self, slot: str) -> _Row:
        with self._lock:
            row = self._db.execute(
                "SELECT slot, active, previous, candidate, factory, step, attempts, floor, since, reason"
                " FROM slots WHERE slot = ?",
                (slot,),
            ).fetchone()
        return _Row(*row) if row is not None else _Row(slot, None, None, None, None, "idle", 0, 0, "", None)

    def _set(self, slot: str, step: Step, reason: str | None, **columns: object) -> None:
        values = {**columns, "step": step, "reason": reason, "since": rfc3339(self._clock.unix_ns())}
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE slots SET {names} WHERE slot = ?", (*values.values(), slot))

    def _refuse(self, row: _Row, step: Step, reason: str) -> None:
        if row.candidate is None:
            return
        self._db.execute("INSERT OR REPLACE INTO denied VALUES (?, ?)", (row.candidate, reason))
        self._note(row.slot, step, self._number(row.candidate), "node", reason)
        self._set(row.slot, step, reason, candidate=None, attempts=0)

    def _note(self, slot: str, what: str, release: int | None, who: str, why: str | None) -> None:
        self._db.execute(
            "INSERT INTO history (slot, at, what, release, who, why) VALUES (?, ?, ?, ?, ?, ?)",
            (slot, rfc3339(self._clock.unix_ns()), what, release, who, why),
        )
        self._db.execute(
            "DELETE FROM history WHERE slot = ? AND number <= (SELECT max(number) FROM history) - ?",
            (slot, _HISTORY_MAX),
        )

    def _release(self, sha256: str | None) -> Installed | None:
        if sha256 is None:
            return None
        with self._lock:
            row = self._db.execute("SELECT record FROM releases WHERE sha256 = ?", (sha256,)).fetchone()
        try:
            return None if row is None else msgspec.json.decode(row[0], type=Installed)
        except msgspec.DecodeError as broken:
            raise ModelError(f"{self.folder / 'control.db'}: the release {sha256[:12]}… cannot be read") from broken

    def _number(self, sha256: str | None) -> int | None:
        found = self._release(sha256)
        return None if found is None else found.release

    def _take_in(
        self, bundle: Path, slot: str, release: int, *, trial_s: float = 600.0, p95_ms: float | None = None
    ) -> Installed:
        checked_slot(slot)
        files = {path: self._take_blob(bundle / path) for path in _files_of(bundle)}
        named = msgspec.json.encode([slot, release, sorted(files.items())])
        installed = Installed(
            slot=slot,
            release=release,
            sha256=hashlib.sha256(named).hexdigest(),
            files=files,
            trial_s=trial_s,
            p95_ms=p95_ms,
        )
        with self._change(slot):
            record = msgspec.json.encode(installed)
            self._db.execute("INSERT OR REPLACE INTO releases VALUES (?, ?)", (installed.sha256, record))
        return installed

    def _take_blob(self, path: Path) -> str:
        """Written beside, fsynced, renamed to its own hash, the folder fsynced; read-only from then on."""
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        blob = self.folder / "blobs" / sha256
        if blob.exists() and _sha256_of(blob) == sha256:
            return sha256
        beside = blob.with_suffix(f".{os.getpid()}.new")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.chmod(0o444)
            beside.replace(blob)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        sync_folder(blob.parent)
        return sha256


def open_store(folder: Path | None = None, clock: Clock | None = None) -> Store:
    """The store of this node. Raises ModelError where it cannot be opened."""
    try:
        return Store(folder, clock)
    except (OSError, sqlite3.Error) as failed:
        raise ModelError(f"the model store {folder or state_folder() / 'store'} cannot be opened: {failed}") from failed


def checked_slot(slot: str) -> str:
    """The name itself. Raises UsageError unless it is one of a slot."""
    if _SLOT.fullmatch(slot) is None:
        raise UsageError(
            f"slot {slot[:40]!r} is no name of a slot", hint="small letters, digits and -, such as detector"
        )
    return slot


def _files_of(bundle: Path) -> list[str]:
    """The paths of a bundle's files within it. Raises ModelError for what no bundle holds."""
    found = []
    total = 0
    for path in sorted(bundle.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path} is neither a file nor a folder")
        if path.is_dir():
            continue
        size = path.stat().st_size
        total += size
        if size > _FILE_BYTES_MAX or total > _BUNDLE_BYTES_MAX:
            raise ModelError(f"{bundle} is too large for a bundle")
        found.append(path.relative_to(bundle).as_posix())
    if "model.toml" not in found:
        raise ModelError(f"{bundle} is a folder without a model.toml")
    if len(found) > _FILES_MAX or any(path.count("/") >= _DEPTH_MAX for path in found):
        raise ModelError(f"{bundle} holds more than a bundle may: {_FILES_MAX} files, folders {_DEPTH_MAX} deep")
    return found


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
