"""Window -> input tensor: scaled or made into features, ordered and quantised."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import WindowInput
from edgeinfer.errors import ModelError, UsageError
from edgeinfer.frame import Window
from edgeinfer.mel import features
from edgeinfer.tensor import TensorSpec, quantize

Real = npt.NDArray[np.float64]


class WindowFitter:
    """Turns windows into one input: `quantize((x - mean) / std)` of each sample, or what a front end makes of these."""

    def __init__(self, spec: TensorSpec, window: WindowInput) -> None:
        self._spec = spec
        self._window = window
        self._channels = len(window.channels) or 1
        self._mean = np.asarray(window.mean, dtype=np.float64)
        self._std = np.asarray(window.std, dtype=np.float64)
        self._rows = window.length - window.ahead
        sizes = tuple(size for size in spec.shape if size != 1)
        # A tensor with the channels first is the window lying on its side.
        self._is_turned = sizes == (self._channels, self._rows) and self._channels != self._rows
        # To be quantised, numbers are laid out as the tensor is; a free size has been settled before.
        self._shape = spec.shape
        if window.front_end is None and self._rows * self._channels != int(np.prod(spec.shape)):
            raise ModelError(
                f"input {spec.name!r} {spec.describe()} does not hold {self._rows} samples of {self._channels} channels"
            )

    def fit(self, window: Window, tensor: npt.NDArray[Any]) -> Real:
        """Write the window into `tensor`. Returns all of it as the model sees it before quantisation.

        (length, channels), what a forecast is held against included; or (frames, bands) of a front end.
        Raises UsageError for a window of another form or rate.
        """
        values = window.values
        self._check(window)
        real: Real = (values.astype(np.float64) - self._mean) / self._std
        if self._window.front_end is not None:
            real = features(self._window.front_end, real[:, 0], self._window.rate_hz)
        taken = real[: self._rows] if self._window.ahead else real
        tensor[...] = quantize((taken.T if self._is_turned else taken).reshape(self._shape), self._spec)
        return real

    def _check(self, window: Window) -> None:
        wanted = (self._window.length, self._channels)
        if window.values.ndim == 2 and window.values.shape[1] != self._channels:
            raise UsageError(
                f"samples of {window.values.shape[1]} channels, the model takes {self._channels}",
                hint="channels under [window] in a model.toml names those that it takes",
            )
        if window.values.shape != wanted:
            raise UsageError(f"a window of {window.values.shape} samples and channels, the model takes {wanted}")
        if window.rate_hz != self._window.rate_hz:
            raise UsageError(f"a window at {window.rate_hz:g} Hz, the model takes {self._window.rate_hz:g} Hz")
