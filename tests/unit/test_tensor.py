from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.tensor import Quantization, TensorSpec, dequantize, quantize, quantized_threshold

INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
FLOATS = ("float16", "float32")

scales = st.floats(1e-6, 1e6, allow_subnormal=False).map(lambda value: float(np.float32(value)))


def spec(dtype: str, scale: float | None = None, zero_point: int = 0, shape: tuple[int, ...] = (-1,)) -> TensorSpec:
    quantization = None if scale is None else Quantization((scale,), (zero_point,))
    return TensorSpec("x", shape, np.dtype(dtype), quantization)


@st.composite
def quantised(draw, dtypes=("uint8", "int8", "int16")):
    dtype = draw(st.sampled_from(dtypes))
    ends = np.iinfo(dtype)
    return spec(dtype, draw(scales), draw(st.integers(int(ends.min), int(ends.max))))


@given(quantised(), st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_quantize_rounds_and_saturates_as_exact_arithmetic_does(of, reals):
    stored = quantize(np.array(reals), of)
    assert stored.dtype == of.dtype
    ends = np.iinfo(of.dtype)
    for real, got in zip(reals, stored.tolist(), strict=True):
        if math.isinf(real):
            assert got == (ends.max if real > 0 else ends.min)
            continue
        exact = Fraction(real) / Fraction(of.quantization.scale[0]) + of.quantization.zero_point[0]
        nearest = min(max(exact, Fraction(int(ends.min))), Fraction(int(ends.max)))
        # A float64 quotient may fall on the other side of a tie.
        assert abs(got - nearest) <= Fraction(1, 2) + Fraction(1, 10**9)


@given(quantised(), st.data())
def test_what_is_inside_the_range_comes_back_within_half_a_step(of, data):
    assert of.quantization is not None
    (scale,), (zero_point,) = of.quantization.scale, of.quantization.zero_point
    ends = np.iinfo(of.dtype)
    low, high = (int(ends.min) - zero_point) * scale, (int(ends.max) - zero_point) * scale
    real = data.draw(st.floats(low, high))
    back = float(dequantize(quantize(np.array([real]), of), of.quantization)[0])
    assert abs(back - real) <= scale / 2 + 1e-6 * max(abs(real), scale)


@given(quantised(), st.data())
def test_every_stored_value_survives_the_way_there_and_back(of, data):
    ends = np.iinfo(of.dtype)
    stored = np.array(data.draw(st.lists(st.integers(int(ends.min), int(ends.max)), max_size=30)), dtype=of.dtype)
    np.testing.assert_array_equal(quantize(dequantize(stored, of.quantization), of), stored)


@given(quantised(), st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_more_is_never_less_after_quantising(of, real, more):
    lower, upper = quantize(np.array([real, real + more]), of).tolist()
    assert lower <= upper


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("scale", [None, 0.5])
def test_integers_saturate_and_never_wrap(dtype, scale):
    ends = np.iinfo(dtype)
    far = np.array(
        [1e30, -1e30, math.inf, -math.inf, float(ends.max) * 2, float(ends.max) + 1, float(ends.min) * 2 - 1]
    )
    stored = quantize(far, spec(dtype, scale))
    assert stored.tolist()[:5] == [ends.max, ends.min, ends.max, ends.min, ends.max]
    assert stored[5] == ends.max
    assert stored[6] == ends.min


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_without_quantisation_are_rounded_half_to_even(dtype):
    assert quantize(np.array([0.5, 1.5, 2.4, 2.6, 120.0]), spec(dtype)).tolist() == [0, 2, 2, 3, 120]


def test_one_and_a_bit_in_int8_is_not_minus_124():
    # scale 1/127: 1.02 is step 129.5, past the end.
    assert quantize(np.array([1.02]), spec("int8", 1 / 127)).tolist() == [127]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_nan_becomes_real_zero(dtype):
    assert quantize(np.array([math.nan]), spec(dtype)).tolist() == [0]
    assert quantize(np.array([math.nan]), spec(dtype, 0.5, 7)).tolist() == [7]


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_cast_and_saturate(dtype):
    ends = np.finfo(dtype)
    stored = quantize(np.array([0.5, -2.0, 1e300, -math.inf, math.nan]), spec(dtype))
    assert stored.dtype == dtype
    assert stored.tolist()[:4] == [0.5, -2.0, float(ends.max), float(ends.min)]
    assert math.isnan(stored[4])


def test_bool_is_true_from_one_half():
    stored = quantize(np.array([0.0, 0.49, 0.5, 1.0, math.nan, math.inf]), spec("bool"))
    assert stored.dtype == np.bool_
    assert stored.tolist() == [False, False, True, True, False, True]


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 2, 3)])
def test_shape_and_dtype_are_kept_both_ways(dtype, shape):
    stored = quantize(np.ones(shape), spec(dtype))
    assert isinstance(stored, np.ndarray)
    assert (stored.shape, stored.dtype) == (shape, np.dtype(dtype))
    real = dequantize(stored, None)
    assert isinstance(real, np.ndarray)
    assert (real.shape, real.dtype) == (shape, np.float32)
    assert (real == 1).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_channel_has_its_own_step(axis):
    shape = [2, 3, 4]
    count = shape[axis]
    scale = tuple(0.5 * 2**index for index in range(count))
    zero_point = tuple(range(count))
    of = TensorSpec("x", tuple(shape), np.dtype("int8"), Quantization(scale, zero_point, axis))
    real = np.random.default_rng(0).uniform(-50, 50, shape)
    stored = quantize(real, of)
    for index in range(count):
        alone = spec("int8", scale[index], zero_point[index])
        channel = np.take(stored, index, axis)
        np.testing.assert_array_equal(channel, quantize(np.take(real, index, axis), alone))
        np.testing.assert_array_equal(
            np.take(dequantize(stored, of.quantization), index, axis), dequantize(channel, alone.quantization)
        )


