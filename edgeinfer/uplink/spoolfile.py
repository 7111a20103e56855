"""The file of the spool: held by one process, checked when it is opened, set aside where it is damaged."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgeinfer.durable import sync_folder
from edgeinfer.errors import SpoolError, SpoolLost
from edgeinfer.uplink import aside
from edgeinfer.uplink.blank import (
    APPLICATION,
    FRAME_BYTES,
    PAGE_BYTES,
    VERSION,
    WAL_PAGES,
    DeadLetter,
    Standing,
    create,
    reserve_wal,
    wal_of,
)

log = logging.getLogger(__name__)

SPOOL_BYTES_MIN = 4_000_000
"""With less there is no room for the write-ahead log and some groups."""

OnAlarm = Callable[[str], None]

_CHECKPOINT_PAGES = 240
_RESIZED_FROM = 1 / 8

_PRAGMAS = (
    "locking_mode=EXCLUSIVE",  # Also keeps the index of the write-ahead log in memory.
    "synchronous=FULL",
    "secure_delete=OFF",  # Debian's default overwrites what is deleted.
    "wal_autocheckpoint=0",
    "cache_spill=OFF",  # The log has room for what a transaction has changed in the end, not for all on the way.
    "cell_size_check=ON",
    "trusted_schema=OFF",
    "mmap_size=0",
    "temp_store=MEMORY",
)


class _DamagedError(Exception):
    """What is wrong with the file."""


class SpoolFile:
    """The connection to the file, for one thread at a time.

    What SQLite raises comes out as SpoolError, or, once the damaged file is set aside, as SpoolLost. written_bytes: to
    the device since it was opened, the file system's own journal left out; where the kernel does not count them, a
    little more than that.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int, on_alarm: OnAlarm) -> None:
        self.path = path
        self.written_bytes = 0
        self._connection: sqlite3.Connection | None = connection
        self._lock = lock
        self._on_alarm = on_alarm
        self._wal_pages = WAL_PAGES  # What a crash has left in it is to be checkpointed first.
        self.pages: int = connection.execute("PRAGMA page_count").fetchone()[0]

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def free_pages(self) -> int:
        count: int = self.ask("PRAGMA freelist_count")[0]
        return count

    def standing(self) -> Standing:
        """As it is on disk."""
        with self._reported() as connection:
            return standing_of(connection)

    def ask(self, sql: str, *values: object) -> tuple[Any, ...]:
        """The one row that the answer has."""
        (row,) = self.rows(sql, *values)
        return row

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All of them: a statement that is left unfinished would hold up the checkpoint."""
        with self._reported() as connection:
            return connection.execute(sql, values).fetchall()

    def change(self, sql: str, *values: object) -> None:
        """Within a transaction."""
        with self._reported() as connection:
            connection.execute(sql, values)

    @contextlib.contextmanager
    def transaction(self, pages: int) -> Iterator[None]:
        """All changes or none, durable at the end. pages: how many are written, at most."""
        before = _bytes_written_by_this_thread()
        with self._reported() as connection:
            if self._wal_pages >= _CHECKPOINT_PAGES:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._wal_pages = 0
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        after = _bytes_written_by_this_thread()
        # Nothing is counted for a file in memory.
        written = after - before if before is not None and after is not None else 0
        self._wal_pages += min(pages, 1 + written // PAGE_BYTES) if written else pages
        self.written_bytes += pages * FRAME_BYTES if before is None else written

    def lose(self, why: str) -> SpoolLost:
        """Set the file aside, and close this; what to raise."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
                with _reported_os(self.path):
                    self._on_alarm(aside.put(self.path, why))
            finally:
                os.close(self._lock)
        return SpoolLost(f"the spool {self.path} {why}", hint="it was set aside")

    def close(self) -> None:
        """May be called twice. Raises SpoolError where not everything could be written back; nothing is lost then."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            with _reported_os(self.path):
                connection.close()
                _reserve_wal(self.path)  # SQLite has deleted it; its room shall stay ours.
        finally:
            os.close(self._lock)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            raise SpoolError(f"the spool {self.path} is closed", hint="open it anew")
        try:
            yield self._connection
        except sqlite3.OperationalError as failed:
            raise SpoolError(f"cannot use the spool {self.path}: {failed}") from failed
        except sqlite3.DatabaseError as damaged:
            if type(damaged) is not sqlite3.DatabaseError:
                raise  # A mistake of ours.
            raise self.lose(f"is damaged: {damaged}") from damaged

    def _roll_back(self) -> None:
        """SQLite itself has done so after some errors, and a lost spool is closed."""
        if self._connection is not None and self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")


def open_spool_file(path: Path, max_bytes: int, on_alarm: OnAlarm) -> SpoolFile:
    """The file at `path`; a new one where there is none, and where what is there is damaged. See Spool.open."""
    if max_bytes < SPOOL_BYTES_MIN:
        raise SpoolError(f"a spool of {max_bytes} bytes is too small", hint=f"give it {SPOOL_BYTES_MIN} or more")
    with _reported_os(path):
        _make_folder(path.parent)
        lock = _lock(path)
        try:
            connection = _open_locked(path, pages_of(max_bytes), on_alarm)
            return SpoolFile(path, connection, lock, on_alarm)
        except BaseException:
            os.close(lock)
            raise


def pages_of(max_bytes: int) -> int:
    """How many pages a file may have, so that it and its write-ahead log are no larger."""
    return (max_bytes - WAL_PAGES * FRAME_BYTES) // PAGE_BYTES


def _open_locked(path: Path, pages: int, on_alarm: OnAlarm) -> sqlite3.Connection:
    _make_room(path)
    if path.exists():
        if not path.is_file():
            raise SpoolError(f"the spool {path} is not a regular file")
        try:
            return _resized(path, _open_patiently(path), pages)
        except _DamagedError as damaged:
            on_alarm(aside.put(path, str(damaged)))
    _begin(path, pages, Standing(secrets.token_hex(8)))
    try:
        return _open_sound(path)
    except _DamagedError as damaged:
        raise SpoolError(f"the spool {path} was begun anew and {damaged}") from damaged


def _begin(path: Path, pages: int, standing: Standing, dead_letters: Sequence[DeadLetter] = ()) -> None:
    affordable = _affordable_pages(path)
    if affordable < pages_of(SPOOL_BYTES_MIN):
        raise SpoolError(f"no room for the spool {path}", hint=f"the disk should have {2 * SPOOL_BYTES_MIN} bytes free")
    if affordable < pages:
        log.warning(
            "the spool %s has only %d MB: half of what the disk has free", path, affordable * PAGE_BYTES // 1_000_000
        )
    # The log of a file that went away would be played into the new one.
    wal_of(path).unlink(missing_ok=True)
    sync_folder(path.parent)
    create(path, min(pages, affordable), standing, dead_letters)


def _open_patiently(path: Path) -> sqlite3.Connection:
    """What cannot be read a second time is damaged, too."""
    try:
        return _open_sound(path)
    except sqlite3.OperationalError as failed:
        if "I/O error" not in str(failed):
            raise
    try:
        return _open_sound(path)
    except sqlite3.OperationalError as failed:
        raise _DamagedError(f"cannot be read: {failed}") from failed


def _open_sound(path: Path) -> sqlite3.Connection:
    _reserve_wal(path)
    # psow=0: a commit begins a page of the device anew, rather than to write again where accepted results lie.
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw&psow=0", uri=True, timeout=0, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        _check(connection)
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as damaged:
        connection.close()
        raise _DamagedError(f"is damaged: {damaged}") from damaged
    except BaseException:
        connection.close()
        raise
    return connection


def _reserve_wal(path: Path) -> None:
    """Without that room, what was accepted can be read, and nothing be accepted until there is some."""
    try:
        reserve_wal(path)
    except OSError as refused:
        if refused.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.warning("the disk has no room for the log of the spool %s", path)


def _check(connection: sqlite3.Connection) -> None:
    """Reads the pages that are in use."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (application, version) != (APPLICATION, VERSION):
        raise _DamagedError(f"is none of version {VERSION}")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _DamagedError(f"is damaged: {verdict}")
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}").fetchall()


