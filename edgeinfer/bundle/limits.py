"""Bounds that every model file has to keep, whatever its format."""

from __future__ import annotations

import math

from edgeinfer.tensor import TensorSpec

MAX_MODEL_BYTES = 2 << 30
MAX_RANK = 8
MAX_ELEMENTS = 1 << 28


def beyond_limits(spec: TensorSpec) -> str | None:
    """Why an input or output is too large to be meant, or None where it is not."""
    if len(spec.shape) > MAX_RANK:
        return f"{spec.name!r} has {len(spec.shape)} dimensions, at most {MAX_RANK} are allowed"
    if math.prod(abs(size) for size in spec.shape) > MAX_ELEMENTS:
        return f"{spec.name!r}, {spec.describe()}, has more than {MAX_ELEMENTS} elements"
    return None
