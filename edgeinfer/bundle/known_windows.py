"""Published models of sound, known by their tensors beyond doubt."""

from __future__ import annotations

from dataclasses import dataclass

from edgeinfer.bundle.facts import ModelFile
from edgeinfer.bundle.manifest import WindowFacts
from edgeinfer.tensor import TensorSpec

_SPEECH_HZ = 16_000.0
_KEYWORDS = ("Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown")
_WAKEWORDS = ("Marvin", "Silence", "Unknown")
# Silero wants 64 samples of what came before each 512: windows that overlap by so many.
_SILERO_NEW, _SILERO_BEFORE = 512, 64
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


def _silero(file: ModelFile) -> KnownWindow:
    names = [spec.name for spec in file.inputs]
    window = WindowFacts(rate_hz=_SPEECH_HZ, length=_SILERO_BEFORE + _SILERO_NEW, stride=_SILERO_NEW)
    why = "Silero VAD: its inputs are named input, state and sr"
    constants = ((names.index("sr"), _SPEECH_HZ),)
    return KnownWindow("audio", "classes", window, why, ("speech",), constants, names.index("input"))


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size for size in spec.shape if size != 1)
