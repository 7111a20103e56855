"""A runtime that computes nothing: for tests, and for trying a pipeline without a model's cost.

Driver options, runs being counted from 1 and 0 standing for the opening:
    latency_ms=L   every run takes that long
    fail_at=N      run N raises RuntimeFailed
    hang_at=N      run N does not come back before `close`
    crash_at=N     run N kills the process
    nan_at=N       run N gives NaN in every float output
    exclusive=1    as long as it is open, nobody else in this process can open one that is exclusive, too
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.tflite import DETECTION_POSTPROCESS
from edgeinfer.errors import DeviceNotFound, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.shapes import one_of_each, settle_input
from edgeinfer.tensor import Array, TensorSpec, quantize
from edgeinfer.words import unknown

MakeOutputs = Callable[[tuple[Array, ...]], tuple[Array, ...]]
"""(inputs as stored) -> outputs as stored."""

_REMEMBERED_RUNS = 1000
_NEVER = -1
_OPENING = 0
_the_only_one = threading.Lock()


@dataclass(frozen=True, slots=True)
class Faults:
    """The driver options, as numbers."""

    latency_ms: float = 0.0
    fail_at: int = _NEVER
    hang_at: int = _NEVER
    crash_at: int = _NEVER
    nan_at: int = _NEVER
    exclusive: int = 0

    @staticmethod
    def parse(words: Mapping[str, str]) -> Faults:
        """Raises DeviceNotFound naming the option."""
        known = [each.name for each in fields(Faults)]
        numbers: dict[str, float | int] = {}
        for name, value in words.items():
            if name not in known:
                raise DeviceNotFound(unknown("option of fake", name, known))
            try:
                numbers[name] = float(value) if name == "latency_ms" else int(value)
            except ValueError as wrong:
                raise DeviceNotFound(f"fake:{name}={value} is not a number") from wrong
            if not 0 <= numbers[name] < 1e9:
                raise DeviceNotFound(f"fake:{name}={value} is out of range")
        return Faults(**numbers)  # type: ignore[arg-type]  # The names were checked above.


def open_fake(file: ModelFile, unit: str, options: RuntimeOptions) -> FakeRuntime:
    """Takes any model that could be read; see the options above."""
    if unit:
        raise DeviceNotFound(f"fake has no unit {unit!r}", hint="use fake, or fake:latency_ms=10")
    return FakeRuntime(file, Faults.parse(options.driver))


class FakeRuntime:
    """Gives the stored form of real 0 in every element, or what `outputs` makes; see Runtime.

    runs: how many were begun. seen: a CRC-32 of all inputs of each run, the newest last.
    """

    def __init__(
        self,
        file: ModelFile,
        faults: Faults | None = None,
        *,
        outputs: MakeOutputs | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.device = "fake"
        self.inputs = tuple(settle_input(spec) for spec in file.inputs)
        self.outputs = tuple(one_of_each(spec) for spec in _stated_outputs(file))
        self.runs = 0
        self.seen: deque[int] = deque(maxlen=_REMEMBERED_RUNS)
        self._faults = faults or Faults()
        self._make_outputs = outputs
        self._sleep = sleep
        self._closed = threading.Event()
        self._closing = threading.Lock()
        self._memory = tuple(np.zeros(spec.shape, dtype=spec.dtype) for spec in self.inputs)
        self._zeros = tuple(_stored_zeros(spec) for spec in self.outputs)
        if self._faults.exclusive and not _the_only_one.acquire(blocking=False):
            raise DeviceNotFound("fake is in use, and exclusive")
        try:
            self._fail_where_asked(_OPENING)
        except RuntimeFailed:
            self.close()
            raise

    def input(self, index: int = 0) -> Array:
        return self._memory[index]

    def run(self) -> tuple[Array, ...]:
        if self._closed.is_set():
            raise RuntimeFailed("fake is closed")
        self.runs += 1
        checksum = 0
        for tensor in self._memory:
            checksum = zlib.crc32(tensor.tobytes(), checksum)
        self.seen.append(checksum)
        if self._faults.latency_ms:
            self._sleep(self._faults.latency_ms / 1000)
        self._fail_where_asked(self.runs)
        made = self._make_outputs(self._memory) if self._make_outputs else tuple(each.copy() for each in self._zeros)
        return tuple(_nans(each) for each in made) if self.runs == self._faults.nan_at else made

    def close(self) -> None:
        with self._closing:
            if self._faults.exclusive and not self._closed.is_set():
                _the_only_one.release()
            self._closed.set()

    def _fail_where_asked(self, run: int) -> None:
        faults = self._faults
        if run == faults.crash_at:
            os.abort()
        if run == faults.hang_at:
            self._closed.wait()
            raise RuntimeFailed(f"fake was closed while run {run} hung, as asked")
        if run == faults.fail_at:
            raise RuntimeFailed(f"fake failed at run {run}, as asked")


def _stated_outputs(file: ModelFile) -> tuple[TensorSpec, ...]:
    """The outputs; those of a detection post-processing, which the file leaves open, as for one object."""
    if DETECTION_POSTPROCESS not in file.ops or any(spec.shape for spec in file.outputs[:4]):
        return file.outputs
    shapes = ((1, 1, 4), (1, 1), (1, 1), (1,))
    settled = [replace(spec, shape=shape) for spec, shape in zip(file.outputs, shapes, strict=False)]
    return (*settled, *file.outputs[4:])


def _stored_zeros(spec: TensorSpec) -> Array:
    return quantize(np.zeros(spec.shape), spec)


def _nans(tensor: Array) -> Array:
    return np.full_like(tensor, np.nan) if tensor.dtype.kind == "f" else tensor
