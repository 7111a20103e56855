"""How far from the usual: the mean squared error of what a model makes of a window that it knows how to make."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.result import Anomaly, Outcome
from edgeinfer.tasks import Fitted
from edgeinfer.tensor import Array, TensorSpec, dequantize

# JSON knows no infinity: a model that gives one, or no number, is as far off as can be.
_FARTHEST = float(np.finfo(np.float32).max)


class AnomalyOf:
    """A reconstruction is held against the window itself, a forecast against the samples at its end."""

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        if len(specs) != 1:
            raise ModelError(f"{len(specs)} outputs, expected the one that is held against the window")
        assert bundle.window is not None
        assert bundle.decode.threshold is not None, "a bundle of this task has a threshold"
        self._spec = specs[0]
        self._threshold = bundle.decode.threshold
        self._ahead = bundle.window.ahead
        if (bundle.decode.decoder == "forecast") != (self._ahead > 0):
            raise ModelError(
                f"decoder {bundle.decode.decoder} with window.ahead = {self._ahead}",
                hint="a forecast needs the samples that it is held against, a reconstruction has none",
            )

    def decode(self, raw: tuple[Array, ...], fitted: Fitted) -> Outcome:
        found = dequantize(raw[0], self._spec.quantization)
        wanted = fitted[-self._ahead :] if self._ahead else fitted
        if found.size != wanted.size:
            raise ModelError(f"output {self._spec.name!r} has {found.size} numbers to be held against {wanted.size}")
        with np.errstate(over="ignore", invalid="ignore"):
            error = float(np.mean((found.reshape(wanted.shape).astype(np.float64) - wanted) ** 2))
        score = min(error, _FARTHEST) if not np.isnan(error) else _FARTHEST
        return Outcome(anomaly=Anomaly(float(f"{score:.6g}"), self._threshold, score >= self._threshold))
