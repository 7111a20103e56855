"""What every task must hold to, for every registered name and every decoder of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeinfer.bundle import Bundle, Decode, ImageInput, ModelFile
from edgeinfer.bundle.facts import Metadata
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import WHOLE, Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks import TASKS, detect, pose, segment
from edgeinfer.tensor import Quantization, TensorSpec

SIZE = 64
# (task, decoder) -> output shapes for a picture of 64x64 and 3 classes.
SHAPES = {
    ("classify", "classify"): [(1, 3)],
    ("detect", "ssd"): [(1, 10, 4), (1, 10), (1, 10), (1,)],
    ("detect", "yolov5"): [(1, 252, 8)],
    ("detect", "yolov8"): [(1, 7, 84)],
    ("detect", "yolox"): [(1, 84, 8)],
    ("detect", "nanodet"): [(1, cells, size) for size in (3, 32) for cells in (64, 16, 4)],
    ("detect", "ultraface"): [(1, 240, 2), (1, 240, 4)],
    ("detect", "yunet"): [(1, cells, size) for size in (1, 1, 4, 10) for cells in (64, 16, 4)],
    ("pose", "movenet"): [(1, 1, 17, 3)],
    ("pose", "yolov8-pose"): [(1, 4 + 3 + 51, 84)],
    ("segment", "deeplab"): [(1, 32, 32, 3)],
    ("segment", "yolov8-seg"): [(1, 4 + 3 + 32, 84), (1, 32, 16, 16)],
}
FIELDS = {
    "classify": "classes",
    "detect": "detections",
    ("pose", "movenet"): "keypoints",
    "pose": "detections",
    "segment": "segments",
}
LABELS = {"ultraface": ("face",), "yunet": ("face",)}
KNOWN = [
    ("classify", "classify"),
    *(("detect", decoder) for decoder in detect.DECODERS),
    *(("pose", decoder) for decoder in pose.DECODERS),
    *(("segment", decoder) for decoder in segment.DECODERS),
]
KINDS = [*KNOWN, *((name, name) for name in TASKS.names() if name not in {task for task, _ in KNOWN})]


def make(task, decoder, specs, score_min=0.2, box_units="normalised"):
    image = ImageInput(0, SIZE, SIZE, 3, "nhwc", "rgb", (0.0,), (255.0,), False, "letterbox", 114)
    file = ModelFile(Path("made.tflite"), "tflite", "", 0, (), specs, {}, ("",) * len(specs), frozenset(), Metadata())
    decode = Decode(decoder, score_min, 0.5, 5, box_units, "probabilities", masks=True)
    labels = LABELS.get(decoder, ("a", "b", "c"))
    return TASKS.get(task)(Bundle("made", "0", file, task, image, decode, labels, {}), specs)


@pytest.fixture(params=KINDS, ids="/".join)
def kind(request):
    if request.param not in SHAPES:
        pytest.skip(f"what the task {request.param[0]!r} takes is not known here")
    return request.param


def random_outputs(kind, dtype, seed):
    """Specs and arrays of noise, NaN and infinities included where the dtype has them."""
    rng = np.random.default_rng(seed)
    specs, raw = [], []
    for index, shape in enumerate(SHAPES[kind]):
        if np.dtype(dtype).kind == "f":
            quantization = None
            array = rng.normal(0.4, 0.6, shape).astype(dtype)
            strange = rng.random(shape)
            array[strange < 0.02] = np.nan
            array[strange > 0.98] = np.inf
        else:
            ends = np.iinfo(dtype)
            quantization = Quantization((1 / 200,), (int(ends.min),))
            array = rng.integers(ends.min, ends.max, shape, endpoint=True).astype(dtype)
        specs.append(TensorSpec(f"out{index}", shape, np.dtype(dtype), quantization))
        raw.append(array)
    return tuple(specs), tuple(raw)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float32, np.float16, np.int8, np.uint8]),
    score_min=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    units=st.sampled_from(["pixels", "normalised"]),
    where=st.sampled_from([WHOLE, Placement(0.0, 0.25, 1.0, 0.5)]),
)
def test_any_numbers_give_a_sound_outcome(kind, seed, dtype, score_min, units, where):
    task_name, _ = kind
    specs, raw = random_outputs(kind, dtype, seed)
    task = make(*kind, specs, score_min, units)
    for array in raw:
        array.flags.writeable = False  # What a runtime lends is not ours to write.
    outcome = task.decode(raw, where)
    field = FIELDS.get(kind, FIELDS[task_name])
    assert all(getattr(outcome, name) is None for name in Outcome.__struct_fields__ if name != field)
    found = getattr(outcome, field)
    assert isinstance(found, tuple)
    assert task.decode(raw, where) == outcome, "the same numbers give the same outcome"
    if field == "keypoints":
        assert len(found) in (0, 17)
        check_keypoints(found)
        return
    assert len(found) <= 5
    if kind == ("segment", "deeplab"):
        areas = [each.area for each in found]
        assert areas == sorted(areas, reverse=True)
        assert all(0 < area <= 1 for area in areas)
        assert sum(areas) <= 1 + 1e-5
        check_masks(found)
        return
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)
    for each in found:
        assert type(each.score) is float
        assert type(each.class_id) is int
        assert type(each.label) is str
        assert max(score_min - 1e-5, 0) <= each.score <= 1
        if task_name != "classify":
            x_min, y_min, x_max, y_max = each.box_xyxy
            assert 0 <= x_min < x_max <= 1
            assert 0 <= y_min < y_max <= 1
        if task_name == "pose":
            check_keypoints(each.keypoints)
    if task_name == "segment":
        check_masks(found)


def check_keypoints(keypoints):
    assert all(type(number) is float and 0 <= number <= 1 for keypoint in keypoints for number in keypoint)


def check_masks(segments):
    """A mask covers the whole picture, and its runs inside are the area."""
    for each in segments:
        cells = each.mask.width * each.mask.height
        assert sum(each.mask.counts) == cells
        assert all(run > 0 for run in each.mask.counts[1:])
        assert sum(each.mask.counts[1::2]) / cells == pytest.approx(each.area, abs=1e-6)


def test_outputs_that_do_not_fit_are_refused_with_what_was_found(kind):
    specs = (TensorSpec("strange", (1, 2, 3, 4, 5), np.dtype(np.float32)),)
    with pytest.raises(ModelError, match=r"1,2,3,4,5|1 outputs"):
        make(*kind, specs)