def test_the_given_array_is_left_alone():
    real = np.array([1.0, math.nan, 1e9])
    before = real.copy()
    quantize(real, spec("int8", 0.5))
    quantize(real, spec("float32"))
    np.testing.assert_array_equal(real, before)


def test_what_float32_cannot_hold_is_infinite_and_no_warning():
    large = Quantization((1e38,), (0,))
    assert dequantize(np.array([2**31 - 1], dtype=np.int32), large).tolist() == [math.inf]
    assert dequantize(np.array([1e300]), None).tolist() == [math.inf]
    assert quantize(np.array([1e308]), spec("int8", 1e-5)).tolist() == [127]


@given(quantised(("uint8", "int8")), st.floats(-10, 10))
def test_the_threshold_splits_stored_values_as_it_splits_real_ones(of, real):
    assert of.quantization is not None
    ends = np.iinfo(of.dtype)
    stored = np.arange(ends.min, ends.max + 1).astype(of.dtype)
    exact = (stored.astype(np.float64) - of.quantization.zero_point[0]) * of.quantization.scale[0]
    kept = stored >= quantized_threshold(real, of)
    slack = 2e-6 * of.quantization.scale[0]
    assert kept[exact >= real + slack].all()
    assert not kept[exact < real - slack].any()


def test_a_threshold_on_a_step_is_that_step():
    assert quantized_threshold(0.4, spec("uint8", 0.1)) == 4
    assert quantized_threshold(0.28, spec("uint8", 0.01)) == 28, "0.28 / 0.01 is a hair above 28"
    assert quantized_threshold(0.41, spec("uint8", 0.1)) == 5
    assert quantized_threshold(0.4, spec("int8", 0.1, -128)) == -124


def test_a_threshold_out_of_reach_stays_there():
    assert quantized_threshold(2.0, spec("uint8", 1 / 256)) == 512
    assert quantized_threshold(-1.0, spec("uint8", 1 / 256)) == -256


def test_a_threshold_without_quantisation_is_itself_and_per_channel_there_is_none():
    assert quantized_threshold(0.3, spec("float32")) == 0.3
    channels = TensorSpec("x", (2,), np.dtype("int8"), Quantization((1.0, 2.0), (0, 0), 0))
    with pytest.raises(ValueError, match="no single threshold"):
        quantized_threshold(0.3, channels)


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis"), [((), (), None), ((1.0,), (), None), ((1.0, 2.0), (0, 0), None)]
)
def test_quantisation_that_does_not_fit_together_is_refused(scale, zero_point, axis):
    with pytest.raises(ValueError, match=r"scales|axis"):
        Quantization(scale, zero_point, axis)


def test_a_spec_describes_itself():
    assert spec("float32", shape=(1, -1, 3)).describe() == "float32[1,?,3]"
    assert spec("int8", 1 / 255, -128, (1, 4)).describe() == "int8[1,4] scale 0.00392157 zero point -128"
    channels = TensorSpec("x", (2,), np.dtype("int8"), Quantization((1.0, 2.0), (0, 0), 0))
    assert channels.describe() == "int8[2] per-channel on axis 0"
    assert spec("bool", shape=(1, 2)).is_static
    assert not spec("bool", shape=(1, -1)).is_static
