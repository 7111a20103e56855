"""Whether a node does its work: alive, ready, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

Condition = Literal["ok", "starting", "degraded", "down"]

# A pipeline that takes up nothing for so long though frames come, or three times its period, hangs.
_STALLED_S = 30.0
_STALLED_PERIODS = 3


@dataclass(frozen=True, slots=True)
class Vital:
    """A pipeline as it is. state: see Pipeline. error: what ended it. has_begun: whether it gave a result yet.

    stalled_s: for how long it has taken up no frame though there were some; 0 where all is well.
    """

    name: str
    state: str
    error: str | None
    has_begun: bool
    stalled_s: float


class Health(msgspec.Struct, frozen=True):
    """condition: `ok`; `starting` until every pipeline gave a result or a reason; `degraded` with reasons; `down` where
    no pipeline works. alive: no pipeline hangs. ready: all of them work, or say why not."""

    condition: Condition
    alive: bool
    ready: bool
    reasons: tuple[str, ...]


def health_of(vitals: Sequence[Vital], uplink: str | None) -> Health:
    """uplink: its state; None where there is none."""
    troubles = {vital.name: trouble for vital in vitals if (trouble := _trouble(vital)) is not None}
    reasons = [f"{name} {trouble}" for name, trouble in troubles.items()]
    if uplink is not None and uplink != "ok":
        reasons.append(f"uplink {uplink}")
    is_ready = all(vital.has_begun or vital.name in troubles or _is_at_rest(vital) for vital in vitals)
    is_dead = bool(vitals) and all(_is_dead(vital) for vital in vitals)
    condition: Condition = "down" if is_dead else "degraded" if reasons else "ok" if is_ready else "starting"
    return Health(condition, not any(vital.stalled_s for vital in vitals), is_ready and not is_dead, tuple(reasons))


def _trouble(vital: Vital) -> str | None:
    if vital.error is not None:
        return f"failed: {vital.error}"
    if vital.stalled_s:
        return f"hangs: nothing taken up for {vital.stalled_s:.0f} s"
    return vital.state if vital.state.startswith(("degraded", "down")) else None


def _is_dead(vital: Vital) -> bool:
    return vital.error is not None or bool(vital.stalled_s) or vital.state.startswith("down")


def _is_at_rest(vital: Vital) -> bool:
    return vital.state in ("paused", "stopped")


class Pulse:
    """Tells a pipeline that hangs from one that has nothing to do; `look` is to be called about once a second.

    rate_fps: how often it shall take up a frame; None for each that comes.
    """

    def __init__(self, rate_fps: float | None = None) -> None:
        self._patience_s = max(_STALLED_S, _STALLED_PERIODS / rate_fps if rate_fps else 0.0)
        self._taken_up = -1
        self._captured = 0
        self._since_s = 0.0
        self.stalled_s = 0.0

    def look(self, *, captured: int, taken_up: int, may_rest: bool, now_s: float) -> None:
        """captured, taken_up: frames so far. may_rest: it is paused, ended, or waits for its source."""
        is_idle = may_rest or captured == self._captured
        if taken_up != self._taken_up or (is_idle and not self.stalled_s):
            self._taken_up, self._captured, self._since_s = taken_up, captured, now_s
        waited_s = now_s - self._since_s
        self.stalled_s = waited_s if waited_s >= self._patience_s and not may_rest else 0.0
