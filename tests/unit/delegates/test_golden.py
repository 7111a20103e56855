"""The samples of a bundle: what they become, and what is refused with the key that names it."""

from __future__ import annotations

import contextlib
import io
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_models import tflite_model

from edgeinfer.bundle import Bundle, Overrides, load_bundle
from edgeinfer.bundle.load import find_bundle
from edgeinfer.delegates import golden, load_golden
from edgeinfer.delegates.trial import Candidate, trial_key
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Fitter
from edgeinfer.tensor import TensorSpec

HEIGHT, WIDTH = 4, 6
SHAPE = (1, HEIGHT, WIDTH, 3)
HEAD = """
schema = "edgeinfer.model/1"
name = "tiny"
version = "1"
task = "classify"
decoder = "classify"
[weights]
tflite = "tiny.tflite"
[input]
colour = "rgb"
mean = [0.0]
std = [255.0]
fit = "stretch"
[decode]
output_is = "logits"
"""

Write = Callable[..., Bundle]


@pytest.fixture
def bundle(tmp_path) -> Write:
    """A bundle of a model that gives back its input, with these samples."""

    def write(text: str, overrides: Overrides | None = None) -> Bundle:
        (tmp_path / "tiny.tflite").write_bytes(tflite_model("float32", SHAPE))
        (tmp_path / "model.toml").write_text(HEAD + text)
        return load_bundle(tmp_path, overrides)

    return write


@pytest.fixture
def picture(tmp_path) -> np.ndarray:
    pixels = np.random.default_rng(5).integers(0, 256, (9, 12, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), pixels)
    return pixels


def real(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32)


ONE = '[[golden]]\ninput = "{}"\n'


def test_a_picture_goes_in_as_every_frame_does(bundle, picture):
    tiny = bundle(ONE.format("x.png"))
    (sample,) = load_golden(tiny)
    tensor = np.zeros(SHAPE, dtype=np.float32)
    Fitter(tiny.file.inputs[0], tiny.image).fit(picture, tensor)
    np.testing.assert_array_equal(sample.inputs[0], tensor)
    assert (sample.name, sample.outputs) == ("golden[0]", None)


@pytest.mark.parametrize("name", ["x", "0", "arr_0"])
def test_tensors_are_found_by_name_or_number(bundle, tmp_path, name):
    np.savez(tmp_path / "x.npz", **{name: real()})
    np.savez(tmp_path / "y.npz", **{name.replace("x", "y"): real(1)})
    (sample,) = load_golden(bundle(ONE.format("x.npz") + 'outputs = "y.npz"\n'))
    np.testing.assert_array_equal(sample.inputs[0], real())
    np.testing.assert_array_equal(sample.outputs[0], real(1))


def test_a_single_array_is_the_single_input(bundle, tmp_path):
    np.save(tmp_path / "x.npy", real())
    (sample,) = load_golden(bundle(ONE.format("x.npy")))
    np.testing.assert_array_equal(sample.inputs[0], real())


def test_a_bundle_without_samples_has_none(bundle):
    assert load_golden(bundle("")) == ()


@pytest.mark.parametrize("change", ["input", "outputs", "none"])
def test_another_input_or_output_is_another_trial(bundle, tmp_path, change):
    tiny = bundle(ONE.format("x.npy") + 'outputs = "y.npz"\n')

    def key() -> object:
        return trial_key(tiny.file, Candidate("litert", "cpu"), load_golden(tiny))

    np.save(tmp_path / "x.npy", real(0))
    np.savez(tmp_path / "y.npz", real(1))
    before = key()
    np.save(tmp_path / "x.npy", real(2 if change == "input" else 0))
    np.savez(tmp_path / "y.npz", real(2 if change == "outputs" else 1))
    assert (key() == before) == (change == "none")
    assert key() != trial_key(tiny.file, Candidate("litert", "cpu"))


@pytest.mark.parametrize(
    ("overrides", "has_outputs"), [(Overrides(colour="bgr"), False), (Overrides(fit="crop"), False), (None, True)]
)
@pytest.mark.usefixtures("picture")
def test_outputs_do_not_hold_for_a_picture_that_a_flag_turns_into_another_input(
    bundle, tmp_path, overrides, has_outputs
):
    np.savez(tmp_path / "y.npz", real())
    (sample,) = load_golden(bundle(ONE.format("x.png") + 'outputs = "y.npz"\n', overrides))
    assert (sample.outputs is not None) == has_outputs


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


