"""A clock that a test owns, and results as a detector gives them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.frame import Frame
from edgeinfer.result import Detection, ModelInfo, Result, SourceInfo, Timing


class Now:
    """Monotonic and wall time, in seconds, as the test says."""

    def __init__(self) -> None:
        self.s = 1000.0
        self.clock = Clock(monotonic_ns=self.ns, unix_ns=self.ns)

    def ns(self) -> int:
        return round(self.s * 1e9)


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def result_at(now):
    """A result of this moment with so many objects of each label."""

    def make(age_ms: float = 10.0, infer_ms: float = 5.0, *, reused: bool = False, **counts: int) -> Result:
        found = [
            Detection(label, 0, 0.9, (0.25, 0.25, 0.75, 0.75)) for label, count in counts.items() for _ in range(count)
        ]
        return Result(
            id="0" * 26,
            node="pi-7",
            pipeline="door",
            seq=0,
            captured_at="2026-11-22T04:00:00.000000Z",
            clock="synced",
            monotonic_ns=now.ns(),
            source=SourceInfo("test:", 64, 48),
            model=ModelInfo("ssd", "1", "0" * 64),
            device="fake",
            task="detect",
            reused=reused,
            detections=tuple(found),
            timing_ms=Timing(1.0, 1.0, infer_ms, 1.0, age_ms),
        )

    return make


@pytest.fixture
def frame(now) -> Frame:
    return Frame(np.full((48, 64, 3), 200, np.uint8), 0, now.ns(), now.ns(), "test:")
