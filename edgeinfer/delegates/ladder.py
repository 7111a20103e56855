"""Which devices a word stands for, for one model on this board, the best first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeinfer.board import Board, recognise_board
from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.tflite import EDGETPU_OP
from edgeinfer.delegates.trial import Candidate
from edgeinfer.errors import DeviceNotFound
from edgeinfer.runtimes import RUNTIMES, RuntimeOptions
from edgeinfer.words import unknown

READS = {
    "litert": frozenset({"tflite"}),
    "tflite": frozenset({"tflite"}),
    "onnx": frozenset({"onnx"}),
    "openvino": frozenset({"tflite", "onnx"}),
}
SHORT_WORDS = ("auto", "cpu", "gpu", "edgetpu", "npu")

_EDGETPU = ("litert:edgetpu:pci", "litert:edgetpu:usb")
_KINDS = {
    ("cpu", "tflite"): ("litert:cpu", "litert:cpu:plain", "tflite:cpu"),
    ("cpu", "onnx"): ("onnx:cpu",),
    ("gpu", "tflite"): ("litert:gpu", "openvino:gpu"),
    ("gpu", "onnx"): ("onnx:tensorrt", "onnx:cuda", "openvino:gpu", "onnx:webgpu"),
    ("npu", "tflite"): ("openvino:npu",),
    ("npu", "onnx"): ("openvino:npu",),
    ("edgetpu", "tflite"): _EDGETPU,
}
_EXAMPLES = ("litert:cpu", "litert:gpu", "litert:edgetpu", "tflite:cpu", "onnx:cpu", "onnx:cuda", "openvino:cpu")


@dataclass(frozen=True, slots=True)
class Rung:
    """A device on the ladder. is_isolated: it can hang or crash, and so gets a process of its own.

    threads: how many it computes with unless the user says it. sleeps: its idle threads sleep even where no pauses
    lie between the frames, so that a core is left for decoding.
    """

    word: str
    runtime: str
    unit: str
    driver: tuple[tuple[str, str], ...] = ()
    is_isolated: bool = False
    threads: int | None = None
    sleeps: bool = False

    @property
    def is_cpu(self) -> bool:
        """Whether it computes on the CPU, with as many threads as it is told."""
        return self.runtime != "fake" and self.unit.startswith("cpu")

    def candidate(self, threads: int | None, *, paced: bool) -> Candidate:
        options = RuntimeOptions(
            threads=self.threads if threads is None else threads,
            paced=paced or self.sleeps,
            driver=dict(self.driver),
        )
        return Candidate(self.runtime, self.unit, options, is_foreign=self.runtime not in READS)

    def describe(self) -> str:
        """As in `onnx:cpu, 2 threads, sleeping`."""
        parts = [self.word]
        if self.threads is not None:
            parts.append(f"{self.threads} thread{'' if self.threads == 1 else 's'}")
        return ", ".join([*parts, "sleeping"] if self.sleeps else parts)


def rungs_for(word: str, file: ModelFile, board: Board | None = None) -> tuple[Rung, ...]:
    """The devices that `word` means for this model on that board, or on this one; one for an exact word.

    Raises DeviceNotFound.
    """
    if word in SHORT_WORDS:
        words = _ladder(file, board or recognise_board()) if word == "auto" else _KINDS.get((word, file.format), ())
        if is_for_edgetpu(file):
            words = tuple(each for each in words if ":edgetpu" in each)
        if not words:
            raise DeviceNotFound(_no_rung(word, file), hint="use auto")
        return tuple(rung_of_ladder(each) for each in words)
    rung = _exact(word)
    reads = READS.get(rung.runtime)
    if reads is not None and file.format not in reads:
        fitting = _KINDS["cpu", file.format][0]
        raise DeviceNotFound(f"{word} cannot read {file.path}, a .{file.format} model", hint=f"use auto or {fitting}")
    return (rung,)


def _ladder(file: ModelFile, board: Board) -> tuple[str, ...]:
    ladder = board.profile.ladder
    if is_for_edgetpu(file):
        return ladder.edgetpu or _EDGETPU
    listed = ladder.tflite if file.format == "tflite" else ladder.onnx
    return listed or _KINDS["cpu", file.format]


def is_exclusive(device: str) -> bool:
    """Whether a device that is in use cannot be opened once more for another model."""
    return ":edgetpu" in device


def rung_of_ladder(word: str) -> Rung:
    """A device that nobody named exactly: a GPU that is drawn by the CPU is none then. Raises DeviceNotFound."""
    rung = _exact(word)
    return replace(rung, driver=(("adapter", "hardware"),)) if word == "litert:gpu" else rung


def _exact(word: str) -> Rung:
    runtime, _, unit = word.partition(":")
    if runtime == "fake":
        # It has no native code, and its faults are meant for this process.
        return Rung(word, "fake", "", _driver_options(word, unit))
    if runtime not in RUNTIMES.names():
        raise DeviceNotFound(unknown("device", word, {*SHORT_WORDS, *_EXAMPLES, *RUNTIMES.names()}))
    if runtime not in READS:
        return Rung(word, runtime, unit)
    if not unit:
        raise DeviceNotFound(f"{word!r} names no device of {runtime}", hint=f"such as {runtime}:cpu")
    if unit == "cpu:plain" and runtime in ("litert", "tflite"):
        return Rung(word, runtime, "cpu", (("kernels", "plain"),))
    return Rung(word, runtime, unit, is_isolated=unit != "cpu")


def _driver_options(word: str, text: str) -> tuple[tuple[str, str], ...]:
    """`latency_ms=200,fail_at=3` as pairs."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(equals and key and value for key, equals, value in pairs):
        raise DeviceNotFound(f"{word!r} is not understood", hint="write it as in fake:latency_ms=200,fail_at=3")
    return tuple((key, value) for key, _, value in pairs)


def is_for_edgetpu(file: ModelFile) -> bool:
    """Whether it was compiled for the Edge TPU, and so runs on nothing else."""
    return EDGETPU_OP in file.custom_ops


def _no_rung(word: str, file: ModelFile) -> str:
    if is_for_edgetpu(file):
        return f"{file.path} is compiled for the Edge TPU and runs on nothing else, so not on {word!r}"
    return f"no {word} can run {file.path}, a .{file.format} model"
