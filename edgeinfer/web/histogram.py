"""How long something takes, as a distribution in few numbers that only grow."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

# Seconds. From a small classifier on a fast board to a stream that hangs.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass(frozen=True, slots=True)
class Distribution:
    """cumulative: how many were at most each of BOUNDS_S, and last how many there were; total_s: their sum."""

    cumulative: Sequence[int]
    total_s: float


class Histogram:
    """Any thread may add and ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._total_s = 0.0

    def add(self, seconds: float) -> None:
        with self._lock:
            self._counts[bisect_left(BOUNDS_S, seconds)] += 1
            self._total_s += seconds

    def distribution(self) -> Distribution:
        with self._lock:
            counts, total_s = tuple(self._counts), self._total_s
        cumulative, so_far = [], 0
        for count in counts:
            so_far += count
            cumulative.append(so_far)
        return Distribution(cumulative, total_s)
