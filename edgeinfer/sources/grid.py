"""Samples at their own times -> numbers at even distances, and how many of them had to be made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.sources.readings import Numbers, Times

Missing = Literal["hold", "linear", "nan-refuse"]

_AT_ONCE = 65536
# In periods of the grid. Where the samples around a place lie farther apart than the first, one was missing there; a
# sample as near as the second is the one of that place, whatever its neighbours do.
_APART, _NEAR = 1.5, 0.25


@dataclass(frozen=True, slots=True)
class Filling:
    """What is done in a channel where a sample is missing, and for how long at most."""

    missing: Missing
    limit_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Numbers at even distances. values: (rows, channels) float32. made_up: (rows,), how many of each row were.

    first_ns: the time of the first. anew: a gap lies before it.
    """

    values: npt.NDArray[np.float32]
    made_up: npt.NDArray[np.int64]
    first_ns: int
    anew: bool


class Grid:
    """Places at `rate_hz`, from the first moment at which every channel has a sample, and again after each gap.

    `hold` takes the nearest sample within half a period, else the last one before; `linear` lies between the two around
    it; `nan-refuse` does that too, and makes nothing up. A gap is where a channel has no sample for longer than its
    limit (and 1.5 periods): no row is given there.
    """

    def __init__(self, rate_hz: float, fillings: Sequence[Filling]) -> None:
        self._period_ns = 1e9 / rate_hz
        self._channels = [_Channel(filling, self._period_ns) for filling in fillings]
        self._origin_ns: int | None = None
        self._row = 0
        self._anew = True

    def restart(self) -> None:
        """What comes next lies on another line of time."""
        for channel in self._channels:
            channel.clear()
        self._break_at(None)

    def add(self, at_ns: Times, values: Numbers) -> None:
        """Samples in order, later than all before; (samples,) and (samples, channels), NaN where missing."""
        for place, channel in enumerate(self._channels):
            is_there = ~np.isnan(values[:, place])
            channel.add(at_ns[is_there], values[is_there, place])

    def rows(self, until_ns: int) -> list[Rows]:
        """All rows that are certain by now; every sample up to `until_ns` is here."""
        made: list[Rows] = []
        while (piece := self._next(until_ns)) is not None:
            if len(piece.values):
                made.append(piece)
        return made

    def _next(self, until_ns: int) -> Rows | None:
        """Some more rows, perhaps none because of a gap; None where nothing more is certain."""
        if self._origin_ns is None:
            begins = [channel.first_ns for channel in self._channels]
            if not begins or None in begins:
                return None
            self._origin_ns = max(begin for begin in begins if begin is not None)
        last = int((until_ns - self._origin_ns) / self._period_ns) + 1
        rows = np.arange(self._row, min(last + 1, self._row + _AT_ONCE))
        at_ns = self._origin_ns + np.round(rows * self._period_ns).astype(np.int64)
        at_ns = at_ns[at_ns <= until_ns]
        if not at_ns.size:
            return None
        read = [channel.read(at_ns, until_ns) for channel in self._channels]
        count = min(each.certain for each in read)
        piece = Rows(
            np.stack([each.values[:count] for each in read], axis=1).astype(np.float32),
            np.sum([each.made_up[:count] for each in read], axis=0, dtype=np.int64),
            int(at_ns[0]),
            self._anew,
        )
        self._row += count
        self._anew = self._anew and not count
        resume = [each.resume_ns for each in read if each.certain == count and each.resume_ns is not None]
        if resume:
            self._break_at(max(resume))
        elif not count:
            return None
        for channel in self._channels:
            channel.forget_before(self._place_ns())
        return piece

    def _place_ns(self) -> int:
        """Where the next row lies."""
        return (self._origin_ns or 0) + round(self._row * self._period_ns)

    def _break_at(self, resume_ns: int | None) -> None:
        self._origin_ns, self._row, self._anew = resume_ns, 0, True


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """Of one channel: `certain` rows are, and then comes a gap where `resume_ns` says when it ends."""

    values: Numbers
    made_up: npt.NDArray[np.bool_]
    certain: int
    resume_ns: int | None


class _Channel:
    """The samples of one channel that are still needed."""

    def __init__(self, filling: Filling, period_ns: float) -> None:
        self._holds = filling.missing == "hold"
        self._period_ns = period_ns
        self._apart_ns = _APART * period_ns
        limit_ns = 0.0 if filling.missing == "nan-refuse" else filling.limit_s * 1e9
        self._limit_ns = max(limit_ns, self._apart_ns)
        self.clear()

    def clear(self) -> None:
        self._at_ns: Times = np.empty(0, np.int64)
        self._values: Numbers = np.empty(0)

    @property
    def first_ns(self) -> int | None:
        return int(self._at_ns[0]) if self._at_ns.size else None

    def add(self, at_ns: Times, values: Numbers) -> None:
        self._at_ns = np.concatenate([self._at_ns, at_ns])
        self._values = np.concatenate([self._values, values])

    def forget_before(self, place_ns: int) -> None:
        """All but the last sample before the next row."""
        needed = max(0, int(np.searchsorted(self._at_ns, place_ns, "right")) - 1)
        self._at_ns, self._values = self._at_ns[needed:], self._values[needed:]

    def read(self, place_ns: Times, until_ns: int) -> _Read:
        after = np.searchsorted(self._at_ns, place_ns, "right")
        before = np.maximum(after - 1, 0)
        has_after = after < self._at_ns.size
        after = np.minimum(after, self._at_ns.size - 1)
        since_ns = place_ns - self._at_ns[before]
        # Of a sample that is not here yet it is known that it is later than all that was read.
        ahead_ns = np.where(has_after, self._at_ns[after], until_ns + 1) - place_ns
        apart_ns = since_ns + ahead_ns
        is_exact = since_ns == 0
        is_next = has_after & (ahead_ns <= self._period_ns / 2) & (ahead_ns < since_ns)
        if self._holds:
            values = np.where(is_next, self._values[after], self._values[before])
            is_gap = (since_ns > self._limit_ns) & ~is_next
            is_certain = is_exact | has_after | ((apart_ns > self._apart_ns) & (ahead_ns > self._period_ns / 2))
        else:
            share = np.where(has_after, since_ns / apart_ns, 0.0)
            values = self._values[before] * (1 - share) + self._values[after] * share
            is_gap = (apart_ns > self._limit_ns) & ~is_exact
            is_certain = is_exact | has_after
        nearest_ns = np.minimum(since_ns, ahead_ns)
        made_up = ~is_exact & (apart_ns > self._apart_ns) & (nearest_ns > _NEAR * self._period_ns)
        certain = _first(~is_certain | is_gap)
        is_over = certain < place_ns.size and is_gap[certain] and has_after[certain]
        return _Read(values, made_up, certain, int(self._at_ns[after[certain]]) if is_over else None)


def _first(true: npt.NDArray[np.bool_]) -> int:
    """Where it is first true; its length where it never is."""
    return int(np.argmax(true)) if true.any() else true.size
