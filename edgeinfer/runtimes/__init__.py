"""What computes: one file per inference runtime. A runtime never learns what its tensors mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from edgeinfer.bundle import ModelFile
from edgeinfer.registry import Registry
from edgeinfer.tensor import Array, TensorSpec


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """How to open a model. threads: None leaves it to the runtime.

    paced: frames come one by one with pauses between, so that idle threads must sleep rather than spin.
    driver: what only one driver understands, as in `{"kernels": "plain"}` for LiteRT without XNNPACK.
    """

    threads: int | None = None
    paced: bool = False
    driver: Mapping[str, str] = field(default_factory=dict)


class Runtime(Protocol):
    """A model in memory, ready to run; used by one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def device(self) -> str:
        """What it really runs on, as in `litert:cpu`; may change between two runs."""
        ...

    def input(self, index: int = 0) -> Array:
        """The memory of an input, to be written in place. Let go of it before `run`."""
        ...

    def run(self) -> tuple[Array, ...]:
        """Compute; the outputs stay valid until the next `run`. Raises RuntimeFailed."""
        ...

    def close(self) -> None:
        """Free the model; may be called twice."""
        ...


OpenRuntime = Callable[[ModelFile, str, RuntimeOptions], Runtime]
"""(model, unit, options) -> a runtime; `unit` is what follows the colon in `litert:cpu`.

Raises DeviceNotFound where the unit is not to be had here, ModelError where it cannot take this model.
"""

RUNTIMES: Registry[OpenRuntime] = Registry(
    "runtime",
    {
        "fake": "edgeinfer.runtimes.fake:open_fake",
        "litert": "edgeinfer.runtimes.litert:open_litert",
        "onnx": "edgeinfer.runtimes.onnx:open_onnx",
        "openvino": "edgeinfer.runtimes.openvino:open_openvino",
        "tflite": "edgeinfer.runtimes.litert:open_tflite",
    },
    extras={"openvino": "openvino", "tflite_runtime": "tflite"},
)
