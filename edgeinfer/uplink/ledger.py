"""Which numbers of one epoch a subscriber has dealt with: exactly, in little memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

RANGES_MAX = 5000


class Span(NamedTuple):
    """Numbers from `first` to `last`, both included."""

    first: int
    last: int


class Ledger:
    """Everything up to `upto` is dealt with, or will not come; `ahead` is what is dealt with beyond a hole.

    Numbers that will not come, because the node holds them for done while they were never here, are in `missing`; they
    are dealt with all the same should they come. Of those and of the spans ahead there are at most 5000: more of the
    first are forgotten, the oldest first, and `has_room` is false for more of the second.
    """

    def __init__(self, upto: int = 0, ahead: Iterable[tuple[int, int]] = ()) -> None:
        self.upto = upto
        self._ahead: list[Span] = []
        self._missing: list[Span] = []
        for first, last in ahead:
            self.add(first, last)

    @property
    def ahead(self) -> Sequence[Span]:
        return self._ahead

    @property
    def missing(self) -> Sequence[Span]:
        return self._missing

    @property
    def has_room(self) -> bool:
        """Whether one more number beyond a hole can be noted."""
        return len(self._ahead) < RANGES_MAX

    def has(self, first: int, last: int) -> bool:
        """Whether all of these were dealt with."""
        if any(span.first <= last and first <= span.last for span in self._missing):
            return False
        rest = max(first, self.upto + 1)
        index = bisect_right(self._ahead, Span(rest, 1 << 63)) - 1
        return last < rest or (index >= 0 and self._ahead[index].last >= last)

    def add(self, first: int, last: int) -> None:
        """These were dealt with: one message, or all that a gap stands for."""
        if self._missing and first <= self.upto:
            self._missing = [part for span in self._missing for part in _without(span, Span(first, last))]
        if last <= self.upto:
            return
        if first <= self.upto + 1:
            self.upto = last
        else:
            self._ahead = _joined([*self._ahead, Span(first, last)])
        self._catch_up()

    def settle(self, done: int) -> Sequence[Span]:
        """The node holds everything up to `done` for done; the spans that were never here, and will not come."""
        lost: list[Span] = []
        while self.upto < done:
            first = self.upto + 1
            last = min(done, self._ahead[0].first - 1) if self._ahead else done
            lost.append(Span(first, last))
            self.upto = last
            self._catch_up()
        self._missing = [*self._missing, *lost][-RANGES_MAX:]
        return lost

    def _catch_up(self) -> None:
        """Take what is no longer beyond a hole."""
        index = 0
        while index < len(self._ahead) and self._ahead[index].first <= self.upto + 1:
            self.upto = max(self.upto, self._ahead[index].last)
            index += 1
        del self._ahead[:index]


def _without(span: Span, taken: Span) -> list[Span]:
    parts = Span(span.first, min(span.last, taken.first - 1)), Span(max(span.first, taken.last + 1), span.last)
    return [part for part in parts if part.first <= part.last]


def _joined(spans: list[Span]) -> list[Span]:
    """Sorted, those that touch as one."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.first <= joined[-1].last + 1:
            joined[-1] = Span(joined[-1].first, max(joined[-1].last, span.last))
        else:
            joined.append(span)
    return joined
