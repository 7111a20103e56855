"""Pipelines that do not run, why, and when they are to be tried again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeinfer.clock import Clock
from edgeinfer.config import PipelineConfig
from edgeinfer.errors import EdgeInferError
from edgeinfer.pipeline.capture import Backoff

log = logging.getLogger(__name__)

_STEADY_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class _Trial:
    config: PipelineConfig
    reason: str
    due_ns: int


class Trials:
    """What could not be opened, or ended with an error. Tried again at intervals that grow up to half a minute, and are
    short again for a pipeline that had run for a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, _Trial] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._begun_ns: dict[str, int] = {}

    @property
    def reasons(self) -> Mapping[str, str]:
        """By the name of the pipeline, why it does not run."""
        return {name: trial.reason for name, trial in tuple(self._waiting.items())}

    @property
    def due(self) -> Sequence[PipelineConfig]:
        now_ns = self._clock.monotonic_ns()
        return tuple(trial.config for trial in self._waiting.values() if trial.due_ns <= now_ns)

    def fail(self, config: PipelineConfig, error: EdgeInferError) -> None:
        """That one does not run, for this reason; it is said where it is a new one."""
        name, now_ns = config.name, self._clock.monotonic_ns()
        former = self._waiting.get(name)
        begun_ns = self._begun_ns.pop(name, None)
        if begun_ns is not None and now_ns - begun_ns >= _STEADY_NS:
            self._backoffs.pop(name, None)
        delay_s = self._backoffs.setdefault(name, Backoff()).next_s()
        if former is None or former.reason != error.message:
            log.error("pipeline %s does not run, and is tried again: %s", name, error)
        self._waiting[name] = _Trial(config, error.message, now_ns + round(delay_s * 1e9))

    def begin(self, name: str) -> None:
        """That one runs."""
        self._begun_ns[name] = self._clock.monotonic_ns()
        if self._waiting.pop(name, None) is not None:
            log.warning("pipeline %s runs", name)

    def forget(self, name: str) -> None:
        """That one is wanted no more, or otherwise than before."""
        for known in (self._waiting, self._backoffs, self._begun_ns):
            known.pop(name, None)
