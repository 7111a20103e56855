"""From a YOLO's raw output to detections: an int8 head of 84x8400, 80 classes, with 20 objects in it.

python -m scripts.benchmarks.postprocess CELLS      one measurement; CELLS of the head see each object
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from scripts.benchmarks.contest import OURS, Line, Row, cases, fresh, of, take_turns
from scripts.benchmarks.meter import tell

TITLE = "Postprocessing of an 84x8400 int8 YOLO head"
MAX_MS = 0.15
OBJECTS, CELLS, CLASSES, SIDE = 20, 8400, 80, 640
CALLS = 1000
_CASES = {"20 objects, one cell each": 1, "20 objects, four cells each": 4}


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for case, seen_by in _CASES.items():
        rows += take_turns(rounds, case, {OURS: lambda seen_by=seen_by: fresh("postprocess", seen_by)})
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    return [Line(case, "decode", of(rows, case, OURS, "ms"), unit="ms", at_most=MAX_MS) for case in cases(rows)]


def run(seen_by: int) -> dict[str, float]:
    """The median of many calls, in milliseconds."""
    import numpy as np

    from edgeinfer.bundle import Bundle, Decode, ImageInput, ModelFile
    from edgeinfer.bundle.facts import Metadata
    from edgeinfer.preprocess import WHOLE
    from edgeinfer.tasks.detect.yolov8 import Yolov8
    from edgeinfer.tensor import Quantization, TensorSpec

    # Boxes in 0..1 of the picture, as YOLO's TFLite export gives them, so that one scale serves boxes and scores.
    spec = TensorSpec("head", (1, 4 + CLASSES, CELLS), np.dtype(np.int8), Quantization((1 / 255,), (-128,)))
    file = ModelFile(
        path=Path("head.tflite"),
        format="tflite",
        sha256="",
        size_bytes=0,
        inputs=(TensorSpec("image", (1, SIDE, SIDE, 3), np.dtype(np.uint8)),),
        outputs=(spec,),
        ops={},
        output_ops=("",),
        custom_ops=frozenset(),
        metadata=Metadata(),
    )
    image = ImageInput(0, SIDE, SIDE, 3, "nhwc", "rgb", (0.0,), (255.0,), False, "letterbox", 114)
    decode = Decode("yolov8", 0.25, 0.5, 100, "normalised", "probabilities")
    labels = tuple(f"class {number}" for number in range(CLASSES))
    task = Yolov8(Bundle("head", "0", file, "detect", image, decode, labels, {}), (spec,))
    raw = (_head(seen_by),)
    found = task.decode(raw, WHOLE).detections
    assert found is not None
    assert len(found) == OBJECTS, f"{len(found)} detections of {OBJECTS} objects"
    took_ns = []
    for _ in range(CALLS):
        begun_ns = time.perf_counter_ns()
        task.decode(raw, WHOLE)
        took_ns.append(time.perf_counter_ns() - begun_ns)
    return {"ms": median(took_ns) / 1e6}


def _head(seen_by: int):  # type: ignore[no-untyped-def]  # numpy is loaded by the measured process only
    """int8 (1, 84, 8400): faint scores everywhere, and objects in a grid of 5 by 4 that do not overlap."""
    import numpy as np

    rng = np.random.default_rng(0)
    head = np.empty((4 + CLASSES, CELLS), np.int8)
    head[:4] = rng.integers(-128, 128, (4, CELLS))
    head[4:] = rng.integers(-128, -118, (CLASSES, CELLS))
    cells = rng.choice(CELLS, OBJECTS * seen_by, replace=False)
    for number, cell in enumerate(cells):
        thing = number // seen_by
        x, y = (thing % 5 + 0.5) / 5, (thing // 5 + 0.5) / 4
        head[:4, cell] = np.rint(np.array([x, y, 0.12, 0.16]) * 255 - 128)
        head[4 + thing * 3, cell] = 100 - number % seen_by
    return head[None]


if __name__ == "__main__":
    tell(run(int(sys.argv[1])))
