"""Frames of a file per second, CPU time and memory, against the loop below that does nothing else.

    python -m scripts.benchmarks.throughput bare|lean-bare|ours CASE MODEL VIDEO FRAMES THREADS      one contender, once

The contenders compute by turns of half a second; but for the smallest model, which is through the video in one.
Results are on, drawing is off, JSON lines go to a file. Either computes with THREADS, 0 leaving them to the runtime.
The bare loop decodes as OpenCV does by itself, with several threads of FFmpeg; the lean one with one, as ours begins.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import setting
from scripts.benchmarks.contest import BARE, OURS, Line, Row, cases, command_for, fresh, ratio, take_turns
from scripts.benchmarks.meter import LOOK_EVERY_S, Meter, tell
from scripts.benchmarks.slices import Span, alternate

if TYPE_CHECKING:
    import numpy as np

TITLE = "Throughput on a file"
LEAN_BARE = "lean-bare"
WARM_UP_FRAMES = 50
QUICK_FRAMES = 150
VIDEO_FRAMES = {"432p": 1390, "1080p": setting.HD_FRAMES}
THROUGHPUT_MIN, CPU_MAX, MEMORY_MAX = 0.97, 1.05, 1.3
# One in the decoder's hands, one waiting, one in the model's: a queue of at most two.
BUFFERS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """A model on a video. size: of the model's square input. slice_s: None for one who takes the video at a time."""

    title: str
    model: str
    video: str
    size: int
    fit: str
    slice_s: float | None = 0.5


_SSD, _YOLOX = "ssd_mobilenet_v1_coco.tflite", "yolox_nano.onnx"
_V2, _V1 = "mobilenet_v2_1.0_224_quant.tflite", "mobilenet_v1_0.25_128_quant.tflite"

CASES = {
    "ssd-432p": Case("SSD MobileNet v1, 768x432", _SSD, "432p", 300, "stretch"),
    "ssd-1080p": Case("SSD MobileNet v1, 1080p", _SSD, "1080p", 300, "stretch"),
    "yolox": Case("YOLOX nano (ONNX), 768x432", _YOLOX, "432p", 416, "letterbox"),
    "mobilenet-v2": Case("MobileNet v2, 768x432", _V2, "432p", 224, "crop"),
    "mobilenet-v1": Case("MobileNet v1 0.25 128, 768x432", _V1, "432p", 128, "crop", slice_s=None),
}


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for key, case in CASES.items():
        model, video = setting.model(case.model), setting.video(case.video)
        fresh(
            "throughput", OURS, key, model, video, QUICK_FRAMES, 0
        )  # The first start proves the model, and is slower.
        frames = QUICK_FRAMES if setting.SETTING.quick and case.slice_s is None else VIDEO_FRAMES[case.video]
        words = {who: (who, key, model, video, frames, setting.threads(model)) for who in _CONTENDERS}
        if case.slice_s is None:
            runs = {who: partial(fresh, "throughput", *own) for who, own in words.items()}
            rows += take_turns(rounds, case.title, runs)
        else:
            commands = {who: command_for("throughput", *own) for who, own in words.items()}
            rows += alternate(rounds, case.title, commands, _figures, slice_s=case.slice_s, warm_up=warm_up(frames))
    return rows


def _figures(spans: Sequence[Span]) -> Row:
    """As of Meter.figures."""
    frames = sum(span.of("frames") for span in spans)
    return {
        "fps": frames / sum(span.of("at_s") for span in spans),
        "cpu_ms": sum(span.of("cpu_s") for span in spans) * 1e3 / frames,
        "faults": sum(span.of("faults") for span in spans) / frames,
        "peak_mib": spans[-1].last["peak_mib"],
        "own_mib": spans[-1].last["own_mib"],
        "frames": frames,
    }


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for case in cases(rows):
        lines.append(ratio(rows, case, "fps", "throughput", unit="frames/s", at_least=THROUGHPUT_MIN))
        lines.append(ratio(rows, case, "cpu_ms", "CPU per frame", unit="ms", at_most=CPU_MAX))
        lines.append(ratio(rows, case, "fps", "to one decoding thread's: throughput", to=LEAN_BARE, unit="frames/s"))
        lines.append(ratio(rows, case, "cpu_ms", "CPU per frame", to=LEAN_BARE, unit="ms"))
        lines.append(ratio(rows, case, "peak_mib", "peak memory", unit="MiB", at_most=MEMORY_MAX))
        lines.append(ratio(rows, case, "own_mib", "of it not in files", unit="MiB"))
    return lines


def run_bare(
    case: Case, model: Path, video: Path, frames: int, threads: int, *, decoding_threads: int | None = None
) -> dict[str, float]:
    """The bare loop on a video."""
    import cv2

    options = [] if decoding_threads is None else [cv2.CAP_PROP_N_THREADS, decoding_threads]
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, options)
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    infer = open_bare(case, model, width, height, threads)
    return bare_loop(lambda buffer: capture.read(buffer)[0], infer, width, height, frames)


