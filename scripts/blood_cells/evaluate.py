"""How good a detector is: average precision per class, recall on drawn frames, the best threshold, milliseconds."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .data import Sample, as_tensor
from .model import HEIGHT, LABELS, WIDTH, Detector

SCORE_MIN, IOU_MAX, MOST = 0.01, 0.6, 300

Floats = npt.NDArray[np.float32]
# RGB pixels of one picture -> raw output [4 + classes, cells], dequantised.
Predict = Callable[[npt.NDArray[np.uint8]], Floats]


@dataclass(frozen=True, slots=True)
class Found:
    """Detections in one picture, best first; boxes in the picture's pixels."""

    boxes_xyxy: Floats
    scores: Floats
    labels: npt.NDArray[np.int64]


def predict_with_torch(model: Detector) -> Predict:
    model = model.eval()

    def predict(pixels: npt.NDArray[np.uint8]) -> Floats:
        with torch.inference_mode():
            image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255.0
            return np.asarray(model(image)[0].numpy(), np.float32)

    return predict


def predict_with_onnx(path: Path) -> Predict:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(pixels: npt.NDArray[np.uint8]) -> Floats:
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        return np.asarray(session.run(None, {name: image})[0][0], np.float32)

    return predict


def open_tflite(path: Path) -> Interpreter:
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def predict_with_tflite(path: Path) -> Predict:
    """A plain loop around the interpreter: float or fully int8, by what the file says."""
    interpreter = open_tflite(path)
    into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def predict(pixels: npt.NDArray[np.uint8]) -> Floats:
        real = pixels[None].astype(np.float32) / np.float32(255)
        interpreter.set_tensor(into["index"], _quantised(real, into))
        interpreter.invoke()
        return _real(interpreter.get_tensor(out["index"])[0], out)

    return predict


def _quantised(real: Floats, detail: dict[str, object]) -> npt.NDArray[np.generic]:
    if detail["dtype"] is np.float32:
        return real
    scale, zero = detail["quantization"]  # type: ignore[misc]  # the interpreter has no stubs
    return np.round(real / scale + zero).clip(-128, 127).astype(np.int8)


def _real(raw: npt.NDArray[np.generic], detail: dict[str, object]) -> Floats:
    if detail["dtype"] is np.float32:
        return np.asarray(raw, np.float32)
    scale, zero = detail["quantization"]  # type: ignore[misc]  # the interpreter has no stubs
    return np.asarray((raw.astype(np.float32) - zero) * scale, np.float32)


def decode(raw: Floats, score_min: float = SCORE_MIN, iou_max: float = IOU_MAX) -> Found:
    """Threshold and class-wise non-maximum suppression."""
    size = np.array([WIDTH, HEIGHT], np.float32)
    middle, half = raw[:2].T * size, raw[2:4].T * size / 2
    boxes_xyxy = np.concatenate([middle - half, middle + half], axis=1).clip(0, [WIDTH, HEIGHT] * 2)
    cells, labels = np.nonzero(raw[4:].transpose() >= score_min)
    scores = raw[4 + labels, cells]
    order = np.argsort(-scores, kind="stable")
    cells, labels, scores = cells[order], labels[order], scores[order]
    boxes = boxes_xyxy[cells].astype(np.float32)
    kept: list[int] = []
    alive = np.full(len(order), True)
    for index in range(len(order)):
        if alive[index]:
            kept.append(index)
            alive &= ~((labels == labels[index]) & (iou_to_all(boxes[index], boxes) > iou_max))
    chosen = np.array(kept[:MOST], np.int64)
    return Found(boxes[chosen], scores[chosen], labels[chosen].astype(np.int64))


def iou_to_all(box_xyxy: Floats, boxes_xyxy: Floats) -> Floats:
    sides = np.minimum(box_xyxy[2:], boxes_xyxy[:, 2:]) - np.maximum(box_xyxy[:2], boxes_xyxy[:, :2])
    inter = sides.clip(0).prod(axis=1)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    union = (box_xyxy[2:] - box_xyxy[:2]).prod() + areas - inter
    return np.asarray(inter / np.maximum(union, 1e-6), np.float32)


@dataclass(frozen=True, slots=True)
class Precision:
    """Average precision at IoU 0.5, per class and mean, and the mean over IoU 0.5 to 0.95."""

    ap50: dict[str, float]
    map50: float
    map50_95: float


