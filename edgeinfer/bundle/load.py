"""From a word that a user types to a Bundle: flag over `model.toml` over the file's metadata over convention."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from edgeinfer.bundle.carried import read_carried, recognise_carried
from edgeinfer.bundle.channels import check_counts
from edgeinfer.bundle.facts import (
    Bundle,
    Carried,
    Colour,
    Decode,
    Fit,
    Format,
    GoldenFiles,
    ImageInput,
    Metadata,
    ModelFile,
    NamedValue,
    Overrides,
)
from edgeinfer.bundle.manifest import DecodeFacts, InputFacts, Manifest, WindowFacts, read_manifest
from edgeinfer.bundle.onnx import read_onnx
from edgeinfer.bundle.recognise import (
    DECODERS,
    Convention,
    ImagePlace,
    Recognised,
    conventions,
    image_input,
    output_kind,
    recognise,
)
from edgeinfer.bundle.tflite import read_tflite
from edgeinfer.bundle.windows import (
    TASKS_OF_WINDOWS,
    KnownWindow,
    recognise_window,
    settle_tensors,
    window_index,
    window_input,
)
from edgeinfer.errors import AmbiguousModel, ModelError, UsageError
from edgeinfer.paths import data_folders
from edgeinfer.words import nearest, unknown

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_MAX_MODEL_BYTES = 2 << 30
_MAX_LABEL_BYTES = 4 << 20
_NAME_SHOWN_MAX = 80
_READERS = {"tflite": read_tflite, "onnx": read_onnx}
_NOTHING_MEASURED: Mapping[str, object] = {}


def load_bundle(word: str | Path, overrides: Overrides | None = None, *, prefer: Format = "tflite") -> Bundle:
    """Everything known about a model: `word` is a file, a bundle folder, or the name of a bundle.

    `prefer` chooses among a bundle's weights. Raises ModelError, or AmbiguousModel naming the flag to give.
    """
    said = overrides or Overrides()
    path = find_bundle(word)
    if path.is_dir():
        manifest = read_manifest(path)
        weights = _choose_weights(path, manifest, prefer)
        file = read_model_file(weights)
        _check_sha256(file, manifest)
        return _resolve(file, manifest, said, folder=path)
    return _resolve(read_model_file(path), None, said, folder=None)


def find_bundle(word: str | Path) -> Path:
    """The file or bundle folder that `word` stands for. Raises ModelError naming the nearest known bundle."""
    try:
        path = Path(word).expanduser()
        if path.is_dir():
            if not (path / "model.toml").is_file():
                raise ModelError(f"{path} is a folder without a model.toml", hint="name a .tflite or .onnx file in it")
            return path
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError) as impossible:  # Too long a name, no permission, ~nobody, a NUL.
        reason = impossible.strerror if isinstance(impossible, OSError) else impossible
        raise ModelError(f"cannot read the model {str(word)[:_NAME_SHOWN_MAX]!r}: {reason}") from impossible
    name = str(word)
    named = _bundles().get(name)
    if named is not None:
        return named
    close = nearest(path.name, [*_bundles(), *_siblings(path)])
    raise ModelError(f"no such model: {name}", hint=f"did you mean {close!r}?" if close else None)


def read_model_file(path: Path) -> ModelFile:
    """The weights file, parsed and hashed but not loaded. Raises ModelError."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError(f"{path} is not a regular file")
        if size > _MAX_MODEL_BYTES:
            raise ModelError(f"{path} has {size} bytes, at most {_MAX_MODEL_BYTES} are allowed")
        content = path.read_bytes()
    except OSError as unreadable:
        raise ModelError(f"cannot read {path}: {unreadable.strerror}") from unreadable
    if not content:
        raise ModelError(f"{path} is empty")
    format_ = _format_of(path, content)
    return _READERS[format_](path, content, hashlib.sha256(content).hexdigest())


