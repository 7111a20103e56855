"""Where the time of a run goes: how long each stage took, frame by frame, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from edgeinfer.clock import Clock
from edgeinfer.frame import Frame
from edgeinfer.pipeline.gate import Gate
from edgeinfer.result import Result, Timing
from edgeinfer.sinks import Sink
from edgeinfer.sources import Source

Returned = TypeVar("Returned")

# Of each power of two, four buckets: a percentile is at most an eighth off.
_PARTS_LOG2 = 2


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long one stage took, in milliseconds; the percentiles within an eighth.

    count: how often. bytes_each: what it wrote each time, on average, where that is known.
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

    `source` is a read, with the wait for the picture. `wait` is captured until taken up, `deliver` into the queues of
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

        def add(timing: Timing) -> None:
            wait.add(_ns(timing.wait))
            preprocess.add(_ns(timing.preprocess), input_bytes)
            infer.add(_ns(timing.infer))
            decode.add(_ns(timing.decode))

        return add

    def times(self) -> tuple[StageTime, ...]:
        """All stages that had anything to do."""
        return tuple(stage.time(name) for name, stage in list(self._stages.items()) if stage.count)


class _Stage:
    """Count, sum and distribution of some nanoseconds."""

    __slots__ = ("_buckets", "_bytes", "_max_ns", "_total_ns", "count")

    def __init__(self) -> None:
        self.count = 0
        self._total_ns = 0
        self._max_ns = 0
        self._bytes = 0
        self._buckets = [0] * (64 << _PARTS_LOG2)

    def add(self, nanoseconds: int, written_bytes: int = 0) -> None:
        took_ns = max(0, nanoseconds)
        self.count += 1
        self._total_ns += took_ns
        self._max_ns = max(self._max_ns, took_ns)
        self._bytes += written_bytes
        self._buckets[_bucket(took_ns)] += 1

    def time(self, name: str) -> StageTime:
        return StageTime(
            name,
            self.count,
            mean_ms=self._total_ns / self.count / 1e6,
            p50_ms=self._percentile_ms(0.5),
            p99_ms=self._percentile_ms(0.99),
            max_ms=self._max_ns / 1e6,
            bytes_each=round(self._bytes / self.count) or None,
        )

    def _percentile_ms(self, share: float) -> float:
        remaining = share * self.count
        for bucket, count in enumerate(self._buckets):
            remaining -= count
            if remaining <= 0:
                return min(_middle_ns(bucket), self._max_ns) / 1e6
        return self._max_ns / 1e6


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

    def read(self) -> Frame | None:
        begin_ns = self._monotonic_ns()
        frame: Frame | None = self._part.read()
        if frame is not None:
            self._reads.add(self._monotonic_ns() - begin_ns, frame.pixels.nbytes)
        return frame


class _TimedGate(_Timed):
    def __init__(self, gate: Gate, is_still: Callable[..., bool]) -> None:
        super().__init__(gate)
        self.is_still = is_still


class _TimedSink(_Timed):
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


def _bucket(nanoseconds: int) -> int:
    shift = max(0, nanoseconds.bit_length() - 1 - _PARTS_LOG2)
    return min((shift << _PARTS_LOG2) + (nanoseconds >> shift), (64 << _PARTS_LOG2) - 1)


def _middle_ns(bucket: int) -> int:
    parts = 1 << _PARTS_LOG2
    if bucket < 2 * parts:
        return bucket
    shift = (bucket >> _PARTS_LOG2) - 1
    return (((bucket & (parts - 1)) + parts) << shift) + (1 << shift >> 1)


def _ns(milliseconds: float) -> int:
    return int(milliseconds * 1e6)
