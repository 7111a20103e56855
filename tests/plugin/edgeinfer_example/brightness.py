"""`--device brightness`: answers every picture with how bright it is; needs no weights."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.errors import DeviceNotFound
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.tensor import Array, TensorSpec


class Brightness:
    """A runtime. Takes the inputs of any model; its one output, float32[1, 1], is the mean of the first.

    0..1 of what the input can hold: int8 -128..127, uint8 0..255, float 0..1.
    """

    def __init__(self, model: ModelFile, unit: str, options: RuntimeOptions) -> None:
        if unit not in ("", "cpu"):
            raise DeviceNotFound(f"brightness has no unit {unit!r}", hint="only brightness:cpu")
        self.device = "brightness:cpu"
        self.inputs = model.inputs
        self.outputs = (TensorSpec("mean", (1, 1), np.dtype(np.float32)),)
        dtype = model.inputs[0].dtype
        self._ends = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (0, 1)
        self._memory = tuple(np.zeros(spec.shape, dtype=spec.dtype) for spec in model.inputs)

    def input(self, index: int = 0) -> Array:
        return self._memory[index]

    def run(self) -> tuple[Array, ...]:
        low, high = self._ends
        share = (self._memory[0].mean() - low) / (high - low)
        return (np.array([[share]], dtype=np.float32),)

    def close(self) -> None:
        pass
