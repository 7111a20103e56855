"""Keypoints, against a reference that goes cell by cell, as Ultralytics documents its export."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeinfer.bundle.facts import Metadata
from edgeinfer.preprocess import WHOLE, Placement
from edgeinfer.tasks.pose import make_pose
from edgeinfer.tensor import Quantization, TensorSpec, dequantize

CELLS = 84


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def reference(output, score_min, iou_max, size):
    """(score, box, keypoints) of (features, cells) real numbers in pixels, plainly."""
    bodies = []
    for x, y, width, height, score, *numbers in output.T.tolist():
        if score >= score_min:
            box = [side / size for side in (x - width / 2, y - height / 2, x + width / 2, y + height / 2)]
            keypoints = [(numbers[k] / size, numbers[k + 1] / size, numbers[k + 2]) for k in range(0, 51, 3)]
            bodies.append((score, box, keypoints))
    kept = []
    for body in sorted(bodies, key=lambda each: -each[0]):
        if all(iou(body[1], better[1]) <= iou_max for better in kept):
            kept.append(body)
    return kept


def made_output(seed):
    rng = np.random.default_rng(seed)
    output = np.zeros((56, CELLS), dtype=np.float32)
    output[:2], output[2:4] = rng.uniform(10, 54, (2, CELLS)), rng.uniform(4, 18, (2, CELLS))
    output[4] = rng.permutation(np.linspace(0.01, 0.99, CELLS))
    output[5:] = rng.uniform(0, 64, (51, CELLS))
    output[7::3] = rng.uniform(0, 1, (17, CELLS))
    return output


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("is_turned", [False, True])
def test_yolo_poses_are_those_of_the_reference(make_bundle, is_int8, is_turned):
    output, quantization = made_output(3), None
    if is_int8:
        quantization = Quantization((0.3,), (-128,))
        output = np.clip(np.rint(output / 0.3) - 128, -128, 127).astype(np.int8)
        # Coarse, so that scores are but 0, 0.3, 0.6 and 0.9.
    real = dequantize(output, quantization)
    raw = (output.T if is_turned else output)[None]
    spec = TensorSpec("out", raw.shape, raw.dtype, quantization)
    bundle = make_bundle([spec], "yolov8-pose", task="pose", labels=("person",), score_min=0.55)
    found = make_pose(bundle, (spec,)).decode((raw,), WHOLE).detections
    expected = reference(real, 0.55, 0.5, 64)
    assert len(found) == len(expected) >= 10
    for body, (score, box, keypoints) in zip(found, expected, strict=True):
        assert body.score == pytest.approx(score, abs=1e-5)
        assert body.box_xyxy == pytest.approx(np.clip(box, 0, 1), abs=1e-5)
        assert np.array(body.keypoints) == pytest.approx(np.clip(keypoints, 0, 1), abs=1e-5)


def test_keypoints_without_scores_bear_that_of_the_body(make_bundle):
    output = np.zeros((1, 4 + 1 + 8, CELLS), dtype=np.float32)
    output[0, :, 0] = [32, 32, 20, 20, 0.7, 22, 22, 42, 22, 42, 42, 22, 42]
    spec = TensorSpec("out", output.shape, output.dtype)
    bundle = make_bundle([spec], "yolov8-pose", task="pose", labels=("plate",))
    bundle = dataclasses.replace(
        bundle, file=dataclasses.replace(bundle.file, metadata=Metadata(extra={"kpt_shape": "[4, 2]"}))
    )
    (plate,) = make_pose(bundle, (spec,)).decode((output,), WHOLE).detections
    assert plate.keypoints[2] == pytest.approx((42 / 64, 42 / 64, 0.7))


def test_movenet_keypoints_go_back_through_a_letterbox_and_a_bad_one_keeps_its_place(make_bundle):
    output = np.zeros((1, 1, 17, 3), dtype=np.float32)
    output[0, 0, 5] = (0.5, 0.25, 0.8)  # y, x, score
    output[0, 0, 6] = (np.nan, 0.5, 0.9)
    spec = TensorSpec("out", output.shape, output.dtype)
    task = make_pose(make_bundle([spec], "movenet", task="pose"), (spec,))
    keypoints = task.decode((output,), Placement(0.0, 0.25, 1.0, 0.5)).keypoints
    assert len(keypoints) == 17
    assert keypoints[5] == pytest.approx((0.25, 0.5, 0.8))
    assert keypoints[6] == (0.0, 0.0, 0.0)
    output[..., 2] = 0.1
    assert task.decode((output,), WHOLE).keypoints == (), "nobody is there"
