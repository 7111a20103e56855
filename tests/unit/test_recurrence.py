"""A model that remembers: what its outputs were is put into its inputs, and forgotten at a gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.bundle import Bundle, Decode, ImageInput, ModelFile, WindowInput
from edgeinfer.bundle.carried import recognise_carried
from edgeinfer.bundle.facts import Carried, Metadata
from edgeinfer.frame import Frame, Window
from edgeinfer.model import Identity, Model
from edgeinfer.runtimes.fake import FakeRuntime
from edgeinfer.tensor import Quantization, TensorSpec, dequantize

FLOAT, INT8 = np.dtype(np.float32), np.dtype(np.int8)


def make_file(inputs, outputs):
    return ModelFile(
        Path("made.tflite"), "tflite", "", 0, inputs, outputs, {}, ("",) * len(outputs), frozenset(), Metadata()
    )


def make_model(state_in, state_out):
    """The answer is the sum of a window, of the state and of a constant; it is the next state as well."""
    inputs = (state_in, TensorSpec("x", (1, 3), FLOAT), TensorSpec("offset", (), np.dtype(np.int64)))
    outputs = (TensorSpec("sum", (1, 1), FLOAT), state_out)
    file = make_file(inputs, outputs)

    def compute(seen):
        state = dequantize(seen[0], state_in.quantization).sum()
        total = seen[1].sum() + state + seen[2]
        scale, zero = (state_out.quantization.scale[0], state_out.quantization.zero_point[0])
        return np.full((1, 1), total, np.float32), np.full((1, 1), total / scale + zero, np.int8)

    window = WindowInput(1, 10.0, 3, 3, (), (0.0,), (1.0,), "hold", 1.0)
    decode = Decode("values", 0.0, 1.0, 5, "normalised", "probabilities")
    carried = Carried(((1, 0),), ((2, 1000.0),))
    bundle = Bundle("made", "0", file, "vector", None, decode, (), {}, window=window, carried=carried)
    runtime = FakeRuntime(file, outputs=compute)
    return Model(bundle, runtime, identity=Identity("node"))


def ask(model, seq, *, follows=True, filled=0.0):
    values = np.full((3, 1), 2.0, np.float32)
    return model.infer(Window(values, seq, 0, 0, "test:", 10.0, (), follows=follows, filled=filled))


def test_a_state_is_carried_over_between_scales_and_forgotten_at_a_gap():
    state_in = TensorSpec("h", (1, 1), INT8, Quantization((20.0,), (0,)))
    state_out = TensorSpec("hn", (1, 1), INT8, Quantization((10.0,), (-20,)))
    with make_model(state_in, state_out) as model:
        sums = [ask(model, seq, follows=seq != 2).values[0].value for seq in range(4)]
    # 1006 is 1010 in steps of 10, and 1000 or 1020 in steps of 20.
    assert sums[0] == sums[2] == 1006.0
    assert sums[1] == sums[3]
    assert sums[1] - 1006.0 in (1000.0, 1020.0)


def test_a_state_is_forgotten_where_a_live_window_was_dropped_on_its_way():
    state = TensorSpec("h", (1, 1), INT8, Quantization((20.0,), (0,)))
    with make_model(state, state) as model:
        sums = [ask(model, seq).values[0].value for seq in (0, 1, 3)]
    assert sums[0] == sums[2] == 1006.0
    assert sums[1] > sums[0]


def test_a_state_of_pictures_outlasts_dropped_ones_and_not_the_absence_of_their_source():
    """The answer is how many pictures the state has seen."""
    inputs = (TensorSpec("image", (1, 8, 8, 3), np.dtype(np.uint8)), TensorSpec("h", (1, 1), FLOAT))
    outputs = (TensorSpec("scores", (1, 2), FLOAT), TensorSpec("hn", (1, 1), FLOAT))
    file = make_file(inputs, outputs)

    def compute(seen):
        state = seen[1] + 1
        return np.array([[0.0, state[0, 0] / 100]], np.float32), state

    image = ImageInput(0, 8, 8, 3, "nhwc", "rgb", (0.0,), (1.0,), True, "stretch", 114)
    decode = Decode("classify", 0.0, 1.0, 5, "normalised", "probabilities")
    bundle = Bundle("made", "0", file, "classify", image, decode, (), {}, carried=Carried(((1, 1),)))
    pixels = np.zeros((8, 8, 3), np.uint8)
    # The first that was taken after the return, 8, is dropped as well as some before.
    taken = [(0, 0), (1, 0), (4, 0), (9, 1), (10, 1)]
    with Model(bundle, FakeRuntime(file, outputs=compute), identity=Identity("node")) as model:
        counts = [
            model.infer(Frame(pixels, seq, seq, 0, "test:", stretch=stretch)).classes[0].score * 100
            for seq, stretch in taken
        ]
    assert counts == pytest.approx([1, 2, 3, 1, 2])


def test_only_what_is_made_up_is_said_to_be_so():
    state = TensorSpec("h", (1, 1), INT8, Quantization((20.0,), (0,)))
    with make_model(state, state) as model:
        assert ask(model, 0).filled is None
        result = ask(model, 1, filled=0.25)
    assert result.filled == 0.25
    assert b'"filled":0.25' in result.to_json()
    assert (result.source.samples, result.source.rate_hz, result.source.width) == (3, 10.0, None)


def test_states_are_known_by_their_names():
    def spec(name, *shape):
        return TensorSpec(name, shape, FLOAT)

    inputs = (spec("in/x:0", 1, 4), spec("raw/init_lstm_c", 1, 8), spec("h_in", 1, 8), spec("state", 2, -1, 8))
    outputs = (spec("out/lstm_c", 1, 8), spec("y", 1, 2), spec("h_out", 1, 8), spec("stateN", -1, -1, -1))
    assert recognise_carried(make_file(inputs, outputs)).state == ((0, 1), (2, 2), (3, 3))
    # Another shape is another thing, and one input has to be asked something.
    assert recognise_carried(make_file((spec("h", 1, 8), spec("x", 1, 4)), (spec("hn", 1, 9),))).state == ()
    assert recognise_carried(make_file((spec("h", 1, 8),), (spec("h", 1, 8),))).state == ()
