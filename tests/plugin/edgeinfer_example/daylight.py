"""`--task daylight`: is the picture dark or bright?"""

from __future__ import annotations

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Classification, Outcome
from edgeinfer.tensor import Array, TensorSpec, dequantize

LABELS = ("dark", "bright")
MIDDLE = 0.5


class Daylight:
    """A task. Reads one number 0..1, the brightness, and calls the picture dark or bright."""

    def __init__(self, bundle: Bundle, outputs: tuple[TensorSpec, ...]) -> None:
        if len(outputs) != 1 or outputs[0].shape != (1, 1):
            raise ModelError(f"daylight decodes one number; {bundle.name} has {[spec.describe() for spec in outputs]}")
        self._output = outputs[0]

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        brightness = float(dequantize(raw[0], self._output.quantization)[0, 0])
        class_id = int(brightness > MIDDLE)
        score = 0.5 + abs(brightness - MIDDLE)
        return Outcome(classes=(Classification(LABELS[class_id], class_id, score),))
