"""1, 2, 4 and 8 pipelines in one process on one model and device: throughput, memory, fair shares.

    python -m scripts.benchmarks.scale PIPELINES MODEL SECONDS      one measurement

The four compute by turns of a second, which has room for a turn at the device of each of eight pipelines. The pictures
are drawn, so that no video decoder's memory is counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from scripts.benchmarks import setting
from scripts.benchmarks.contest import MAY_TAKE_S, Line, Row, cases, command_for, fresh, of
from scripts.benchmarks.meter import answer, peak_mib, tell
from scripts.benchmarks.slices import Span, alternate

if TYPE_CHECKING:
    from edgeinfer.pipeline import Pipeline

TITLE = "Pipelines in one process"
COUNTS = (1, 2, 4, 8)
TOTAL_MIN, SHARE_MIN, EACH_MAX_MIB = 0.95, 0.8, 15.0
WIDTH, HEIGHT = 640, 480
# In the source's hands, two in the queue, in the model's.
FRAMES_HELD = 4
SLICE_S, QUICK_S, WARM_UP_S = 1.0, 2.0, 1.0
WARM_UP_FRAMES = 100
_MODELS = {
    "SSD MobileNet v1": "ssd_mobilenet_v1_coco.tflite",
    "MobileNet v1 0.25 128": "mobilenet_v1_0.25_128_quant.tflite",
}


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for title, name in _MODELS.items():
        model = setting.model(name)
        fresh("scale", 1, model, QUICK_S)  # The first start proves the model.
        commands = {str(count): command_for("scale", count, model, MAY_TAKE_S) for count in COUNTS}
        rows += alternate(rounds, title, commands, _figures, slice_s=SLICE_S, warm_up=WARM_UP_FRAMES)
    return rows


def _figures(spans: Sequence[Span]) -> Row:
    """As of `run`."""
    each = [
        sum(span.last["each"][number] - span.first["each"][number] for span in spans)
        for number in range(len(spans[0].first["each"]))
    ]
    return {
        "fps": sum(each) / sum(span.of("at_s") for span in spans),
        "least_share": min(each) / mean(each),
        "peak_mib": spans[-1].last["peak_mib"],
    }


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    buffers_mib = FRAMES_HELD * WIDTH * HEIGHT * 3 / (1 << 20)
    for case in cases(rows):
        alone_fps, alone_mib = (of(rows, case, "1", figure) for figure in ("fps", "peak_mib"))
        for count in COUNTS[1:]:
            title = f"{case}, {count} pipelines"
            fps, mib = (of(rows, case, str(count), figure) for figure in ("fps", "peak_mib"))
            total = [many / one for many, one in zip(fps, alone_fps, strict=True)]
            each = [(many - one) / (count - 1) - buffers_mib for many, one in zip(mib, alone_mib, strict=True)]
            lines.append(Line(title, "total to one pipeline's", total, at_least=TOTAL_MIN))
            lines.append(Line(title, "least share", of(rows, case, str(count), "least_share"), at_least=SHARE_MIN))
            note = f"beyond {FRAMES_HELD} frames of {WIDTH}x{HEIGHT}"
            lines.append(Line(title, "memory of each", each, unit="MiB", at_most=EACH_MAX_MIB, note=note))
    return lines


def run(count: int, model: Path, seconds: float) -> dict[str, float]:
    """Frames of all per second, and what the pipeline with the fewest got of an equal share."""
    from edgeinfer.config import PipelineConfig
    from edgeinfer.delegates import Devices
    from edgeinfer.pipeline.assemble import open_pipeline

    devices = Devices()
    source = f"synthetic://test-card?width={WIDTH}&height={HEIGHT}&frames=1000000"
    pipelines = [
        open_pipeline(
            PipelineConfig(model=str(model), source=source, name=f"p{number}", output=(f"results-{number}.jsonl",)),
            devices=devices,
        )
        for number in range(count)
    ]
    for pipeline in pipelines:
        pipeline.start()
    answer(lambda: _look(pipelines))
    time.sleep(WARM_UP_S)
    before = [pipeline.tally["inferred"] for pipeline in pipelines]
    begun_s = time.monotonic()
    time.sleep(seconds)
    done = [pipeline.tally["inferred"] - each for pipeline, each in zip(pipelines, before, strict=True)]
    took_s = time.monotonic() - begun_s
    peak = peak_mib()
    for pipeline in pipelines:
        pipeline.stop()
    for pipeline in pipelines:
        pipeline.wait()
    return {"fps": sum(done) / took_s, "least_share": min(done) / mean(done), "peak_mib": peak}


def _look(pipelines: Sequence[Pipeline]) -> dict[str, object]:
    each = [pipeline.tally["inferred"] for pipeline in pipelines]
    return {"at_s": time.monotonic(), "frames": sum(each), "each": each, "peak_mib": peak_mib()}


if __name__ == "__main__":
    tell(run(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
