"""A camera of 30 fps, a model of 200 ms and an output of 500 ms: fresh results, counted drops, flat memory.

    python -m scripts.benchmarks.live keep-up|stall MODEL SECONDS      one measurement

What takes the time is a fake device and a slow sink; threads, queues and counts are the real ones. It is measured once,
for `--minutes`, whatever the number of rounds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import setting
from scripts.benchmarks.contest import OURS, Line, Row, fresh, of, take_turns
from scripts.benchmarks.meter import resident_mib, tell

if TYPE_CHECKING:
    from edgeinfer.frame import Frame
    from edgeinfer.result import Result

TITLE = "Live"
FPS, LATENCY_MS, SINK_S = 30, 200, 0.5
PERIOD_MS = 1000 / FPS
GROWTH_MAX_MIB = 2.0
STALL_AFTER_FRAMES, STALL_S, QUICK_S = 60, 16.0, 12.0
STALE_MS = 1000.0
# In the mailbox and in the model's hands when the run is stopped.
IN_WORK_MAX = 2
_KEEP_UP = f"{FPS} fps, {LATENCY_MS} ms model, {SINK_S * 1e3:.0f} ms sink"
_STALL = f"a source that stalls after {STALL_AFTER_FRAMES} frames"


def measure(rounds: int) -> list[Row]:
    model = setting.model("mobilenet_v1_0.25_128_quant.tflite")
    seconds = QUICK_S if setting.SETTING.quick else setting.SETTING.minutes * 60
    rows = [*take_turns(1, _KEEP_UP, {OURS: lambda: fresh("live", "keep-up", model, seconds)})]
    return [*rows, *take_turns(1, _STALL, {OURS: lambda: fresh("live", "stall", model, STALL_S)})]


def judge(rows: Sequence[Row]) -> list[Line]:
    def line(case: str, metric: str, figure: str, unit: str, at_most: float, note: str = "") -> Line:
        return Line(case, metric, of(rows, case, OURS, figure), unit=unit, at_most=at_most, note=note)

    row = row_of(rows, _KEEP_UP)
    period = f"one frame's period; age p99 {row['age_p99_ms']:.1f} ms, service {row['service_ms']:.1f} ms"
    span = f"last third over first, of {row['seconds'] / 60:.1f} minutes; {row['resident_mib']:.0f} MiB"
    drops = ", ".join(f"{count} {reason}" for reason, count in row["dropped"].items()) or "none"
    return [
        line(_KEEP_UP, "age p99 beyond the service time", "late_ms", "ms", PERIOD_MS, period),
        line(_KEEP_UP, "memory growth", "growth_mib", "MiB", GROWTH_MAX_MIB, span),
        line(_KEEP_UP, "frames lost uncounted", "uncounted", "", 0, f"dropped: {drops}"),
        line(_KEEP_UP, "results lost uncounted", "uncounted_results", "", 0, "of the slow sink"),
        line(_KEEP_UP, "frames inferred twice", "twice", "", 0),
        line(_STALL, "frames inferred twice", "twice", "", 0),
        line(_STALL, "results during the stall", "in_stall", "", 0, f"of {row_of(rows, _STALL)['results']} in all"),
    ]


def row_of(rows: Sequence[Row], case: str) -> Row:
    return next(each for each in rows if each["case"] == case)


class Record:
    """A sink that remembers of each published result what is judged."""

    uri = "record:"
    wants_pixels = False

    def __init__(self) -> None:
        self.captured_ns: list[int] = []
        self.ages_ms: list[float] = []
        self.service_ms: list[float] = []

    def write(self, result: Result, frame: Frame | None) -> None:
        timing = result.timing_ms
        self.captured_ns.append(result.monotonic_ns)
        self.ages_ms.append(timing.age)
        self.service_ms.append(timing.preprocess + timing.infer + timing.decode)

    def close(self) -> None: ...

    @property
    def twice(self) -> int:
        return len(self.captured_ns) - len(set(self.captured_ns))


class Slow(Record):
    """A sink that takes half a second for each result."""

    uri = "slow:"

    def write(self, result: Result, frame: Frame | None) -> None:
        time.sleep(SINK_S)


def keep_up(model: Path, seconds: float) -> dict[str, Any]:
    record = Record()
    pipeline = _open(model, f"synthetic://test-card?fps={FPS}", [record, Slow()])
    resident = []
    pipeline.start()
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not pipeline.wait(0.5):
        resident.append(resident_mib())
    pipeline.stop()
    pipeline.wait()
    report = pipeline.report()
    counts, third = report.counts, len(resident) // 3
    frames = sum(count for name, count in report.dropped.items() if not name.startswith("sink."))
    slow = sum(counts.get(f"{what}.sink.slow:", 0) for what in ("written", "failed", "dropped"))
    # Each held against its own service time: that a busy machine computes slowly is not the queue's doing.
    late_ms = [age - service for age, service in zip(record.ages_ms, record.service_ms, strict=True)]
    return {
        "seconds": seconds,
        "age_p99_ms": quantiles(record.ages_ms, n=100)[-1],
        "service_ms": median(record.service_ms),
        "late_ms": quantiles(late_ms, n=100)[-1],
        "resident_mib": max(resident),
        "growth_mib": median(resident[-third:]) - median(resident[third // 3 : third]),
        "uncounted": max(0, counts["captured"] - counts["published"] - frames - IN_WORK_MAX),
        "uncounted_results": abs(counts["published"] - slow),
        "twice": record.twice,
        "dropped": dict(report.dropped),
    }


def stall(model: Path, seconds: float) -> dict[str, Any]:
    """The source stalls, is given up after its time-out and opened again, where it stalls once more."""
    record = Record()
    pipeline = _open(model, f"synthetic://test-card?fps={FPS}&stall_after={STALL_AFTER_FRAMES}", [record])
    pipeline.start()
    pipeline.wait(seconds)
    pipeline.stop()
    pipeline.wait()
    # Whatever is published so long after its capture was shown again, or kept.
    late = sum(age_ms > STALE_MS for age_ms in record.ages_ms)
    return {"results": len(record.ages_ms), "twice": record.twice, "in_stall": late}


def _open(model: Path, source: str, sinks: Sequence[Any]) -> Any:
    from edgeinfer.config import PipelineConfig
    from edgeinfer.pipeline.assemble import open_pipeline

    config = PipelineConfig(model=str(model), source=source, device=f"fake:latency_ms={LATENCY_MS}")
    return open_pipeline(config, sinks=sinks)


if __name__ == "__main__":
    tell({"keep-up": keep_up, "stall": stall}[sys.argv[1]](Path(sys.argv[2]), float(sys.argv[3])))
