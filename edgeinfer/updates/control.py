"""`control.db`: which release of each slot is in use, and every step of it, one durable transaction each."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgeinfer.clock import Clock, rfc3339
from edgeinfer.durable import sync_folder
from edgeinfer.errors import ModelError
from edgeinfer.updates.lifecycle import Step

_VERSION = 1
_BUSY_S = 10.0
_HISTORY_MAX = 1000
_TEXT_MAX = 500
_RESERVE_BYTES = 256 << 10

_ROLES = ("active", "previous", "candidate", "factory")

_TABLES = """
CREATE TABLE releases (
    sha256 TEXT PRIMARY KEY, slot TEXT NOT NULL, release INTEGER NOT NULL, manifest BLOB NOT NULL,
    is_committed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE slots (
    slot TEXT PRIMARY KEY, active TEXT, previous TEXT, candidate TEXT, factory TEXT,
    step TEXT NOT NULL DEFAULT 'idle', attempts INTEGER NOT NULL DEFAULT 0, floor INTEGER NOT NULL DEFAULT 0,
    since TEXT NOT NULL DEFAULT '', reason TEXT
);
CREATE TABLE denied (slot TEXT NOT NULL, sha256 TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (slot, sha256));
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, slot TEXT NOT NULL, at TEXT NOT NULL, what TEXT NOT NULL,
    release INTEGER, who TEXT NOT NULL, why TEXT
);
CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Entry(NamedTuple):
    """What was done with a slot: when, RFC 3339; what; with which release; by whom; why."""

    at: str
    what: str
    release: int | None
    who: str
    why: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """Where a slot stands. active, previous, candidate, factory: sha256 of their manifests."""

    slot: str
    active: str | None = None
    previous: str | None = None
    candidate: str | None = None
    factory: str | None = None
    step: Step = "idle"
    attempts: int = 0
    floor: int = 0
    since: str = ""
    reason: str | None = None

    @property
    def named(self) -> frozenset[str]:
        """The releases that it holds."""
        held = (self.active, self.previous, self.candidate, self.factory)
        return frozenset(each for each in held if each is not None)


