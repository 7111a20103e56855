"""Inputs besides the picture or the window: states that outputs feed, and constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeinfer.bundle.facts import Carried, ModelFile
from edgeinfer.bundle.manifest import Manifest
from edgeinfer.errors import ModelError
from edgeinfer.tensor import TensorSpec

_ENDS = ("_in", "_out", "_input", "_output")


def carried_of(file: ModelFile, manifest: Manifest | None) -> Carried:
    """What `model.toml` states, else what is recognised. Raises ModelError naming the key."""
    if manifest is not None and (manifest.state or manifest.constants):
        return read_carried(file, manifest.state, manifest.constants)
    return recognise_carried(file)


def read_carried(file: ModelFile, state: Mapping[str, str], constants: Mapping[str, float]) -> Carried:
    """What `model.toml` states, by name or number. Raises ModelError naming the key."""
    pairs = tuple(
        (
            _find(file, output, file.outputs, "output", f"state.{output}"),
            _find(file, fed, file.inputs, "input", "state"),
        )
        for output, fed in state.items()
    )
    for output, fed in pairs:
        if not _is_same_form(file.outputs[output], file.inputs[fed]):
            raise ModelError(
                f"{file.path}: output {file.outputs[output].name!r} {file.outputs[output].describe()} "
                f"cannot feed input {file.inputs[fed].name!r} {file.inputs[fed].describe()}"
            )
    numbers = tuple(
        (_find(file, name, file.inputs, "input", f"constants.{name}"), number) for name, number in constants.items()
    )
    taken = [fed for _, fed in pairs] + [fed for fed, _ in numbers]
    if len(set(taken)) != len(taken):
        raise ModelError(f"{file.path}: an input is named twice in state and constants")
    return Carried(pairs, numbers)


def recognise_carried(file: ModelFile) -> Carried:
    """The states that go by the same name on both sides, as `init_lstm_c` and `lstm_c`, or `state` and `stateN`."""
    pairs = []
    for fed, spec in enumerate(file.inputs):
        stem = _stem(spec)
        fits = [
            output
            for output, found in enumerate(file.outputs)
            if _stem(found) in (stem, f"{stem}n") and len(spec.shape) > 1 and _is_same_form(found, spec)
        ]
        if len(fits) == 1:
            pairs.append((fits[0], fed))
    if len(pairs) >= len(file.inputs):
        return Carried()  # Something has to be asked of it.
    return Carried(tuple(pairs))


def _find(file: ModelFile, word: str, specs: Sequence[TensorSpec], what: str, key: str) -> int:
    for index, spec in enumerate(specs):
        if word in (spec.name, str(index)):
            return index
    names = ", ".join(repr(spec.name) for spec in specs)
    raise ModelError(f"{file.path}: {key}: the model has no {what} {word!r}, only {names}")


def _stem(spec: TensorSpec) -> str:
    """`raw_inputs/init_lstm_c:0` -> `lstm_c`."""
    stem = spec.name.rpartition("/")[2].partition(":")[0].lower().removeprefix("init_")
    for end in _ENDS:
        stem = stem.removesuffix(end)
    return stem


def _is_same_form(one: TensorSpec, other: TensorSpec) -> bool:
    return len(one.shape) == len(other.shape) and all(
        size == there or -1 in (size, there) for size, there in zip(one.shape, other.shape, strict=True)
    )
