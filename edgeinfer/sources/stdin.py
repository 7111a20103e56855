"""Samples that another program writes to ours, line by line: `-`, or `-?format=csv&names=a,b`."""

from __future__ import annotations

import os
import select
import stat
import sys
import threading

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.sources.account import Account
from edgeinfer.sources.framing import Lines
from edgeinfer.sources.gathering import Gatherer
from edgeinfer.sources.options import Query, SourceOptions, refuse_picture_options
from edgeinfer.sources.readings import Readings
from edgeinfer.sources.records import RecordReader, form_of

_READ_BYTES = 64 << 10
_LOOK_EVERY_S = 0.25


def open_stdin(word: str, options: SourceOptions, clock: Clock) -> StdinSource:
    """Raises SourceError where nobody writes to it."""
    refuse_picture_options(options, word, "standard input")
    query = Query(word[2:], word)
    form = form_of(query, word)
    query.done()
    if form.format is not None and form.format.startswith("struct:"):
        raise SourceError(f"{word!r}: binary records come from serial:// only", hint="format=csv, json or keyvalue")
    try:
        handle = sys.stdin.fileno()
        mode = os.fstat(handle).st_mode
    except (AttributeError, OSError, ValueError) as closed:
        raise SourceError("there is no standard input") from closed
    if stat.S_ISCHR(mode) and os.isatty(handle):
        raise SourceError("nothing is piped into standard input", hint="as in sensor | edgeinfer run --source - …")
    return StdinSource(word, handle, RecordReader(form), clock)


class StdinSource:
    """Every line until the end, none dropped: who writes waits for us. See SampleSource."""

    live = False
    can_be_late = True
    rate_hz: float | None = None

    def __init__(self, uri: str, handle: int, reader: RecordReader, clock: Clock) -> None:
        self.uri = uri
        self._handle = handle
        self._reader = reader
        self._gatherer = Gatherer(reader, clock)
        self._lines = Lines()
        self._closed = threading.Event()
        self._is_over = False

    @property
    def channels(self) -> tuple[str, ...]:
        return self._reader.channels

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        self._gatherer.begin(channels, account)

    def read(self) -> Readings | None:
        if self._is_over or self._closed.is_set():
            return None
        try:
            if not select.select([self._handle], [], [], _LOOK_EVERY_S)[0]:
                return self._gatherer.gather(())
            arrived = os.read(self._handle, _READ_BYTES)
        except OSError as failed:
            raise SourceError(f"standard input cannot be read: {failed.strerror}") from failed
        self._is_over = not arrived
        return self._gatherer.gather(self._lines.feed(arrived) if arrived else self._lines.finish())

    def close(self) -> None:
        """Standard input belongs to the process, and stays open."""
        self._closed.set()
