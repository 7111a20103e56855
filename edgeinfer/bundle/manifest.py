"""`model.toml`: what a bundle says outright of its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeinfer.bundle.facts import BoxUnits, Colour, Fit, FrontEnd, Layout, Missing
from edgeinfer.errors import ModelError
from edgeinfer.tomlfile import CHANNELS_MAX, Mean, Number, Positive, Share, Std, read_toml

FileName = Annotated[
    str,
    Meta(
        pattern=r"^(?!\.{1,2}\Z)[^/\x00]+\Z",
        max_length=255,
        description="the name of a file beside model.toml, without a folder",
    ),
]
GoldenInput = Annotated[
    str,
    Meta(
        pattern=r"^[^/\x00]+\.(?i:jpe?g|png|bmp|npy|npz)\Z",
        max_length=255,
        description="the name of a .jpg, .png, .bmp, .npy or .npz file beside model.toml, without a folder",
    ),
]
GoldenOutputs = Annotated[
    str,
    Meta(
        pattern=r"^[^/\x00]+\.(?i:npz)\Z",
        max_length=255,
        description="the name of a .npz file beside model.toml, without a folder",
    ),
]
Sha256 = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits in small letters, as sha256sum prints them"),
]


Name = Annotated[str, Meta(min_length=1, max_length=64)]
Unit = Annotated[str, Meta(max_length=32)]
Tensor = Annotated[str, Meta(min_length=1, max_length=255, description="the name of a tensor, or its number from 0")]


class Weights(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """File names beside `model.toml`, one per format."""

    tflite: FileName | None = None
    onnx: FileName | None = None


class InputFacts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a picture becomes the input; see ImageInput."""

    layout: Layout | None = None
    colour: Colour | None = None
    mean: Mean | None = None
    std: Std | None = None
    fit: Fit | None = None
    pad: Annotated[int, Meta(ge=0, le=255)] | None = None


class WindowFacts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How samples become the input; see WindowInput. Absent: length is that of the tensor, stride the length."""

    rate_hz: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None
    length: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    stride: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    channels: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=CHANNELS_MAX)] | None = None
    units: Annotated[tuple[Unit, ...], Meta(min_length=1, max_length=CHANNELS_MAX)] | None = None
    mean: Mean | None = None
    std: Std | None = None
    missing: Missing | None = None
    missing_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] | None = None
    front_end: FrontEnd | Literal["none"] | None = None
    ahead: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


class ValueFacts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a number of the output is; see NamedValue."""

    name: Name
    unit: Unit | None = None
    mean: Number = 0.0
    std: Positive = 1.0


class DecodeFacts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How outputs become results; see Decode."""

    box_units: BoxUnits | None = None
    score_min: Share | None = None
    iou_max: Share | None = None
    max_results: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    output_is: Literal["probabilities", "logits"] | None = None
    masks: bool | None = None
    threshold: Annotated[float, Meta(ge=0.0, le=1e12)] | None = None


class GoldenSample(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An input, and where it is given what the model makes of it; see GoldenFiles.

    weights: the format of the weights that these tensors belong to; None where they fit all.
    """

    input: GoldenInput
    outputs: GoldenOutputs | None = None
    weights: Literal["tflite", "onnx"] | None = None


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole of `model.toml`.

    sha256: of each weights file, by format; checked at every load where given.
    window: that the model takes samples of sound or sensors, and how. values: what the numbers are that it gives.
    state: which output, by name or number, feeds which input in the next run. constants: inputs that are always filled
    with the same number.
    measured: figures of the model's own evaluation, by name.
    """

    schema: Literal["edgeinfer.model/1"]
    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9._-]*\Z",
            max_length=64,
            description="of small letters, digits, '.', '_' and '-', and begin with a letter or digit",
        ),
    ]
    version: Annotated[str, Meta(min_length=1, max_length=64)]
    weights: Weights
    task: str | None = None
    decoder: str | None = None
    labels: FileName | None = None
    licence: str | None = None
    origin: str | None = None
    input: InputFacts = InputFacts()
    window: WindowFacts | None = None
    values: Annotated[tuple[ValueFacts, ...], Meta(max_length=10_000)] = ()
    state: Annotated[Mapping[Tensor, Tensor], Meta(max_length=64)] = {}
    constants: Annotated[Mapping[Tensor, Number], Meta(max_length=64)] = {}
    decode: DecodeFacts = DecodeFacts()
    sha256: Mapping[Literal["tflite", "onnx"], Sha256] = {}
    measured: Mapping[str, object] = {}
    golden: Annotated[tuple[GoldenSample, ...], Meta(max_length=8)] = ()


def read_manifest(folder: Path) -> Manifest:
    """`model.toml` of a bundle folder. Raises ModelError naming the key."""
    manifest = read_toml(folder / "model.toml", Manifest, ModelError)
    if manifest.weights.tflite is None and manifest.weights.onnx is None:
        raise ModelError(f"{folder / 'model.toml'}: weights: names no file", hint="give tflite or onnx")
    for index, sample in enumerate(manifest.golden):
        if sample.weights is not None and getattr(manifest.weights, sample.weights) is None:
            where = f"{folder / 'model.toml'}: golden[{index}].weights"
            raise ModelError(f"{where}: this bundle has no weights as {sample.weights}")
    return manifest
