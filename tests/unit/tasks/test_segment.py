"""Segments, against a reference that goes cell by cell."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edgeinfer.preprocess import WHOLE, Placement
from edgeinfer.result import RunLengths
from edgeinfer.tasks.segment import make_segment
from edgeinfer.tasks.segment.mask import RUNS_MAX, Raster, run_lengths
from edgeinfer.tensor import Quantization, TensorSpec, quantize

LABELS = ("background", "cat", "dog")


def with_masks(bundle):
    return dataclasses.replace(bundle, decode=dataclasses.replace(bundle.decode, masks=True))


def unpacked(mask):
    cells = [index % 2 == 1 for index, run in enumerate(mask.counts) for _ in range(run)]
    return np.array(cells).reshape(mask.height, mask.width)


def made_map():
    class_ids = np.zeros((32, 32), dtype=np.int64)
    class_ids[8:16, 4:12], class_ids[20:24, 20:30] = 1, 2
    return class_ids


def one_hot(dtype, is_planar):
    scores = np.eye(3, dtype=np.float32)[made_map()] * 4 - 2
    scores = scores.transpose(2, 0, 1) if is_planar else scores
    spec = TensorSpec(
        "out", (1, *scores.shape), np.dtype(dtype), None if dtype == "float32" else Quantization((0.1,), (3,))
    )
    return spec, quantize(scores, spec)[None]


@pytest.mark.parametrize("form", ["numbers", "float32", "int8", "planar"])
def test_areas_and_masks_are_those_of_the_map(make_bundle, form):
    if form == "numbers":
        raw = made_map()[None]
        spec = TensorSpec("out", raw.shape, raw.dtype)
    else:
        spec, raw = one_hot("float32" if form == "planar" else form, form == "planar")
    bundle = with_masks(make_bundle([spec], "deeplab", task="segment", labels=LABELS))
    cat, dog = make_segment(bundle, (spec,)).decode((raw,), WHOLE).segments
    assert (cat.label, cat.area, dog.label, dog.area) == ("cat", 64 / 1024, "dog", round(40 / 1024, 6))
    assert (unpacked(cat.mask) == (made_map() == 1)).all()
    assert (unpacked(dog.mask) == (made_map() == 2)).all()


def test_numbers_that_are_no_class_and_scores_that_are_none_belong_to_nothing(make_bundle):
    raw = np.full((1, 32, 32), -(2**60), dtype=np.int64)
    raw[0, 0] = 2**60
    spec = TensorSpec("out", raw.shape, raw.dtype)
    assert make_segment(make_bundle([spec], "deeplab", task="segment"), (spec,)).decode((raw,), WHOLE).segments == ()
    spec, scores = one_hot("float32", False)
    scores[0, 8:16, 4:12, 0] = np.nan
    (dog,) = make_segment(make_bundle([spec], "deeplab", labels=LABELS), (spec,)).decode((scores,), WHOLE).segments
    assert dog.label == "dog"


@pytest.mark.parametrize(
    ("where", "shape", "area"),
    [
        (Placement(0.0, 0.25, 1.0, 0.5), (16, 32), 32 * 8 / 512),  # letterboxed: the map's upper half is 8 rows of it
        (Placement(-0.5, 0.0, 2.0, 1.0), (32, 32), 0.25),  # cropped: the map shows the middle half of the picture
    ],
)
def test_an_area_is_a_share_of_the_source_picture(make_bundle, where, shape, area):
    raw = np.zeros((1, 32, 32), dtype=np.int64)
    raw[0, :16] = 1
    spec = TensorSpec("out", raw.shape, raw.dtype)
    bundle = with_masks(make_bundle([spec], "deeplab", task="segment", labels=LABELS))
    (cat,) = make_segment(bundle, (spec,)).decode((raw,), where).segments
    assert (cat.mask.height, cat.mask.width) == shape
    assert cat.area == pytest.approx(area)


def test_a_picture_that_sticks_out_a_thousandfold_has_no_larger_a_mask():
    raster = Raster(Placement(-999.5, 0.0, 2000.0, 1.0), 32, 16)
    assert (raster.width, raster.height) == (32, 16)


def test_runs_of_noise_are_not_written_out():
    noise = np.indices((200, 200)).sum(axis=0) % 2 == 1
    assert noise.size > RUNS_MAX
    assert run_lengths(noise) is None
    assert run_lengths(np.ones((2, 3), dtype=bool)) == RunLengths(3, 2, (0, 6))
    assert run_lengths(np.zeros((2, 3), dtype=bool)) == RunLengths(3, 2, (6,))


def reference_mask(coefficients, prototypes, box):
    """By the formula: the sigmoid of each cell is more than a half, within the box."""
    count, height, width = prototypes.shape
    mask = np.zeros((height, width), dtype=bool)
    for y in range(round(box[1] * height), round(box[3] * height)):
        for x in range(round(box[0] * width), round(box[2] * width)):
            weight = sum(float(coefficients[k]) * float(prototypes[k, y, x]) for k in range(count))
            mask[y, x] = 1 / (1 + math.exp(-weight)) > 0.5
    return mask


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("is_nhwc", [False, True])
def test_yolo_masks_are_those_of_the_reference(make_bundle, is_int8, is_nhwc):
    rng = np.random.default_rng(5)
    head = np.zeros((4 + 3 + 32, 84), dtype=np.float32)
    objects = {3: ((20, 20, 20, 16), 1, 0.875), 40: ((44, 40, 24, 30), 2, 0.75), 41: ((45, 41, 24, 30), 2, 0.5)}
    for cell, (box, class_id, score) in objects.items():
        head[:4, cell], head[4 + class_id, cell] = box, score
        head[7:, cell] = rng.integers(-8, 8, 32) / 8
    prototypes = (rng.integers(-20, 20, (32, 16, 16)) / 8).astype(np.float32)
    quantization = Quantization((1 / 8,), (5,)) if is_int8 else None
    dtype = np.dtype(np.int8 if is_int8 else np.float32)
    kept = prototypes.transpose(1, 2, 0) if is_nhwc else prototypes
    specs = (
        TensorSpec("head", (1, 39, 84), np.dtype(np.float32)),
        TensorSpec("protos", (1, *kept.shape), dtype, quantization),
    )
    raw = (head[None], quantize(kept, specs[1])[None])
    bundle = with_masks(make_bundle(specs, "yolov8-seg", task="segment", labels=LABELS, score_min=0.4))
    found = make_segment(bundle, specs).decode(raw, WHOLE).segments
    assert [(each.class_id, each.score) for each in found] == [(1, 0.875), (2, 0.75)], "the double is gone"
    for each, cell in zip(found, (3, 40), strict=True):
        x, y, width, height = objects[cell][0]
        box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) / 64
        assert each.box_xyxy == pytest.approx(box)
        expected = reference_mask(head[7:, cell], prototypes, box)
        assert (unpacked(each.mask) == expected).all()
        assert each.area == pytest.approx(expected.mean(), abs=1e-6)
