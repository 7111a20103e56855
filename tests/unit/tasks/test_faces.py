"""Faces and NanoDet's objects: outputs encoded here come back as the boxes that they were made of."""

from __future__ import annotations

import numpy as np
import pytest

from edgeinfer.preprocess import WHOLE, Placement
from edgeinfer.tasks.detect import make_detect
from edgeinfer.tensor import Quantization, TensorSpec, quantize

SIZE = 64
GRIDS = {8: 64, 16: 16, 32: 4}


def level_outputs(features):
    """Zeros [1, cells, n] for each n of `features` and each grid, as the files have them."""
    specs, raw = [], []
    for name, size in features:
        for stride, cells in GRIDS.items():
            specs.append(TensorSpec(f"{name}_{stride}", (1, cells, size), np.dtype(np.float32)))
            raw.append(np.zeros((1, cells, size), dtype=np.float32))
    return specs, raw


def as_int8(specs, raw, scale, zero_point):
    specs = [
        TensorSpec(spec.name, spec.shape, np.dtype(np.int8), Quantization((scale,), (zero_point,))) for spec in specs
    ]
    return specs, [quantize(array, spec) for array, spec in zip(raw, specs, strict=True)]


@pytest.mark.parametrize("is_int8", [False, True])
def test_a_nanodet_box_is_the_mean_of_its_distances(make_bundle, is_int8):
    specs, raw = level_outputs([("cls", 3), ("dis", 32)])
    # Cell x 2, y 1 of the grid of stride 16 has its centre at 40, 24; the sides are 1, 0.5, 1.5 and 1 strides away.
    cell = 1 * 4 + 2
    raw[1][0, cell, 1] = 0.875
    bins = np.full((4, 8), -8.0, dtype=np.float32)
    bins[0, 1] = bins[3, 1] = 8
    bins[1, [0, 1]] = bins[2, [1, 2]] = 8
    raw[4][0, cell] = bins.ravel()
    if is_int8:
        classes, distances = as_int8(specs[:3], raw[:3], 1 / 128, -128), as_int8(specs[3:], raw[3:], 1 / 8, 0)
        specs, raw = classes[0] + distances[0], classes[1] + distances[1]
    task = make_detect(make_bundle(specs, "nanodet", labels=("a", "b", "c")), tuple(specs))
    (found,) = task.decode(tuple(raw), WHOLE).detections
    assert (found.label, found.score) == ("b", 0.875)
    expected = np.array([40 - 16, 24 - 8, 40 + 24, 24 + 16]) / SIZE
    assert found.box_xyxy == pytest.approx(expected, abs=1e-3)


def test_a_yunet_face_has_its_landmarks_in_the_source_picture(make_bundle):
    specs, raw = level_outputs([("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)])
    cell = 3 * 8 + 5  # x 5, y 3 of stride 8.
    raw[0][0, cell], raw[3][0, cell] = 0.81, 0.64
    raw[6][0, cell] = [0.5, 0.25, np.log(2), np.log(3)]
    raw[9][0, cell] = [-1, -1, 1, -1, 0, 0, -0.5, 1, 100, -100]
    # Weak in one factor: no face.
    raw[1][0, 0], raw[4][0, 0] = 1.0, 0.1
    task = make_detect(make_bundle(specs, "yunet", labels=("face",)), tuple(specs))
    letterboxed = Placement(0.0, 0.25, 1.0, 0.5)
    (face,) = task.decode(tuple(raw), letterboxed).detections
    assert face.score == pytest.approx(0.9 * 0.8, abs=1e-5)
    x, y = 5.5 * 8, 3.25 * 8
    corners = np.array([x - 8, y - 12, x + 8, y + 12]) / SIZE
    assert face.box_xyxy == pytest.approx(
        [corners[0], max(0, (corners[1] - 0.25) * 2), corners[2], (corners[3] - 0.25) * 2], abs=1e-6
    )
    assert face.keypoints[2][:2] == pytest.approx((40 / SIZE, (24 / SIZE - 0.25) * 2))
    assert face.keypoints[4][:2] == (1.0, 0.0), "clipped to the picture"


def test_yunet_outputs_of_any_size_are_told_apart_by_their_names(make_bundle):
    specs, raw = level_outputs([("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)])
    raw[2][0, 3], raw[5][0, 3] = 1.0, 1.0
    free = tuple(TensorSpec(spec.name, (-1, -1, spec.shape[2]), spec.dtype) for spec in specs)
    fixed_task, free_task = (
        make_detect(make_bundle(each, "yunet", labels=("face",)), tuple(each)) for each in (specs, free)
    )
    outcome = free_task.decode(tuple(raw), WHOLE)
    assert len(outcome.detections) == 1
    assert outcome == fixed_task.decode(tuple(raw), WHOLE)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_ultraface_box_is_taken_where_the_face_outweighs_the_background(make_bundle, order):
    specs = [TensorSpec(name, (1, 240, n), np.dtype(np.float32)) for name, n in (("scores", 2), ("boxes", 4))]
    scores, boxes = np.zeros((1, 240, 2), np.float32), np.zeros((1, 240, 4), np.float32)
    scores[0, :, 0] = 1
    scores[0, 7], boxes[0, 7] = (0.1, 0.9), (0.1, 0.2, 0.3, 0.6)
    specs, raw = [specs[index] for index in order], [(scores, boxes)[index] for index in order]
    task = make_detect(make_bundle(specs, "ultraface", labels=("face",)), tuple(specs))
    (face,) = task.decode(tuple(raw), WHOLE).detections
    assert face.score == pytest.approx(0.9)
    assert face.box_xyxy == pytest.approx((0.1, 0.2, 0.3, 0.6))
