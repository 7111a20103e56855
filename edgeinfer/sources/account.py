"""What became of every sample, so that the numbers add up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Literal

Fate = Literal[
    "used",
    "duplicate",
    "late",
    "stray",
    "no number",
    "no time",
    "garbage",
    "half line",
    "too long",
    "lost",
]
"""What a sample can end as. used: it is on the time line. stray: its time lay far from all others'. no number: each of
its channels was absent, NaN or too large. lost: the machine was too slow to take it."""

Note = Literal["gaps", "clock jumps", "out of order", "missing numbers", "reconnected", "rotated", "truncated"]
"""What happened besides; no count of samples, but for `missing numbers`, of single channels."""

_DETAIL_MAX = 60


class Account:
    """Counts samples by fate, and what is worth a note; any thread may read.

    Each sample that came is counted under one fate, once it is known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fates: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def count(self, fate: Fate, samples: int = 1, *, detail: str = "") -> None:
        """`detail` says of the last one why, for a person."""
        with self._lock:
            self._fates[fate] += samples
            if detail:
                self._last[fate] = detail if len(detail) <= _DETAIL_MAX else f"{detail[:_DETAIL_MAX]}…"

    def note(self, note: Note, times: int = 1) -> None:
        with self._lock:
            self._notes[note] += times

    def fates(self) -> Mapping[str, int]:
        """How many samples ended as what."""
        with self._lock:
            return dict(self._fates)

    def notes(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._notes)

    def skipped(self) -> Mapping[str, str]:
        """As `Source.skipped`: all that was not used, and the notes."""
        with self._lock:
            said = {
                fate: f"{samples}, the last: {self._last[fate]}" if fate in self._last else str(samples)
                for fate, samples in self._fates.items()
                if fate != "used"
            }
            return said | {note: str(times) for note, times in self._notes.items()}
