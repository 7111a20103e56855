"""What a weights file is, judged by its tensors, operators and metadata alone: pure rules, nothing is opened."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgeinfer.bundle.carried import recognise_carried
from edgeinfer.bundle.facts import BoxUnits, Carried, Colour, Fit, Layout, ModelFile
from edgeinfer.bundle.layouts import layout_fits
from edgeinfer.bundle.tflite import DETECTION_POSTPROCESS
from edgeinfer.errors import AmbiguousModel, ModelError
from edgeinfer.tensor import TensorSpec

# What a model of a task may be decoded by.
DECODERS = {
    "anomaly": ("forecast", "reconstruction"),
    "audio": ("classes",),
    "classify": ("classify",),
    "detect": ("nanodet", "ssd", "ultraface", "yolov5", "yolov8", "yolox", "yunet"),
    "pose": ("movenet", "yolov8-pose"),
    "segment": ("deeplab", "yolov8-seg"),
    "vector": ("classes", "values"),
}

# Cells of a head come from these strides; the first is what nearly every YOLO has.
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (8, 16), (16, 32))
_ANCHORS_PER_CELL = 3
_SOFTMAX = frozenset({"SOFTMAX", "Softmax"})
_SIGMOID = frozenset({"LOGISTIC", "Sigmoid"})
_LINEAR = frozenset({"FULLY_CONNECTED", "CONV_2D", "ADD", "Gemm", "MatMul", "Add", "Conv", "QLinearMatMul", "QGemm"})
_PASSES_THROUGH = frozenset(
    {"RESHAPE", "SQUEEZE", "QUANTIZE", "DEQUANTIZE", "CAST", "Reshape", "Squeeze", "Flatten", "Cast", "Identity"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
_JOINS = frozenset({"CONCATENATION", "Concat", "ScatterND", "SCATTER_ND"})
_WIDEST_GRAY = 2.0
# What a model whose sides are free is given where nobody says more: the size that YuNet is published with.
_FREE_SIZE = (320, 320)


@dataclass(frozen=True, slots=True)
class Recognised:
    """The task and decoder that fit a file; `why` is for a person."""

    task: str
    decoder: str
    why: str


@dataclass(frozen=True, slots=True)
class Convention:
    """What the layout of a model implies where nobody says otherwise; None where it implies nothing.

    pad: grey level around a letterboxed picture. labels: the names of its classes. score_min: where the usual one
    would let through what it does not mean. The rest is as in `ImageInput` and `Decode`.
    """

    colour: Colour | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    raw_bytes: bool | None
    fit: Fit | None
    box_units: BoxUnits | None
    output_is: Literal["probabilities", "logits"] | None
    why: str
    pad: int = 114
    labels: tuple[str, ...] | None = None
    score_min: float | None = None


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Which input takes the picture, and in what form."""

    index: int
    width: int
    height: int
    channels: int
    layout: Layout


def image_input(file: ModelFile, layout: Layout | None = None, carried: Carried | None = None) -> ImagePlace:
    """The one image input; `layout` where somebody says it, `carried` where other inputs are filled by themselves.

    Raises ModelError where there is none or more is wanted, AmbiguousModel where it is unclear.
    """
    if not file.inputs:
        raise ModelError(f"{file.path.name} has no input")
    carried = recognise_carried(file) if carried is None else carried
    filled = {fed for _, fed in carried.state} | {fed for fed, _ in carried.constants}
    readings = [
        [] if index in filled else _readings(spec, _stated_size(file)) for index, spec in enumerate(file.inputs)
    ]
    images = [index for index, found in enumerate(readings) if found]
    if not images:
        inputs = ", ".join(f"{spec.name!r} {spec.describe()}" for spec in file.inputs)
        raise ModelError(f"{file.path.name} takes no image: its input is {inputs}")
    if len(file.inputs) > len(filled) + 1:
        others = ", ".join(
            repr(spec.name) for index, spec in enumerate(file.inputs) if index != images[0] and index not in filled
        )
        raise ModelError(
            f"{file.path.name} takes {len(file.inputs)} inputs: {others} besides the image",
            hint="name them under [state] or [constants] in a model.toml",
        )
    spec = file.inputs[images[0]]
    places = [replace(place, index=images[0]) for place in readings[images[0]] if layout in (None, place.layout)]
    if not places:
        raise ModelError(f"input {spec.name!r} {spec.describe()} of {file.path.name} cannot be {layout}")
    if len(places) > 1:
        raise AmbiguousModel(
            f"input {spec.name!r} {spec.describe()} of {file.path.name} may be nhwc or nchw",
            hint="give --layout nhwc or nchw",
        )
    place = places[0]
    if place.width < 1 and place.height < 1 and _takes_any_size(file):
        place = replace(place, width=_FREE_SIZE[0], height=_FREE_SIZE[1])
    if place.width < 1 or place.height < 1:
        raise ModelError(
            f"input {spec.name!r} {spec.describe()} of {file.path.name} has no fixed size",
            hint="export the model with a fixed height and width",
        )
    return place


