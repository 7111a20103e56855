"""A score's threshold in the numbers that a tensor stores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeinfer.errors import ModelError
from edgeinfer.tensor import TensorSpec, quantized_threshold


def stored_threshold(score_min: float, spec: TensorSpec) -> np.generic[Any] | None:
    """The least stored number that is a score of `score_min`, in the tensor's dtype; None where none can be."""
    if spec.quantization is not None and spec.quantization.axis is not None:
        raise ModelError(f"output {spec.name!r} is quantised per channel, scores are compared as one")
    threshold = quantized_threshold(score_min, spec)
    if spec.dtype.kind == "f":
        return _scalar(threshold, spec)
    ends = np.iinfo(spec.dtype)
    if threshold > ends.max:
        return None
    # Of the tensor's own dtype, or the comparison would cast the whole tensor.
    return _scalar(max(math.ceil(threshold), int(ends.min)), spec)


def _scalar(number: float, spec: TensorSpec) -> np.generic[Any]:
    scalar: np.generic[Any] = spec.dtype.type(number)
    return scalar
