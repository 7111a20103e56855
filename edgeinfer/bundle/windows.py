"""What a model takes of sound or sensors, and gives for it: stated, or as of a published model that is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgeinfer.bundle.carried import carried_of
from edgeinfer.bundle.channels import check_counts
from edgeinfer.bundle.compose import compose
from edgeinfer.bundle.facts import (
    Bundle,
    Carried,
    Decode,
    FrontEnd,
    ModelFile,
    NamedValue,
    Overrides,
    WindowInput,
)
from edgeinfer.bundle.front_ends import FRONT_ENDS
from edgeinfer.bundle.known_windows import KnownWindow
from edgeinfer.bundle.labels import pick_labels
from edgeinfer.bundle.manifest import DecodeFacts, Manifest, WindowFacts
from edgeinfer.bundle.picker import Picker, given
from edgeinfer.bundle.recognise import DECODERS, output_kind
from edgeinfer.errors import AmbiguousModel, ModelError, UsageError
from edgeinfer.tensor import TensorSpec
from edgeinfer.words import unknown

TASKS_OF_WINDOWS = ("anomaly", "audio", "vector")

_MISSING_S = 1.0


def takes_windows(known: KnownWindow | None, manifest: Manifest | None, said: Overrides) -> bool:
    """Whether it does, rather than pictures, by what is said of it or known."""
    task = said.task or (manifest.task if manifest else None)
    if task is not None:
        return task in TASKS_OF_WINDOWS or (manifest is not None and manifest.window is not None)
    return known is not None or (manifest is not None and manifest.window is not None)


def resolve_windows(
    file: ModelFile, known: KnownWindow | None, manifest: Manifest | None, said: Overrides, folder: Path | None
) -> Bundle:
    """Raises AmbiguousModel naming the flag, UsageError and ModelError for what cannot be."""
    pick = Picker(file)
    stated = (manifest.window if manifest else None) or WindowFacts()
    carried = carried_of(file, manifest)
    if known is not None and not carried.constants:
        carried = Carried(carried.state, known.constants)
    index = _window_index(file, carried, known)
    length = stated.length or (known.window.length if known else None)
    file = _settle_tensors(file, index, carried, length)
    task = pick.need(
        "task",
        "--task",
        (said.task, "flag"),
        (manifest.task if manifest else None, "model.toml"),
        (known.task if known else None, known.why if known else ""),
    )
    if task not in TASKS_OF_WINDOWS:
        error = UsageError if said.task else ModelError
        raise error(f"{file.path} takes samples: its task cannot be {task!r}", hint=" or ".join(TASKS_OF_WINDOWS))
    window = _window_input(file, index, stated, known, said, pick)
    labels = _labels(file, known, manifest, said, folder, pick)
    decoder = _decoder(task, file, index, carried, labels, known, manifest, said, pick)
    return compose(
        file,
        manifest,
        folder,
        pick,
        task=task,
        window=window,
        decode=_decode(file, decoder, known, manifest, said, pick),
        labels=labels,
        carried=carried,
    )


def _decoder(
    task: str,
    file: ModelFile,
    index: int,
    carried: Carried,
    labels: tuple[str, ...],
    known: KnownWindow | None,
    manifest: Manifest | None,
    said: Overrides,
    pick: Picker,
) -> str:
    states = {output for output, _ in carried.state}
    answers = [spec for number, spec in enumerate(file.outputs) if number not in states]
    seen, why = None, ""
    if task == "audio":
        seen, why = "classes", "the only one of its task"
    elif task == "vector" and (labels or (manifest is not None and manifest.values)):
        seen, why = ("classes", "it has labels") if labels else ("values", "it has values")
    elif task == "anomaly" and len(answers) == 1 and not (manifest and manifest.window and manifest.window.ahead):
        if answers[0].shape == file.inputs[index].shape:
            seen, why = "reconstruction", "its output has the shape of its input"
    elif task == "anomaly" and manifest is not None and manifest.window is not None and manifest.window.ahead:
        seen, why = "forecast", "window.ahead is given"
    decoder = pick.need(
        "decoder",
        "--decoder " + " or ".join(DECODERS[task]),
        (said.decoder, "flag"),
        (manifest.decoder if manifest else None, "model.toml"),
        (known.decoder if known and known.task == task else None, known.why if known else ""),
        (seen, why),
    )
    if decoder not in DECODERS[task]:
        error = UsageError if said.decoder else ModelError
        raise error(unknown(f"decoder of {task}", decoder, DECODERS[task]))
    return decoder


def _labels(
    file: ModelFile,
    known: KnownWindow | None,
    manifest: Manifest | None,
    said: Overrides,
    folder: Path | None,
    pick: Picker,
) -> tuple[str, ...]:
    is_stated = said.labels is not None or (manifest is not None and manifest.labels is not None)
    if not is_stated and known is not None and known.labels is not None:
        pick.provenance["labels"] = known.why
        return known.labels
    if not is_stated and file.metadata.labels is None:
        return ()  # Values and anomalies need none.
    return pick_labels(file, manifest, said, folder, pick)


def _decode(
    file: ModelFile,
    decoder: str,
    known: KnownWindow | None,
    manifest: Manifest | None,
    said: Overrides,
    pick: Picker,
) -> Decode:
    stated = manifest.decode if manifest else DecodeFacts()
    threshold = pick.pick("threshold", (said.threshold, "flag"), (stated.threshold, "model.toml"))
    if decoder in DECODERS["anomaly"] and threshold is None:
        raise AmbiguousModel(
            f"{file.path} does not say from which score on something is an anomaly", hint="give --threshold"
        )
    output_is: Literal["probabilities", "logits"] = "probabilities"
    if decoder == "classes":
        output_is = pick.need(
            "kind of output",
            "--output-is probabilities or logits",
            (said.output_is, "flag"),
            (stated.output_is, "model.toml"),
            ("probabilities" if known else None, known.why if known else ""),
            (output_kind(file), "the operators and the quantisation of its output"),
        )
    return Decode(
        decoder=decoder,
        score_min=given(said.score_min, stated.score_min, 0.25),
        iou_max=1.0,
        max_results=said.max_results or stated.max_results or 5,
        box_units="normalised",
        output_is=output_is,
        threshold=threshold,
        values=tuple(
            NamedValue(value.name, value.unit, value.mean, value.std) for value in (manifest.values if manifest else ())
        ),
    )


def _settle_tensors(file: ModelFile, index: int, carried: Carried, length: int | None) -> ModelFile:
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


def _window_index(file: ModelFile, carried: Carried, known: KnownWindow | None) -> int:
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


def _window_input(
    file: ModelFile,
    index: int,
    stated: WindowFacts,
    known: KnownWindow | None,
    said: Overrides,
    pick: Picker,
) -> WindowInput:
    """Raises AmbiguousModel naming the flag, ModelError for what cannot be."""
    usual = known.window if known else WindowFacts()
    why = known.why if known else ""
    rate_hz = pick.pick(
        "sample rate", (said.sample_rate_hz, "flag"), (stated.rate_hz, "model.toml"), (usual.rate_hz, why)
    )
    if rate_hz is None:
        raise AmbiguousModel(
            f"{file.path} does not say how many samples a second it takes", hint="give --sample-rate in hertz"
        )
    spec = file.inputs[index]
    named: FrontEnd | Literal["none"] | None = pick.pick(
        "front end", (said.front_end, "flag"), (stated.front_end, "model.toml"), (usual.front_end, why)
    )
    front_end = None if named == "none" else named
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


def _channels(file: ModelFile, spec: TensorSpec, stated: WindowFacts, front_end: FrontEnd | None) -> tuple[str, ...]:
    """The names of the channels; a tensor of two dimensions has unnamed ones, numbered."""
    if stated.channels is not None:
        if front_end is not None and len(stated.channels) != 1:
            raise ModelError(f"{file.path}: the front end {front_end} takes one channel, not {len(stated.channels)}")
        return stated.channels
    sizes = [size for size in spec.shape if size != 1]
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