def average_precision(predict: Predict, samples: list[Sample]) -> Precision:
    """pycocotools' figures."""
    truth = COCO()
    truth.dataset = _coco_truth(samples)
    detections = []
    for number, sample in enumerate(samples, 1):
        found = decode(predict(sample.pixels))
        for box, score, label in zip(found.boxes_xyxy, found.scores, found.labels, strict=True):
            x0, y0, x1, y1 = map(float, box)
            detections.append(
                {
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(detections), "bbox")
        judge.params.maxDets = [1, 10, MOST]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, -1]  # [iou, recall, class]
    ap50 = {label: float(precision[0, :, index].mean()) for index, label in enumerate(LABELS)}
    return Precision(ap50, float(np.mean(list(ap50.values()))), float(precision.mean()))


def _coco_truth(samples: list[Sample]) -> dict[str, list[dict[str, object]]]:
    boxes: list[dict[str, object]] = []
    for number, sample in enumerate(samples, 1):
        for box, label in zip(sample.boxes_xyxy, sample.labels, strict=True):
            x0, y0, x1, y1 = map(float, box)
            side = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": int(label) + 1, **side})
    return {
        "images": [{"id": n, "width": WIDTH, "height": HEIGHT} for n in range(1, len(samples) + 1)],
        "categories": [{"id": n, "name": label} for n, label in enumerate(LABELS, 1)],
        "annotations": boxes,
    }


def matches(found: Found, sample: Sample, iou_min: float = 0.5) -> npt.NDArray[np.int64]:
    """For each detection, best first, which labelled cell it finds, or -1; each cell is found once."""
    taken = np.zeros(len(sample.labels), bool)
    hits = np.full(len(found.labels), -1, np.int64)
    for index, (box, label) in enumerate(zip(found.boxes_xyxy, found.labels, strict=True)):
        iou = iou_to_all(box, sample.boxes_xyxy) * ((sample.labels == label) & ~taken)
        if len(iou) and iou.max() >= iou_min:
            hits[index] = int(iou.argmax())
            taken[hits[index]] = True
    return hits


def recall_per_class(predict: Predict, samples: list[Sample], score_min: float) -> dict[str, float]:
    """Share of the labelled cells that are found at IoU 0.5, and the share of detections that are cells."""
    there, hit = np.zeros(len(LABELS)), np.zeros(len(LABELS))
    shown = right = 0
    for sample in samples:
        found = decode(predict(sample.pixels), score_min, 0.5)
        hits = matches(found, sample)
        there += np.bincount(sample.labels, minlength=len(LABELS))
        hit += np.bincount(sample.labels[hits[hits >= 0]], minlength=len(LABELS))
        shown, right = shown + len(hits), right + int((hits >= 0).sum())
    recall = {label: float(hit[n] / max(1, there[n])) for n, label in enumerate(LABELS)}
    return {**recall, "all": float(hit.sum() / there.sum()), "precision": right / max(1, shown)}


def best_threshold(predict: Predict, samples: list[Sample]) -> tuple[float, float]:
    """The score threshold with the best F1, averaged over the classes, and that F1."""
    raw = [predict(sample.pixels) for sample in samples]
    there = sum((np.bincount(sample.labels, minlength=len(LABELS)) for sample in samples), np.zeros(len(LABELS)))
    best = (0.0, 0.0)
    for score_min in np.arange(0.2, 0.71, 0.05):
        shown, hit = np.zeros(len(LABELS)), np.zeros(len(LABELS))
        for output, sample in zip(raw, samples, strict=True):
            found = decode(output, float(score_min), 0.5)
            hits = matches(found, sample)
            shown += np.bincount(found.labels, minlength=len(LABELS))
            hit += np.bincount(found.labels[hits >= 0], minlength=len(LABELS))
        f1 = float(np.mean(2 * hit / np.maximum(1, shown + there)))
        best = max(best, (f1, round(float(score_min), 2)))
    return best[1], best[0]


def invoke_ms(path: Path, runs: int = 200) -> tuple[float, float]:
    """Median and 90th percentile of one invoke on one thread."""
    interpreter = open_tflite(path)
    took = []
    for _ in range(runs + 20):
        start = time.perf_counter()
        interpreter.invoke()
        took.append((time.perf_counter() - start) * 1e3)
    return float(np.median(took[20:])), float(np.percentile(took[20:], 90))


def stack_inputs(samples: list[Sample]) -> Floats:
    """Pictures as the TFLite model takes them: NHWC, 0..1."""
    return np.asarray(as_tensor(samples).permute(0, 2, 3, 1).numpy(), np.float32)
