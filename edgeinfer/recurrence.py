"""Inputs that no picture or window fills: what outputs of the run before were, and constants."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle.facts import Carried
from edgeinfer.errors import ModelError
from edgeinfer.runtimes import Runtime
from edgeinfer.runtimes.shapes import one_of_each
from edgeinfer.tensor import Array, TensorSpec, dequantize, quantize


class Recurrence:
    """The state of one model, kept apart from the runtime, which several may share and another may replace."""

    def __init__(self, carried: Carried, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._pairs = carried.state
        self._specs = {fed: one_of_each(inputs[fed]) for _, fed in carried.state}
        self._outputs = outputs
        self._constants = {
            fed: quantize(np.full(one_of_each(inputs[fed]).shape, number), inputs[fed])
            for fed, number in carried.constants
        }
        states = {output for output, _ in carried.state}
        self._answers = tuple(index for index in range(len(outputs)) if index not in states)
        self._state: dict[int, Array] = {}
        self.reset()

    def reset(self) -> None:
        """Forget: the next run begins with zeros."""
        self._state = {fed: quantize(np.zeros(spec.shape), spec) for fed, spec in self._specs.items()}

    def answers_of(self, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """The outputs that are no state."""
        return tuple(specs[index] for index in self._answers)

    def feed(self, runtime: Runtime) -> None:
        """Each time, constants too: a runtime may compute in the memory of its inputs."""
        for fed, tensor in (*self._state.items(), *self._constants.items()):
            runtime.input(fed)[...] = tensor

    def keep(self, raw: tuple[Array, ...]) -> tuple[Array, ...]:
        """Take the states out of the outputs; what is left is for the task. Raises ModelError for another shape."""
        for output, fed in self._pairs:
            spec, found = self._specs[fed], raw[output]
            if found.shape != spec.shape:
                raise ModelError(
                    f"output {self._outputs[output].name!r} came as {list(found.shape)}, "
                    f"input {spec.name!r} takes {list(spec.shape)}"
                )
            is_same = (found.dtype, self._outputs[output].quantization) == (spec.dtype, spec.quantization)
            # Copied: the runtime's memory is written over by the next run.
            self._state[fed] = (
                np.array(found) if is_same else quantize(dequantize(found, self._outputs[output].quantization), spec)
            )
        return tuple(raw[index] for index in self._answers)
