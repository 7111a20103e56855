"""What a file is judged to be, by shapes, operators and metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.facts import Metadata
from edgeinfer.bundle.recognise import conventions, image_input, recognise
from edgeinfer.errors import AmbiguousModel, ModelError
from edgeinfer.tensor import Quantization, TensorSpec

COCO_NAMES = str({index: f"class {index}" for index in range(80)})
ULTRALYTICS = {"task": "detect", "stride": "32", "names": COCO_NAMES, "imgsz": "[640, 640]"}
CELLS_640 = 80 * 80 + 40 * 40 + 20 * 20
CELLS_416 = 52 * 52 + 26 * 26 + 13 * 13


def tensor(name, shape, dtype="float32", scale=None, zero_point=0):
    quantization = None if scale is None else Quantization((scale,), (zero_point,))
    return TensorSpec(name, shape, np.dtype(dtype), quantization)


def model(inputs, outputs, *, ops=(), made_by="", labels=None, extra=None, colour=None, model_format="tflite"):
    inputs = [inputs] if isinstance(inputs, tuple) else inputs
    outputs = [outputs] if isinstance(outputs, tuple) else outputs
    specs = [
        [each if isinstance(each, TensorSpec) else tensor(f"{kind}{index}", each) for index, each in enumerate(given)]
        for kind, given in (("in", inputs), ("out", outputs))
    ]
    return ModelFile(
        path=Path("some.tflite"),
        format=model_format,
        sha256="",
        size_bytes=0,
        inputs=tuple(specs[0]),
        outputs=tuple(specs[1]),
        ops=dict.fromkeys([*ops, made_by] if made_by else ops, 1),
        output_ops=(made_by,) * len(specs[1]),
        custom_ops=frozenset(op for op in ops if "-" in op or op.startswith("TFLite_")),
        metadata=Metadata(labels=labels, extra=extra or {}, colour=colour),
    )


def verdict(file):
    found = recognise(file)
    return None if found is None else (found.task, found.decoder)


POSTPROCESS = "TFLite_Detection_PostProcess"

RECOGNISED = {
    "ssd, open shapes": (model((1, 300, 300, 3), [(), (), (), ()], ops=[POSTPROCESS], made_by=POSTPROCESS), "ssd"),
    "ssd for the Edge TPU": (
        model((1, 300, 300, 3), [(1, 20, 4), (1, 20), (1, 20), (1,)], ops=["edgetpu-custom-op", POSTPROCESS]),
        "ssd",
    ),
    "yolox": (model((1, 3, 416, 416), (1, CELLS_416, 85), ops=["Conv", "Sigmoid"], made_by="Transpose"), "yolox"),
    "yolox of 3 classes": (model((1, 416, 416, 3), (1, CELLS_416, 8), ops=["CONV_2D"], made_by="TRANSPOSE"), "yolox"),
    "yolox, by its labels": (model((1, 3, 416, 416), (1, CELLS_416, 8), labels=("a", "b", "c")), "yolox"),
    "yolox, not square": (model((1, 3, 416, 640), (1, 5460, 85), ops=["Conv"], made_by="Transpose"), "yolox"),
    "yolov5": (model((1, 3, 640, 640), (1, 3 * CELLS_640, 85)), "yolov5"),
    "yolov5, 1 class": (model((1, 640, 640, 3), (1, 3 * CELLS_640, 6)), "yolov5"),
    "yolov8": (model((1, 3, 640, 640), (1, 84, CELLS_640), ops=["Conv", "Softmax"], made_by="Concat"), "yolov8"),
    "yolov8, its metadata": (model((1, 3, 640, 640), (1, 84, CELLS_640), extra=ULTRALYTICS), "yolov8"),
    "yolov8, free batch": (model((-1, 3, 640, 640), (-1, 84, CELLS_640)), "yolov8"),
    "yolov8, size in the metadata": (model((1, 3, -1, -1), (1, 84, CELLS_640), extra=ULTRALYTICS), "yolov8"),
    "yolov8 of two strides": (model((1, 240, 320, 3), (1, 7, 1200 + 300)), "yolov8"),
    "yolov8 with stride 64": (model((1, 3, 1280, 1280), (1, 84, 34000)), "yolov8"),
    "yolov8 turned, 1 class": (model((1, 640, 640, 3), (1, CELLS_640, 5)), "yolov8"),
    "yolov8 turned, by its softmax": (
        model((1, 640, 640, 3), (1, CELLS_640, 84), ops=["SOFTMAX", "CONV_2D"]),
        "yolov8",
    ),
    "yolov8 turned, by its names": (model((1, 640, 640, 3), (1, CELLS_640, 84), extra=ULTRALYTICS), "yolov8"),
    "yolov8 in two": (model((1, 640, 640, 3), [(1, 4, CELLS_640), (1, 80, CELLS_640)]), "yolov8"),
    "yolov8 in two, turned": (model((1, 640, 640, 3), [(1, CELLS_640, 1), (1, CELLS_640, 4)]), "yolov8"),
    "classifier": (model((1, 224, 224, 3), (1, 1001), made_by="SOFTMAX"), "classify"),
    "classifier, planes first": (model((1, 3, 224, 224), (1, 1000), made_by="Gemm"), "classify"),
    "classifier, free batch": (model((-1, 32, 32, 3), (-1, 10), made_by="FULLY_CONNECTED"), "classify"),
    "classifier, sizes of one": (model((1, 96, 96, 3), (1, 1, 1, 2), made_by="SOFTMAX"), "classify"),
    "digits": (model((1, 28, 28, 1), (1, 10), made_by="SOFTMAX"), "classify"),
    "digits as rows of bytes": (
        model([tensor("in", (1, 28, 28), "uint8", 1 / 255)], (1, 10), made_by="SOFTMAX"),
        "classify",
    ),
}


@pytest.mark.parametrize(("file", "decoder"), RECOGNISED.values(), ids=RECOGNISED)
def test_recognised(file, decoder):
    assert verdict(file) == ("classify" if decoder == "classify" else "detect", decoder)


CELLS_320 = (1600, 400, 100)
ULTRALYTICS_SEG = {**ULTRALYTICS, "task": "segment"}
ULTRALYTICS_POSE = {**ULTRALYTICS, "task": "pose", "names": "{0: 'person'}", "kpt_shape": "[17, 3]"}
BY_LAYOUT = {
    "nanodet": (
        model((1, 3, 320, 320), [(1, cells, size) for size in (80, 32) for cells in CELLS_320]),
        ("detect", "nanodet"),
    ),
    "ultraface": (model((1, 3, 240, 320), [(1, 4420, 2), (1, 4420, 4)], made_by="Concat"), ("detect", "ultraface")),
    "yunet": (
        model((1, 3, 320, 320), [(1, cells, size) for size in (1, 1, 4, 10) for cells in CELLS_320]),
        ("detect", "yunet"),
    ),
    "yunet, any size": (
        model((-1, 3, -1, -1), [(-1, -1, size) for size in (1, 1, 4, 10) for _ in CELLS_320]),
        ("detect", "yunet"),
    ),
    "movenet": (model((1, 192, 192, 3), (1, 1, 17, 3), made_by="DEQUANTIZE"), ("pose", "movenet")),
    "yolov8-pose": (model((1, 3, 640, 640), (1, 56, CELLS_640), extra=ULTRALYTICS_POSE), ("pose", "yolov8-pose")),
    "yolov8-pose, of four points without scores": (
        model((1, 3, 640, 640), (1, CELLS_640, 13), extra={**ULTRALYTICS_POSE, "kpt_shape": "[4, 2]"}),
        ("pose", "yolov8-pose"),
    ),
    "deeplab": (
        model((1, 513, 513, 3), [tensor("mask", (1, 513, 513), "int64")], made_by="ARG_MAX"),
        ("segment", "deeplab"),
    ),
    "deeplab, scores": (model((1, 257, 257, 3), (1, 257, 257, 21)), ("segment", "deeplab")),
    "yolov8-seg": (
        model((1, 3, 640, 640), [(1, 116, CELLS_640), (1, 32, 160, 160)], extra=ULTRALYTICS_SEG),
        ("segment", "yolov8-seg"),
    ),
    "yolov8-seg, TFLite": (
        model((1, 640, 640, 3), [(1, 160, 160, 32), (1, CELLS_640, 116)], extra=ULTRALYTICS_SEG),
        ("segment", "yolov8-seg"),
    ),
}


@pytest.mark.parametrize(("file", "expected"), BY_LAYOUT.values(), ids=BY_LAYOUT)
def test_recognised_by_its_layout(file, expected):
    assert verdict(file) == expected


def test_what_fits_two_tasks_is_settled_by_the_task_that_is_said():
    file = model((1, 3, 640, 640), (1, 56, CELLS_640))
    assert recognise(file) is None
    assert recognise(file, task="pose").decoder == "yolov8-pose"
    assert recognise(file, task="detect").decoder == "yolov8"


def test_a_free_size_is_settled_for_a_model_whose_grids_follow_it():
    found = image_input(BY_LAYOUT["yunet, any size"][0])
    assert (found.width, found.height, found.layout) == (320, 320, "nchw")


UNCLEAR = {
    "one cell per row, nothing known": model((1, 640, 640, 3), (1, CELLS_640, 20)),
    "joined at the end, as a YOLOv6 is": model((1, 3, 640, 640), (1, CELLS_640, 85), ops=["Conv"], made_by="Concat"),
    "names of another number": model((1, 3, 640, 640), (1, 116, CELLS_640), extra=ULTRALYTICS),
    "a pose model": model((1, 3, 640, 640), (1, 56, CELLS_640)),
    "a pose model, said": model((1, 3, 640, 640), (1, 56, CELLS_640), extra={**ULTRALYTICS, "task": "pose"}),
    "turned boxes, said": model((1, 3, 640, 640), (1, 84, CELLS_640), extra={**ULTRALYTICS, "task": "obb"}),
    "segments, said to be boxes": model((1, 3, 640, 640), [(1, 116, CELLS_640), (1, 32, 160, 160)], extra=ULTRALYTICS),
    "without doubles already": model((1, 3, 640, 640), (1, 300, 6), extra=ULTRALYTICS),
    "a picture from a picture": model((1, 3, 64, 64), (1, 3, 64, 64), made_by="Conv"),
    "a map of real numbers": model((1, 513, 513, 3), (1, 513, 513), made_by="ARG_MAX"),
    "an embedding": model((1, 224, 224, 3), (1, 1280), made_by="MEAN"),
    "one number": model((1, 224, 224, 3), (1, 1), made_by="LOGISTIC"),
    "two outputs of another kind": model((1, 3, 240, 320), [(1, 4421, 2), (1, 4421, 4)]),
    "spectrogram": model((1, 49, 10, 1), (1, 12), made_by="SOFTMAX"),
    "spectrogram in bytes": model([tensor("in", (1, 40, 40, 1), "int8", 0.5847, 83)], (1, 12), made_by="SOFTMAX"),
    "a sequence": model((1, 28, 28), (1, 10), made_by="SOFTMAX"),
    "a waveform": model((15600,), (1, 521), made_by="LOGISTIC"),
    "features": model((1, 640), (1, 640), made_by="FULLY_CONNECTED"),
}


@pytest.mark.parametrize("file", UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_unclear_is_not_guessed(file):
    assert recognise(file) is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 240, 320, 3), (320, 240, 3, "nhwc")),
        ((1, 3, 240, 320), (320, 240, 3, "nchw")),
        ((-1, 28, 20, 1), (20, 28, 1, "nhwc")),
        ((1, 1, 28, 20), (20, 28, 1, "nchw")),
        ((1, 28, 20), (20, 28, 1, "nhwc")),
    ],
)
def test_the_image_input(shape, expected):
    found = image_input(model(shape, (1, 10)))
    assert (found.width, found.height, found.channels, found.layout) == expected


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ([], ModelError, "no input"),
        ((15600,), ModelError, r"takes no image.*float32\[15600\]"),
        ((1, 640), ModelError, "takes no image"),
        ((1, 30, 5, 40), ModelError, "takes no image"),
        ((8, 32, 32, 3), ModelError, "takes no image"),
        ((1, -1, -1, 3), ModelError, "no fixed size"),
        ((1, -1, 40), ModelError, "takes no image"),
        ((1, 3, 40, 3), AmbiguousModel, "nhwc or nchw.*--layout"),
        ([(1, 256, 256, 3), (1, 8, 8, 320)], ModelError, "takes 2 inputs: 'in1' besides the image"),
        ([(1, 8, 8, 320), (1, 256, 256, 3)], ModelError, "takes 2 inputs: 'in0' besides the image"),
        ([tensor("text", (1, 8, 8, 3), "bool")], ModelError, "takes no image"),
    ],
)
def test_inputs_that_cannot_take_a_picture_say_why(inputs, error, words):
    with pytest.raises(error, match=words):
        image_input(model(inputs, (1, 10)))


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "is_raw"),
    [
        ("uint8", None, 0, True),
        ("uint8", 1 / 255, 0, True),
        ("uint8", 1 / 256, 0, False),
        ("uint8", 1 / 128, 128, False),
        ("uint8", 2 / 255, 127, True),
        ("uint8", 1.0, 0, True),
        ("uint8", 1.0, 128, True),
        ("int8", 1 / 255, -128, True),
        ("int8", 2 / 255, -1, True),
        ("int8", 1 / 128, 0, False),
        ("int8", 1.0, -128, True),
        ("int8", 1.0, 0, True),
        ("int8", None, 0, None),
        ("int8", 0.5847, 83, None),
        ("int8", 0.0037, -128, None),
        ("uint8", 0.0187, 114, None),
        ("uint8", 0.39, 0, None),
        ("uint8", 1 / 255, 1, None),
        ("int16", 1 / 255, 0, None),
        ("float32", None, 0, None),
        ("float16", None, 0, None),
    ],
)
@pytest.mark.parametrize("decoder", ["classify", "ssd"])
def test_bytes_are_pixels_only_where_the_quantisation_is_that_of_pixels(decoder, dtype, scale, zero_point, is_raw):
    file = model([tensor("in", (1, 96, 96, 3), dtype, scale, zero_point)], (1, 10), made_by="SOFTMAX")
    convention = conventions(decoder, file)
    assert convention.raw_bytes is is_raw
    assert (convention.mean is None) == (convention.std is None) == (is_raw is None)
    if is_raw is not None and scale is not None:
        pixels = np.arange(256)
        stored = (pixels - convention.mean[0]) / convention.std[0] / scale + zero_point - np.iinfo(dtype).min
        # As bytes where that is the real number rounded; never far from it.
        assert np.abs(stored - pixels).max() <= (0.501 if is_raw else 1.1)
    fit = "crop" if decoder == "classify" else "stretch"
    assert (convention.colour, convention.fit, convention.box_units) == ("rgb", fit, "normalised")


def test_one_channel_is_gray():
    assert conventions("classify", model((1, 28, 28, 1), (1, 10))).colour == "gray"


def test_what_yolox_is_fed_with():
    found = conventions("yolox", model((1, 3, 416, 416), (1, CELLS_416, 85)))
    assert (found.colour, found.mean, found.std, found.raw_bytes) == ("bgr", (0.0,), (1.0,), False)
    assert (found.fit, found.pad) == ("letterbox", 114)


@pytest.mark.parametrize("decoder", ["yolov5", "yolov8"])
@pytest.mark.parametrize(("model_format", "units"), [("onnx", "pixels"), ("tflite", "normalised")])
def test_what_ultralytics_models_are_fed_with(decoder, model_format, units):
    found = conventions(decoder, model((1, 3, 640, 640), (1, 84, CELLS_640), model_format=model_format))
    assert (found.colour, found.mean, found.std, found.raw_bytes) == ("rgb", (0.0,), (255.0,), False)
    assert (found.fit, found.pad, found.box_units) == ("letterbox", 114, units)


@pytest.mark.parametrize("model_format", ["onnx", "tflite"])
@pytest.mark.parametrize(("scale", "units"), [(0.0044, "normalised"), (2.6, "pixels")])
def test_quantised_boxes_tell_their_units(model_format, scale, units):
    head = tensor("head", (1, 84, CELLS_640), "int8", scale, -128)
    found = conventions("yolov8", model((1, 640, 640, 3), [head], model_format=model_format))
    assert found.box_units == units


@pytest.mark.parametrize(
    ("made_by", "ops", "scale", "expected"),
    [
        ("SOFTMAX", [], None, "probabilities"),
        ("Sigmoid", [], None, "probabilities"),
        ("FULLY_CONNECTED", [], None, "logits"),
        ("Add", ["Softmax"], None, "logits"),
        ("FULLY_CONNECTED", [], 1 / 256, "probabilities"),
        ("QUANTIZE", [], 0.2, "logits"),
        ("DEQUANTIZE", ["SOFTMAX"], None, "probabilities"),
        ("DEQUANTIZE", ["LOGISTIC"], None, None),
        ("edgetpu-custom-op", [], 1 / 256, "probabilities"),
        ("edgetpu-custom-op", [], 0.2, None),
        ("MEAN", [], None, None),
        ("", [], None, None),
    ],
)
def test_what_a_classifier_gives(made_by, ops, scale, expected):
    output = tensor("out", (1, 10), "uint8" if scale else "float32", scale)
    file = model((1, 96, 96, 3), [output], ops=ops, made_by=made_by)
    assert conventions("classify", file).output_is == expected


def test_a_shape_that_fits_both_layouts_is_settled_by_who_says_it():
    file = model([tensor("in", (1, 3, 224, 3), "uint8", 1 / 255, 0)], (1, 10), made_by="SOFTMAX")
    with pytest.raises(AmbiguousModel, match="nhwc or nchw"):
        image_input(file)
    assert (image_input(file, "nhwc").height, image_input(file, "nchw").height) == (3, 224)
    assert recognise(file, "nchw").task == "classify"
    with pytest.raises(ModelError, match="cannot be nchw"):
        image_input(model([tensor("in", (1, 96, 96, 3), "uint8", 1 / 255, 0)], (1, 10)), "nchw")