def _format_of(path: Path, content: bytes) -> Format:
    if content[4:8] == b"TFL3" or path.suffix == ".tflite":
        return "tflite"
    if path.suffix == ".onnx":
        return "onnx"
    raise ModelError(f"{path} is neither a .tflite nor a .onnx model")


def _choose_weights(folder: Path, manifest: Manifest, prefer: Format) -> Path:
    other: Format = "onnx" if prefer == "tflite" else "tflite"
    name = getattr(manifest.weights, prefer) or getattr(manifest.weights, other)
    return folder / str(name)


def _check_sha256(file: ModelFile, manifest: Manifest) -> None:
    expected = manifest.sha256.get(file.format)
    if expected is not None and expected != file.sha256:
        raise ModelError(
            f"{file.path} is damaged or not the file of this bundle: its sha256 is {file.sha256[:12]}…, "
            f"model.toml says {expected[:12]}…"
        )


class _Picker:
    """Chooses each fact from the places that may state it, and remembers which did."""

    def __init__(self, file: ModelFile) -> None:
        self.provenance: dict[str, str] = {}
        self._file = file

    def pick(self, fact: str, *stated: tuple[Value | None, str]) -> Value | None:
        for value, where in stated:
            if value is not None:
                self.provenance[fact] = where
                return value
        return None

    def need(self, fact: str, flag: str, *stated: tuple[Value | None, str]) -> Value:
        value = self.pick(fact, *stated)
        if value is None:
            raise AmbiguousModel(f"{self._file.path} does not say its {fact}", hint=f"give {flag}")
        return value


def _resolve(file: ModelFile, manifest: Manifest | None, said: Overrides, *, folder: Path | None) -> Bundle:
    known = recognise_window(file)
    if _takes_windows(known, manifest, said):
        return _resolve_window(file, known, manifest, said, folder)
    pick = _Picker(file)
    layout = said.layout or (manifest.input.layout if manifest else None)
    carried = _carried(file, manifest)
    # First, for what takes no picture is not asked for its task.
    place = image_input(file, layout, carried)
    file = _with_size(file, place)
    recognised = recognise(file, layout, carried, task=_stated_task(manifest, said))
    task, decoder = _task_and_decoder(file, recognised, manifest, said, pick)
    convention = conventions(decoder, file, layout, carried)
    image = _image(file, place, manifest.input if manifest else InputFacts(), said, convention, pick)
    decode = _decode(decoder, manifest.decode if manifest else DecodeFacts(), said, convention, pick)
    labels = _labels(file, manifest, said, folder, pick, customary=convention.labels)
    return Bundle(
        name=manifest.name if manifest else file.path.stem,
        version=manifest.version if manifest else file.metadata.version or "0",
        file=file,
        task=task,
        image=image,
        decode=decode,
        labels=labels,
        provenance=pick.provenance,
        folder=folder,
        licence=manifest.licence if manifest else file.metadata.licence,
        origin=manifest.origin if manifest else file.metadata.author,
        measured=manifest.measured if manifest else _NOTHING_MEASURED,
        golden=_golden(file, manifest, folder),
        carried=carried,
    )


def _takes_windows(known: KnownWindow | None, manifest: Manifest | None, said: Overrides) -> bool:
    task = said.task or (manifest.task if manifest else None)
    if task is not None:
        return task in TASKS_OF_WINDOWS or (manifest is not None and manifest.window is not None)
    return known is not None or (manifest is not None and manifest.window is not None)


def _carried(file: ModelFile, manifest: Manifest | None) -> Carried:
    if manifest is not None and (manifest.state or manifest.constants):
        return read_carried(file, manifest.state, manifest.constants)
    return recognise_carried(file)


