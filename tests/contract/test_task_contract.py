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
from edgeinfer.tasks import TASKS
from edgeinfer.tasks.detect import DECODERS
from edgeinfer.tensor import Quantization, TensorSpec

SIZE = 64
# (task, decoder) -> output shapes for a picture of 64x64 and 3 classes.
SHAPES = {
    ("classify", "classify"): [(1, 3)],
    ("detect", "ssd"): [(1, 10, 4), (1, 10), (1, 10), (1,)],
    ("detect", "yolov5"): [(1, 252, 8)],
    ("detect", "yolov8"): [(1, 7, 84)],
    ("detect", "yolox"): [(1, 84, 8)],
}
FIELDS = {"classify": "classes", "detect": "detections"}
KNOWN = [("classify", "classify"), *(("detect", decoder) for decoder in DECODERS)]
KINDS = [*KNOWN, *((name, name) for name in TASKS.names() if name not in {task for task, _ in KNOWN})]


def make(task, decoder, specs, score_min=0.2, box_units="normalised"):
    image = ImageInput(0, SIZE, SIZE, 3, "nhwc", "rgb", (0.0,), (255.0,), False, "letterbox", 114)
    file = ModelFile(Path("made.tflite"), "tflite", "", 0, (), specs, {}, ("",) * len(specs), frozenset(), Metadata())
    decode = Decode(decoder, score_min, 0.5, 5, box_units, "probabilities")
    return TASKS.get(task)(Bundle("made", "0", file, task, image, decode, ("a", "b", "c"), {}), specs)


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


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    others = [name for name in Outcome.__struct_fields__ if name != FIELDS[task_name]]
    assert all(getattr(outcome, name) is None for name in others)
    found = getattr(outcome, FIELDS[task_name])
    assert isinstance(found, tuple)
    assert len(found) <= 5
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)
    for each in found:
        assert type(each.score) is float
        assert type(each.class_id) is int
        assert type(each.label) is str
        assert max(score_min - 1e-5, 0) <= each.score <= 1
        if task_name == "detect":
            x_min, y_min, x_max, y_max = each.box_xyxy
            assert 0 <= x_min < x_max <= 1
            assert 0 <= y_min < y_max <= 1
    assert task.decode(raw, where) == outcome, "the same numbers give the same outcome"


def test_outputs_that_do_not_fit_are_refused_with_what_was_found(kind):
    specs = (TensorSpec("strange", (1, 2, 3, 4, 5), np.dtype(np.float32)),)
    with pytest.raises(ModelError, match=r"1,2,3,4,5|1 outputs"):
        make(*kind, specs)