def _resized(path: Path, connection: sqlite3.Connection, pages: int) -> sqlite3.Connection:
    """With nothing waiting, a file of another size than wanted is begun anew, and goes on where the old one was."""
    (present,) = connection.execute("PRAGMA page_count").fetchone()
    standing, affordable = standing_of(connection), _affordable_pages(path)
    wanted = pages if pages < present else max(present, min(pages, affordable))
    is_other = abs(wanted - present) > present * _RESIZED_FROM
    if not is_other or standing.done < standing.last or wanted > affordable:
        return connection
    dead_letters = connection.execute("SELECT seq, reason, body FROM dead_letters").fetchall()
    connection.close()
    _begin(path, wanted, standing, dead_letters)
    return _open_sound(path)


def _affordable_pages(path: Path) -> int:
    """Half of what the disk has free."""
    disk = os.statvfs(path.parent)
    return pages_of(disk.f_bavail * disk.f_frsize // 2)


def _make_room(path: Path) -> None:
    """What was set aside goes before the spool has no room."""
    for old in aside.before(path):
        if path.exists() or _affordable_pages(path) >= pages_of(SPOOL_BYTES_MIN):
            return
        aside.forget(old)


def standing_of(connection: sqlite3.Connection) -> Standing:
    """As it is on disk. Raises sqlite3.Error."""
    epoch, last, done = connection.execute("SELECT epoch, last, done FROM spool").fetchone()
    newest = connection.execute("SELECT last, done FROM groups ORDER BY last DESC LIMIT 1").fetchone() or (0, 0)
    return Standing(epoch, max(last, newest[0]), max(done, newest[1]))


def _make_folder(folder: Path) -> None:
    """With all above it, durably."""
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(exist_ok=True)
        sync_folder(missing.parent)


def _lock(path: Path) -> int:
    """Hold the spool until this handle is closed, or this process is gone."""
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as taken:
        os.close(handle)
        raise SpoolError(f"the spool {path} is in use", hint="is edgeinfer running already?") from taken
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextlib.contextmanager
def _reported_os(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as failed:
        reason = failed.strerror if isinstance(failed, OSError) else str(failed)
        raise SpoolError(f"cannot use the spool {path}: {reason}") from failed


def _bytes_written_by_this_thread() -> int | None:
    """To devices, by the kernel's account: nothing for a file in memory. None where it keeps none."""
    try:
        handle = os.open("/proc/thread-self/io", os.O_RDONLY)  # Twice for each commit: not by way of a file object.
        try:
            text = os.read(handle, 512)
        finally:
            os.close(handle)
        return int(text.partition(b"\nwrite_bytes: ")[2].partition(b"\n")[0])
    except (OSError, ValueError):
        return None
