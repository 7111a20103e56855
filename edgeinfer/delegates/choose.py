"""A word for a device, and a model -> a runtime that was seen to run it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

from edgeinfer.bundle import ModelFile
from edgeinfer.delegates.memory import Memory
from edgeinfer.delegates.trial import TIMEOUT_S, Blame, try_model
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RUNTIMES, Runtime, RuntimeOptions
from edgeinfer.runtimes.litert import refuse_edgetpu
from edgeinfer.words import unknown

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to run a model. device: the word for it; driver: see RuntimeOptions."""

    device: str
    runtime: str
    unit: str
    driver: Mapping[str, str] = field(default_factory=dict)


_PLAIN = {"kernels": "plain"}

_EXACT = {
    rung.device: rung
    for rung in (
        Rung("litert:cpu", "litert", "cpu"),
        Rung("litert:cpu:plain", "litert", "cpu", _PLAIN),
        Rung("tflite:cpu", "tflite", "cpu"),
        Rung("tflite:cpu:plain", "tflite", "cpu", _PLAIN),
        Rung("onnx:cpu", "onnx", "cpu"),
    )
}

# The best first; the last resort of each is the slowest that still computes the same.
_LADDERS = {
    "tflite": ("litert:cpu", "litert:cpu:plain", "tflite:cpu"),
    "onnx": ("onnx:cpu",),
}
_READS = {"litert": "tflite", "tflite": "tflite", "onnx": "onnx"}
_OWN_LADDER = ("auto", "cpu")

# Words of the design that no code stands behind yet.
_NOT_YET = re.compile(
    r"gpu|npu|edgetpu(:.*)?|(litert|tflite):(gpu|npu|edgetpu(:.*)?|delegate=.*)"
    r"|onnx:(cuda|tensorrt|openvino|webgpu)(:.*)?|openvino(:.*)?"
)


def open_device(
    file: ModelFile,
    word: str,
    *,
    threads: int | None = None,
    paced: bool = False,
    trial_timeout_s: float = TIMEOUT_S,
) -> Runtime:
    """Open the model on the device that `word` names, after a child process has run it there without harm.

    `auto` and `cpu` take the first of a list of devices that works, an exact word takes that device or fails.
    Raises DeviceNotFound where no such device is to be had, ModelError where it refuses the model.
    """
    rungs = _rungs(word, file)
    refusals: list[_Refusal] = []
    for rung in rungs:
        options = RuntimeOptions(threads=threads, paced=paced, driver=rung.driver)
        opened = _open(file, rung, options, trial_timeout_s)
        if not isinstance(opened, _Refusal):
            refused = "".join(f"; {refusal.reason}" for refusal in refusals)
            log.info("%s runs on %s%s", file.path.name, opened.device, refused)
            return opened
        refusals.append(opened)
    raise _all_refused(file, refusals)


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    blame: Blame


def _open(file: ModelFile, rung: Rung, options: RuntimeOptions, timeout_s: float) -> Runtime | _Refusal:
    if rung.runtime != "fake":  # It has no native code, and its faults are meant for this process.
        trial = try_model(file, rung.runtime, rung.unit, options, timeout_s=timeout_s, memory=Memory())
        if trial.reason is not None:
            return _Refusal(_without_path(trial.reason, file), trial.blame)
    try:
        return RUNTIMES.get(rung.runtime, error=DeviceNotFound)(file, rung.unit, options)
    except (ModelError, RuntimeFailed) as refused:
        return _Refusal(_without_path(str(refused), file), "model")
    except DeviceNotFound as missing:
        return _Refusal(_without_path(str(missing), file), "device")


def _without_path(reason: str, file: ModelFile) -> str:
    return reason.replace(f" {file.path.absolute()}", " it").replace(f" {file.path}", " it")


def _all_refused(file: ModelFile, refusals: list[_Refusal]) -> ModelError | DeviceNotFound:
    """One error with every reason: it is the model's fault as soon as one device that is there refused it."""
    reasons = "; ".join(dict.fromkeys(refusal.reason for refusal in refusals))
    is_model = any(refusal.blame == "model" for refusal in refusals)
    return (ModelError if is_model else DeviceNotFound)(f"cannot run {file.path}: {reasons}")


def _rungs(word: str, file: ModelFile) -> tuple[Rung, ...]:
    name, _, rest = word.partition(":")
    if name == "fake":
        return (Rung(word, "fake", "", _driver_options(word, rest)),)
    if _NOT_YET.fullmatch(word):
        raise DeviceNotFound(f"this version cannot drive {word!r} yet", hint="use auto or cpu")
    if word not in _OWN_LADDER and word not in _EXACT:
        return (_plugin(word, name, rest),)
    refuse_edgetpu(file)
    if word in _EXACT:
        return (_readable(_EXACT[word], file),)
    ladder = [_EXACT[device] for device in _LADDERS[file.format]]
    return tuple(rung for rung in ladder if rung.runtime != "tflite" or find_spec("tflite_runtime") is not None)


def _readable(rung: Rung, file: ModelFile) -> Rung:
    if _READS[rung.runtime] != file.format:
        fitting = _LADDERS[file.format][0]
        raise DeviceNotFound(
            f"{rung.device} cannot read {file.path}, a .{file.format} model", hint=f"use auto or {fitting}"
        )
    return rung


def _plugin(word: str, name: str, unit: str) -> Rung:
    others = set(RUNTIMES.names()) - set(_READS) - {"fake"}
    if name not in others:
        raise DeviceNotFound(unknown("device", word, {*_OWN_LADDER, *_EXACT, "fake", *others}))
    return Rung(word, name, unit)


def _driver_options(word: str, text: str) -> dict[str, str]:
    """`latency_ms=200,fail_at=3` as a table."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(equals and key and value for key, equals, value in pairs):
        raise DeviceNotFound(f"{word!r} is not understood", hint="write it as in fake:latency_ms=200,fail_at=3")
    return {key: value for key, _, value in pairs}
