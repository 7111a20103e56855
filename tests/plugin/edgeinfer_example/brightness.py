"""`--device brightness`: answers every picture with its mean; needs no weights."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.errors import DeviceNotFound
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.tensor import Array, TensorSpec


class Brightness:
    """A runtime. Takes the inputs of any model; its only output is the mean of the first, float32[1, 1]."""

    def __init__(self, model: ModelFile, unit: str, options: RuntimeOptions) -> None:
        if unit not in ("", "cpu"):
            raise DeviceNotFound(f"brightness has no unit {unit!r}", hint="only brightness:cpu")
        self.device = "brightness:cpu"
        self.inputs = model.inputs
        self.outputs = (TensorSpec("mean", (1, 1), np.dtype(np.float32)),)
        self._memory = tuple(np.zeros(spec.shape, dtype=spec.dtype) for spec in model.inputs)

    def input(self, index: int = 0) -> Array:
        return self._memory[index]

    def run(self) -> tuple[Array, ...]:
        return (np.array([[self._memory[0].mean()]], dtype=np.float32),)

    def close(self) -> None:
        pass
