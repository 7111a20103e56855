"""A node in numbers and words, for those who cannot see it."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Iterator, Sequence

from edgeinfer.board import Board, temperatures_c
from edgeinfer.clock import Clock
from edgeinfer.config import PipelineConfig, UplinkConfig
from edgeinfer.delegates import runtime_versions
from edgeinfer.pipeline import Pipeline
from edgeinfer.uplink.bodies import BoardInfo, Meta, Metrics, PipelineInfo, PipelineMetrics, UplinkMetrics, ValueInfo
from edgeinfer.uplink.uplink import Counters

# Of a model with more classes or values nobody wants an entity for each.
_NAMES_MAX = 100
_MARKS = 7  # Frame counts to tell the rate by: of a minute, where metrics are told every ten seconds.


class Portrait:
    """What `meta` and `metrics` say. Called by one thread but for `know`, which comes before."""

    def __init__(self, version: str, board: Board, config: UplinkConfig, clock: Clock) -> None:
        self._version = version
        self._board = board
        self._config = config
        self._clock = clock
        self._begun_ns = clock.monotonic_ns()
        self._runtimes = runtime_versions()
        self._sent: dict[str, PipelineConfig] = {}
        self._marks: dict[str, deque[tuple[int, int]]] = {}

    def know(self, config: PipelineConfig) -> None:
        """What is sent of a pipeline."""
        self._sent[config.name] = config

    def meta(self, pipelines: Sequence[Pipeline]) -> Meta:
        described = tuple(self._pipelines(pipelines))
        return Meta(
            edgeinfer=self._version,
            python=platform.python_version(),
            runtimes=self._runtimes,
            devices=tuple(sorted({each.device for each in described})),
            board=BoardInfo(
                model=self._board.model,
                profile=self._board.profile.name,
                architecture=self._board.architecture,
                cpu=self._board.cpu,
                cores=self._board.cores,
                memory_bytes=self._board.memory_bytes,
            ),
            mode=self._config.mode,
            commands=self._config.commands,
            pipelines=described,
        )

    def metrics(self, pipelines: Sequence[Pipeline], uplink: Counters) -> Metrics:
        now_ns = self._clock.monotonic_ns()
        oldest_s = 0.0
        if uplink.oldest_unix_ns is not None:
            oldest_s = max(0.0, (self._clock.unix_ns() - uplink.oldest_unix_ns) / 1e9)
        return Metrics(
            uptime_s=round((now_ns - self._begun_ns) / 1e9, 3),
            pipelines={each.name: self._of_pipeline(each, now_ns) for each in pipelines},
            uplink=UplinkMetrics(
                accepted=uplink.accepted,
                delivered=uplink.delivered,
                spool_depth=uplink.depth,
                spool_bytes=uplink.bytes,
                oldest_s=round(oldest_s, 3),
                dropped=uplink.dropped,
            ),
            temperatures_c=temperatures_c(self._board),
        )

    def _pipelines(self, pipelines: Sequence[Pipeline]) -> Iterator[PipelineInfo]:
        for pipeline in pipelines:
            facts, sent = pipeline.facts, self._sent[pipeline.name]
            labels, decode = facts.bundle.labels, facts.bundle.decode
            values = decode.values if decode.decoder == "values" else ()
            yield PipelineInfo(
                name=facts.name,
                task=facts.bundle.task,
                device=facts.device,
                source=facts.source,
                model=facts.model,
                send=sent.send,
                labels=labels if len(labels) <= _NAMES_MAX else (),
                values=tuple(ValueInfo(each.name, each.unit) for each in values) if len(values) <= _NAMES_MAX else (),
                send_rate=sent.send_rate,
                snapshot=sent.snapshot,
            )

    def _of_pipeline(self, pipeline: Pipeline, now_ns: int) -> PipelineMetrics:
        report = pipeline.report()
        frames = report.frames + report.gated
        marks = self._marks.setdefault(pipeline.name, deque(maxlen=_MARKS))
        if marks and marks[-1][1] > frames:
            marks.clear()  # It was begun anew.
        first_ns, first_frames = marks[0] if marks else (self._begun_ns, 0)
        marks.append((now_ns, frames))
        fps = (frames - first_frames) * 1e9 / max(now_ns - first_ns, 1)
        return PipelineMetrics(frames=frames, fps=round(fps, 2), dropped=report.dropped)
