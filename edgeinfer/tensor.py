"""What a model's tensors are, and the one place where real numbers become quantised ones and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Quantization:
    """real = scale * (quantised - zero_point).

    One scale and zero point for the whole tensor (`axis` None), or one per index along `axis`.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.zero_point) or not self.scale:
            raise ValueError(f"{len(self.scale)} scales for {len(self.zero_point)} zero points")
        if self.axis is None and len(self.scale) != 1:
            raise ValueError("per-channel quantisation without an axis")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: -1 in `shape` stands for a size that is free."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    quantization: Quantization | None = None

    @property
    def is_static(self) -> bool:
        return all(size >= 0 for size in self.shape)

    def describe(self) -> str:
        """As in `int8[1,240,320,3] scale 0.003922 zero point -128`."""
        shape = ",".join("?" if size < 0 else str(size) for size in self.shape)
        text = f"{self.dtype.name}[{shape}]"
        if self.quantization is None:
            return text
        if self.quantization.axis is not None:
            return f"{text} per-channel on axis {self.quantization.axis}"
        return f"{text} scale {self.quantization.scale[0]:.6g} zero point {self.quantization.zero_point[0]}"


def quantize(real: Array, spec: TensorSpec) -> Array:
    """Real numbers to the tensor's dtype: rounded half to even, saturated at the dtype's ends, never wrapped.

    A NaN becomes the zero point. Without quantisation, integers are rounded and saturated, floats are cast
    (a float16 overflow saturates at the largest finite value), and bool is `real >= 0.5`.
    """
    values = np.asarray(real, dtype=np.float64)
    if spec.dtype == np.bool_:
        return np.asarray(values >= 0.5)
    if spec.quantization is not None:
        scale, zero_point = _broadcast(spec.quantization, values.ndim)
        with np.errstate(over="ignore"):  # An infinity saturates like any other large number.
            values = values / scale
        values = np.where(np.isnan(values), 0.0, values) + zero_point
    if np.issubdtype(spec.dtype, np.floating):
        ends = np.finfo(spec.dtype)
        return np.asarray(np.clip(values, float(ends.min), float(ends.max)), dtype=spec.dtype)
    return _saturate(np.where(np.isnan(values), 0.0, values), spec.dtype)


def dequantize(stored: Array, quantization: Quantization | None) -> npt.NDArray[np.float32]:
    """The tensor's numbers as real ones, float32; an unquantised tensor is only cast, too large is infinite."""
    if quantization is not None and quantization.axis is None and stored.dtype.itemsize == 1:
        # The usual case, without detours: a byte times a scale is never too large to be cast.
        real: npt.NDArray[np.float32] = stored.astype(np.float64)
        real -= quantization.zero_point[0]
        real *= quantization.scale[0]
        return real.astype(np.float32)
    with np.errstate(over="ignore"):
        if quantization is None:
            return np.asarray(stored, dtype=np.float32)
        scale, zero_point = _broadcast(quantization, stored.ndim)
        return np.asarray((stored.astype(np.float64) - zero_point) * scale, dtype=np.float32)


def quantized_threshold(real: float, spec: TensorSpec) -> float:
    """The stored value at and above which a per-tensor quantised element is >= `real`, to compare without dequantising.

    Not rounded into the dtype: a threshold that nothing can reach stays out of reach. For an unquantised
    tensor it is `real` itself. Raises ValueError for per-channel quantisation.
    """
    if spec.quantization is None:
        return real
    if spec.quantization.axis is not None:
        raise ValueError("a per-channel tensor has no single threshold")
    steps = real / spec.quantization.scale[0]
    # A hair of slack, so that 0.4 with a scale of 0.1 is step 4 and not 5.
    return float(np.ceil(steps - 1e-6)) + spec.quantization.zero_point[0]


def _broadcast(quantization: Quantization, ndim: int) -> tuple[Array, Array]:
    scale = np.asarray(quantization.scale, dtype=np.float64)
    zero_point = np.asarray(quantization.zero_point, dtype=np.float64)
    if quantization.axis is None:
        return scale[0], zero_point[0]
    shape = [1] * ndim
    shape[quantization.axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)


def _saturate(values: Array, dtype: np.dtype[Any]) -> Array:
    ends = np.iinfo(dtype)
    rounded = np.rint(values)
    # A float64 cannot hold the largest int64: compare first, cast what is inside, fill in the ends.
    inside = np.clip(rounded, float(ends.min), float(ends.max))
    too_high = rounded >= float(ends.max)
    too_low = rounded <= float(ends.min)
    stored = np.where(too_high | too_low, 0.0, inside).astype(dtype)
    stored[too_high] = ends.max
    stored[too_low] = ends.min
    return stored
