"""A window of numbers -> numbers with names."""

from __future__ import annotations

import math

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.bundle.facts import NamedValue
from edgeinfer.errors import ModelError
from edgeinfer.result import Outcome, Value
from edgeinfer.tasks import Fitted, WindowTask
from edgeinfer.tasks.heard import make_classes
from edgeinfer.tensor import Array, TensorSpec, dequantize


def make_vector(bundle: Bundle, specs: tuple[TensorSpec, ...]) -> WindowTask:
    """Classes or values, as the bundle's decoder says. Raises ModelError."""
    return make_classes(bundle, specs) if bundle.decode.decoder == "classes" else Values(bundle, specs)


class Values:
    """All numbers of all outputs, in order: real = output * std + mean. One that is no number is left out."""

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._specs = specs
        self._name = bundle.name
        self._values = bundle.decode.values
        if all(spec.is_static for spec in specs):
            self._check(sum(math.prod(spec.shape) for spec in specs))

    def decode(self, raw: tuple[Array, ...], fitted: Fitted) -> Outcome:
        numbers = np.concatenate(
            [dequantize(stored.reshape(-1), spec.quantization) for stored, spec in zip(raw, self._specs, strict=True)]
        ).tolist()
        self._check(len(numbers))
        named = self._values or tuple(NamedValue(str(index)) for index in range(len(numbers)))
        return Outcome(
            values=tuple(
                Value(value.name, float(f"{real:.7g}"), value.unit)
                for value, number in zip(named, numbers, strict=True)
                if math.isfinite(real := number * value.std + value.mean)
            )
        )

    def _check(self, numbers: int) -> None:
        if self._values and len(self._values) != numbers:
            raise ModelError(
                f"{len(self._values)} values for the {numbers} numbers that {self._name} gives",
                hint="name each of them under [[values]] in its model.toml",
            )