def _resolve_window(
    file: ModelFile, known: KnownWindow | None, manifest: Manifest | None, said: Overrides, folder: Path | None
) -> Bundle:
    pick = _Picker(file)
    stated = (manifest.window if manifest else None) or WindowFacts()
    carried = _carried(file, manifest)
    if known is not None and not carried.constants:
        carried = Carried(carried.state, known.constants)
    index = window_index(file, carried, known)
    length = stated.length or (known.window.length if known else None)
    file = settle_tensors(file, index, carried, length)
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
    window = window_input(file, index, stated, known, said, pick.provenance)
    labels = _window_labels(file, known, manifest, said, folder, pick)
    decoder = _window_decoder(task, file, index, carried, labels, known, manifest, said, pick)
    return Bundle(
        name=manifest.name if manifest else file.path.stem,
        version=manifest.version if manifest else file.metadata.version or "0",
        file=file,
        task=task,
        image=None,
        decode=_window_decode(file, decoder, known, manifest, said, pick),
        labels=labels,
        provenance=pick.provenance,
        folder=folder,
        licence=manifest.licence if manifest else file.metadata.licence,
        origin=manifest.origin if manifest else file.metadata.author,
        measured=manifest.measured if manifest else _NOTHING_MEASURED,
        golden=_golden(file, manifest, folder),
        window=window,
        carried=carried,
    )


