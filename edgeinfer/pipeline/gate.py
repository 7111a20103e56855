"""Whether the last result still holds for a new frame, so that the model need not run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgeinfer.frame import Frame, Input
from edgeinfer.registry import Registry
from edgeinfer.result import Result

KEYFRAME_S = 2.0


class Gate(Protocol):
    """Looks at every frame; called by one thread."""

    def is_still(self, frame: Frame) -> bool:
        """Whether this frame shows what the kept one shows, at the same size; False before one is kept."""
        ...

    def keep(self) -> None:
        """The frame looked at last was inferred: compare with it from now on."""
        ...


OpenGate = Callable[[], Gate]

GATES: Registry[OpenGate] = Registry("gate", {"motion": "edgeinfer.pipeline.motion:MotionGate"})


@dataclass(frozen=True, slots=True)
class Known:
    """A result that still holds. age_ns: how much older than the frame in question its own is."""

    result: Result
    age_ns: int


class Reuse:
    """The last inferred result, for as long as the gate sees the same scene and no keyframe is due.

    keyframe_s: the model runs after that much time of the source (a file's own) whatever the gate says, since a gate
    may miss what a model sees. At 2 s, what it missed is late by no more than that, and of 30 frames a second 59 of 60
    are still saved.
    """

    def __init__(self, gate: Gate, *, keyframe_s: float = KEYFRAME_S) -> None:
        self._gate = gate
        self._keyframe_ns = round(keyframe_s * 1e9)
        self._frame_ns: int | None = None
        self._result: Result | None = None

    def for_frame(self, frame: Frame) -> Known | None:
        """What was inferred last, if it holds for this frame too; None where the model has to run."""
        # Asked first: a gate learns from every frame.
        is_still = self._gate.is_still(frame)
        if not is_still or self._frame_ns is None or self._result is None:
            return None
        age_ns = _source_time_ns(frame) - self._frame_ns
        # A source whose time went back is as good as a new one.
        return Known(self._result, age_ns) if 0 <= age_ns < self._keyframe_ns else None

    def inferred(self, frame: Input, result: Result) -> None:
        """The model ran on the frame asked about last."""
        self._gate.keep()
        self._frame_ns, self._result = _source_time_ns(frame), result


def _source_time_ns(frame: Input) -> int:
    """When the frame was, by its source: the place in a file, else the clock."""
    return frame.captured_ns if frame.position_s is None else round(frame.position_s * 1e9)
