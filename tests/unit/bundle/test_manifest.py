"""What `model.toml` and a label file say wrongly is one line of a bad model."""

from __future__ import annotations

import pytest

from edgeinfer.bundle.labels import read_labels
from edgeinfer.bundle.load import find_bundle
from edgeinfer.bundle.manifest import read_manifest
from edgeinfer.errors import ModelError

WHOLE = 'schema = "edgeinfer.model/1"\nname = "m"\nversion = "1"\n'
WEIGHTS = '[weights]\ntflite = "m.tflite"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE, "weights: is missing"),
        (WHOLE + "[weights]\n", "weights: names no file; give tflite or onnx"),
        (WHOLE + 'labels = "../x"\n' + WEIGHTS, "labels: must be the name of a file beside model.toml"),
        (WHOLE + 'labels = ".."\n' + WEIGHTS, "labels: must be the name of a file beside model.toml"),
        (WHOLE + '[weights]\ntflite = "/etc/x.tflite"\n', "weights.tflite: must be the name of a file"),
        (WHOLE + WEIGHTS + '[weigths]\nonnx = "x"\n', "weigths: unknown key; did you mean 'weights'?"),
        (WHOLE + WEIGHTS + '[sha256]\ntflite = "12"\n', "must be 64 hexadecimal digits"),
        (WHOLE + WEIGHTS + f'[sha256]\ntfite = "{"0" * 64}"\n', "sha256: did you mean 'tflite'?"),
        (WHOLE + WEIGHTS + "[input]\nstd = [0]\n", "input.std[0]: must be above 0"),
        (
            WHOLE + WEIGHTS + '[[golden]]\ninput = "x.gif"\n',
            "golden[0].input: must be the name of a .jpg, .png, .bmp, .npy",
        ),
        (WHOLE + WEIGHTS + '[[golden]]\ninput = "../x.png"\n', "golden[0].input: must be the name of a .jpg, .png"),
        (WHOLE + WEIGHTS + '[[golden]]\noutputs = "x.npz"\n', "golden[0].input: is missing"),
        (
            WHOLE + WEIGHTS + '[[golden]]\ninput = "x.png"\noutputs = "x.npy"\n',
            "golden[0].outputs: must be the name of a .npz file beside model.toml",
        ),
        (
            WHOLE + WEIGHTS + '[[golden]]\ninput = "x.png"\n[[golden]]\ninput = "y.png"\nweights = "onnx"\n',
            "golden[1].weights: this bundle has no weights as onnx",
        ),
        (WHOLE + WEIGHTS + '[[golden]]\ninput = "x.png"\n' * 9, "golden: must have at most 8 entries"),
        (WHOLE.replace("/1", "/2") + WEIGHTS, "schema: did you mean 'edgeinfer.model/1'?"),
        (WHOLE.replace('"m"', '"M"') + WEIGHTS, "name: must be of small letters"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_key(tmp_path, text, said):
    (tmp_path / "model.toml").write_text(text)
    with pytest.raises(ModelError) as refused:
        read_manifest(tmp_path)
    assert said in str(refused.value)
    assert "`" not in str(refused.value)


def test_labels_keep_their_line_numbers_whatever_they_hold(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat\r\na\u2028b\r\n\r\ndog\n\n".encode())
    assert read_labels(path) == ("cat", "a\u2028b", "", "dog")
    path.write_bytes(b"\n \n")
    with pytest.raises(ModelError, match="are empty"):
        read_labels(path)


@pytest.mark.parametrize("word", ["~nobody-here/m.tflite", "a" * 5000, "a\0b"])
def test_a_name_that_cannot_be_a_file_is_a_bad_model(word):
    with pytest.raises(ModelError) as refused:
        find_bundle(word)
    assert len(str(refused.value)) < 300
