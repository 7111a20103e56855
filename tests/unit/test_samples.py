"""Windows become input tensors: scaled by channel, laid out as the model wants, quantised with saturation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeinfer.bundle import WindowInput
from edgeinfer.errors import UsageError
from edgeinfer.frame import Window
from edgeinfer.samples import WindowFitter
from edgeinfer.tensor import Quantization, TensorSpec

FLOAT = np.dtype(np.float32)
FACTS = WindowInput(0, 10.0, 3, 3, ("a", "b"), (1.0, 10.0), (2.0, 5.0), "hold", 1.0)
VALUES = np.array([[1, 10], [3, 15], [5, 20]], np.float32)
SCALED = [[0, 0], [1, 1], [2, 2]]


def window_of(values, rate_hz=10.0):
    return Window(values, 0, 0, 0, "test:", rate_hz, ("a", "b"))


@pytest.mark.parametrize(
    ("shape", "wanted"), [((1, 3, 2), SCALED), ((1, 2, 3), np.transpose(SCALED)), ((1, 6), SCALED)]
)
def test_samples_are_scaled_by_channel_and_laid_out_as_the_tensor(shape, wanted):
    tensor = np.zeros(shape, np.float32)
    fitted = WindowFitter(TensorSpec("x", shape, FLOAT), FACTS).fit(window_of(VALUES), tensor)
    assert tensor.ravel().tolist() == np.ravel(wanted).tolist()
    assert fitted.tolist() == SCALED


def test_what_a_forecast_is_held_against_is_no_input():
    tensor = np.zeros((1, 2, 2), np.float32)
    fitted = WindowFitter(TensorSpec("x", (1, 2, 2), FLOAT), replace(FACTS, ahead=1)).fit(window_of(VALUES), tensor)
    assert tensor[0].tolist() == SCALED[:2]
    assert fitted.tolist() == SCALED


def test_what_is_too_large_for_the_tensor_saturates():
    tensor = np.zeros((1, 3, 2), np.int8)
    spec = TensorSpec("x", (1, 3, 2), np.dtype(np.int8), Quantization((0.5,), (-3,)))
    WindowFitter(spec, FACTS).fit(window_of(VALUES * np.float32(1e30)), tensor)
    assert tensor.ravel().tolist() == [127] * 6


@pytest.mark.parametrize("window", [window_of(VALUES[:2]), window_of(VALUES[:, :1]), window_of(VALUES, 11.0)])
def test_another_length_number_of_channels_or_rate_is_refused(window):
    with pytest.raises(UsageError, match=r"a window|samples of 1 channels"):
        WindowFitter(TensorSpec("x", (1, 3, 2), FLOAT), FACTS).fit(window, np.zeros((1, 3, 2), np.float32))
