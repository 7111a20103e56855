"""Whether a model in its trial does as well as the one before it: by what its frames took, and what became of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from edgeinfer.board.busy import core_time
from edgeinfer.frame import Input
from edgeinfer.model import Answer
from edgeinfer.pipeline import Pipeline

ENOUGH_ANSWERS = 20
"""By fewer than these nothing is judged."""

_LATENCIES_KEPT = 600
_SLOWER = 1.5
# A model of a fraction of a millisecond is not judged by what the scheduler does.
_SLOWER_MS = 2.0
_MORE_DROPPED = 0.1
_ENOUGH_FRAMES = 50
# Of the time of all cores. Where others take as much as the second in any case, how long a frame takes is chance.
_BUSIER = 0.15
_MOST_OF_IT = 0.75
# Of the time between two frames: what waits can be made up for then.
_KEEPS_UP = 0.75
# Neither is the model's doing.
_ASKED_FOR = frozenset({"paused", "rate"})


@dataclass(frozen=True, slots=True)
class Measure:
    """Of a while: answers given, the 95th percentile of what they took, frames captured and dropped, devices lost."""

    answers: int
    p95_ms: float
    captured: int
    dropped: int
    lost: int

    @property
    def dropped_share(self) -> float:
        return self.dropped / self.captured if self.captured else 0.0


class Meter:
    """What a pipeline does since `begin`; `look` is for `Pipeline.watch`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.begin()

    def begin(self) -> None:
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._answers = 0
        self._first: tuple[int, int] | None = None
        self._last = (0, 0)
        self._captured, self._dropped, self._lost = self._counts()
        self._core_time = core_time()

    def look(self, frame: Input, answer: Answer) -> None:
        self._latencies_ms.append(took_ms(answer))
        self._answers += 1
        first, now = self._first, (frame.seq, frame.captured_ns)
        if first is None or now < first:  # A source that was opened again counts anew.
            self._first = now
        self._last = now

    def measure(self) -> Measure:
        captured, dropped, lost = self._counts()
        return Measure(
            self._answers,
            p95(self._latencies_ms.copy()),
            captured - self._captured,
            dropped - self._dropped,
            lost - self._lost,
        )

    def keeps_up(self) -> bool:
        """Whether most frames take less than three quarters of the time between two, so that some may wait; True
        while that is not known. How many are dropped does not say it: what takes the cores now and then drops some."""
        latencies_ms, first, last = sorted(self._latencies_ms.copy()), self._first, self._last
        if not latencies_ms or first is None or last[0] <= first[0]:
            return True
        period_ms = (last[1] - first[1]) / 1e6 / (last[0] - first[0])
        return latencies_ms[len(latencies_ms) // 2] < _KEEPS_UP * period_ms

    def others(self) -> float:
        """What other programs took of the cores' time meanwhile, 0..1; 0 where the kernel does not say."""
        now = core_time()
        return 0.0 if now is None or self._core_time is None else now.others_since(self._core_time)

    def _counts(self) -> tuple[int, int, int]:
        counts = self.pipeline.tally.snapshot()
        dropped = sum(
            count
            for name, count in counts.items()
            if name.startswith("dropped.") and ".sink." not in name and name.removeprefix("dropped.") not in _ASKED_FOR
        )
        return counts.get("captured", 0), dropped, counts.get("device.lost", 0)


def took_ms(answer: Answer) -> float:
    """What it took for a frame, with what was done for it ahead of its turn."""
    return (answer.stages_ns[3] - answer.stages_ns[0] + answer.prepared_ns) / 1e6


def p95(values_ms: deque[float]) -> float:
    """The value that 95 % do not exceed; 0 of none."""
    ordered = sorted(values_ms)
    return ordered[max(0, -(-len(ordered) * 95 // 100) - 1)] if ordered else 0.0


def slowest_ms(before: Measure | None, budget_ms: float | None) -> float | None:
    """What the 95th percentile may be: the budget, else one and a half times what it was before; None if unknown."""
    if budget_ms is not None:
        return budget_ms
    if before is None or before.answers < ENOUGH_ANSWERS:
        return None
    return max(before.p95_ms * _SLOWER, before.p95_ms + _SLOWER_MS)


def is_enough(now: Measure) -> bool:
    """Whether something can be said by that."""
    return now.answers >= ENOUGH_ANSWERS or now.captured >= _ENOUGH_FRAMES


def is_excused(others: float, others_before: float) -> bool:
    """Whether other programs take so much, or so much more than before, that slow answers say nothing of the model."""
    return others > min(others_before + _BUSIER, _MOST_OF_IT)


def fault_of(now: Measure, before: Measure | None, budget_ms: float | None = None) -> str | None:
    """Why the model in its trial is not as good as the one before it; None while nothing says so.

    before: of the model that it replaced, None where there was none.
    """
    limit_ms = slowest_ms(before, budget_ms)
    if limit_ms is not None and now.answers >= ENOUGH_ANSWERS and now.p95_ms > limit_ms:
        return f"its p95 is {now.p95_ms:.1f} ms, at most {limit_ms:.1f} ms are allowed"
    usual = 0.0 if before is None else before.dropped_share
    if before is not None and now.captured >= _ENOUGH_FRAMES and now.dropped_share > usual + _MORE_DROPPED:
        return f"{now.dropped_share:.0%} of what comes is dropped, {usual:.0%} was before"
    return None
