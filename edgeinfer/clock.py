"""Time: monotonic inside, wall clock only at the edge, and passed in where a test must own it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Literal

ClockState = Literal["synced", "unsynced"]

_STATE_CHECK_EVERY_NS = 60_000_000_000
_TIME_ERROR = 5  # adjtimex(2): "the system clock is not synchronized"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIMEX_BYTES = 208  # sizeof(struct timex) on 64-bit Linux; modes = 0 only reads.


@dataclass(frozen=True, slots=True)
class Clock:
    """What a pipeline knows of time; a test passes its own."""

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    unix_ns: Callable[[], int] = time.time_ns


def rfc3339(unix_ns: int) -> str:
    """UTC with microseconds, as in `2026-11-22T04:00:00.123456Z`."""
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds // 1000:06d}Z"


def unix_ns_of(text: str) -> int:
    """What `rfc3339` wrote, back in nanoseconds; whole microseconds. Raises ValueError."""
    # Python 3.10 does not know the Z.
    moment = datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith("Z") else text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


@lru_cache(maxsize=4)
def _second(unix_s: int) -> str:
    """The whole second, which many frames share."""
    return f"{datetime.fromtimestamp(unix_s, tz=timezone.utc):%Y-%m-%dT%H:%M:%S}"


class ClockWatch:
    """Whether the kernel holds the wall clock for synchronised; asks at most once a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked_ns: int | None = None
        self._state: ClockState = "unsynced"

    def state(self) -> ClockState:
        now_ns = self._clock.monotonic_ns()
        if self._asked_ns is None or now_ns - self._asked_ns >= _STATE_CHECK_EVERY_NS:
            self._asked_ns = now_ns
            self._state = _kernel_clock_state()
        return self._state


def _kernel_clock_state() -> ClockState:
    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = int(libc.adjtimex(timex))
    return "unsynced" if state in (-1, _TIME_ERROR) else "synced"
