"""What tells a correct device from one that only looks like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.bundle.tflite import DETECTION_POSTPROCESS
from edgeinfer.delegates.proof import (
    CLOSEST_LIMIT,
    FLOAT_LIMIT,
    QUANTISED_LIMIT,
    Proof,
    compare,
    limit_by,
    made_up,
    made_up_input,
    nonsense,
    run_sample,
)
from edgeinfer.runtimes.fake import FakeRuntime
from edgeinfer.tensor import Quantization, TensorSpec, quantize

SPEC = TensorSpec("y", (1, 6, 8, 3), np.dtype("float32"))


@pytest.fixture
def file(tmp_path) -> ModelFile:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tflite_model())
    return read_model_file(path)


@pytest.fixture
def right() -> np.ndarray:
    """A plausible output: an uneven distribution with an offset."""
    return np.random.default_rng(1).gamma(2.0, 1.5, SPEC.shape).astype(np.float32) + 4


def judged(file: ModelFile, found: np.ndarray, expected: np.ndarray, spec: TensorSpec = SPEC) -> Proof:
    return compare(file, [(found,)], [(expected,)], (spec,))


def test_identical_outputs_pass(file, right):
    assert judged(file, right.copy(), right) == Proof(0.0, FLOAT_LIMIT)


def test_sixteen_bits_are_enough(file, right):
    proof = judged(file, right.astype(np.float16).astype(np.float32), right)
    assert proof.reason is None
    assert 0 < proof.error < FLOAT_LIMIT / 10


WRONG = {
    "transposed": lambda right: np.ascontiguousarray(right.transpose(0, 3, 1, 2)).reshape(right.shape),
    "channels swapped": lambda right: right[..., ::-1],
    "turned": lambda right: right[:, ::-1],
    "offset": lambda right: right + 1,
    "scaled": lambda right: right * 1.2,
    "zero": np.zeros_like,
    "constant": lambda right: np.full_like(right, right.mean()),
    "negative": lambda right: -right,
    "another sample": lambda right: np.roll(right, 7),
    "half of it": lambda right: np.where(np.arange(right.size).reshape(right.shape) % 2, right, 0),
}


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("is_quantised", [False, True])
def test_what_is_wrong_is_refused_with_the_figures(file, right, how, is_quantised):
    limit = QUANTISED_LIMIT if is_quantised else FLOAT_LIMIT
    if how == "scaled" and is_quantised:
        right = right - 4 * right.std()
    proof = judged(replace(file, is_quantised=is_quantised), WRONG[how](right), right)
    figures = f"is off by {proof.error:.2g} standard deviations, at most {limit:g} are allowed"
    if how == "scaled" and is_quantised:
        assert proof.reason is None, "a fifth is within what rounding adds up to"
        return
    assert proof.reason == f"output 'y' {figures}"
    assert proof.error > limit


def test_one_bad_sample_among_good_ones_is_enough(file, right):
    proof = compare(file, [(right,), (right + 9,)], [(right,), (right,)], (SPEC,))
    assert proof.reason is not None


def test_the_worst_of_several_outputs_is_named(file, right):
    specs = (SPEC, replace(SPEC, name="z"))
    proof = compare(file, [(right, right + 9)], [(right, right)], specs)
    assert str(proof.reason).startswith("output 'z' is off by")


def test_another_shape_is_refused(file, right):
    proof = judged(file, right[:, :3], right)
    assert proof.reason == "output 'y' came as [1, 3, 8, 3], not [1, 6, 8, 3]"
    assert proof.error == np.inf


def test_nan_where_the_reference_has_a_number_is_refused(file, right):
    right_but_one = right.copy()
    right_but_one[0, 0, 0, 0] = np.nan
    assert judged(file, right_but_one, right).error == np.inf


def test_where_the_reference_gives_no_number_nothing_is_compared(file, right):
    right[0, 0] = -np.inf
    assert judged(file, right.copy(), right) == Proof(0.0, FLOAT_LIMIT)
    assert judged(file, right + 1, right).reason is not None
    assert judged(file, np.ones_like(right), np.full_like(right, np.nan)) == Proof(0.0, FLOAT_LIMIT)


def test_an_output_without_elements_is_no_difference(file):
    nothing = np.zeros((1, 0, 8, 3), dtype=np.float32)
    assert judged(file, nothing, nothing.copy()) == Proof(0.0, FLOAT_LIMIT)


@pytest.mark.parametrize(("value", "passes"), [(0.0, True), (0.01, True), (0.5, False)])
def test_an_output_that_is_the_same_everywhere_is_measured_by_its_size(file, value, passes):
    ones = np.ones(SPEC.shape, dtype=np.float32)
    assert (judged(file, ones + value, ones).reason is None) == passes
    zeros = np.zeros(SPEC.shape, dtype=np.float32)
    assert (judged(file, zeros + value, zeros).reason is None) == passes


def test_quantised_numbers_are_compared_as_real_ones_and_their_rounding_is_allowed(file, right):
    spec = replace(SPEC, dtype=np.dtype("uint8"), quantization=Quantization((0.1,), (10,)))
    quantised = replace(file, is_quantised=True)
    expected = quantize(right, spec)
    assert judged(quantised, expected + np.uint8(2), expected, spec).reason is None
    assert judged(quantised, np.full_like(expected, 10), expected, spec).reason is not None
    # A wrapped int8 is wrong by whole ranges.
    wrapped = expected.copy()
    wrapped[wrapped > wrapped.mean()] += np.uint8(128)
    assert judged(quantised, wrapped, expected, spec).reason is not None


@pytest.mark.parametrize(("is_quantised", "limit"), [(False, FLOAT_LIMIT), (True, QUANTISED_LIMIT)])
def test_the_limit_depends_on_whether_the_model_is_quantised(file, right, is_quantised, limit):
    noise = np.random.default_rng(2).standard_normal(right.shape).astype(np.float32) * right.std()
    model = replace(file, is_quantised=is_quantised)
    assert judged(model, right + noise * limit * 0.8, right).reason is None
    assert judged(model, right + noise * limit * 1.25, right).reason is not None


# Detections that the model has ranked itself.


@pytest.fixture
def ranked(file) -> ModelFile:
    return replace(file, ops={DETECTION_POSTPROCESS: 1})


def detections() -> tuple[np.ndarray, ...]:
    dice = np.random.default_rng(4)
    scores = np.sort(dice.random((1, 10)).astype(np.float32))[:, ::-1]
    boxes = dice.random((1, 10, 4)).astype(np.float32)
    classes = dice.integers(0, 90, (1, 10)).astype(np.float32)
    return boxes, classes, scores, np.array([10], dtype=np.float32)


DETECTION_SPECS = tuple(
    TensorSpec(name, shape, np.dtype("float32"))
    for name, shape in (("boxes", (1, 10, 4)), ("classes", (1, 10)), ("scores", (1, 10)), ("count", (1,)))
)


def test_boxes_that_change_places_at_a_near_tie_are_no_fault(ranked):
    boxes, classes, scores, count = detections()
    order = [1, 0, *range(2, 10)]
    found = (boxes[:, order], classes[:, order], scores + np.float32(1e-3), count)
    proof = compare(ranked, [found], [(boxes, classes, scores, count)], DETECTION_SPECS)
    assert proof.reason is None


def test_other_scores_are_a_fault(ranked):
    boxes, classes, scores, count = detections()
    for wrong in (scores * 0, scores * np.float32(0.5), np.ones_like(scores)):
        proof = compare(ranked, [(boxes, classes, wrong, count)], [(boxes, classes, scores, count)], DETECTION_SPECS)
        assert str(proof.reason).startswith("output 'scores' is off by")


# Nonsense.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_nonsense(right, bad):
    assert nonsense((right,), (SPEC,)) is None
    right[0, :3] = bad
    assert nonsense((right,), (SPEC,)) == "output 'y' is 50% NaN or infinite"


def test_integers_are_never_nonsense():
    spec = replace(SPEC, dtype=np.dtype("int8"))
    assert nonsense((np.full(SPEC.shape, -128, dtype=np.int8),), (spec,)) is None


# The samples.

KINDS = ("float32", "float16", "uint8", "int8", "int16", "int32", "int64", "bool")


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(1, 32, 24, 3), (1, 3, 32, 24), (2, 4, 4, 1), (1, 10), (5,), (), (-1, 8, 8, 3)])
def test_samples_are_the_same_for_everyone_and_not_all_alike(dtype, shape):
    spec = TensorSpec("x", shape, np.dtype(dtype))
    for seed in (0, 1):
        made = made_up_input(spec, seed)
        assert made.dtype == spec.dtype
        assert made.shape == tuple(1 if size < 0 else size for size in shape)
        np.testing.assert_array_equal(made, made_up_input(spec, seed))
        if made.size >= 40:
            assert len(np.unique(made)) > 1
    if np.prod(made_up_input(spec, 0).shape) > 40:
        assert (made_up_input(spec, 0) != made_up_input(spec, 1)).any()


def test_bytes_use_their_whole_range_and_plain_integers_may_be_indices():
    picture = TensorSpec("x", (1, 64, 64, 3), np.dtype("uint8"))
    assert (made_up_input(picture, 0).min(), made_up_input(picture, 0).max()) == (0, 255)
    assert (made_up_input(replace(picture, dtype=np.dtype("int8")), 0).min()) == -128
    assert set(np.unique(made_up_input(TensorSpec("i", (1, 99), np.dtype("int32")), 0))) == {0, 1}


def test_the_soft_sample_is_smooth_along_the_picture_in_either_layout():
    rows = made_up_input(TensorSpec("x", (1, 64, 48, 3), np.dtype("float32")), 1)
    planes = made_up_input(TensorSpec("x", (1, 3, 64, 48), np.dtype("float32")), 1)
    assert abs(np.diff(rows, axis=1)).max() < 0.3
    np.testing.assert_array_equal(rows, planes.transpose(0, 2, 3, 1))


def test_each_sample_gives_outputs_of_its_own(file):
    runtime = FakeRuntime(file, outputs=lambda inputs: inputs)
    first, second = (run_sample(runtime, each) for each in made_up(runtime.inputs))
    np.testing.assert_array_equal(first[0], made_up_input(runtime.inputs[0], 0))
    np.testing.assert_array_equal(second[0], made_up_input(runtime.inputs[0], 1))


@pytest.mark.parametrize(("apart", "allowed"), [(0.0, CLOSEST_LIMIT), (0.1, 0.3), (0.4, QUANTISED_LIMIT)])
def test_a_device_may_lie_three_times_as_far_as_one_that_is_right(file, apart, allowed):
    assert limit_by(apart, replace(file, is_quantised=True)) == pytest.approx(allowed)
    assert limit_by(0.4, replace(file, is_quantised=False)) == FLOAT_LIMIT


def test_a_limit_that_is_given_holds(file, right):
    off = right + 0.2 * right.std()
    assert compare(replace(file, is_quantised=True), [(off,)], [(right,)], (SPEC,)).reason is None
    assert compare(replace(file, is_quantised=True), [(off,)], [(right,)], (SPEC,), 0.1).reason is not None
