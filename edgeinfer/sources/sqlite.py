"""Rows that another program adds to a table: `sqlite:///var/log/readings.db?table=readings`."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources.account import Account
from edgeinfer.sources.gathering import Gatherer
from edgeinfer.sources.options import Query, SourceOptions, refuse_picture_options
from edgeinfer.sources.readings import Readings
from edgeinfer.sources.records import Fields, Form, RecordReader, form_of
from edgeinfer.words import unknown

_PREFIX = "sqlite://"
_ROWS_AT_ONCE = 2000
_LOOK_EVERY_S = 0.25
_BUSY_S = 5.0


def open_sqlite(word: str, options: SourceOptions, clock: Clock) -> SqliteSource:
    """Open the file for reading only. Raises SourceError: no such file, table or column of times."""
    refuse_picture_options(options, word, "a table")
    place, _, asked = word[len(_PREFIX) :].partition("?")
    query = Query(asked, word)
    table, follows, begin = query.text("table"), query.switch("follow"), query.text("from")
    form = form_of(query, word)
    query.done()
    if form.format is not None or form.names:
        raise SourceError(f"{word!r}: a table has columns, so that neither format nor names can be said")
    if begin not in (None, "start", "end"):
        raise SourceError(f"from={begin} in {word!r} is neither start nor end")
    connection = _connect(word, Path(place))
    try:
        columns = _columns(word, connection, table)
        is_live = follows is not False
        source = SqliteSource(word, connection, str(table), columns, form, clock, live=is_live)
        if begin == "end" or (begin is None and is_live):
            source.skip_to_end()
    except sqlite3.Error as failed:
        connection.close()
        raise SourceError(f"{word!r} cannot be read: {failed}") from failed
    except SourceError:
        connection.close()
        raise
    return source


class SqliteSource:
    """Rows by their rowid, in the order in which they were added. See SampleSource."""

    can_be_late = True
    rate_hz: float | None = None

    def __init__(
        self,
        uri: str,
        connection: sqlite3.Connection,
        table: str,
        columns: Sequence[str],
        form: Form,
        clock: Clock,
        *,
        live: bool,
    ) -> None:
        self.uri = uri
        self.live = live
        self._connection = connection
        self._columns = columns
        self._table = _quoted(table)
        names = ", ".join(_quoted(name) for name in columns)
        self._select = f"SELECT rowid, {names} FROM {self._table} WHERE rowid > ? ORDER BY rowid LIMIT {_ROWS_AT_ONCE}"
        self._rowid = -(2**63)
        self._reader = RecordReader(form)
        self._gatherer = Gatherer(self._reader, clock)
        self._turn = threading.Lock()
        self._closed = threading.Event()

    @property
    def channels(self) -> tuple[str, ...]:
        return self._reader.channels

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        for name in channels:
            if name not in self._columns:
                raise SourceError(unknown("channel", name, self._columns), hint=f"the columns of {self._table}")
        self._gatherer.begin(channels, account)

    def skip_to_end(self) -> None:
        """Only rows that are added from now on are given."""
        (last,) = self._connection.execute(f"SELECT max(rowid) FROM {self._table}").fetchone()
        self._rowid = self._rowid if last is None else last

    def read(self) -> Readings | None:
        with self._turn:
            if self._closed.is_set():
                return None
            try:
                rows = self._connection.execute(self._select, (self._rowid,)).fetchall()
            except sqlite3.Error as failed:
                error = SourceLost if self.live else SourceError
                raise error(f"{self.uri!r} cannot be read: {failed}") from failed
        if rows:
            self._rowid = rows[-1][0]
        elif not self.live or self._closed.wait(_LOOK_EVERY_S):
            return None
        return self._gatherer.gather_fields(self._fields(row[1:]) for row in rows)

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._connection.interrupt()
        with self._turn:
            self._connection.close()

    def _fields(self, row: Sequence[object]) -> Fields:
        return [
            (name, "" if value is None else value if isinstance(value, int | float | str) else "blob")
            for name, value in zip(self._columns, row, strict=True)
        ]


def _connect(word: str, path: Path) -> sqlite3.Connection:
    if not path.is_file():
        other = Path(str(path).lstrip("/"))
        hint = (
            f"did you mean sqlite://{other}?"
            if other.is_file()
            else "/a/b.db is sqlite:///a/b.db, and b.db here sqlite://b.db"
        )
        raise SourceError(f"{word!r}: there is no file {path}", hint=hint)
    try:
        return sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=_BUSY_S, check_same_thread=False
        )
    except sqlite3.Error as failed:
        raise SourceError(f"{word!r} does not open: {failed}") from failed


def _columns(word: str, connection: sqlite3.Connection, table: str | None) -> tuple[str, ...]:
    kinds = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    tables = [name for (name,) in connection.execute(kinds)]
    if table is None:
        raise SourceError(f"{word!r} names no table", hint=f"table=NAME; there are {', '.join(tables) or 'none'}")
    if table not in tables:
        raise SourceError(f"{unknown('table', table, tables)} (in {word!r})")
    connection.execute(f"SELECT rowid FROM {_quoted(table)} LIMIT 0")
    return tuple(row[1] for row in connection.execute(f"PRAGMA table_info({_quoted(table)})"))


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
