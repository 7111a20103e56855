"""LiteRT and its predecessor tflite-runtime, through the one interface that they share."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.tflite import EDGETPU_OP
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.shapes import settle_input
from edgeinfer.runtimes.stderr import quiet_stderr
from edgeinfer.runtimes.vendor import first_line
from edgeinfer.runtimes.weights import read_weights
from edgeinfer.tensor import Array, TensorSpec

log = logging.getLogger(__name__)


def open_litert(file: ModelFile, unit: str, options: RuntimeOptions) -> LiteRT:
    """LiteRT (`ai-edge-litert`) on the CPU; driver option `kernels=plain` goes without XNNPACK."""
    return _open("litert", "ai_edge_litert", file, unit, options)


def open_tflite(file: ModelFile, unit: str, options: RuntimeOptions) -> LiteRT:
    """tflite-runtime on the CPU, for boards that LiteRT has left behind; options as for LiteRT."""
    return _open("tflite", "tflite_runtime", file, unit, options)


def refuse_edgetpu(file: ModelFile) -> None:
    """Raises DeviceNotFound for a model that only an Edge TPU can run; no interpreter has to see it for that."""
    if EDGETPU_OP in file.custom_ops:
        raise DeviceNotFound(
            f"{file.path} is compiled for the Edge TPU and runs on nothing else",
            hint="on a cpu use the model that it was compiled from",
        )


class LiteRT:
    """A model in a TFLite interpreter; see Runtime."""

    def __init__(
        self, device: str, interpreter: Any, inputs: tuple[TensorSpec, ...], content: bytes, file: ModelFile
    ) -> None:
        self.device = device
        self._interpreter: Any = interpreter
        self._content = content  # The interpreter points into it.
        self._name = str(file.path)
        self._views = [interpreter.tensor(each["index"]) for each in interpreter.get_input_details()]
        self._output_indices = [each["index"] for each in interpreter.get_output_details()]
        self.inputs = inputs
        self.outputs = _settled_outputs(file, interpreter)

    def input(self, index: int = 0) -> Array:
        view: Array = self._views[index]()
        return view

    def run(self) -> tuple[Array, ...]:
        try:
            self._interpreter.invoke()
            return tuple(self._interpreter.get_tensor(index) for index in self._output_indices)
        except (RuntimeError, ValueError) as failure:
            raise RuntimeFailed(f"{self.device} failed to run {self._name}: {first_line(failure)}") from failure

    def close(self) -> None:
        self._views = []
        self._interpreter = None
        self._content = b""


def _open(name: str, package: str, file: ModelFile, unit: str, options: RuntimeOptions) -> LiteRT:
    if unit != "cpu":
        raise DeviceNotFound(f"{name} runs only on the cpu in this version, not on {unit!r}", hint=f"use {name}:cpu")
    if file.format != "tflite":
        raise DeviceNotFound(f"{name} cannot read {file.path}, a .{file.format} model")
    refuse_edgetpu(file)
    content = read_weights(file)
    with quiet_stderr(log):
        module = _import(name, package)
        interpreter = _construct(module, name, content, file, options)
        try:
            inputs = _allocate(interpreter, file)
            plain = options.driver.get("kernels") == "plain"
            return LiteRT(f"{name}:cpu:plain" if plain else f"{name}:cpu", interpreter, inputs, content, file)
        except (RuntimeError, ValueError) as refusal:
            raise ModelError(f"{name}:cpu cannot run {file.path}: {first_line(refusal)}") from refusal


def _import(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.interpreter")
    except ModuleNotFoundError as missing:
        if name == "tflite" and sys.version_info >= (3, 12):
            raise DeviceNotFound("tflite:cpu needs tflite-runtime, which ends with Python 3.11") from missing
        wanted = "'edgeinfer[tflite]'" if name == "tflite" else "ai-edge-litert"
        raise DeviceNotFound(f"{name}:cpu needs {missing.name}", hint=f"pip install {wanted}") from missing
    except (ImportError, OSError, AttributeError) as broken:
        raise DeviceNotFound(f"{name}:cpu does not load here: {first_line(broken)}") from broken


def _construct(module: ModuleType, name: str, content: bytes, file: ModelFile, options: RuntimeOptions) -> Any:
    wanted: dict[str, Any] = {"model_content": content, "num_threads": options.threads}
    if options.driver.get("kernels") == "plain":
        wanted["experimental_op_resolver_type"] = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    known = inspect.signature(module.Interpreter).parameters
    try:
        return module.Interpreter(**{key: value for key, value in wanted.items() if key in known})
    except SystemError as mismatch:
        # tflite-runtime was built for numpy 1: it imports, and fails only here.
        raise DeviceNotFound(
            f"{name}:cpu does not work with numpy {np.__version__}", hint="pip install 'numpy<2'"
        ) from mismatch
    except (RuntimeError, ValueError) as refusal:
        raise ModelError(f"{name}:cpu cannot load {file.path}: {first_line(refusal)}") from refusal


def _allocate(interpreter: Any, file: ModelFile) -> tuple[TensorSpec, ...]:
    """Settle free input sizes, then let the interpreter lay out its memory."""
    inputs = []
    for spec, details in zip(file.inputs, interpreter.get_input_details(), strict=True):
        known = tuple(int(size) for size in details["shape"])
        settled = settle_input(spec, known)
        if settled.shape != known:
            interpreter.resize_tensor_input(details["index"], settled.shape)
        inputs.append(settled)
    interpreter.allocate_tensors()
    return tuple(inputs)


def _settled_outputs(file: ModelFile, interpreter: Any) -> tuple[TensorSpec, ...]:
    """The outputs with the shapes that the interpreter settled on; a size that the file leaves free stays so.

    The file gives no shape at all for TFLite_Detection_PostProcess, the interpreter does.
    """
    settled = []
    for spec, each in zip(file.outputs, interpreter.get_output_details(), strict=True):
        shape = [int(size) for size in each["shape"]]
        for dimension, stated in enumerate(spec.shape if len(spec.shape) == len(shape) else ()):
            if stated < 0 and dimension > 0:
                shape[dimension] = -1
        settled.append(replace(spec, shape=tuple(shape)))
    return tuple(settled)
