"""What the motion gate saves, what it misses, and what it costs.

    python -m scripts.benchmarks.gate      all of it, line by line

Each line compares a run with the gate to one without it, by the same model over the same file. `recall`: of the
detections that score 0.5 or more without the gate, the share that the results published with the gate, reused ones
included, hold for the same frame, at an IoU of 0.5 or more. Needs the test data in ../shared/testdata.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from edgeinfer.config import PipelineConfig
from edgeinfer.frame import Frame, Pixels
from edgeinfer.pipeline import Report
from edgeinfer.pipeline.assemble import open_pipeline
from edgeinfer.pipeline.gate import KEYFRAME_S
from edgeinfer.pipeline.motion import MotionGate
from edgeinfer.result import Detection, Result
from edgeinfer.sinks.memory import MemorySink
from scripts.benchmarks.contest import Line, Row

DATA = Path(__file__).parents[2].parent / "shared" / "testdata"
MODEL = DATA / "models/ssd_mobilenet_v1_coco.tflite"
MOVING = ("one-by-one-person-detection", "bottle-detection", "traffic")
SCENE = DATA / "media/video/traffic_hd_short.mp4"

SCORE_MIN, PUBLISHED_MIN, IOU_MIN = 0.5, 0.3, 0.5
STATIC_FRAMES, STATIC_FPS = 300, 30
# Standard deviations in levels of 255: a camera by day, one at dusk.
NOISES = (2.0, 8.0)
CREEP_FRAMES, CREEP_SHARE, CREEP_CONTRAST = 300, 0.015, 50

TITLE = "The motion gate"
# In percent of a static clip's frames, and of the moving objects that are found without the gate.
SAVED_MIN, RECALL_MIN = 80.0, 0.99


def measure(rounds: int) -> list[Row]:
    """One row for each clip, and one for the cost; once, whatever the number of rounds: only the cost would differ."""
    return list(_rows())


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for row in rows:
        clip = row["clip"]
        if "gate_ms" in row:
            lines.append(Line(clip, "a look", [row["gate_ms"]], unit="ms"))
            continue
        is_static = clip.startswith("static")
        saved = Line(
            clip, "inferences saved", [row["saved_percent"]], unit="%", at_least=SAVED_MIN if is_static else None
        )
        lines.append(saved)
        if row["recall"] is not None:
            lines.append(Line(clip, "recall", [row["recall"]], at_least=RECALL_MIN if clip in MOVING else None))
    return lines


def _rows() -> Iterator[Row]:
    for name in MOVING:
        yield _compared(name, DATA / f"media/video/{name}.mp4")
    with tempfile.TemporaryDirectory() as folder:
        for noise in NOISES:
            clip = Path(folder) / f"static-{noise:g}.mp4"
            _write_static_clip(clip, noise)
            yield _compared(f"static 1080p, noise {noise:g}, MPEG-4", clip)
    yield _creeping()
    yield _cost()


def _compared(name: str, clip: Path) -> Row:
    plain, _ = _run(clip, gate=None)
    gated, report = _run(clip, gate="motion")
    wanted = found = 0
    for before, after in zip(plain, gated, strict=True):
        strong = [each for each in before.detections or () if each.score >= SCORE_MIN]
        wanted += len(strong)
        found += sum(any(_is_same(each, other) for other in after.detections or ()) for each in strong)
    return {
        "clip": name,
        "frames": len(gated),
        "inferred": report.frames,
        "saved_percent": round(100 * report.gated / len(gated), 1),
        "detections": wanted,
        "recall": round(found / wanted, 4) if wanted else None,
    }


def _run(clip: Path, *, gate: str | None) -> tuple[list[Result], Report]:
    config = PipelineConfig(model=str(MODEL), source=str(clip), score_min=PUBLISHED_MIN, gate=gate)
    sink = MemorySink()
    report = open_pipeline(config, sinks=[sink]).run()
    if report.error is not None:
        raise report.error
    return list(sink), report


def _is_same(one: Detection, other: Detection) -> bool:
    return one.class_id == other.class_id and _iou(one.box_xyxy, other.box_xyxy) >= IOU_MIN


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _write_static_clip(path: Path, noise: float) -> None:
    """One real frame, as a camera with that noise would film it, through MPEG-4."""
    scene = _scene()
    height, width = scene.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), STATIC_FPS, (width, height))
    for picture in _filmed((scene for _ in range(STATIC_FRAMES)), noise):
        writer.write(picture)
    writer.release()


def _scene() -> Pixels:
    video = cv2.VideoCapture(str(SCENE))
    _, scene = video.read()
    video.release()
    return np.asarray(scene, np.uint8)


def _filmed(pictures: Iterator[Pixels], noise: float) -> Iterator[Pixels]:
    rng = np.random.default_rng(0)
    grain: np.ndarray | None = None
    for picture in pictures:
        height, width = picture.shape[:2]
        if grain is None:
            grain = rng.normal(0.0, noise, (height + 128, width + 128, 3)).astype(np.float32)
        # A part of the same noise, somewhere else and turned over: as good as new, and quickly made.
        top, left = rng.integers(0, 128, 2)
        part = grain[top : top + height, left : left + width] * np.float32(rng.choice((-1, 1)))
        yield np.clip(picture + part, 0, 255).astype(np.uint8)


def _creeping() -> Row:
    """A distant object, 1.5 % of the width, that moves by a pixel a frame: how often is its last known box wrong?"""
    scene = _scene()
    side = round(scene.shape[1] * CREEP_SHARE)

    def pictures() -> Iterator[Pixels]:
        for left in range(CREEP_FRAMES):
            picture = scene.copy()
            part = picture[500 : 500 + side, left : left + side]
            part[:] = np.where(part.mean() > 128, cv2.subtract(part, CREEP_CONTRAST), cv2.add(part, CREEP_CONTRAST))
            yield picture

    gate = MotionGate()
    right = inferred = kept = 0
    for left, picture in enumerate(_filmed(pictures(), NOISES[0])):
        if not gate.is_still(_frame(picture)) or left - kept >= KEYFRAME_S * STATIC_FPS:
            gate.keep()
            inferred, kept = inferred + 1, left
        right += _iou((kept, 0, kept + side, side), (left, 0, left + side, side)) >= IOU_MIN
    return {
        "clip": f"drawn object of {side} px in 1080p, 1 px a frame, noise {NOISES[0]:g}",
        "frames": CREEP_FRAMES,
        "inferred": inferred,
        "saved_percent": round(100 * (1 - inferred / CREEP_FRAMES), 1),
        "detections": CREEP_FRAMES,
        "recall": round(right / CREEP_FRAMES, 4),
    }


def _cost() -> Row:
    """Of one look at a 1080p frame; the frames take turns, so that they come from memory and not from the cache."""
    gate = MotionGate()
    frames = [_frame(picture) for picture in _filmed((_scene() for _ in range(8)), NOISES[0])]
    took_ms = []
    for index in range(800):
        begin = time.perf_counter()
        gate.is_still(frames[index % len(frames)])
        took_ms.append((time.perf_counter() - begin) * 1e3)
        if index == 0:
            gate.keep()
    return {
        "clip": "cost of one frame, 1920x1080",
        "gate_ms": round(statistics.median(took_ms), 3),
        "gate_ms_p10": round(statistics.quantiles(took_ms, n=10)[0], 3),
    }


def _frame(pixels: Pixels) -> Frame:
    return Frame(pixels, 0, 0, 0, "benchmark:")


if __name__ == "__main__":
    for row in _rows():
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
