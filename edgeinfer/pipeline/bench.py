"""How fast a model answers here, in two scenarios of MLPerf Inference: single stream and offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import exp, lgamma, log
from statistics import median

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, UsageError
from edgeinfer.frame import Input, Window
from edgeinfer.model import Model
from edgeinfer.pipeline.rehearsal import Again, rehearse
from edgeinfer.preprocess import Fitter
from edgeinfer.runtimes import Runtime
from edgeinfer.samples import WindowFitter
from edgeinfer.sources import Source
from edgeinfer.tensor import Array

OFFICIAL_QUERIES, OFFICIAL_S = 1024, 60.0
"""What MLPerf asks of a single-stream run at least."""

Ask = Callable[[], Callable[[], object]]
"""Prepares a query, which is not measured, and gives what answers it, which is."""

STEPS = ("model alone, single stream", "model alone, offline", "end to end, single stream", "end to end, offline")

_CONFIDENCE = 0.99
_WARM_UP_QUERIES, _WARM_UP_NS = 3, 300_000_000
_QUERIES_MIN = 3


@dataclass(frozen=True)
class SingleStream:
    """Latencies of queries of which each was issued when the last was complete, in order."""

    latency_ms: tuple[float, ...]

    @cached_property
    def sorted_ms(self) -> tuple[float, ...]:
        return tuple(sorted(self.latency_ms))

    @property
    def is_official(self) -> bool:
        """Whether it was as long as MLPerf wants it."""
        return len(self.latency_ms) >= OFFICIAL_QUERIES and sum(self.latency_ms) >= OFFICIAL_S * 1e3

    def percentile_ms(self, share: float) -> float:
        """As LoadGen picks it: of n sorted latencies the one at index n times share, counted from 0, rounded down."""
        return self.sorted_ms[min(int(len(self.sorted_ms) * share), len(self.sorted_ms) - 1)]

    @property
    def p90_early_stopping_ms(self) -> float | None:
        """What MLPerf reports of a short run: with 99 % confidence the true p90 is no higher. None below 64 queries."""
        slowest = _slowest_above_p90(len(self.sorted_ms))
        return self.sorted_ms[-slowest] if slowest else None


@dataclass(frozen=True, slots=True)
class Measured:
    """alone: `Runtime.run` only. end_to_end: reading the frame up to its result. fps: samples per second, offline.

    stage_ms: medians of what a frame takes end to end, in order. frame: the size of the first one, for people.
    """

    device: str
    frame: str
    alone: SingleStream
    alone_fps: float
    end_to_end: SingleStream
    end_to_end_fps: float
    stage_ms: Mapping[str, float]


def measure(
    bundle: Bundle,
    runtime: Runtime,
    open_source: Callable[[], Source],
    *,
    seconds: float,
    clock: Clock | None = None,
    report: Callable[[str], None] = lambda step: None,
) -> Measured:
    """The four STEPS, each for about so long and told to `report` when it begins; closes the runtime.

    Raises UsageError for a live source, whose pace is its own; RuntimeFailed, SourceError.
    """
    clock = clock or Clock()
    model = Model(bundle, runtime, clock=clock)
    try:
        source = Again(open_source)
        try:
            frame = first_frame(source)
            ask = fitted_query(bundle, runtime, frame)
            report(STEPS[0])
            alone = single_stream(ask, seconds=seconds, clock=clock)
            report(STEPS[1])
            alone_fps = offline(ask, seconds=seconds, clock=clock)
            report(STEPS[2])
            frames = _Frames(model, source, clock)
            end_to_end = single_stream(frames.ask, seconds=seconds, clock=clock)
        finally:
            source.close()
        report(STEPS[3])
        device = model.device
        end_to_end_fps = rehearse(model, open_source, seconds=seconds).fps
    finally:
        model.close()
    return Measured(device, _size_of(frame), alone, alone_fps, end_to_end, end_to_end_fps, frames.stage_ms())


def fitted_query(bundle: Bundle, runtime: Runtime, frame: Input) -> Ask:
    """Puts the frame or window, fitted beforehand, into the model's input, and gives what computes it."""
    index = (bundle.window or bundle.picture).index
    spec = runtime.inputs[index]
    memory: Array = np.empty(spec.shape, dtype=spec.dtype)
    if isinstance(frame, Window):
        assert bundle.window is not None, "a source of windows has a model that takes them"
        WindowFitter(spec, bundle.window).fit(frame, memory)
    else:
        Fitter(spec, bundle.picture).fit(frame.pixels, memory)

    def prepare() -> Callable[[], object]:
        # Each time: a runtime may compute in the memory of its input.
        runtime.input(index)[...] = memory
        return runtime.run

    return prepare