def recognise(
    file: ModelFile, layout: Layout | None = None, carried: Carried | None = None, *, task: str | None = None
) -> Recognised | None:
    """What the model is, among what has that task where it is said; None where nothing fits, or more than one thing
    does."""
    try:
        image = image_input(file, layout, carried)
    except ModelError:
        return None
    stated = task or file.metadata.extra.get("task")
    if DETECTION_POSTPROCESS in file.ops or DETECTION_POSTPROCESS in file.custom_ops:
        fits = [Recognised("detect", "ssd", f"the operator {DETECTION_POSTPROCESS}")]
    else:
        fits = [*_yolo_fits(file, image), *_classify_fits(file, image), *_layout_fits(file, image)]
    if stated is not None:
        fits = [fit for fit in fits if fit.task == stated]
    return fits[0] if len(fits) == 1 else None


def conventions(
    decoder: str, file: ModelFile, layout: Layout | None = None, carried: Carried | None = None
) -> Convention:
    """What a model of this decoder is fed with and gives, by custom. Raises what `image_input` raises."""
    image = image_input(file, layout, carried)
    spec = file.inputs[image.index]
    gray: Colour | None = "gray" if image.channels == 1 else None
    if decoder == "yolox":
        mean, std, raw_bytes = _range_of(spec, ((0.0,), (1.0,)))
        why = "YOLOX takes blue-green-red pixels as they are, letterboxed"
        return Convention(gray or "bgr", mean, std, raw_bytes, "letterbox", "pixels", "probabilities", why)
    if decoder in ("yolov5", "yolov8", "yolov8-pose", "yolov8-seg"):
        mean, std, raw_bytes = _range_of(spec, ((0.0,), (255.0,)))
        units, units_why = _box_units(file)
        why = f"Ultralytics models take red-green-blue in 0..1, letterboxed; {units_why}"
        return Convention(gray or "rgb", mean, std, raw_bytes, "letterbox", units, "probabilities", why)
    if decoder in _FED:
        fed = _FED[decoder]
        mean, std, raw_bytes = _range_of(spec, (fed.mean, fed.std))
        # Steps of 1/128 around 128 are (byte - 128) / 128: the byte itself is what is stored.
        raw_bytes = raw_bytes if decoder != "deeplab" or _pixel_range(spec) is None else True
        return Convention(
            gray or fed.colour,
            mean,
            std,
            raw_bytes,
            fed.fit,
            "pixels",
            "probabilities",
            fed.why,
            fed.pad,
            fed.labels,
            fed.score_min,
        )
    mean, std, raw_bytes = _range_of(spec, None)
    if mean is None:
        why = f"input {spec.describe()} does not tell its range of pixels"
    else:
        why = f"input {spec.describe()} is quantised as pixels are"
    output_is = output_kind(file) if decoder == "classify" else "probabilities"
    # A classifier is trained and judged on the undistorted centre, an SSD on the whole picture.
    fit: Fit = "crop" if decoder == "classify" else "stretch"
    return Convention(gray or "rgb", mean, std, raw_bytes, fit, "normalised", output_is, why)


@dataclass(frozen=True, slots=True)
class _Fed:
    """How a published model of a decoder is fed, and what it looks for."""

    colour: Colour
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit
    why: str
    pad: int = 114
    labels: tuple[str, ...] | None = None
    score_min: float | None = None


