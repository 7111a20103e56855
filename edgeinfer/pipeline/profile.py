"""Where the time of a run goes: how long each stage took, frame by frame, in memory that does not grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from edgeinfer.clock import Clock
from edgeinfer.frame import Frame, Input
from edgeinfer.pipeline.gate import Gate
from edgeinfer.result import Result, Timing
from edgeinfer.sinks import Sink
from edgeinfer.sources import Source

Returned = TypeVar("Returned")

# From 100 ns to a quarter of an hour, each a tenth above the one before: a percentile is at most a twentieth off.
_EDGES_NS = np.geomspace(1e2, 1e12, 242)
_NOTED_MAX = 1000


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long one stage took, in milliseconds; the percentiles within a twentieth, from 100 ns on.

    count: how often. bytes_each: what it wrote the last time, where that is known.
    """

    stage: str
    count: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    bytes_each: int | None = None


class Profile:
    """Times of stages by name, in the order in which a frame comes by. Each stage is added to by one thread.

    `source` is a read, with the wait for the picture. `wait` is as in Timing, `deliver` into the queues of
    all sinks. `write <uri>` is a sink's own, `age at <uri>` from capture until the sink has the result.
    """

    def __init__(self, clock: Clock) -> None:
        self._monotonic_ns = clock.monotonic_ns
        self._stages: dict[str, _Stage] = {}

    def stage(self, name: str) -> _Stage:
        """The stage of that name, begun now if it is new."""
        return self._stages.setdefault(name, _Stage())

    def source(self, source: Source) -> Source:
        """The same source, its reads timed."""
        return cast("Source", _TimedSource(source, self.stage("source"), self._monotonic_ns))

    def gate(self, gate: Gate) -> Gate:
        """The same gate, its looks timed."""
        return cast("Gate", _TimedGate(gate, self.timed("gate", gate.is_still)))

    def sink(self, sink: Sink) -> Sink:
        """The same sink, its writes timed."""
        write, age = self.stage(f"write {sink.uri}"), self.stage(f"age at {sink.uri}")
        return cast("Sink", _TimedSink(sink, write, age, self._monotonic_ns))

    def timed(self, name: str, call: Callable[..., Returned]) -> Callable[..., Returned]:
        """The same call, timed."""
        stage, monotonic_ns = self.stage(name), self._monotonic_ns

        def timed_call(*arguments: Any) -> Returned:
            begin_ns = monotonic_ns()
            returned = call(*arguments)
            stage.add(monotonic_ns() - begin_ns)
            return returned

        return timed_call

    def of_model(self, input_bytes: int) -> Callable[[Timing], None]:
        """What takes the times that a model says of itself."""
        wait, preprocess, infer, decode = map(self.stage, ("wait", "preprocess", "infer", "decode"))
        preprocess.bytes_each = input_bytes

        def add(timing: Timing) -> None:
            wait.add(_ns(timing.wait))
            preprocess.add(_ns(timing.preprocess))
            infer.add(_ns(timing.infer))
            decode.add(_ns(timing.decode))

        return add

    def times(self) -> tuple[StageTime, ...]:
        """All stages that had anything to do."""
        return tuple(time for name, stage in list(self._stages.items()) if (time := _time_of(name, stage)).count)


class _Stage:
    """Count, sum and distribution of some nanoseconds. `add` notes them down; a thousand at a time are sorted in."""

    def __init__(self) -> None:
        self.bytes_each: int | None = None
        self._sorted = _Distribution()
        self._noted_ns: list[int] = []

    def add(self, nanoseconds: int) -> None:
        self._noted_ns.append(nanoseconds)
        if len(self._noted_ns) >= _NOTED_MAX:
            self._sorted, self._noted_ns = self._sorted.plus(self._noted_ns), []

    def distribution(self) -> _Distribution:
        """Of all that was added; while more is, up to a thousand may be missing or there twice."""
        return self._sorted.plus(self._noted_ns)


@dataclass(frozen=True, slots=True)
class _Distribution:
    count: int = 0
    total_ns: float = 0.0
    max_ns: float = 0.0
    buckets: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_EDGES_NS) + 1, np.int64))

    def plus(self, nanoseconds: list[int]) -> _Distribution:
        if not nanoseconds:
            return self
        took_ns = np.maximum(np.asarray(nanoseconds, np.float64), 0.0)
        found = np.searchsorted(_EDGES_NS, took_ns, side="right")
        return _Distribution(
            count=self.count + len(took_ns),
            total_ns=self.total_ns + float(took_ns.sum()),
            max_ns=max(self.max_ns, float(took_ns.max())),
            buckets=self.buckets + np.bincount(found, minlength=len(self.buckets)),
        )

    def percentile_ns(self, share: float) -> float:
        bucket = int(np.searchsorted(np.cumsum(self.buckets), share * self.count))
        # The middle of the bucket, as ratios go.
        middle_ns = _EDGES_NS[min(bucket, len(_EDGES_NS) - 1)] / math.sqrt(_EDGES_NS[1] / _EDGES_NS[0])
        return min(float(middle_ns), self.max_ns)


class _Timed:
    """Passes on everything that it does not time itself."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


class _TimedSource(_Timed):
    def __init__(self, source: Source, reads: _Stage, monotonic_ns: Callable[[], int]) -> None:
        super().__init__(source)
        self._reads = reads
        self._monotonic_ns = monotonic_ns

    def read(self) -> Input | None:
        begin_ns = self._monotonic_ns()
        frame: Input | None = self._part.read()
        if frame is not None:
            self._reads.add(self._monotonic_ns() - begin_ns)
            self._reads.bytes_each = frame.size_bytes
        return frame


class _TimedGate(_Timed):
    def __init__(self, gate: Gate, is_still: Callable[..., bool]) -> None:
        super().__init__(gate)
        self.is_still = is_still


class _TimedSink(_Timed):
    # Each write has a time of its own.
    write_many = None

    def __init__(self, sink: Sink, writes: _Stage, ages: _Stage, monotonic_ns: Callable[[], int]) -> None:
        super().__init__(sink)
        self._writes = writes
        self._ages = ages
        self._monotonic_ns = monotonic_ns

    def write(self, result: Result, frame: Frame | None) -> None:
        begin_ns = self._monotonic_ns()
        self._ages.add(begin_ns - result.monotonic_ns)
        self._part.write(result, frame)
        self._writes.add(self._monotonic_ns() - begin_ns)


def _time_of(name: str, stage: _Stage) -> StageTime:
    of_all = stage.distribution()
    return StageTime(
        name,
        of_all.count,
        mean_ms=of_all.total_ns / max(of_all.count, 1) / 1e6,
        p50_ms=of_all.percentile_ns(0.5) / 1e6,
        p99_ms=of_all.percentile_ns(0.99) / 1e6,
        max_ms=of_all.max_ns / 1e6,
        bytes_each=stage.bytes_each,
    )


def _ns(milliseconds: float) -> int:
    return int(milliseconds * 1e6)
