"""OpenVINO as a user types it: the results of other runtimes, under its own name, or a reason."""

from __future__ import annotations

import importlib.util

import pytest

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed: pip install 'edgeinfer[openvino]'"
)


@needs_openvino
@pytest.mark.parametrize("word", ["openvino:cpu", "openvino:auto"])
def test_a_float_detector_finds_what_onnx_runtime_finds(edgeinfer, test_data, word):
    def results(device):
        images = test_data / "labelled/coco128_half/images"
        model = test_data / "models/yolox_nano.onnx"
        ran = edgeinfer("run", "--model", model, "--source", images, "--frames", 12, "--device", device)
        assert ran.code == 0, ran.err
        return ran.results

    ours, theirs = results(word), results("onnx:cpu")
    # `auto` may find a GPU, and says so.
    assert all(result["device"].startswith("openvino:") for result in ours)
    if word == "openvino:cpu":
        assert {result["device"] for result in ours} == {word}
    assert sum(len(result["detections"]) for result in theirs) > 20
    for one, other in zip(ours, theirs, strict=True):
        assert [each["class_id"] for each in one["detections"]] == [each["class_id"] for each in other["detections"]]
        for box, reference in zip(one["detections"], other["detections"], strict=True):
            assert box["score"] == pytest.approx(reference["score"], abs=0.005)
            assert box["box_xyxy"] == pytest.approx(reference["box_xyxy"], abs=0.005)


@needs_openvino
def test_a_quantised_classifier_sees_what_litert_sees(edgeinfer, test_data):
    def classes(device):
        model = test_data / "models/mobilenet_v2_1.0_224_quant.tflite"
        picture = test_data / "media/image/parrot.jpg"
        ran = edgeinfer("run", "--model", model, "--source", picture, "--score-min", 0.1, "--device", device)
        assert ran.code == 0, ran.err
        return ran.results[0]["classes"]

    ours, theirs = classes("openvino:cpu"), classes("litert:cpu")
    assert ours[0]["label"] == theirs[0]["label"]
    assert ours[0]["score"] == pytest.approx(theirs[0]["score"], abs=0.05)


@needs_openvino
def test_a_model_that_it_cannot_run_is_the_models_fault(edgeinfer, test_data):
    model = test_data / "models/ssd_mobilenet_v1_coco.tflite"
    ran = edgeinfer("run", "--model", model, "--source", test_data / "media/image", "--device", "openvino:cpu")
    assert (ran.code, ran.out) == (3, "")
    (error,) = ran.errors
    assert "OpenVINO lacks TFLite_Detection_PostProcess; use litert:cpu" in error


@needs_openvino
def test_a_device_that_is_not_here_is_said(edgeinfer, test_data):
    from edgeinfer.runtimes.openvino import _new_core  # OpenVINO imported bare would report that it was.

    absent = next((each for each in ("NPU", "GPU") if each not in " ".join(_new_core().available_devices)), None)
    if absent is None:
        pytest.skip("this computer has every device")
    model = test_data / "models/mobilenet_v2_1.0_224_quant.tflite"
    word = f"openvino:{absent.lower()}"
    ran = edgeinfer("run", "--model", model, "--source", test_data / "media/image/parrot.jpg", "--device", word)
    assert (ran.code, ran.out) == (4, "")
    (error,) = ran.errors
    assert f"{word} is not here, OpenVINO finds openvino:cpu" in error
