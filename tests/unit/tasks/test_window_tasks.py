"""Anomalies and named values: what a window's outputs become."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeinfer.bundle.facts import NamedValue, WindowInput
from edgeinfer.errors import ModelError
from edgeinfer.result import Anomaly, Value
from edgeinfer.tasks import WINDOW_TASKS
from edgeinfer.tensor import Quantization, TensorSpec

FLOAT = np.dtype(np.float32)
WINDOW = WindowInput(0, 10.0, 4, 2, ("a", "b"), (0.0,), (1.0,), "hold", 1.0)


@pytest.fixture
def make_task(make_bundle):
    def make(task, decoder, specs, *, ahead=0, labels=(), **decode):
        bundle = make_bundle(specs, decoder, task=task, labels=labels)
        bundle = replace(
            bundle, image=None, window=replace(WINDOW, ahead=ahead), decode=replace(bundle.decode, **decode)
        )
        return WINDOW_TASKS.get(task)(bundle, tuple(specs))

    return make


def test_a_reconstruction_is_scored_by_its_mean_squared_error(make_task):
    task = make_task("anomaly", "reconstruction", [TensorSpec("out", (1, 8), FLOAT)], threshold=0.5)
    fitted = np.arange(8.0).reshape(4, 2)
    found = fitted.astype(np.float32).reshape(1, 8)
    assert task.decode((found,), fitted).anomaly == Anomaly(0.0, 0.5, False)
    found[0, 7] += 2
    assert task.decode((found,), fitted).anomaly == Anomaly(0.5, 0.5, True)


def test_a_forecast_is_held_against_the_end_of_the_window(make_task):
    quantised = Quantization((0.5,), (0,))
    spec = TensorSpec("out", (1, 2), np.dtype(np.int8), quantised)
    task = make_task("anomaly", "forecast", [spec], ahead=1, threshold=1.0)
    fitted = np.array([[9, 9], [9, 9], [9, 9], [1.0, 3.0]])
    assert task.decode((np.array([[2, 2]], np.int8),), fitted).anomaly == Anomaly(2.0, 1.0, True)
    with pytest.raises(ModelError, match="8 numbers to be held against 2"):
        task.decode((np.zeros((1, 8), np.int8),), fitted)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
def test_garbage_is_an_anomaly_that_json_can_hold(make_task, garbage):
    task = make_task("anomaly", "reconstruction", [TensorSpec("out", (1, 8), FLOAT)], threshold=0.5)
    anomaly = task.decode((np.full((1, 8), garbage, np.float32),), np.zeros((4, 2))).anomaly
    assert anomaly.is_anomaly
    assert np.isfinite(anomaly.score)


def test_values_have_names_units_and_their_own_scale(make_task):
    specs = [TensorSpec("one", (1, 2), FLOAT), TensorSpec("two", (1, 1), np.dtype(np.int8), Quantization((0.5,), (1,)))]
    named = (NamedValue("load", "%", 50.0, 10.0), NamedValue("lost"), NamedValue("wear"))
    task = make_task("vector", "values", specs, values=named)
    raw = (np.array([[1.5, np.nan]], np.float32), np.array([[5]], np.int8))
    assert task.decode(raw, np.zeros((4, 2))).values == (Value("load", 65.0, "%"), Value("wear", 2.0))


def test_names_and_numbers_that_differ_in_number_are_refused(make_task):
    with pytest.raises(ModelError, match="1 values for the 2 numbers"):
        make_task("vector", "values", [TensorSpec("one", (1, 2), FLOAT)], values=(NamedValue("load"),))


@pytest.mark.parametrize(("stored", "output_is", "score"), [(0.7, "probabilities", 0.7), (2.0, "logits", 0.8808)])
def test_the_only_thing_that_a_model_knows_is_there_or_not(make_task, stored, output_is, score):
    task = make_task(
        "audio", "classes", [TensorSpec("out", (1, 1), FLOAT)], labels=("speech",), score_min=0.5, output_is=output_is
    )
    (found,) = task.decode((np.full((1, 1), stored, np.float32),), np.zeros((4, 2))).classes
    assert (found.label, found.score) == ("speech", pytest.approx(score, abs=1e-4))
    for absent in (-1.0, np.nan):
        assert task.decode((np.full((1, 1), absent, np.float32),), np.zeros((4, 2))).classes == ()
