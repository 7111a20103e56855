"""Recordings of sensors with the time of each sample: `log.csv`, `log.jsonl?follow=1`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources.account import Account
from edgeinfer.sources.framing import Lines, Piece
from edgeinfer.sources.gathering import Gatherer
from edgeinfer.sources.options import Query, SourceOptions, refuse_picture_options
from edgeinfer.sources.readings import Readings
from edgeinfer.sources.records import LINE_BYTES_MAX, BadRecord, Form, RecordReader, form_of
from edgeinfer.sources.words import cannot_read, split_query

_READ_BYTES = 64 << 10
_LOOK_EVERY_S = 0.25
_LINES_WITHOUT_SENSE = 1000


def open_csv(word: str, options: SourceOptions, clock: Clock) -> ReadRecording:
    """Lines of CSV, a header before them where the columns have names."""
    return _open(word, options, clock, "csv")


def open_jsonl(word: str, options: SourceOptions, clock: Clock) -> ReadRecording:
    """Lines of JSON objects."""
    return _open(word, options, clock, "json")


def _open(word: str, options: SourceOptions, clock: Clock, format_: str) -> ReadRecording:
    """Raises SourceError: it cannot be read, or says no times."""
    refuse_picture_options(options, word, "a recording")
    path, asked = split_query(word)
    query = Query(asked, word)
    follows = query.switch("follow") or False
    begin = query.text("from") or "end"
    if begin not in ("start", "end"):
        raise SourceError(f"from={begin} in {word!r} is neither start nor end")
    form = form_of(query, word)
    query.done()
    if form.format not in (None, format_):
        raise SourceError(f"{word!r} holds {format_}, not {form.format}", hint="leave format= out")
    form = replace(form, format=format_)
    _check(word, path, form, is_followed=follows)
    if follows:
        return FollowedRecording(word, path, form, clock, from_start=begin == "start")
    return ReadRecording(word, path, form, clock)


class ReadRecording:
    """A recording from its beginning to its end. See SampleSource."""

    live = False
    can_be_late = True
    rate_hz: float | None = None

    def __init__(self, uri: str, path: Path, form: Form, clock: Clock) -> None:
        self.uri = uri
        self._path = path
        self._reader = RecordReader(form)
        self._gatherer = Gatherer(self._reader, clock)
        self._lines = Lines()
        self._account = Account()
        self._closed = threading.Event()
        self._is_over = False
        self._file = _open_file(path)

    @property
    def channels(self) -> tuple[str, ...]:
        return self._reader.channels

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        self._account = account
        self._gatherer.begin(channels, account)

    def read(self) -> Readings | None:
        if self._is_over or self._closed.is_set():
            return None
        arrived = self._arrived()
        self._is_over = not arrived
        return self._gatherer.gather(self._lines.feed(arrived) if arrived else self._lines.finish())

    def close(self) -> None:
        self._closed.set()
        self._file.close()

    def _arrived(self) -> bytes:
        try:
            return self._file.read(_READ_BYTES)
        except (OSError, ValueError) as failed:
            if self._closed.is_set():
                return b""
            raise cannot_read(str(self._path), failed) from failed


class FollowedRecording(ReadRecording):
    """What is added to a recording, as `tail -F` follows it: through rotation, and when it is begun anew in place."""

    live = True

    def __init__(self, uri: str, path: Path, form: Form, clock: Clock, *, from_start: bool) -> None:
        super().__init__(uri, path, form, clock)
        self._position = 0
        self._skips_to_end = not from_start

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        super().begin(channels, account)
        if self._skips_to_end:
            self._read_header()

    def read(self) -> Readings | None:
        if self._closed.is_set():
            return None
        arrived = self._arrived()
        self._position += len(arrived)
        if arrived:
            return self._gatherer.gather(self._lines.feed(arrived))
        pieces = list(self._look())
        if not pieces and self._closed.wait(_LOOK_EVERY_S):
            return None
        return self._gatherer.gather(pieces)

    def _look(self) -> Iterator[Piece]:
        """All of it is read: was it shortened, or is another file there under its name?"""
        try:
            there, here = self._path.stat(), os.fstat(self._file.fileno())
        except FileNotFoundError:
            return  # It has been moved away; the next one is not there yet.
        except (OSError, ValueError) as failed:
            if self._closed.is_set():
                return
            raise SourceLost(f"{self.uri!r} is gone: {failed}") from failed
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            # What was written between the last read and the look at its name.
            rest = self._arrived()
            yield from self._lines.feed(rest)
            self._account.note("rotated")
            former, self._file = self._file, _open_file(self._path)
            former.close()
        elif here.st_size < self._position:
            self._account.note("truncated")
            self._file.seek(0)
        else:
            return
        # Who wrote the last line was not done with it.
        yield from (piece._replace(fate=piece.fate or "half line") for piece in self._lines.finish())
        self._position = 0

    def _read_header(self) -> None:
        """What the first line says of the columns holds for what is added; all between is passed over."""
        with suppress(BadRecord):
            self._reader.read(self._file.readline(LINE_BYTES_MAX))
        self._position = self._file.seek(0, os.SEEK_END)
        if self._position:
            self._file.seek(self._position - 1)
            if self._file.read(1) != b"\n":
                # Its last line is still being written: this is the rest of it.
                self._gatherer.distrust()


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as failed:
        raise cannot_read(str(path), failed) from failed


def _check(word: str, path: Path, form: Form, *, is_followed: bool) -> None:
    """Whether the first lines make sense, before a model is loaded for them. Raises SourceError."""
    reader, lines = RecordReader(form), Lines()
    with _open_file(path) as file:
        head = file.read(_READ_BYTES)
    if not head and not is_followed:
        raise SourceError(f"{str(path)!r} is empty")
    reason = "it holds no line with numbers"
    for piece in [*lines.feed(head), *lines.finish()][:_LINES_WITHOUT_SENSE]:
        try:
            record = reader.read(piece.raw) if piece.fate is None else None
        except BadRecord as bad:
            reason = f"{bad.fate}: {bad.detail}"
            continue
        if record is None:
            continue
        if record.at_ns is None and form.time != "none":
            raise SourceError(
                f"{word!r} has no column with times, only {', '.join(reader.channels)}",
                hint="time=NAME names it, as in log.csv?time=when",
            )
        if record.at_ns is None and not is_followed:
            raise SourceError(f"{word!r}: without times a recording cannot be read", hint="leave time=none out")
        return
    if head and not is_followed:
        raise SourceError(f"{word!r} cannot be read: {reason}")