def _window_decoder(
    task: str,
    file: ModelFile,
    index: int,
    carried: Carried,
    labels: tuple[str, ...],
    known: KnownWindow | None,
    manifest: Manifest | None,
    said: Overrides,
    pick: _Picker,
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


def _window_labels(
    file: ModelFile,
    known: KnownWindow | None,
    manifest: Manifest | None,
    said: Overrides,
    folder: Path | None,
    pick: _Picker,
) -> tuple[str, ...]:
    is_stated = said.labels is not None or (manifest is not None and manifest.labels is not None)
    if not is_stated and known is not None and known.labels is not None:
        pick.provenance["labels"] = known.why
        return known.labels
    if not is_stated and file.metadata.labels is None:
        return ()  # Values and anomalies need none.
    return _labels(file, manifest, said, folder, pick)


def _window_decode(
    file: ModelFile,
    decoder: str,
    known: KnownWindow | None,
    manifest: Manifest | None,
    said: Overrides,
    pick: _Picker,
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
        score_min=_given(said.score_min, stated.score_min, 0.25),
        iou_max=1.0,
        max_results=said.max_results or stated.max_results or 5,
        box_units="normalised",
        output_is=output_is,
        threshold=threshold,
        values=tuple(
            NamedValue(value.name, value.unit, value.mean, value.std) for value in (manifest.values if manifest else ())
        ),
    )


def _with_size(file: ModelFile, place: ImagePlace) -> ModelFile:
    """The file with the sides settled that its input leaves free: runtimes are told what they will be fed with."""
    spec = file.inputs[place.index]
    if spec.is_static or len(spec.shape) != 4:
        return file
    sides = (place.height, place.width)
    shape = (spec.shape[0], *sides, spec.shape[3]) if place.layout == "nhwc" else (*spec.shape[:2], *sides)
    inputs = list(file.inputs)
    inputs[place.index] = replace(spec, shape=shape)
    return replace(file, inputs=tuple(inputs))


def _golden(file: ModelFile, manifest: Manifest | None, folder: Path | None) -> tuple[GoldenFiles, ...]:
    if manifest is None or folder is None:
        return ()
    return tuple(
        GoldenFiles(f"golden[{index}]", folder / sample.input, folder / sample.outputs if sample.outputs else None)
        for index, sample in enumerate(manifest.golden)
        if sample.weights in (None, file.format)
    )


def _stated_task(manifest: Manifest | None, said: Overrides) -> str | None:
    return said.task or (manifest.task if manifest else None)


def _task_and_decoder(
    file: ModelFile, seen: Recognised | None, manifest: Manifest | None, said: Overrides, pick: _Picker
) -> tuple[str, str]:
    stated_task = _stated_task(manifest, said)
    if seen is not None and stated_task not in (None, seen.task):
        seen = None  # Somebody knows better what this is: the shapes' verdict on the decoder goes with it.
    why = seen.why if seen else ""
    if seen is None and stated_task is None:
        raise AmbiguousModel(
            f"{file.path} has outputs that this version knows no decoder for: "
            + ", ".join(spec.describe() for spec in file.outputs),
            hint=f"if one fits, give --task {' or '.join(DECODERS)}, and --decoder",
        )
    task = pick.need(
        "task",
        "--task",
        (said.task, "flag"),
        (manifest.task if manifest else None, "model.toml"),
        (seen.task if seen else None, why),
    )
    decoder = pick.need(
        "decoder",
        "--decoder",
        (said.decoder, "flag"),
        (manifest.decoder if manifest else None, "model.toml"),
        (seen.decoder if seen else None, why),
        (task if len(DECODERS.get(task, "")) <= 1 else None, "the only one of its task"),
    )
    if decoder not in DECODERS.get(task, (decoder,)):
        error = UsageError if said.decoder else ModelError
        raise error(unknown(f"decoder of {task}", decoder, DECODERS[task]))
    if seen is not None and decoder != seen.decoder:
        log.warning("%s looks like %s (%s), not like %s", file.path, seen.decoder, seen.why, decoder)
    return task, decoder


def _image(
    file: ModelFile, place: ImagePlace, stated: InputFacts, said: Overrides, convention: Convention, pick: _Picker
) -> ImageInput:
    metadata = file.metadata
    why = convention.why
    colour: Colour = pick.need(
        "colour order",
        "--colour rgb, bgr or gray",
        (said.colour, "flag"),
        (stated.colour, "model.toml"),
        ("gray" if place.channels == 1 else None, "one channel"),
        (metadata.colour, "file metadata"),
        (convention.colour, why),
    )
    if (colour == "gray") != (place.channels == 1):
        raise ModelError(f"{file.path} takes {place.channels} channels, which cannot be {colour!r}")
    check_counts(file, place.channels, {"mean": said.mean, "std": said.std}, UsageError)
    check_counts(file, place.channels, {"input.mean": stated.mean, "input.std": stated.std}, ModelError)
    scaling = _scaling(stated, said, metadata, convention, pick)
    if scaling is None:
        raise AmbiguousModel(
            f"{file.path} does not say the range of its pixels",
            hint="give --mean and --std: (0, 255) for 0..1, (127.5, 127.5) for -1..1, (0, 1) for 0..255",
        )
    mean, std, raw_bytes = scaling
    fit: Fit = pick.need(
        "fit",
        "--fit letterbox, stretch or crop",
        (said.fit, "flag"),
        (stated.fit, "model.toml"),
        (convention.fit, "custom of its decoder"),
    )
    return ImageInput(
        index=place.index,
        width=place.width,
        height=place.height,
        channels=place.channels,
        layout=place.layout,
        colour=colour,
        mean=mean,
        std=std,
        raw_bytes=raw_bytes,
        fit=fit,
        pad=stated.pad if stated.pad is not None else convention.pad,
    )


def _scaling(
    stated: InputFacts, said: Overrides, metadata: Metadata, convention: Convention, pick: _Picker
) -> tuple[tuple[float, ...], tuple[float, ...], bool] | None:
    """mean, std, raw_bytes from the first place that states both mean and std.

    An 8-bit input that can take the pixels as they are does so, whatever the file's metadata say of mean and std:
    these are for the float twin, and TensorFlow's own Task Library ignores them there too.
    """
    for mean, std, where in (
        (said.mean, said.std, "flag"),
        (stated.mean, stated.std, "model.toml"),
        (None, None, "") if convention.raw_bytes else (metadata.mean, metadata.std, "file metadata"),
    ):
        if (mean is None) != (std is None):
            raise AmbiguousModel(f"only one of mean and std is given ({where})", hint="give both")
        if mean is not None and std is not None:
            pick.provenance["pixel range"] = where
            return mean, std, False
    if convention.raw_bytes:
        pick.provenance["pixel range"] = convention.why
        return (0.0,), (1.0,), True
    if convention.mean is not None and convention.std is not None:
        pick.provenance["pixel range"] = convention.why
        return convention.mean, convention.std, False
    return None


def _decode(decoder: str, stated: DecodeFacts, said: Overrides, convention: Convention, pick: _Picker) -> Decode:
    def one(fact: str, spoken: Value | None, written: Value | None, usual: Value) -> Value:
        return pick.pick(fact, (spoken, "flag"), (written, "model.toml"), (usual, "default")) or usual

    why = convention.why
    return Decode(
        decoder=decoder,
        score_min=_given(
            said.score_min, stated.score_min, 0.25 if convention.score_min is None else convention.score_min
        ),
        iou_max=_given(said.iou_max, stated.iou_max, 0.5),
        max_results=one("most results", said.max_results, stated.max_results, 5 if decoder == "classify" else 100),
        box_units=pick.need(
            "box units",
            "--box-units normalised or pixels",
            (said.box_units, "flag"),
            (stated.box_units, "model.toml"),
            (convention.box_units, "custom of its decoder" if decoder in ("ssd", "classify") else why),
        ),
        output_is=pick.need(
            "kind of output",
            "--output-is probabilities or logits",
            (said.output_is, "flag"),
            (stated.output_is, "model.toml"),
            (convention.output_is, "the operators and the quantisation of its output"),
        ),
        masks=bool(stated.masks if said.masks is None else said.masks),
    )


def _given(spoken: float | None, written: float | None, usual: float) -> float:
    # Not `or`: a threshold of 0 is a threshold.
    if spoken is not None:
        return spoken
    return usual if written is None else written


def _labels(
    file: ModelFile,
    manifest: Manifest | None,
    said: Overrides,
    folder: Path | None,
    pick: _Picker,
    *,
    customary: tuple[str, ...] | None = None,
) -> tuple[str, ...]:
    if said.labels is not None:
        pick.provenance["labels"] = f"flag, {said.labels}"
        return read_labels(said.labels)
    if manifest is not None and manifest.labels is not None and folder is not None:
        pick.provenance["labels"] = f"model.toml, {manifest.labels}"
        return read_labels(folder / manifest.labels)
    if file.metadata.labels is not None:
        pick.provenance["labels"] = "file metadata"
        return file.metadata.labels
    if customary is not None:
        pick.provenance["labels"] = "custom of its decoder"
        return customary
    log.warning("%s has no labels, classes are shown by number; --labels FILE names them", file.path)
    return ()


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, the line number being the class id from 0. Raises ModelError."""
    if path.exists() and not path.is_file():
        raise ModelError(f"labels {path} are not a regular file")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_LABEL_BYTES + 1)
        text = content.decode("utf-8-sig")  # Some editors begin a file with a byte order mark.
    except OSError as unreadable:
        raise ModelError(f"cannot read labels {path}: {unreadable.strerror}") from unreadable
    except UnicodeDecodeError as broken:
        raise ModelError(f"labels {path} are not UTF-8 text") from broken
    if len(content) > _MAX_LABEL_BYTES:
        raise ModelError(f"labels {path} are larger than {_MAX_LABEL_BYTES} bytes")
    # Not `splitlines`: a form feed or U+2028 within a label would shift all labels after it.
    labels = tuple(line.strip() for line in text.rstrip().split("\n"))
    if labels == ("",):
        raise ModelError(f"labels {path} are empty")
    return labels


def _bundles() -> dict[str, Path]:
    """Every bundle on this machine, the first folder to hold a name wins."""
    found: dict[str, Path] = {}
    for folder in data_folders("models"):
        for manifest in sorted(folder.glob("*/model.toml")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return found


def _siblings(path: Path) -> list[str]:
    try:
        return [each.name for each in path.parent.iterdir()][:1000]
    except OSError:
        return []


def bundle_names() -> tuple[str, ...]:
    """The names of all bundles that can be given as a model."""
    return tuple(sorted(_bundles()))
