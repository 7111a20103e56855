"""How a node is, in the one line that `systemctl status` shows."""

from __future__ import annotations

from edgeinfer.clock import Clock
from edgeinfer.node import Node
from edgeinfer.pipeline import Pipeline

_REASON_MAX = 160
_SHORT_NS = 1_000_000_000


class Status:
    """Rates are those since the line before, but over a second at least; in the first one since the start."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun_ns = clock.monotonic_ns()
        self._marks: dict[str, tuple[int, int]] = {}
        self._rates: dict[str, float] = {}

    def line(self, node: Node) -> str:
        parts = [self._of_pipeline(each) for each in node.pipelines]
        parts += [f"{name} does not run: {_cut(reason)}" for name, reason in node.troubles.items()]
        return "; ".join(parts)

    def _of_pipeline(self, pipeline: Pipeline) -> str:
        state = pipeline.state
        if state in ("paused", "stopped"):
            return f"{pipeline.name} {state}"
        fps = self._fps(pipeline)
        said = f"{pipeline.name} {fps:.1f} fps on {pipeline.device}"
        return said if state == "ok" else f"{said}, {_cut(state)}"

    def _fps(self, pipeline: Pipeline) -> float:
        name, now_ns, results = pipeline.name, self._clock.monotonic_ns(), pipeline.tally["published"]
        before_ns, before = self._marks.get(name, (self._begun_ns, 0))
        if now_ns - before_ns >= _SHORT_NS:
            # One that was begun anew counts from 0.
            self._rates[name] = (results - before if results >= before else results) * 1e9 / (now_ns - before_ns)
            self._marks[name] = now_ns, results
        return self._rates.get(name, 0.0)


def _cut(reason: str) -> str:
    return reason if len(reason) <= _REASON_MAX else f"{reason[: _REASON_MAX - 1]}…"
