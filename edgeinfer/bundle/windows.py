"""What a model that takes samples of sound or sensors is fed with: recognised where it is beyond doubt, else stated."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from edgeinfer.bundle.channels import check_counts
from edgeinfer.bundle.facts import Carried, FrontEnd, ModelFile, Overrides, WindowInput
from edgeinfer.bundle.front_ends import FRONT_ENDS
from edgeinfer.bundle.manifest import WindowFacts
from edgeinfer.errors import AmbiguousModel, ModelError, UsageError
from edgeinfer.tensor import TensorSpec

TASKS_OF_WINDOWS = ("anomaly", "audio", "vector")

_SPEECH_HZ = 16_000.0
_MISSING_S = 1.0
_KEYWORDS = ("Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown")
_WAKEWORDS = ("Marvin", "Silence", "Unknown")
# Silero wants 64 samples of what came before each 512: windows that overlap by so many.
_SILERO_NEW, _SILERO_BEFORE, _SILERO_STATE = 512, 64, 128
_YAMNET_SAMPLES, _YAMNET_CLASSES, _YAMNET_STRIDE = 15_600, 521, 7_680
_TOYCAR_FRAMES, _TOYCAR_BANDS = 5, 128


@dataclass(frozen=True, slots=True)
class KnownWindow:
    """A published model, known by its tensors; `why` is for a person."""

    task: str
    decoder: str
    window: WindowFacts
    why: str
    labels: tuple[str, ...] | None = None
    constants: tuple[tuple[int, float], ...] = ()
    index: int = 0


def recognise_window(file: ModelFile) -> KnownWindow | None:
    """The published model that this is; None where it is none of those known here."""
    inputs, outputs = ([_sizes(spec) for spec in specs] for specs in (file.inputs, file.outputs))
    if {spec.name for spec in file.inputs} == {"input", "state", "sr"} and len(outputs) == 2:
        return _silero(file)
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    if inputs[0] == (_YAMNET_SAMPLES,) and outputs[0] == (_YAMNET_CLASSES,):
        window = WindowFacts(rate_hz=_SPEECH_HZ, stride=_YAMNET_STRIDE)
        return KnownWindow("audio", "classes", window, "YAMNet: 0.975 s of sound in, 521 classes out")
    if inputs[0] == (49, 10) and outputs[0] == (len(_KEYWORDS),):
        window = WindowFacts(rate_hz=_SPEECH_HZ, length=16_000, stride=4_000, front_end="mfcc")
        why = "MLPerf Tiny keyword spotting: 49 by 10 features in, 12 classes out"
        return KnownWindow("audio", "classes", window, why, _KEYWORDS)
    if inputs[0] == (30, 40) and outputs[0] == (len(_WAKEWORDS),):
        window = WindowFacts(rate_hz=_SPEECH_HZ, stride=512, front_end="filterbank")
        why = "MLPerf Tiny streaming wakeword: 30 by 40 features in, 3 classes out"
        return KnownWindow("audio", "classes", window, why, _WAKEWORDS)
    if inputs[0] == outputs[0] == (_TOYCAR_FRAMES * _TOYCAR_BANDS,) and set(file.ops) == {"FULLY_CONNECTED"}:
        window = WindowFacts(rate_hz=_SPEECH_HZ, stride=512, front_end="log-mel")
        return KnownWindow(
            "anomaly", "reconstruction", window, "MLPerf Tiny anomaly detection: 640 features in and out"
        )
    return None


def settle_tensors(file: ModelFile, index: int, carried: Carried, length: int | None) -> ModelFile:
    """The file with a batch of one, and the size that the window's input leaves free for the window's length."""
    inputs = list(file.inputs)
    for fed in {fed for _, fed in carried.state}:
        inputs[fed] = replace(inputs[fed], shape=tuple(max(size, 1) if size else 0 for size in inputs[fed].shape))
    shape = [
        1 if axis == 0 and size < 0 and len(inputs[index].shape) > 1 else size
        for axis, size in enumerate(inputs[index].shape)
    ]
    if shape.count(-1) == 1 and length is not None:
        shape[shape.index(-1)] = length
    inputs[index] = replace(inputs[index], shape=tuple(shape))
    return replace(file, inputs=tuple(inputs))


def window_index(file: ModelFile, carried: Carried, known: KnownWindow | None) -> int:
    """The one input that neither a state nor a constant fills. Raises ModelError where there is more than one."""
    if known is not None:
        return known.index
    taken = {fed for _, fed in carried.state} | {fed for fed, _ in carried.constants}
    left = [index for index in range(len(file.inputs)) if index not in taken]
    if len(left) != 1:
        names = ", ".join(repr(spec.name) for spec in file.inputs)
        raise ModelError(
            f"{file.path} takes {len(file.inputs)} inputs, {names}: which of them takes the window is not said",
            hint="name the others under [state] and [constants] in a model.toml",
        )
    return left[0]


def window_input(
    file: ModelFile,
    index: int,
    stated: WindowFacts,
    known: KnownWindow | None,
    said: Overrides,
    provenance: dict[str, str],
) -> WindowInput:
    """Raises AmbiguousModel naming the flag, ModelError for what cannot be."""
    usual = known.window if known else WindowFacts()
    why = known.why if known else ""
    rate_hz = _pick(provenance, "sample rate", (said.sample_rate_hz, stated.rate_hz, usual.rate_hz), why)
    if rate_hz is None:
        raise AmbiguousModel(
            f"{file.path} does not say how many samples a second it takes", hint="give --sample-rate in hertz"
        )
    spec = file.inputs[index]
    front_end = _front_end(provenance, (said.front_end, stated.front_end, usual.front_end), why)
    channels = _channels(file, spec, stated, front_end)
    ahead = stated.ahead or 0
    is_usual = front_end == usual.front_end
    least = _least_length(file, spec, front_end, len(channels) or 1, rate_hz)
    length = stated.length or (usual.length if is_usual else None) or least + ahead
    _check_length(file, spec, front_end, least, length - ahead, rate_hz)
    stride = said.stride or stated.stride or (usual.stride if is_usual else None) or length
    mean, std = (said.mean or stated.mean, said.std or stated.std)
    if (mean is None) != (std is None):
        raise AmbiguousModel("only one of mean and std is given", hint="give both")
    width = len(channels) or 1
    check_counts(file, width, {"mean": said.mean, "std": said.std}, UsageError)
    of_window = {"window.mean": stated.mean, "window.std": stated.std, "window.units": stated.units}
    check_counts(file, width, of_window, ModelError)
    return WindowInput(
        index=index,
        rate_hz=rate_hz,
        length=length,
        stride=stride,
        channels=channels,
        mean=mean or (0.0,),
        std=std or (1.0,),
        missing=stated.missing or "hold",
        missing_s=_MISSING_S if stated.missing_s is None else stated.missing_s,
        units=stated.units or (),
        front_end=front_end,
        ahead=ahead,
    )


def _silero(file: ModelFile) -> KnownWindow:
    names = [spec.name for spec in file.inputs]
    window = WindowFacts(rate_hz=_SPEECH_HZ, length=_SILERO_BEFORE + _SILERO_NEW, stride=_SILERO_NEW)
    why = "Silero VAD: its inputs are named input, state and sr"
    constants = ((names.index("sr"), _SPEECH_HZ),)
    return KnownWindow("audio", "classes", window, why, ("speech",), constants, names.index("input"))


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size for size in spec.shape if size != 1)


def _pick(provenance: dict[str, str], fact: str, stated: tuple[float | None, ...], why: str) -> float | None:
    for value, where in zip(stated, ("flag", "model.toml", why), strict=True):
        if value is not None:
            provenance[fact] = where
            return value
    return None


def _front_end(
    provenance: dict[str, str], stated: tuple[FrontEnd | Literal["none"] | None, ...], why: str
) -> FrontEnd | None:
    for value, where in zip(stated, ("flag", "model.toml", why), strict=True):
        if value is not None:
            provenance["front end"] = where
            return None if value == "none" else value
    return None


def _channels(file: ModelFile, spec: TensorSpec, stated: WindowFacts, front_end: FrontEnd | None) -> tuple[str, ...]:
    """The names of the channels; a tensor of two dimensions has unnamed ones, numbered."""
    if stated.channels is not None:
        if front_end is not None and len(stated.channels) != 1:
            raise ModelError(f"{file.path}: the front end {front_end} takes one channel, not {len(stated.channels)}")
        return stated.channels
    sizes = _sizes(spec)
    if front_end is not None or len(sizes) < 2:
        return ()
    return tuple(str(channel) for channel in range(sizes[-1]))


def _least_length(file: ModelFile, spec: TensorSpec, front_end: FrontEnd | None, channels: int, rate_hz: float) -> int:
    """How many samples the input tensor takes."""
    numbers = math.prod(spec.shape) if spec.is_static else 0
    if numbers < 1:
        raise AmbiguousModel(
            f"input {spec.name!r} {spec.describe()} has no fixed size",
            hint="say its size under [window] in a model.toml",
        )
    each = channels if front_end is None else FRONT_ENDS[front_end].bands
    if numbers % each:
        what = f"{channels} channels" if front_end is None else f"{each} features a frame"
        raise ModelError(f"input {spec.name!r} {spec.describe()} of {file.path.name} cannot hold {what}")
    return numbers // each if front_end is None else FRONT_ENDS[front_end].samples(numbers // each, rate_hz)


def _check_length(
    file: ModelFile, spec: TensorSpec, front_end: FrontEnd | None, least: int, length: int, rate_hz: float
) -> None:
    # Sound may be longer by what does not fill another frame.
    most = least if front_end is None else least + FRONT_ENDS[front_end].sizes(rate_hz)[1] - 1
    if not least <= length <= most:
        raise ModelError(
            f"{file.path}: input {spec.name!r} {spec.describe()} takes {least} samples, window.length leaves {length}"
        )
