"""A new spool file, which has all its room from the beginning.

SQLite grows a file when it needs a page, and on a full disk even deleting may need one. So the pages that a spool will
use are there before: listed as free in the way that SQLite's file format (section 1.5, the freelist) says. Their
content is never read, so a file of 64 MB is made by writing a few pages.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.durable import sync_folder

PAGE_BYTES = 4096
"""Of most file systems and flash: to write a page touches no other."""
FRAME_BYTES = PAGE_BYTES + 24
WAL_PAGES = 400
APPLICATION = 0x45495350
VERSION = 1

_ONLY_OURS = 0o600  # Results may show who was where.
_SIZE_OFFSET = 28  # In the header: pages of the file, first page of the freelist, pages in the freelist.
_TRUNK_HOLDS = PAGE_BYTES // 4 - 8  # SQLite leaves the last six entries of a freelist trunk unused.

_SCHEMA = """
-- A row for the messages first..last, which were accepted at once; in a gap one message stands for them all.
-- at_s: of the spool's clock, NULL while unsettled; wall_s: unix time where trusted; done: what was done at that time.
CREATE TABLE groups (
    last INTEGER PRIMARY KEY, first INTEGER NOT NULL, is_gap INTEGER NOT NULL, at_s INTEGER, wall_s INTEGER,
    unix_ns INTEGER NOT NULL, done INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE dead_letters (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL, body BLOB);
-- One row. last, done: count where they are larger than in the groups.
CREATE TABLE spool (epoch TEXT NOT NULL, last INTEGER NOT NULL, done INTEGER NOT NULL);
"""

DeadLetter = tuple[int, str, "bytes | None"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a spool is. last: the highest seq ever given; done: everything up to it is done."""

    epoch: str
    last: int = 0
    done: int = 0


def create(path: Path, pages: int, standing: Standing, dead_letters: Sequence[DeadLetter] = ()) -> None:
    """A spool without messages in place of what is at `path`, durably, or no change. Raises OSError, sqlite3.Error."""
    beside = path.with_name(f"{path.name}.new")
    for leftover in (beside, wal_of(beside)):
        leftover.unlink(missing_ok=True)
    try:
        os.close(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _ONLY_OURS))
        _write_tables(beside, standing, dead_letters)
        with beside.open("r+b") as file:
            _add_free_pages(file.fileno(), pages)
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def reserve_wal(path: Path) -> None:
    """Give the write-ahead log of that file its whole size, where it has not. Raises OSError."""
    wal = wal_of(path)
    is_new = not wal.exists()
    file = os.open(wal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _ONLY_OURS)
    try:
        if os.fstat(file).st_size < WAL_PAGES * FRAME_BYTES:
            _allocate(file, WAL_PAGES * FRAME_BYTES)
            os.fsync(file)
    finally:
        os.close(file)
    if is_new:
        sync_folder(path.parent)


def wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _write_tables(path: Path, standing: Standing, dead_letters: Sequence[DeadLetter]) -> None:
    # What is made durable at the end, by one fsync, needs no journal before.
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for pragma in (f"page_size={PAGE_BYTES}", "locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=OFF"):
            database.execute(f"PRAGMA {pragma}")
        database.execute(f"PRAGMA application_id={APPLICATION}")
        database.execute(f"PRAGMA user_version={VERSION}")
        database.executescript(_SCHEMA)
        database.execute("INSERT INTO spool VALUES (?, ?, ?)", (standing.epoch, standing.last, standing.done))
        database.executemany("INSERT INTO dead_letters VALUES (?, ?, ?)", dead_letters)


def _add_free_pages(file: int, pages: int) -> None:
    """Make the database that long. Each trunk page of the freelist holds the number of the next, and of free pages."""
    used = os.fstat(file).st_size // PAGE_BYTES
    _allocate(file, pages * PAGE_BYTES)
    free = range(used + 1, pages + 1)  # Pages count from 1.
    trunks = [free[begin : begin + 1 + _TRUNK_HOLDS] for begin in range(0, len(free), 1 + _TRUNK_HOLDS)]
    for trunk, following in zip(trunks, [*(each[0] for each in trunks[1:]), 0], strict=True):
        leaves = trunk[1:]
        os.pwrite(file, struct.pack(f">II{len(leaves)}I", following, len(leaves), *leaves), (trunk[0] - 1) * PAGE_BYTES)
    os.pwrite(file, struct.pack(">III", pages, free[0], len(free)), _SIZE_OFFSET)


def _allocate(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as refused:
        if refused.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(file, max(size, os.fstat(file).st_size))  # The room is not its own there.
