"""Whether a node still does its work: results come, or there is an honest reason why none do."""

from __future__ import annotations

from collections.abc import Iterable

from edgeinfer.clock import Clock
from edgeinfer.pipeline import Pipeline

# A device that takes long for every frame does not hang with the next one.
_TIMES_USUAL = 5.0
# Opening a device or a source takes longer than a frame; some devices prepare much with their first one, too.
_TIMES_OPENING = 4.0


class Watch:
    """Holds each pipeline against what it is at. A frame that was taken up has to come to a result, or to a drop that
    is counted by its reason, within `patience_s`, or five times what frames took so far where that is longer. Within
    four times `patience_s` where it is the first, or something is amiss: a frame whose device was lost waits for the
    next one to be opened, and a source has so long to be opened again. Who has nothing to do but wait is well: paused,
    no frame, none due, a source that is lost and tried again."""

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
            if for_s > self._patience_s and for_s > self._may_take_s(pipeline):
                return f"pipeline {pipeline.name}: {work.what} for {for_s:.0f} s"
        return None

    def _may_take_s(self, pipeline: Pipeline) -> float:
        report = pipeline.report()
        usual_s = _TIMES_USUAL * sum(report.stage_ms.values()) / 1e3
        is_opening = not report.results or pipeline.state != "ok"
        return max(usual_s, self._patience_s * _TIMES_OPENING) if is_opening else usual_s
