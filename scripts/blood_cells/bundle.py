"""The bundle's folder: weights, labels, model.toml and the card, with the figures that were measured."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .data import Sample, draw_smears, load_bccd
from .evaluate import (
    Precision,
    Predict,
    average_precision,
    best_threshold,
    invoke_ms,
    predict_with_onnx,
    predict_with_tflite,
    predict_with_torch,
    recall_per_class,
    stack_inputs,
)
from .export import list_ops, write_float_tflite, write_int8_tflite, write_onnx
from .golden import OUTPUTS, PICTURE, write_golden
from .model import LABELS, Detector

TFLITE, ONNX = "blood-cells.tflite", "blood-cells.onnx"
CALIBRATION_IMAGES, CALIBRATION_DRAWN = 100, 8
SCORE_MIN = 0.4


@dataclass(frozen=True, slots=True)
class Figures:
    """What goes into model.toml and the card."""

    float32: Precision
    onnx: Precision
    int8: Precision
    drawn: dict[str, float]
    photos: dict[str, float]
    score_min: float
    parameters: int
    invoke_ms: float
    learnt_from: str


def write_bundle(
    model: Detector, data: Path, out: Path, seeds: range, score_min: float | None, lists: list[str]
) -> Figures:
    """Export, quantise, measure, write; the test list is looked at here and nowhere else.

    `lists` is what the model learnt from.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_onnx(model, out / ONNX)
    with tempfile.TemporaryDirectory() as scratch:
        float_tflite = Path(scratch) / "float.tflite"
        write_float_tflite(model, float_tflite)
        write_int8_tflite(float_tflite, out / TFLITE, _calibration(data))
    (out / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    if score_min is None:
        score_min, f1 = best_threshold(predict_with_tflite(out / TFLITE), load_bccd(data, "val"))
        print(f"score_min {score_min} (F1 {f1:.3f} on val)")
    pictures = sum(len(load_bccd(data, listed)) for listed in lists)
    learnt_from = f"the {' and '.join(lists)} list{'s' if len(lists) > 1 else ''} ({pictures} pictures)"
    figures = _measure(model, data, out, seeds, score_min, learnt_from)
    (out / "model.toml").write_text(_model_toml(figures, out))
    write_golden(out)
    (out / "README.md").write_text(_card(figures))
    return figures


def measure_bundle(data: Path, out: Path, seeds: range, score_min: float = SCORE_MIN) -> None:
    """Print the figures of the files as they lie there."""
    test, drawn = load_bccd(data, "test"), _drawn(seeds)
    for name, predict in ((ONNX, predict_with_onnx(out / ONNX)), (TFLITE, predict_with_tflite(out / TFLITE))):
        _row(name, average_precision(predict, test))
        print(f"  at score {score_min}: test {_shares(predict, test, score_min)}")
        print(f"  at score {score_min}: drawn {_shares(predict, drawn, score_min)}")
    _print_file(out / TFLITE)


def _measure(model: Detector, data: Path, out: Path, seeds: range, score_min: float, learnt_from: str) -> Figures:
    test = load_bccd(data, "test")
    int8 = predict_with_tflite(out / TFLITE)
    float32 = average_precision(predict_with_torch(model), test)
    onnx = average_precision(predict_with_onnx(out / ONNX), test)
    quantised = average_precision(int8, test)
    for name, precision in (("torch float32", float32), (ONNX, onnx), (TFLITE, quantised)):
        _row(name, precision)
    drawn = recall_per_class(int8, _drawn(seeds), SCORE_MIN)
    photos = recall_per_class(int8, test, score_min)
    print(f"int8, drawn frames at score {SCORE_MIN}: {drawn}\nint8, test list at score {score_min}: {photos}")
    middle_ms = _print_file(out / TFLITE)
    parameters = sum(p.numel() for p in model.parameters())
    return Figures(float32, onnx, quantised, drawn, photos, score_min, parameters, middle_ms, learnt_from)


def _calibration(data: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Every second picture or so of the train list, and a few drawn ones."""
    photos = load_bccd(data, "train")
    chosen = np.linspace(0, len(photos) - 1, CALIBRATION_IMAGES).round().astype(int)
    drawn = draw_smears(range(2000, 2000 + CALIBRATION_DRAWN // 2), views=2)
    return stack_inputs([photos[index] for index in chosen] + drawn)


def _drawn(seeds: range) -> list[Sample]:
    return draw_smears(seeds, views=5)


def _row(name: str, precision: Precision) -> None:
    each = "  ".join(f"{label} {value:.4f}" for label, value in precision.ap50.items())
    print(f"{name:20s} mAP50 {precision.map50:.4f}  {each}  mAP50-95 {precision.map50_95:.4f}")


def _shares(predict: Predict, samples: list[Sample], score_min: float) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in recall_per_class(predict, samples, score_min).items())


def _print_file(path: Path) -> float:
    interpreter = Interpreter(str(path))
    for detail in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        scale, zero = detail["quantization"]
        shape, kind = detail["shape"].tolist(), detail["dtype"].__name__
        print(f"{detail['name']} {shape} {kind} scale 1/{1 / scale:.3f} zero {zero}")
    print(list_ops(path))
    middle, slow = invoke_ms(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, invoke {middle:.2f} ms (p90 {slow:.2f}), one thread")
    return middle


def _model_toml(figures: Figures, out: Path) -> str:
    ap50 = ", ".join(f"{label} = {value:.4f}" for label, value in figures.int8.ap50.items())
    return f'''schema = "edgeinfer.model/1"
name = "blood-cells"
version = "1"
task = "detect"
decoder = "yolov8"
labels = "labels.txt"
licence = "Apache-2.0"
origin = """\\
Trained from scratch by scripts/blood_cells on {figures.learnt_from} of BCCD \\
(github.com/Shenggan/BCCD_Dataset, MIT) and, for 15 % of the samples, on frames drawn by \\
edgeinfer.sources.smear. No pretrained weights.\\
"""

[weights]
tflite = "{TFLITE}"
onnx = "{ONNX}"

[sha256]
tflite = "{_sha256(out / TFLITE)}"
onnx = "{_sha256(out / ONNX)}"

[input]
colour = "rgb"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
fit = "letterbox"
pad = 114

[decode]
box_units = "normalised"
score_min = {figures.score_min}
iou_max = 0.5

[measured]
map50 = {figures.int8.map50:.4f}
map50_float = {figures.float32.map50:.4f}
ap50 = {{ {ap50} }}

[[golden]]                        # a drawn smear, and what the reference kernels make of it
input = "{PICTURE}"
outputs = "{OUTPUTS}"
weights = "tflite"

[[golden]]
input = "{PICTURE}"
weights = "onnx"
'''


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _card(figures: Figures) -> str:
    rows = "\n".join(
        f"| {name} | {p.map50:.3f} | {' | '.join(f'{p.ap50[label]:.3f}' for label in LABELS)} | {p.map50_95:.3f} |"
        for name, p in (
            ("PyTorch float32", figures.float32),
            (f"`{ONNX}` float32", figures.onnx),
            (f"`{TFLITE}` int8", figures.int8),
        )
    )
    photos, drawn = figures.photos, figures.drawn
    return f"""# blood-cells

Finds red blood cells (RBC), white blood cells (WBC) and platelets in pictures of a stained blood smear.
**A demonstration. Not a medical device: nothing it says may be used for a diagnosis.**

A small anchor-free detector of our own ({figures.parameters / 1e6:.2f} M parameters, 240x320 RGB), as fully int8 TFLite
and as float32 ONNX. The output is one tensor [1, 7, 1500]: cx, cy, w, h in 0..1 of the input, then the three scores.

## Data
- [BCCD](https://github.com/Shenggan/BCCD_Dataset) (MIT, copyright 2017 shenggan): 364 pictures of 640x480 with
  boxes. Learnt from: {figures.learnt_from}. Measured on: the test list (72), which nothing was chosen by.
- 15 % of the samples were frames drawn by `edgeinfer.sources.smear`, so that `synthetic://` sources are detected as
  well. No picture of the data set went into the drawing.

Boxes of less than 6 pixels a side (labelling slips) were left out, of learning and of measuring.

## Figures
Average precision at IoU 0.5 on the test list, by pycocotools:

| | mean | {" | ".join(LABELS)} | mean over IoU .5:.95 |
|---|---|---|---|---|---|
{rows}

int8 at score {figures.score_min}, IoU 0.5: finds {photos["all"]:.1%} of the labelled cells of the test list, and
{photos["precision"]:.1%} of what it reports is labelled. On 50 drawn frames of unseen slides at score {SCORE_MIN}:
{drawn["all"]:.1%} and {drawn["precision"]:.1%} (a drawn cell of which less than 40 % is in view counts as none there).

One invoke takes {figures.invoke_ms:.1f} ms on one thread of an x86-64 server core with AVX-512 (XNNPACK, int8).

## Limits
- One microscope, one magnification (about 100 pixels across a red cell at 640 wide), one stain. Elsewhere: unknown.
- BCCD leaves many overlapping and out-of-focus red cells unlabelled; the model has learnt to, and some of what
  counts as wrong above is a real cell. So counts of red cells in clumps are too low.
- White cells are not told apart. Parasites and misshapen cells are not looked for.

## Golden sample
`smear.jpg` is a frame drawn by `edgeinfer.sources.smear`, `smear.npz` what TFLite's reference kernels make of it with
the int8 model; both are written by `python -m scripts.blood_cells.golden models/blood-cells`.

## Made by
    DATA=../shared/testdata/training/bccd
    python -m scripts.blood_cells train $DATA --lists train --steps 1200 --checkpoint a.pt
    python -m scripts.blood_cells bundle $DATA --checkpoint a.pt      # finds score_min on val
    python -m scripts.blood_cells train $DATA --start a.pt --steps 700 --rate 0.001 --seed 1 --slides 16 \\
        --checkpoint b.pt
    python -m scripts.blood_cells bundle $DATA --checkpoint b.pt --score-min {figures.score_min}
    python -m scripts.blood_cells evaluate $DATA

The weights are under Apache-2.0, like the rest of edgeinfer.
"""
