"""Samples with times, as they come, put into order: doubles, stragglers and jumps of the clock are told apart here."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeinfer.sources.account import Account
from edgeinfer.sources.readings import Numbers, Times

_RECENT = 256


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Samples in the order of their times, each later than all before it; `anew`: of a line that has begun again."""

    at_ns: Times
    values: Numbers
    anew: bool


@dataclass(slots=True)
class _Sample:
    at_ns: int
    numbers: list[float]
    came_ns: int


class Timeline:
    """One line of time at each moment.

    late_ns: so far behind the newest a sample may come and still find its place. jump_ns: what lies farther than that
    from the newest is doubted until the next sample is there: the nearer of both lines is believed, so that one wrong
    time is a stray sample, and a clock that was set begins a new line.
    """

    def __init__(self, *, late_ns: int, jump_ns: int, account: Account) -> None:
        self._late_ns = late_ns
        self._jump_ns = max(jump_ns, late_ns)
        self._account = account
        self._held: list[_Sample] = []
        self._newest: _Sample | None = None
        self._doubted: _Sample | None = None
        self._settled_ns: int | None = None
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._done: list[Stretch] = []
        self._is_new = True

    def add(self, at_ns: int, numbers: list[float], came_ns: int) -> None:
        """One sample; what is missing is NaN, and one number at least is there. came_ns: by the monotonic clock."""
        sample = _Sample(at_ns, numbers, came_ns)
        if self._newest is None or self._is_near(sample, self._newest):
            self._forget_doubted()
            self._place(sample)
        elif at_ns in self._recent:
            self._account.count("duplicate")
        elif self._doubted is None:
            self._doubted = sample
        elif abs(at_ns - self._doubted.at_ns) < abs(at_ns - self._newest.at_ns):
            self._begin_anew(self._doubted)
            self.add(at_ns, numbers, came_ns)
        else:
            self._forget_doubted()
            self._doubted = sample

    def settle(self, until_ns: int | None) -> list[Stretch]:
        """What is in order for good. until_ns: no sample before that is to come; None where only `late_ns` says so."""
        if self._newest is not None:
            self._settle_held(self._newest.at_ns - self._late_ns if until_ns is None else until_ns)
        done, self._done = self._done, []
        return done

    def finish(self) -> list[Stretch]:
        """All that is left: nothing more will come."""
        self._forget_doubted()
        return [] if self._newest is None else self.settle(self._newest.at_ns + 1)

    def _is_near(self, sample: _Sample, newest: _Sample) -> bool:
        step_ns = sample.at_ns - newest.at_ns
        if abs(step_ns) <= self._jump_ns:
            return True
        # As long as it was silent: no clock was set, there was nothing to send.
        return 0 < step_ns <= 2 * (sample.came_ns - newest.came_ns)

    def _begin_anew(self, first: _Sample) -> None:
        if self._newest is not None:
            self._settle_held(self._newest.at_ns + 1)
            # Of a recording, a step forward is a gap; nobody can tell whether its clock was set in it.
            if first.at_ns < self._newest.at_ns or first.came_ns - self._newest.came_ns > 0:
                self._account.note("clock jumps")
        self._doubted = self._newest = self._settled_ns = None
        self._recent.clear()
        self._is_new = True
        self._place(first)

    def _forget_doubted(self) -> None:
        if self._doubted is not None:
            self._account.count("stray", detail=f"{self._doubted.at_ns / 1e9:.3f} s")
            self._doubted = None

    def _place(self, sample: _Sample) -> None:
        at_ns = sample.at_ns
        if self._settled_ns is not None and at_ns <= self._settled_ns:
            self._account.count("duplicate" if at_ns in self._recent else "late")
            return
        place = bisect_left(self._held, at_ns, key=_time_of)
        if place < len(self._held) and self._held[place].at_ns == at_ns:
            self._account.count("used" if _complete(self._held[place].numbers, sample.numbers) else "duplicate")
            return
        if self._newest is not None and at_ns < self._newest.at_ns - self._late_ns:
            # Even if what it belongs before has not been settled: how much comes at once shall change nothing.
            self._account.count("late")
            return
        self._held.insert(place, sample)
        self._account.count("used")
        if self._newest is None or at_ns > self._newest.at_ns:
            self._newest = sample
        else:
            self._account.note("out of order")

    def _settle_held(self, before_ns: int) -> None:
        count = bisect_left(self._held, before_ns, key=_time_of)
        if not count:
            return
        settled, self._held = self._held[:count], self._held[count:]
        self._settled_ns = settled[-1].at_ns
        self._recent.extend(each.at_ns for each in settled)
        at_ns = np.array([each.at_ns for each in settled], np.int64)
        self._done.append(Stretch(at_ns, np.array([each.numbers for each in settled]), self._is_new))
        self._is_new = False


def _time_of(sample: _Sample) -> int:
    return sample.at_ns


def _complete(numbers: list[float], others: Sequence[float]) -> bool:
    """Whether the others knew what was missing among these: some sensors send a line for each channel."""
    missing = [place for place, number in enumerate(numbers) if number != number and others[place] == others[place]]
    for place in missing:
        numbers[place] = others[place]
    return bool(missing)