REFUSED = {
    "missing": (None, "x.npz cannot be read: No such file or directory"),
    "empty": (b"", "x.npz is no .npy or .npz file"),
    "text": (b"hello", "x.npz is no .npy or .npz file"),
    "pickle": (npy(np.array([{"a": 1}], dtype=object)), "x.npz cannot be read: Object arrays cannot be loaded"),
    "pickle inside": (zipped(x=npy(np.array([print]))), "x.npz cannot be read: Object arrays cannot be loaded"),
    "cut off": (zipped(x=npy(real()))[:-30], "x.npz cannot be read: "),
    "another shape": (
        zipped(x=npy(real()[:, 1:])),
        "x.npz holds float32[1,3,6,3] for input 'x', which is float32[1,4,6,3]",
    ),
    "another type": (zipped(x=npy(real().astype(np.float64))), "x.npz holds float64[1,4,6,3] for input 'x'"),
    "another name": (zipped(z=npy(real())), "x.npz holds no array 'x', nor '0', for input 0"),
    "one too many": (zipped(x=npy(real()), z=npy(real())), "x.npz holds 'z', which is no input of the model"),
    "a bomb": (zipped(x=bytes(70 << 20)), "x.npz holds 1 arrays of 73400320 bytes, at most 64 of 67108864 are"),
    "too many": (zipped(**{f"a{i}": b"" for i in range(65)}), "x.npz holds 65 arrays of 0 bytes"),
    "more than there is": (npy(real()).replace(b"(1, 4, 6, 3)", b"(9999999999,)"), "x.npz cannot be read: "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_one_line_with_its_key(bundle, tmp_path, what):
    content, said = REFUSED[what]
    if content is not None:
        (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ModelError) as refused:
        load_golden(bundle(ONE.format("x.npz")))
    assert str(refused.value).startswith(f"{tmp_path / 'model.toml'}: golden[0].input: {said}")
    assert len(str(refused.value).splitlines()) == 1


def test_the_key_is_that_of_the_file_and_the_sample(bundle, tmp_path):
    np.save(tmp_path / "x.npy", real())
    (tmp_path / "y.npz").write_bytes(b"")
    with pytest.raises(ModelError, match=r": golden\[1\]\.outputs: y\.npz is no "):
        load_golden(bundle(ONE.format("x.npy") + ONE.format("x.npy") + 'outputs = "y.npz"\n'))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"GIF89a", "not an image that is known here"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not an image"),
    ],
)
def test_what_is_no_picture_is_refused(bundle, tmp_path, content, said):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ModelError, match=rf"golden\[0\]\.input: x\.png cannot be read as an image: {said}"):
        load_golden(bundle(ONE.format("x.png")))


def test_a_picture_that_claims_to_be_huge_is_not_decoded(bundle, tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x20\0\0\0\x20\0")
    with pytest.raises(ModelError, match="has 8192x8192 pixels, at most 16 million are allowed"):
        load_golden(bundle(ONE.format("x.png")))


def test_a_file_is_read_to_a_limit(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "_MAX_BYTES", 100)
    np.save(tmp_path / "x.npy", real())
    with pytest.raises(ModelError, match=r"x\.npy is larger than 100 bytes"):
        load_golden(bundle(ONE.format("x.npy")))


def test_a_folder_is_no_sample(bundle, tmp_path):
    (tmp_path / "x.npy").mkdir()
    with pytest.raises(ModelError, match=r"x\.npy is not a regular file"):
        load_golden(bundle(ONE.format("x.npy")))


@pytest.mark.usefixtures("picture")
def test_a_picture_cannot_fill_two_inputs(bundle):
    tiny = bundle(ONE.format("x.png"))
    two = replace(tiny, file=replace(tiny.file, inputs=tiny.file.inputs * 2))
    with pytest.raises(ModelError, match=r"is a picture and fills one input, the model has 2: give an \.npz"):
        load_golden(two)


def test_damaged_files_are_refused_or_read_and_nothing_else(bundle, tmp_path):
    tiny = bundle(ONE.format("x.npz"))
    dice = random.Random(3)
    for whole in (zipped(x=npy(real())), npy(real())):
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(dice.choice((1, 3))):
                damaged[dice.randrange(min(len(damaged), 200))] = dice.randrange(256)
            (tmp_path / "x.npz").write_bytes(damaged)
            with contextlib.suppress(ModelError):
                (sample,) = load_golden(tiny)
                assert sample.inputs[0].shape == SHAPE


def test_outputs_of_a_free_size_may_have_any(bundle, tmp_path):
    tiny = bundle(ONE.format("x.npy") + 'outputs = "y.npz"\n')
    free = TensorSpec("y", (1, -1, WIDTH, 3), np.dtype("float32"))
    np.save(tmp_path / "x.npy", real())
    np.savez(tmp_path / "y.npz", y=real()[:, :2])
    (sample,) = load_golden(replace(tiny, file=replace(tiny.file, outputs=(free,))))
    assert sample.outputs[0].shape == (1, 2, WIDTH, 3)


@pytest.mark.parametrize("weights", ["tflite", "onnx"])
def test_the_bundled_detector_has_a_sample_for_each_of_its_weights(weights):
    (sample,) = load_golden(load_bundle("blood-cells", prefer=weights))
    assert (sample.outputs is not None) == (weights == "tflite")
    folder = Path(find_bundle("blood-cells"))
    assert sum(path.stat().st_size for path in folder.glob("smear.*")) < 100_000