_FACE = ("face",)
_FED = {
    "nanodet": _Fed(
        "bgr",
        (103.53, 116.28, 123.675),
        (57.375, 57.12, 58.395),
        "letterbox",
        "NanoDet takes blue-green-red pixels in standard deviations of ImageNet, letterboxed",
    ),
    "ultraface": _Fed(
        "rgb",
        (127.0,),
        (128.0,),
        "stretch",
        "UltraFace takes red-green-blue in -1..1, stretched",
        labels=_FACE,
        score_min=0.6,
    ),
    "yunet": _Fed(
        "bgr",
        (0.0,),
        (1.0,),
        "letterbox",
        "YuNet takes blue-green-red pixels as they are, letterboxed",
        pad=0,
        labels=_FACE,
        score_min=0.6,
    ),
    "movenet": _Fed(
        "rgb",
        (0.0,),
        (1.0,),
        "letterbox",
        "MoveNet takes red-green-blue pixels as they are, letterboxed",
        pad=0,
        labels=(),
    ),
    "deeplab": _Fed("rgb", (127.5,), (127.5,), "stretch", "DeepLab takes red-green-blue in -1..1, stretched"),
}


def cells_of(width: int, height: int, strides: tuple[int, ...]) -> int:
    """How many cells the grids of these strides have; 0 where a stride does not divide the picture."""
    if any(width % stride or height % stride for stride in strides):
        return 0
    return sum((width // stride) * (height // stride) for stride in strides)


def _readings(spec: TensorSpec, stated_size: tuple[int, int] | None) -> list[ImagePlace]:
    """The ways to see an image in a tensor: mostly one, none for a waveform or a state. -1: a free side."""
    shape = spec.shape
    if len(shape) not in (3, 4) or shape[0] not in (1, -1) or spec.dtype.kind not in "uif":
        return []
    if len(shape) == 3:
        # A free length is that of a sequence.
        return [] if -1 in shape[1:] else [ImagePlace(0, shape[2], shape[1], 1, "nhwc")]
    forms: list[tuple[Layout, tuple[int, int], int]] = []
    if shape[3] in (1, 3):
        forms.append(("nhwc", (shape[1], shape[2]), shape[3]))
    if shape[1] in (1, 3):
        forms.append(("nchw", (shape[2], shape[3]), shape[1]))
    places = []
    for layout, size, channels in forms:
        height, width = stated_size if stated_size is not None and size == (-1, -1) else size
        places.append(ImagePlace(0, width, height, channels, layout))
    return places


def _takes_any_size(file: ModelFile) -> bool:
    """Whether its grids follow the picture, as those of a YuNet do."""
    shapes = [(spec.shape, spec.dtype.kind) for spec in file.outputs]
    return any(
        decoder == "yunet" for _, decoder, _ in layout_fits(*_FREE_SIZE, shapes, keypoint_shape=None, classes=None)
    )


def _stated_size(file: ModelFile) -> tuple[int, int] | None:
    """height, width as Ultralytics states them."""
    size = _literal(file.metadata.extra.get("imgsz"))
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    return None


def _class_count(file: ModelFile) -> int | None:
    """How many classes the file names; None where it names none."""
    if file.metadata.labels:
        return len(file.metadata.labels)
    names = _literal(file.metadata.extra.get("names"))
    return len(names) if isinstance(names, (dict, list, tuple)) and names else None


def _literal(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _yolo_fits(file: ModelFile, image: ImagePlace) -> list[Recognised]:
    grids = {cells_of(image.width, image.height, strides) for strides in STRIDES} - {0}
    shapes = [spec.shape for spec in file.outputs]
    if any(len(shape) != 3 or shape[0] not in (1, -1) for shape in shapes):
        return []
    if len(shapes) == 2:
        return _split_fits(file, grids)
    if len(shapes) != 1:
        return []
    _, first, second = shapes[0]
    classes = _class_count(file)
    text = file.outputs[0].describe()
    fits = []
    if second in grids and _has_classes(first - 4, classes):
        fits.append(Recognised("detect", "yolov8", f"output {text}: 4 + {first - 4} classes by {second} cells"))
    anchors = {cells * _ANCHORS_PER_CELL for cells in grids}
    if first in anchors and _has_classes(second - 5, classes):
        fits.append(Recognised("detect", "yolov5", f"output {text}: {first} anchors by 5 + {second - 5} classes"))
    if first in grids:
        fits.extend(_cells_first_fits(file, second, classes))
    return fits


def _layout_fits(file: ModelFile, image: ImagePlace) -> list[Recognised]:
    stated = _literal(file.metadata.extra.get("kpt_shape"))
    is_pair = isinstance(stated, (list, tuple)) and len(stated) == 2 and all(isinstance(size, int) for size in stated)
    fits = layout_fits(
        image.width,
        image.height,
        [(spec.shape, spec.dtype.kind) for spec in file.outputs],
        keypoint_shape=(stated[0], stated[1]) if is_pair else None,
        classes=_class_count(file),
    )
    return [Recognised(*fit) for fit in fits]


def _has_classes(found: int, named: int | None) -> bool:
    return found >= 1 if named is None else found == named


def _cells_first_fits(file: ModelFile, features: int, classes: int | None) -> list[Recognised]:
    """[1, cells, features] is YOLOX, or a YOLOv8 turned round: told apart by the classes, else by operators.

    YOLOv8 and 11 compute their boxes with a softmax, YOLOX has none. A head that ends by joining boxes with
    scores has decoded the boxes already, which YOLOX's own export does not.
    """
    could_be_x = _has_classes(features - 5, classes)
    could_be_8 = _has_classes(features - 4, classes)
    if classes is None and file.ops and not _is_compiled(file):
        has_softmax = any(op in _SOFTMAX for op in file.ops)
        could_be_x, could_be_8 = could_be_x and not has_softmax, could_be_8 and has_softmax
    could_be_x = could_be_x and file.output_ops[0] not in _JOINS
    text = file.outputs[0].describe()
    fits = []
    if could_be_x:
        fits.append(Recognised("detect", "yolox", f"output {text}: one cell per row, 5 + {features - 5} classes"))
    if could_be_8:
        fits.append(Recognised("detect", "yolov8", f"output {text}: one cell per row, 4 + {features - 4} classes"))
    return fits


def _split_fits(file: ModelFile, grids: set[int]) -> list[Recognised]:
    """YOLOv8 with boxes and scores in tensors of their own."""
    sides = []
    for spec in file.outputs:
        in_grid = [axis for axis in (1, 2) if spec.shape[axis] in grids]
        if len(in_grid) != 1:
            return []
        sides.append((spec.shape[in_grid[0]], spec.shape[3 - in_grid[0]]))
    (cells_a, features_a), (cells_b, features_b) = sides
    if cells_a != cells_b or 4 not in (features_a, features_b):
        return []
    found = features_b if features_a == 4 else features_a
    if not _has_classes(found, _class_count(file)):
        return []
    return [Recognised("detect", "yolov8", f"two outputs, boxes and {found} scores of {cells_a} cells")]


def _classify_fits(file: ModelFile, image: ImagePlace) -> list[Recognised]:
    if len(file.outputs) != 1 or not _looks_like_picture(file, image):
        return []
    shape = file.outputs[0].shape
    sizes = [size for size in shape if size != 1]
    if len(shape) >= 2 and shape[0] == -1:
        sizes = [size for size in shape[1:] if size != 1]
    if len(shape) < 2 or len(sizes) != 1 or sizes[0] < 2:
        return []
    if output_kind(file) is None and file.metadata.extra.get("task") != "classify":
        # Neither probabilities nor a plain linear layer: more likely an embedding than classes.
        return []
    return [Recognised("classify", "classify", f"output {file.outputs[0].describe()}: one score for each class")]


def _looks_like_picture(file: ModelFile, image: ImagePlace) -> bool:
    """Whether the input is an image beyond doubt. Three channels are; one channel may be a spectrogram."""
    if image.channels == 3 or file.metadata.colour is not None or "imgsz" in file.metadata.extra:
        return True
    spec = file.inputs[image.index]
    wide = max(image.width, image.height) / min(image.width, image.height)
    if wide > _WIDEST_GRAY:
        return False
    if spec.dtype.itemsize == 1 or len(spec.shape) == 3:
        return _pixel_range(spec) is not None
    return True


def _is_compiled(file: ModelFile) -> bool:
    """Whether a compiler (that of the Edge TPU) has put the operators away."""
    return bool(file.custom_ops - {DETECTION_POSTPROCESS})


def output_kind(file: ModelFile) -> Literal["probabilities", "logits"] | None:
    """What a classifier gives, judged by the operator that makes it, else by its quantisation."""
    maker = file.output_ops[0]
    quantization = file.outputs[0].quantization
    if maker in _SOFTMAX or maker in _SIGMOID:
        return "probabilities"
    if quantization is not None and math.isclose(quantization.scale[0], 1 / 256, rel_tol=1e-3):
        return "probabilities"
    if maker in _LINEAR:
        return "logits"
    if maker in _PASSES_THROUGH:
        softmaxes = sum(count for op, count in file.ops.items() if op in _SOFTMAX)
        if softmaxes == 1:
            return "probabilities"
        if softmaxes == 0 and not any(op in _SIGMOID for op in file.ops):
            return "logits"
    return None


def _box_units(file: ModelFile) -> tuple[BoxUnits, str]:
    """Pixels or 0..1, by the furthest that a quantised box can reach, else by the exporter's habit."""
    boxes = min(file.outputs, key=lambda spec: abs(min(spec.shape[1:], default=0) - 4))
    if boxes.quantization is not None and boxes.dtype.kind in "iu":
        highest = float(np.iinfo(boxes.dtype).max) - boxes.quantization.zero_point[0]
        reach = highest * boxes.quantization.scale[0]
        return ("pixels" if reach > 4 else "normalised"), f"boxes reach {reach:.3g}"
    if file.format == "onnx":
        return "pixels", "ONNX exports give boxes in pixels"
    return "normalised", "TFLite exports give boxes in 0..1"


def _range_of(
    spec: TensorSpec, custom: tuple[tuple[float, ...], tuple[float, ...]] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, bool | None]:
    """mean, std and raw_bytes: what the quantisation says, else what is the custom."""
    known = _pixel_range(spec)
    if known is not None:
        return (known[0],), (known[1],), _stores_pixels(spec, *known)
    if custom is not None and spec.dtype.kind == "f":
        return *custom, False
    if custom is not None and spec.quantization is not None:
        return *custom, False
    return None, None, None


def _stores_pixels(spec: TensorSpec, mean: float, std: float) -> bool:
    """Whether the stored number is the pixel (int8: pixel - 128) to within the half step of a rounding.

    Not so where -1..1 is stored in steps of 1/128: there the bright half lies one step higher.
    """
    if spec.quantization is None:
        return True
    pixels = np.arange(256)
    steps = (pixels - mean) / std / spec.quantization.scale[0] + spec.quantization.zero_point[0]
    return bool(np.abs(steps - int(np.iinfo(spec.dtype).min) - pixels).max() <= 0.5 + 1e-3)


def _pixel_range(spec: TensorSpec) -> tuple[float, float] | None:
    """mean and std of an 8-bit input quantised as pixels are: 0..1, -1..1, 0..255; None for any other."""
    if spec.dtype == np.uint8 and spec.quantization is None:
        return 0.0, 1.0
    if spec.dtype not in (np.uint8, np.int8) or spec.quantization is None or spec.quantization.axis is not None:
        return None
    scale = spec.quantization.scale[0]
    lowest = spec.quantization.zero_point[0] - int(np.iinfo(spec.dtype).min)
    if lowest == 0 and math.isclose(scale, 1 / 255, rel_tol=0.01):
        return 0.0, 255.0
    if lowest == 0 and math.isclose(scale, 1.0, rel_tol=0.01):
        return 0.0, 1.0
    if lowest in (127, 128) and math.isclose(scale, 2 / 255, rel_tol=0.01):
        return 127.5, 127.5
    if lowest == 128 and math.isclose(scale, 1.0, rel_tol=0.01):
        return 128.0, 1.0
    return None