class Control:
    """The file. Several processes and threads may have it open. Raises OSError and sqlite3.Error where the disk fails.

    Its journal is kept at its size and some pages are kept free, so that the next steps, which may be to undo a model,
    can still be written on a full disk.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        """Raises ModelError where a newer version has written it."""
        self.path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        # Never a WAL: two processes write here. With a persistent journal no unlink decides whether a step was taken.
        self._db.execute("PRAGMA journal_mode=PERSIST")
        self._db.execute("PRAGMA synchronous=EXTRA")
        if self._written_by() != _VERSION:
            self._create()

    @property
    def version(self) -> tuple[int, int]:
        """Another one after each change, by whichever process."""
        with self._lock:
            return int(self._ask("PRAGMA data_version")[0][0]), self._db.total_changes

    def close(self) -> None:
        """May be called twice."""
        with self._lock:
            self._db.close()

    @contextmanager
    def change(self, slot: str) -> Iterator[Row]:
        """A transaction: what is done within is on the disk when it ends, or nothing of it."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO slots (slot) VALUES (?)", (slot,))
            yield self.row(slot)

    def row(self, slot: str) -> Row:
        rows = self._ask(
            "SELECT slot, active, previous, candidate, factory, step, attempts, floor, since, reason"
            " FROM slots WHERE slot = ?",
            slot,
        )
        return Row(*rows[0]) if rows else Row(slot)

    def rows(self) -> tuple[Row, ...]:
        """Of all slots, by name."""
        return tuple(self.row(slot) for (slot,) in self._ask("SELECT slot FROM slots ORDER BY slot"))

    def manifest(self, sha256: str) -> bytes | None:
        rows = self._ask("SELECT manifest FROM releases WHERE sha256 = ?", sha256)
        return rows[0][0] if rows else None

    def committed(self, slot: str, release: int) -> str | None:
        """The manifest that was in use under that number."""
        asked = "SELECT sha256 FROM releases WHERE slot = ? AND release = ? AND is_committed"
        rows = self._ask(asked, slot, release)
        return rows[0][0] if rows else None

    def denial(self, slot: str, *sha256: str) -> str | None:
        """Why one of these was refused before; None where none was."""
        for each in sha256:
            rows = self._ask("SELECT reason FROM denied WHERE slot = ? AND sha256 = ?", slot, each)
            if rows:
                return str(rows[0][0])
        return None

    def history(self, slot: str) -> tuple[Entry, ...]:
        """The oldest first."""
        asked = "SELECT at, what, release, who, why FROM history WHERE slot = ? ORDER BY number"
        return tuple(Entry(*row) for row in self._ask(asked, slot))

    def number(self, name: str) -> int:
        """One that was raised, else 0."""
        rows = self._ask("SELECT value FROM numbers WHERE name = ?", name)
        return int(rows[0][0]) if rows else 0

    def raise_number(self, name: str, value: int) -> None:
        """Never down."""
        if value <= self.number(name):
            return
        with self._transaction():
            self._db.execute(
                "INSERT INTO numbers VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                (name, value),
            )

    def forget_manifests(self) -> None:
        """Those that no slot names: of what was in use only the number is still needed."""
        named = " AND sha256 NOT IN ".join(
            ["", *(f"(SELECT {role} FROM slots WHERE {role} IS NOT NULL)" for role in _ROLES)]
        )
        with self._transaction():
            self._db.execute(f"DELETE FROM releases WHERE NOT is_committed{named}")
            self._db.execute(f"UPDATE releases SET manifest = x'' WHERE manifest != x''{named}")

    # Within `change`.

    def set(self, slot: str, step: Step, reason: str | None, **columns: object) -> None:
        """columns: of `slots`; what is not given stays."""
        said = None if reason is None else reason[:_TEXT_MAX]
        values = {**columns, "step": step, "reason": said, "since": rfc3339(self._clock.unix_ns())}
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE slots SET {names} WHERE slot = ?", (*values.values(), slot))

    def note(self, slot: str, what: str, release: int | None, who: str, why: str | None) -> None:
        """A line of the history, of which each slot keeps the newest thousand."""
        said = None if why is None else why[:_TEXT_MAX]
        self._db.execute(
            "INSERT INTO history (slot, at, what, release, who, why) VALUES (?, ?, ?, ?, ?, ?)",
            (slot, rfc3339(self._clock.unix_ns()), what, release, who, said),
        )
        self._db.execute(
            "DELETE FROM history WHERE slot = ?1 AND number <="
            " (SELECT number FROM history WHERE slot = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
            (slot, _HISTORY_MAX),
        )

    def keep(self, sha256: str, slot: str, release: int, manifest: bytes) -> None:
        self._db.execute(
            "INSERT INTO releases (sha256, slot, release, manifest) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (sha256) DO UPDATE SET manifest = excluded.manifest",
            (sha256, slot, release, manifest),
        )

    def mark_committed(self, sha256: str) -> None:
        self._db.execute("UPDATE releases SET is_committed = 1 WHERE sha256 = ?", (sha256,))

    def deny(self, slot: str, reason: str, *sha256: str) -> None:
        rows = [(slot, each, reason[:_TEXT_MAX]) for each in sha256]
        self._db.executemany("INSERT OR IGNORE INTO denied VALUES (?, ?, ?)", rows)

    def _ask(self, asked: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(asked, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _written_by(self) -> int:
        version = int(self._ask("PRAGMA user_version")[0][0])
        if version > _VERSION:
            raise ModelError(f"{self.path} was written by a newer version", hint="install edgeinfer as it was then")
        return version

    def _create(self) -> None:
        with self._transaction():
            if self._written_by() == _VERSION:
                return  # Another process was first.
            for statement in _TABLES.split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
            self._db.execute("CREATE TABLE reserve (content BLOB)")
            self._db.execute("INSERT INTO reserve VALUES (zeroblob(?))", (_RESERVE_BYTES,))
        with self._transaction():
            # The pages of the reserve pass through the journal, which so gets its size, and are free then.
            self._db.execute("UPDATE reserve SET content = randomblob(?)", (_RESERVE_BYTES,))
        with self._transaction():
            self._db.execute("DROP TABLE reserve")
        sync_folder(self.path.parent)