def bare_loop(
    read: Read, infer: Infer, width: int, height: int, frames: int, *, look_every_s: float = LOOK_EVERY_S
) -> dict[str, float]:
    """Reads in one thread, resizes and invokes in another, over three buffers that go round; no results, no more."""
    import numpy as np

    free: SimpleQueue[np.ndarray] = SimpleQueue()
    ready: SimpleQueue[np.ndarray | None] = SimpleQueue()
    for _ in range(BUFFERS):
        free.put(np.empty((height, width, 3), np.uint8))
    done = 0

    def decode() -> None:
        for _ in range(frames):
            pixels = free.get()
            if not read(pixels):
                break
            ready.put(pixels)
        ready.put(None)

    def compute() -> None:
        nonlocal done
        while (pixels := ready.get()) is not None:
            infer(pixels)
            free.put(pixels)
            done += 1

    threads = [threading.Thread(target=each) for each in (decode, compute)]
    meter = Meter(lambda: done, warm_up=warm_up(frames), every_s=look_every_s)
    for thread in threads:
        thread.start()

    def ended_within(seconds: float) -> bool:
        threads[1].join(seconds)
        return not threads[1].is_alive()

    meter.watch(ended_within)
    return meter.figures()


def run_ours(
    case: Case, model: Path, video: Path | str, frames: int, threads: int, *, look_every_s: float = LOOK_EVERY_S
) -> dict[str, float]:
    """The pipeline that `edgeinfer run` starts, with its JSON lines in a file."""
    from edgeinfer.config import PipelineConfig
    from edgeinfer.pipeline.assemble import open_pipeline

    results = Path.cwd() / "results.jsonl"
    config = PipelineConfig(
        model=str(model), source=str(video), output=(str(results),), frames=frames, threads=threads or None
    )
    pipeline = open_pipeline(config)
    meter = Meter(lambda: pipeline.tally["inferred"], warm_up=warm_up(frames), every_s=look_every_s)
    pipeline.start()
    meter.watch(pipeline.wait)
    if (error := pipeline.report().error) is not None:
        raise error
    return meter.figures()


def warm_up(frames: int) -> int:
    """How many of the frames are not counted."""
    return min(WARM_UP_FRAMES, frames // 4)


def open_bare(case: Case, model: Path, width: int, height: int, threads: int, *, spin: bool = True) -> Infer:
    """What the bare loop does with a picture of that size. spin: idle threads of ONNX Runtime do."""
    if model.suffix == ".onnx":
        return _bare_onnx(case, model, width, height, threads, spin=spin)
    return _bare_litert(case, model, width, height, threads)


Infer = Callable[["np.ndarray"], None]
Read = Callable[["np.ndarray"], bool]
"""Fills the picture; False at the end."""


def _bare_litert(case: Case, model: Path, width: int, height: int, threads: int) -> Infer:
    """8-bit red-green-blue pixels, written into the interpreter's own memory."""
    import cv2
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model.read_bytes(), num_threads=threads or None)
    interpreter.allocate_tensors()
    view = interpreter.tensor(interpreter.get_input_details()[0]["index"])
    canvas = np.empty((case.size, case.size, 3), np.uint8)
    left, top, side_x, side_y, interpolation = 0, 0, width, height, cv2.INTER_LINEAR
    if case.fit == "crop":
        side_x = side_y = min(width, height)
        left, top, interpolation = (width - side_x) // 2, (height - side_y) // 2, cv2.INTER_LINEAR_EXACT

    def infer(pixels: np.ndarray) -> None:
        part = pixels[top : top + side_y, left : left + side_x]
        cv2.resize(part, (case.size, case.size), dst=canvas, interpolation=interpolation)
        cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB, dst=view()[0])
        interpreter.invoke()

    return infer


def _bare_onnx(case: Case, model: Path, width: int, height: int, threads: int, *, spin: bool) -> Infer:
    """Float planes of blue-green-red pixels, letterboxed."""
    import cv2
    import numpy as np
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    session = onnxruntime.InferenceSession(model.read_bytes(), settings, providers=["CPUExecutionProvider"])
    tensor = np.empty((1, 3, case.size, case.size), np.float32)
    feed = {session.get_inputs()[0].name: tensor}
    names = [output.name for output in session.get_outputs()]
    canvas = np.full((case.size, case.size, 3), 114, np.uint8)
    scale = case.size / max(width, height)
    inner_x, inner_y = round(width * scale), round(height * scale)
    left, top = (case.size - inner_x) // 2, (case.size - inner_y) // 2
    inner = canvas[top : top + inner_y, left : left + inner_x]
    planes = np.empty((3, case.size, case.size), np.uint8)
    plane_list = list(planes)

    def infer(pixels: np.ndarray) -> None:
        cv2.resize(pixels, (inner_x, inner_y), dst=inner)
        cv2.split(canvas, plane_list)
        np.copyto(tensor[0], planes)
        session.run(names, feed)

    return infer


_CONTENDERS: dict[str, Callable[..., dict[str, Any]]] = {
    BARE: run_bare,
    LEAN_BARE: partial(run_bare, decoding_threads=1),
    OURS: run_ours,
}

if __name__ == "__main__":
    _who, _case, _model, _video, _frames, _threads = sys.argv[1:]
    tell(_CONTENDERS[_who](CASES[_case], Path(_model), Path(_video), int(_frames), int(_threads)))
