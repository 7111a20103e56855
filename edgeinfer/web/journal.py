"""The last events and log lines, numbered, for a page that asks what is new."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

import msgspec

from edgeinfer.clock import rfc3339
from edgeinfer.event import Happening

_EVENTS_KEPT = 100
# Of some 20 to 60 kB each.
_PICTURES_KEPT = 24
_LINES_KEPT = 200
_LINE_MAX = 500


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """number: counts all events from 1; has_picture: whether it is still to be had."""

    number: int
    event: Happening
    has_picture: bool = False


class Line(msgspec.Struct, frozen=True):
    number: int
    at: str
    level: str
    message: str


class EventJournal:
    """Any thread may add and ask. The oldest go, their pictures first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._events: deque[tuple[int, Happening]] = deque(maxlen=_EVENTS_KEPT)
        self._pictures: dict[int, bytes] = {}

    @property
    def last(self) -> int:
        """The number of the newest; 0 before the first."""
        return self._last

    def add(self, event: Happening, picture: bytes | None) -> None:
        with self._lock:
            self._last += 1
            self._events.append((self._last, event))
            if picture is not None:
                self._pictures[self._last] = picture
                if len(self._pictures) > _PICTURES_KEPT:
                    del self._pictures[next(iter(self._pictures))]

    def after(self, number: int) -> list[Event]:
        """Those with a higher number, the oldest first."""
        with self._lock:
            return [Event(each, event, each in self._pictures) for each, event in self._events if each > number]

    def picture(self, number: int) -> bytes | None:
        with self._lock:
            return self._pictures.get(number)


class LogTail(logging.Handler):
    """What this package logs, its last lines."""

    def __init__(self, unix_ns: Callable[[], int]) -> None:
        super().__init__()
        self._unix_ns = unix_ns
        self._lines: deque[Line] = deque(maxlen=_LINES_KEPT)
        self.last = 0

    def emit(self, record: logging.LogRecord) -> None:
        # Within the handler's own lock; see logging.Handler.
        message = " ".join(record.getMessage().split())[:_LINE_MAX]
        self.last += 1
        self._lines.append(Line(self.last, rfc3339(self._unix_ns()), record.levelname.lower(), message))

    def after(self, number: int) -> list[Line]:
        """The lines with a higher number, the oldest first."""
        self.acquire()
        try:
            return [line for line in self._lines if line.number > number]
        finally:
            self.release()
