"""What is said of channels fits the model's, and the line says how many it takes."""

from __future__ import annotations

import pytest
from tiny_models import onnx_model

from edgeinfer.bundle import Overrides, load_bundle
from edgeinfer.errors import ModelError, UsageError

WINDOW = """schema = "edgeinfer.model/1"
name = "made"
version = "1"
task = "vector"
decoder = "values"
[weights]
onnx = "made.onnx"
[window]
rate_hz = 10
"""


@pytest.mark.parametrize("given", [(127.5,), (1.0, 2.0, 3.0)])
def test_a_picture_has_one_mean_or_one_for_each_of_its_channels(given):
    assert load_bundle("blood-cells", Overrides(mean=given, std=given)).picture.mean == given


@pytest.mark.parametrize(("name", "given"), [("mean", (1.0, 2.0)), ("std", (1.0,) * 4)])
def test_what_is_typed_for_another_number_of_channels_is_refused(name, given):
    said = {"mean": (1.0,), "std": (1.0,), name: given}
    with pytest.raises(UsageError, match=rf"^{name} is given for {len(given)} channels, and .*tflite takes 3; .* or 3"):
        load_bundle("blood-cells", Overrides(**said))


@pytest.mark.parametrize("name", ["mean", "std", "units"])
@pytest.mark.parametrize(("shape", "takes"), [((1, 6, 5), "5; give 1 for all, or 5"), ((1, 6), "1; give 1")])
def test_what_model_toml_says_for_another_number_of_channels_is_refused(tmp_path, name, shape, takes):
    (tmp_path / "made.onnx").write_bytes(onnx_model(shape=shape))
    given = ["m", "s"] if name == "units" else [1.0, 2.0]
    (tmp_path / "model.toml").write_text(f"{WINDOW}{name} = {given}\n")
    with pytest.raises(ModelError) as refused:
        load_bundle(tmp_path, Overrides(mean=(1.0,), std=(1.0,)))
    assert f"window.{name} is given for 2 channels, and {tmp_path}/made.onnx takes {takes}" in str(refused.value)
