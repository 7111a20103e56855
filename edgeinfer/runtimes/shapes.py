"""Sizes that a model leaves free, settled for one picture at a time."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.errors import ModelError
from edgeinfer.tensor import TensorSpec


def settle_input(spec: TensorSpec, known: tuple[int, ...] | None = None) -> TensorSpec:
    """The input with every size known: a free batch is one, any other free size is taken from `known`.

    Raises ModelError naming the dimension that nothing is known of.
    """
    shape = list(spec.shape)
    for dimension, size in enumerate(shape):
        if size >= 0:
            continue
        if dimension == 0 and len(shape) > 1:
            shape[dimension] = 1
        elif known is not None and len(known) == len(shape) and known[dimension] > 1:
            shape[dimension] = known[dimension]
        else:
            raise ModelError(
                f"input {spec.name!r}, {spec.describe()}, leaves the size of dimension {dimension} free",
                hint="export the model with a fixed input size",
            )
    return replace(spec, shape=tuple(shape))


def one_of_each(spec: TensorSpec) -> TensorSpec:
    """The tensor with every size known: one that is free is 1."""
    return replace(spec, shape=tuple(1 if size < 0 else size for size in spec.shape))
