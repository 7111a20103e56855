"""Spares the board: what the governor decides is asked of the pipelines, in frames a second."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgeinfer.board import Vitals
from edgeinfer.clock import Clock
from edgeinfer.config import GovernorConfig
from edgeinfer.errors import EdgeInferError
from edgeinfer.node.governor import Bounds, Change, Governor, step
from edgeinfer.pipeline import Pipeline

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_OPENING_S = 1.0  # A model that is being opened just then is closed by the pipeline, which has ended.
_MARKS = 6  # Frame counts to tell the usual rate by: of ten seconds.


class Spared(Protocol):
    """The node that is cared for."""

    @property
    def pipelines(self) -> Sequence[Pipeline]: ...

    def lighter(self, pipeline: str) -> Sequence[str]:
        """Words of the models that may stand in for the usual one of that pipeline, the lightest last."""
        ...

    def change_model(self, pipeline: str, number: int) -> None:
        """To the usual one (0), or to a lighter one (from 1). Raises EdgeInferError where it cannot be opened."""
        ...


@dataclass(slots=True)
class _Pace:
    """How fast a pipeline goes when nothing slows it, and how fast it may go now, and why; frames a second.

    model: the number of the one that runs; see Spared. refused_at: the level for which another could not be opened,
    which is not tried again before the next one.
    """

    pipeline: Pipeline
    model: int = 0
    refused_at: int | None = None
    why: str = ""
    marks: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_MARKS))
    usual_fps: float | None = None
    now_fps: float | None = None

    def measure(self, now_ns: int) -> None:
        """Of a pipeline at its full rate; one that rests, or has lost its source, is as fast as it was before."""
        counts = self.pipeline.tally.snapshot()
        frames = counts.get("inferred", 0) + counts.get("gated", 0)
        if self.marks and self.marks[-1][1] == frames:
            self.marks.clear()
        self.marks.append((now_ns, frames))
        if len(self.marks) == _MARKS:
            (first_ns, first), (last_ns, last) = self.marks[0], self.marks[-1]
            self.usual_fps = (last - first) * 1e9 / (last_ns - first_ns)

    def __str__(self) -> str:
        return f"{self.pipeline.name} {self.now_fps:.1f} of {self.usual_fps:.1f} fps"


class Care:
    """A thread that looks at the board every two seconds. `look` is `Watch.look`, or a test's own."""

    def __init__(
        self,
        config: GovernorConfig,
        look: Callable[[], Vitals],
        node: Spared,
        *,
        clock: Clock,
    ) -> None:
        self._look_at_board = look
        self._node = node
        self._clock = clock
        self._rate_min_fps = config.rate_min
        self._governor = Governor(Bounds(config.margin_c, config.load_max, config.memory_max))
        self._reason = ""
        self._paces: dict[str, _Pace] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="care", daemon=True)

    @property
    def state(self) -> str | None:
        """Such as `cpu-thermal is at 76 °C, its limit is 80 °C`; None where nothing is asked of the pipelines."""
        return self._reason if self._governor.level else None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join(_OPENING_S)

    def look(self) -> None:
        """What is done every two seconds."""
        now_ns = self._clock.monotonic_ns()
        change = self._governor.look(now_ns, self._look_at_board())
        paces = self._known_paces()
        if change is not None:
            is_lower = change.level > change.before
            self._reason = change.reason if is_lower else "the board is calm, and the rate comes back"
        for pace in paces:
            self._spare(pace, now_ns)
        if change is not None:
            self._say(change, paces)

    def _run(self) -> None:
        try:
            while not self._closed.wait(_LOOK_S):
                self.look()
        except Exception:
            log.exception("the governor is given up; the kernel still looks after the board")
            for pace in self._paces.values():
                pace.pipeline.set_rate(None)

    def _known_paces(self) -> Sequence[_Pace]:
        """Of the pipelines that run now; one that was begun anew has to be measured anew."""
        known = self._paces
        running = {each.name: each for each in self._node.pipelines if each.state != "stopped"}
        self._paces = {
            name: known[name] if name in known and known[name].pipeline is pipeline else _Pace(pipeline)
            for name, pipeline in running.items()
        }
        return tuple(self._paces.values())

    def _spare(self, pace: _Pace, now_ns: int) -> None:
        level = self._governor.level
        share, model = step(level, len(self._node.lighter(pace.pipeline.name)))
        if model != pace.model and level != pace.refused_at:
            self._change_model(pace, model)
        if model != pace.model:
            share, _ = step(level, pace.model)
        self._set_rate(pace, share, now_ns)

    def _change_model(self, pace: _Pace, model: int) -> None:
        try:
            self._node.change_model(pace.pipeline.name, model)
        except EdgeInferError as refused:
            pace.refused_at = self._governor.level
            log.warning("governor: pipeline %s keeps its model: %s", pace.pipeline.name, refused)
        else:
            pace.model, pace.refused_at = model, None

    def _set_rate(self, pace: _Pace, share: float, now_ns: int) -> None:
        if pace.now_fps is None:
            pace.measure(now_ns)
        wanted_fps = None
        if self._governor.level and pace.usual_fps is not None:
            wanted_fps = min(max(share * pace.usual_fps, self._rate_min_fps), pace.usual_fps)
        why = "" if wanted_fps is None else f"with a lighter model, for {self._reason}" if pace.model else self._reason
        if (wanted_fps, why) == (pace.now_fps, pace.why):
            return
        if wanted_fps is None:
            pace.marks.clear()
        pace.now_fps, pace.why = wanted_fps, why
        pace.pipeline.set_rate(wanted_fps, why)

    def _say(self, change: Change, paces: Sequence[_Pace]) -> None:
        if change.level == 0:
            log.info("governor: %s, and all run at their full rate again", change.reason)
            return
        rates = ", ".join(str(pace) for pace in paces if pace.now_fps is not None) or "no pipeline runs"
        tell = log.warning if change.level > change.before else log.info
        tell("governor: %s: %s", change.reason, rates)
