"""Spares the board: what the governor decides is asked of the pipelines, in frames a second."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgeinfer.board import Vitals
from edgeinfer.clock import Clock
from edgeinfer.config import GovernorConfig
from edgeinfer.node.governor import Bounds, Change, Governor
from edgeinfer.pipeline import Pipeline

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_MARKS = 6  # Frame counts to tell the usual rate by: of ten seconds.


@dataclass(slots=True)
class _Pace:
    """How fast a pipeline goes when nothing slows it, and how fast it may go now; frames a second."""

    pipeline: Pipeline
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
        pipelines: Callable[[], Sequence[Pipeline]],
        *,
        clock: Clock,
    ) -> None:
        self._look_at_board = look
        self._pipelines = pipelines
        self._clock = clock
        self._rate_min_fps = config.rate_min
        self._governor = Governor(Bounds(config.margin_c, config.load_max, config.memory_max))
        self._reason = ""
        self._paces: dict[str, _Pace] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="care", daemon=True)

    @property
    def state(self) -> str | None:
        """Such as `slowed to 75%: cpu-thermal is at 76 °C, its limit is 80 °C`; None at the full rate."""
        return f"slowed to {self._governor.share:.0%}: {self._reason}" if self._governor.level else None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def look(self) -> None:
        """What is done every two seconds."""
        now_ns = self._clock.monotonic_ns()
        change = self._governor.look(now_ns, self._look_at_board())
        paces = self._known_paces()
        if change is not None:
            self._reason = change.reason
        for pace in paces:
            self._set_rate(pace, now_ns)
        if change is not None:
            self._say(change, paces)

    def _run(self) -> None:
        try:
            while not self._closed.wait(_LOOK_S):
                self.look()
        except Exception:
            log.exception("the governor is given up; the kernel still looks after the board")

    def _known_paces(self) -> Sequence[_Pace]:
        """Of the pipelines that run now; one that was begun anew has to be measured anew."""
        known = self._paces
        running = {each.name: each for each in self._pipelines() if each.state != "stopped"}
        self._paces = {
            name: known[name] if name in known and known[name].pipeline is pipeline else _Pace(pipeline)
            for name, pipeline in running.items()
        }
        return tuple(self._paces.values())

    def _set_rate(self, pace: _Pace, now_ns: int) -> None:
        level, share = self._governor.level, self._governor.share
        if pace.now_fps is None:
            pace.measure(now_ns)
        if not level or pace.usual_fps is None:
            wanted_fps = None
        else:
            wanted_fps = min(max(share * pace.usual_fps, self._rate_min_fps), pace.usual_fps)
        if wanted_fps == pace.now_fps:
            return
        if wanted_fps is None:
            pace.marks.clear()
        pace.now_fps = wanted_fps
        pace.pipeline.set_rate(wanted_fps, self._reason)

    def _say(self, change: Change, paces: Sequence[_Pace]) -> None:
        if change.level == 0:
            log.info("governor: %s, and all run at their full rate again", change.reason)
            return
        rates = ", ".join(str(pace) for pace in paces if pace.now_fps is not None) or "no pipeline runs"
        tell = log.warning if change.level > change.before else log.info
        tell("governor: %s: %.0f %% of the usual rate: %s", change.reason, 100 * self._governor.share, rates)