def single_stream(ask: Ask, *, seconds: float, clock: Clock) -> SingleStream:
    """One query at a time, after a short warm-up."""
    _warm_up(ask, clock)
    latency_ms: list[float] = []
    end_ns = clock.monotonic_ns() + round(seconds * 1e9)
    while len(latency_ms) < _QUERIES_MIN or clock.monotonic_ns() < end_ns:
        answer = ask()
        issued_ns = clock.monotonic_ns()
        answer()
        latency_ms.append((clock.monotonic_ns() - issued_ns) / 1e6)
    return SingleStream(tuple(latency_ms))


def offline(ask: Ask, *, seconds: float, clock: Clock) -> float:
    """Samples per second when all are there at once: one after the other, as this runtime takes them."""
    _warm_up(ask, clock)
    begun_ns = clock.monotonic_ns()
    samples, now_ns = 0, begun_ns
    while samples < _QUERIES_MIN or now_ns - begun_ns < seconds * 1e9:
        ask()()
        samples += 1
        now_ns = clock.monotonic_ns()
    return samples * 1e9 / max(now_ns - begun_ns, 1)


class _Frames:
    """Queries end to end: from reading a frame to its result. Keeps what each stage took."""

    def __init__(self, model: Model, source: Source, clock: Clock) -> None:
        self._model = model
        self._source = source
        self._clock = clock
        self._stages: dict[str, list[float]] = {
            name: [] for name in ("read", "preprocess", "infer", "decode", "result")
        }

    def ask(self) -> Callable[[], object]:
        return self._answer

    def stage_ms(self) -> dict[str, float]:
        """Medians by stage."""
        return {name: median(took_ms) for name, took_ms in self._stages.items()}

    def _answer(self) -> None:
        begun_ns = self._clock.monotonic_ns()
        frame = _next_frame(self._source)
        read_ns = self._clock.monotonic_ns()
        timing = self._model.infer(frame).timing_ms
        infer_ms = (self._clock.monotonic_ns() - read_ns) / 1e6
        known_ms = timing.preprocess + timing.infer + timing.decode
        took_ms = ((read_ns - begun_ns) / 1e6, timing.preprocess, timing.infer, timing.decode, infer_ms - known_ms)
        for stage, each_ms in zip(self._stages.values(), took_ms, strict=True):
            stage.append(max(each_ms, 0.0))


def _size_of(frame: Input) -> str:
    if isinstance(frame, Window):
        return f"{len(frame.values)} samples at {frame.rate_hz:g} Hz"
    return f"{frame.width} x {frame.height}"


def first_frame(source: Source) -> Input:
    """What the model alone is measured with. Raises UsageError for a live source."""
    if source.live:
        raise UsageError(f"{source.uri} sets the pace itself", hint="measure with a file, or a drawn source's frames=N")
    return _next_frame(source)


def _next_frame(source: Source) -> Input:
    frame = source.read()
    if frame is None:
        raise SourceError(f"{source.uri} gives nothing")
    return frame


def _warm_up(ask: Ask, clock: Clock) -> None:
    end_ns = clock.monotonic_ns() + _WARM_UP_NS
    queries = 0
    while queries < _WARM_UP_QUERIES or clock.monotonic_ns() < end_ns:
        ask()()
        queries += 1


def _slowest_above_p90(queries: int) -> int:
    """How many of so many queries are surely slower than the true p90: the most t with P(Binomial(n, 0.1) <= t) <= 1 %.

    It is what MLPerf's early stopping does, with its confidence and no tolerance.
    """
    improbable, below = 0.0, 0
    while below < queries:
        # In logarithms: the factors of a long run leave the range of a float.
        ways = lgamma(queries + 1) - lgamma(below + 1) - lgamma(queries - below + 1)
        improbable += exp(ways + below * log(0.1) + (queries - below) * log(0.9))
        if improbable > 1 - _CONFIDENCE:
            break
        below += 1
    return max(below - 1, 0)
