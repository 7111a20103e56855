"""The package as a Python program uses it, three lines each."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import edgeinfer


@pytest.fixture(autouse=True)
def _state(monkeypatch, state):
    monkeypatch.setenv("EDGEINFER_STATE", str(state))


def test_load_a_model_and_call_it_on_a_picture(test_data):
    model = edgeinfer.load(test_data / "models/mobilenet_v1_0.5_160_quant.tflite")
    result = model(cv2.imread(str(test_data / "media/image/cat.bmp")))
    assert result.classes[0].label == "Egyptian cat"
    assert (model.device, len(model.labels)) == ("litert:cpu", 1001)
    model.close()


def test_iterate_over_the_results_of_a_source():
    seen = []
    for result in edgeinfer.run("blood-cells", "synthetic://blood-smear?frames=5"):
        seen.append(result)
    assert [result.seq for result in seen] == [0, 1, 2, 3, 4]
    assert {detection.label for detection in seen[0].detections} <= {"RBC", "WBC", "Platelets"}


def test_leaving_the_loop_closes_everything(tmp_path):
    out = tmp_path / "out.jsonl"
    for _ in edgeinfer.run("blood-cells", "synthetic://blood-smear", outputs=[out]):
        break
    assert out.read_text().endswith("}\n")


def test_every_option_of_the_command_line_is_taken(test_data):
    results = edgeinfer.run(
        test_data / "models/yolox_nano.onnx",
        test_data / "media/image/pets.jpg",
        device="onnx:cpu",
        labels=test_data / "labels/coco80.txt",
        score_min=0.5,
        threads=1,
        max_results=1,
    )
    (result,) = results
    assert result.device == "onnx:cpu"
    assert len(result.detections) == 1


def test_onnx_and_tflite_of_a_bundle_are_chosen_by_the_device():
    picture = np.full((480, 640, 3), 200, dtype=np.uint8)
    with edgeinfer.load("blood-cells", device="onnx:cpu") as onnx, edgeinfer.load("blood-cells") as tflite:
        assert (onnx(picture).device, tflite(picture).device) == ("onnx:cpu", "litert:cpu")
        assert onnx.bundle.file.sha256 != tflite.bundle.file.sha256


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"score_min": 2}, edgeinfer.UsageError, "score_min"),
        ({"scoremin": 0.5}, edgeinfer.UsageError, "did you mean 'score_min'"),
        ({"frames": 3}, edgeinfer.UsageError, "unknown option 'frames'"),
        ({"device": "npu"}, edgeinfer.DeviceNotFound, "npu"),
        ({"labels": "absent.txt"}, edgeinfer.ModelError, "absent.txt"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(words, error, said):
    with pytest.raises(error, match=said):
        edgeinfer.load("blood-cells", **words)


def test_an_unclear_model_is_loaded_once_it_is_told_what_is_missing(test_data):
    path = test_data / "models/conv_fc_mnist.tflite"
    with pytest.raises(edgeinfer.AmbiguousModel, match="--mean"):
        edgeinfer.load(path)
    with edgeinfer.load(path, mean=(0,), std=(255,)) as model:
        nine = cv2.imread(str(test_data / "media/image/mnist_nine.bmp"))
        assert model(nine).classes[0].class_id == 9


def test_an_error_of_the_source_comes_after_its_results():
    with pytest.raises(edgeinfer.SourceError, match=r"absent\.mp4"):
        list(edgeinfer.run("blood-cells", "absent.mp4"))
