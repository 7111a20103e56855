"""Whether a node still does its work: results come, or there is an honest reason why none do."""

from __future__ import annotations

from collections.abc import Iterable

from edgeinfer.clock import Clock
from edgeinfer.pipeline import Pipeline

# A device that takes long for every frame does not hang with the next one.
_TIMES_USUAL = 5.0
# Of the first frame nothing is known, and some devices prepare much with it.
_TIMES_FIRST = 4.0


class Watch:
    """Holds each pipeline against what it is at. A frame that was taken up has to come to a result, or to a drop that
    is counted by its reason, within `patience_s`, or five times what frames took so far where that is longer; the first
    within four times that. Opening a source has to succeed or fail within `patience_s`. Who has nothing to do but wait
    is well: paused, no frame, none due, a source that is lost and tried again."""

    def __init__(self, patience_s: float, clock: Clock | None = None) -> None:
        self._patience_s = patience_s
        self._clock = clock or Clock()

    def hangs(self, pipelines: Iterable[Pipeline]) -> str | None:
        """What hangs, in words; None where all is well."""
        for pipeline in pipelines:
            work = pipeline.work()
            if work is None:
                continue
            for_s = (self._clock.monotonic_ns() - work.since_ns) / 1e9
            if for_s > self._patience_s and for_s > self._usual_s(pipeline):
                return f"pipeline {pipeline.name}: {work.what} for {for_s:.0f} s"
        return None

    def _usual_s(self, pipeline: Pipeline) -> float:
        report = pipeline.report()
        if not report.results:
            return self._patience_s * _TIMES_FIRST if report.counts.get("captured") else 0.0
        return _TIMES_USUAL * sum(report.stage_ms.values()) / 1e3
