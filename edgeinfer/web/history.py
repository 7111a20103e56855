"""The last minutes of a pipeline, second by second, for its charts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import msgspec

SECONDS_KEPT = 300
_NOW_OVER_S = 5
# Of a second with more results than these the others do not count for its median.
_AGES_MAX = 500


class Second(msgspec.Struct, frozen=True, array_like=True):
    """at: which second of the monotonic clock. Of its results: how many, their age in the middle and at most, and the
    mean time of the model, in milliseconds; 0 where there was none."""

    at: int
    results: int
    age_ms: float
    age_max_ms: float
    infer_ms: float


class History:
    """One thread adds, any may ask. A second is told once it is over."""

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        self._seconds: deque[Second] = deque(maxlen=SECONDS_KEPT)
        self._at = self._now()
        self._begun_at = self._at
        self._ages_ms: list[float] = []
        self._count = 0
        self._infer_ms = 0.0

    def add(self, age_ms: float, infer_ms: float) -> None:
        with self._lock:
            self._turn_over()
            self._count += 1
            self._infer_ms += infer_ms
            if len(self._ages_ms) < _AGES_MAX:
                self._ages_ms.append(age_ms)

    def after(self, at: int) -> list[Second]:
        """The seconds after that one, the oldest first, without a gap."""
        with self._lock:
            self._turn_over()
            return [second for second in self._seconds if second.at > at]

    def fps(self) -> float:
        """Of late: over the last five seconds that are over, fewer where there were not so many yet."""
        with self._lock:
            self._turn_over()
            seconds = list(self._seconds)[-_NOW_OVER_S:]
            return sum(second.results for second in seconds) / max(len(seconds), 1)

    def last(self) -> Second | None:
        """The newest second that had results, of those that `fps` counts."""
        with self._lock:
            self._turn_over()
            return next((each for each in list(self._seconds)[: -_NOW_OVER_S - 1 : -1] if each.results), None)

    def _now(self) -> int:
        return self._monotonic_ns() // 1_000_000_000

    def _turn_over(self) -> None:
        now = self._now()
        if now == self._at:
            return
        # The first second was not a whole one: its rate would be wrong.
        if self._at > self._begun_at:
            self._seconds.append(self._finished())
        for at in range(max(self._at + 1, now - SECONDS_KEPT), now):
            self._seconds.append(Second(at, 0, 0.0, 0.0, 0.0))
        self._at, self._ages_ms, self._count, self._infer_ms = now, [], 0, 0.0

    def _finished(self) -> Second:
        ages_ms = sorted(self._ages_ms)
        if not ages_ms:
            return Second(self._at, 0, 0.0, 0.0, 0.0)
        return Second(
            self._at,
            self._count,
            round(ages_ms[len(ages_ms) // 2], 1),
            round(ages_ms[-1], 1),
            round(self._infer_ms / self._count, 1),
        )
