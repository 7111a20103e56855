"""What the page shows of a pipeline: its numbers, its events, and its picture for whoever watches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeinfer.clock import Clock
from edgeinfer.errors import OutputError
from edgeinfer.event import Happening
from edgeinfer.frame import Frame
from edgeinfer.result import Result, Timing
from edgeinfer.uplink.selection import Events
from edgeinfer.web.histogram import Histogram
from edgeinfer.web.history import History
from edgeinfer.web.picture import picture_of
from edgeinfer.web.screen import Screen

log = logging.getLogger(__name__)

STAGES = ("age", "wait", "preprocess", "infer", "decode")
# Of what may become an event a picture is held, so often at most.
_SCENE_EVERY_NS = 200_000_000

OnEvent = Callable[[Happening, "bytes | None"], None]


@dataclass(frozen=True, slots=True)
class _Scene:
    result: Result
    frame: Frame


class Observer:
    """A sink; see Sink. It outlives its pipeline: one that begins anew under the same name goes on where it was.

    on_event gets each event with a picture of it, where there is one, by the sink's thread.
    """

    wants_pixels = False
    wants_event_frames = True

    def __init__(self, name: str, *, fps: float, on_event: OnEvent, clock: Clock | None = None) -> None:
        self.uri = "web:"
        self._name = name
        self._monotonic_ns = (clock or Clock()).monotonic_ns
        self.screen = Screen(fps, self._monotonic_ns)
        self.history = History(self._monotonic_ns)
        self.durations = {stage: Histogram() for stage in STAGES}
        self._on_event = on_event
        self._events = Events()
        self._scene: _Scene | None = None
        self._scene_due_ns = 0
        self._is_failing = False

    def wants_this(self) -> bool:
        """Whether somebody watches and a picture is due, or something happens that may become an event."""
        # A picture for who watches serves for an event, too.
        return self.screen.wants_picture() if self.screen.viewers else self._wants_scene()

    def write(self, result: Result, frame: Frame | None) -> None:
        self._measure(result.timing_ms, is_reused=result.reused)
        if frame is not None:
            self._scene = _Scene(result, frame)
        events = self._events.take(result)
        picture = self._picture(_Scene(result, frame)) if frame is not None and self.screen.viewers else None
        if picture is not None:
            self.screen.show(picture)
        if events:
            # Half a second has passed since it was first seen: a picture of that time shows it.
            scene = None if self._scene is None else self._picture(self._scene)
            for event in events:
                self._on_event(event, scene)
        if not self._events.is_undecided:
            self._scene = None

    def write_events(self, events: Sequence[Happening], result: Result, frame: Frame | None) -> None:
        picture = None if frame is None else self._picture(_Scene(result, frame))
        for event in events:
            self._on_event(event, picture)

    def close(self) -> None:
        self._scene = None

    def _wants_scene(self) -> bool:
        if not self._events.is_undecided:
            return False
        now_ns = self._monotonic_ns()
        if now_ns < self._scene_due_ns:
            return False
        self._scene_due_ns = now_ns + _SCENE_EVERY_NS
        return True

    def _measure(self, timing: Timing, *, is_reused: bool) -> None:
        self.history.add(timing.age, timing.infer)
        for stage in ("age", "wait") if is_reused else STAGES:
            self.durations[stage].add(getattr(timing, stage) / 1e3)

    def _picture(self, scene: _Scene) -> bytes | None:
        try:
            picture = picture_of(scene.result, scene.frame)
        except OutputError as failed:
            if not self._is_failing:
                log.warning("the page has no picture of pipeline %s: %s", self._name, failed)
            self._is_failing = True
            return None
        self._is_failing = False
        return picture
