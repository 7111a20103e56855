"""What is known about a model, as plain typed facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgeinfer.tensor import TensorSpec

Format = Literal["tflite", "onnx"]
Colour = Literal["rgb", "bgr", "gray"]
Layout = Literal["nhwc", "nchw"]
Fit = Literal["letterbox", "stretch", "crop"]
BoxUnits = Literal["normalised", "pixels"]
FrontEnd = Literal["mfcc", "filterbank", "log-mel"]
Missing = Literal["hold", "linear", "nan-refuse"]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the file says of itself beyond its tensors; every field may be empty.

    mean, std: real = (pixel - mean) / std, pixel 0..255; one number, or one per channel.
    extra: ONNX `metadata_props`, verbatim.
    """

    name: str | None = None
    description: str | None = None
    version: str | None = None
    author: str | None = None
    licence: str | None = None
    colour: Colour | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A weights file as read, before anything is decided about it.

    ops: how often each operator occurs; a custom operator under its own name.
    output_ops: for each output the operator that makes it, "" where it is not known.
    custom_ops: the names of operators that the format itself does not define.
    detection_classes: how many classes a detector's own post-processing operator tells apart, background left out.
    is_quantised: whether it computes, in part at least, with integers that stand for real numbers.
    """

    path: Path
    format: Format
    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: Mapping[str, int]
    output_ops: tuple[str, ...]
    custom_ops: frozenset[str]
    metadata: Metadata
    detection_classes: int | None = None
    is_quantised: bool = False


@dataclass(frozen=True, slots=True)
class ImageInput:
    """How a picture becomes the model's image input.

    mean, std: real = (pixel - mean) / std with pixel 0..255; one number for all channels or one each.
    raw_bytes: an 8-bit input that takes the pixel as stored number (int8: pixel - 128); mean and std do not apply.
    fit: letterbox (whole picture, grey bars), stretch (whole picture, distorted), crop (the centre, undistorted).
    pad: grey level 0..255 around a letterboxed picture.
    """

    index: int
    width: int
    height: int
    channels: int
    layout: Layout
    colour: Colour
    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw_bytes: bool
    fit: Fit
    pad: int


@dataclass(frozen=True, slots=True)
class WindowInput:
    """Which samples become the model's input, and how.

    index: of the input tensor. rate_hz: samples a second. length, stride: samples in a window, and from one to the
    next. channels: the name of each, empty for sound and where the source's order is taken. mean, std: real =
    (x - mean) / std, one number for all channels or one each. missing: what is done where a sample is missing, for
    `missing_s` at most. units: of the channels, for people. front_end: what makes the model's input of sound; None
    where the samples themselves are the input. ahead: how many samples at the end of a window are not the input, but
    what a forecast is held against.
    """

    index: int
    rate_hz: float
    length: int
    stride: int
    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    missing: Missing
    missing_s: float
    units: tuple[str, ...] = ()
    front_end: FrontEnd | None = None
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class NamedValue:
    """A number that the model gives: real = output * std + mean, in `unit`."""

    name: str
    unit: str | None = None
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, slots=True)
class Carried:
    """What else the model takes in, by input index, besides picture or window; and which outputs are no answer.

    state: (output, input) pairs: what an output was is put into the input of the next run; 0 at first.
    constants: (input, number): the same each time.
    """

    state: tuple[tuple[int, int], ...] = ()
    constants: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Decode:
    """How raw outputs become results. Scores and IoU are 0..1.

    score_min: what is below is left out. iou_max: of two boxes of a class that overlap more, the better stays.
    output_is: for `classify`, what the output holds. masks: for `segment`, whether masks are given besides areas.
    threshold: from which score on something is an anomaly. values: what the numbers of `vector` are; empty where
    nobody says.
    """

    decoder: str
    score_min: float
    iou_max: float
    max_results: int
    box_units: BoxUnits
    output_is: Literal["probabilities", "logits"]
    masks: bool = False
    threshold: float | None = None
    values: tuple[NamedValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a person said on the command line or in a configuration; None where nothing was said."""

    task: str | None = None
    decoder: str | None = None
    labels: Path | None = None
    colour: Colour | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: Fit | None = None
    score_min: float | None = None
    iou_max: float | None = None
    max_results: int | None = None
    box_units: BoxUnits | None = None
    layout: Layout | None = None
    output_is: Literal["probabilities", "logits"] | None = None
    masks: bool | None = None
    threshold: float | None = None
    front_end: FrontEnd | Literal["none"] | None = None
    sample_rate_hz: float | None = None
    stride: int | None = None


@dataclass(frozen=True, slots=True)
class GoldenFiles:
    """A sample that comes with a bundle, as files that nobody has looked into yet.

    key: where `model.toml` names it, as in `golden[0]`. input: a picture, or the input tensors as the model stores
    them. outputs: what the model gives for it, where that is said.
    """

    key: str
    input: Path
    outputs: Path | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model ready to be opened.

    labels: by class id; empty where the model has none.
    image, window: what the model takes, exactly one of them. carried: what it takes besides.
    golden: the samples that fit these weights.
    provenance: for each fact that could be read in several places, where it was read
    (as in `{"colour": "TFLite metadata", "fit": "convention of yolox"}`).
    """

    name: str
    version: str
    file: ModelFile
    task: str
    image: ImageInput | None
    decode: Decode
    labels: tuple[str, ...]
    provenance: Mapping[str, str]
    folder: Path | None = None
    licence: str | None = None
    origin: str | None = None
    measured: Mapping[str, object] = field(default_factory=dict)
    golden: tuple[GoldenFiles, ...] = ()
    window: WindowInput | None = None
    carried: Carried = Carried()

    def __post_init__(self) -> None:
        assert (self.image is None) != (self.window is None), "a model takes pictures or windows"

    @property
    def picture(self) -> ImageInput:
        """Of a model that takes pictures."""
        assert self.image is not None, f"{self.name} takes no pictures"
        return self.image

    @property
    def counted_in(self) -> Literal["frames", "windows"]:
        """The name of what it takes one after the other, for people."""
        return "frames" if self.window is None else "windows"

    def label(self, class_id: int) -> str:
        """The name of a class; its number where there is no name."""
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)
