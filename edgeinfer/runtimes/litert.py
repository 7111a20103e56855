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
from edgeinfer.runtimes import Runtime, RuntimeOptions
from edgeinfer.runtimes.delegate import (
    Claims,
    Delegate,
    keep_alive,
    let_go_in_frames,
    load_delegate,
    parse_delegate,
    vendor_words,
)
from edgeinfer.runtimes.litert_gpu import open_gpu
from edgeinfer.runtimes.shapes import settle_input
from edgeinfer.runtimes.stderr import quiet_stderr
from edgeinfer.runtimes.vendor import first_line
from edgeinfer.runtimes.weights import read_weights
from edgeinfer.tensor import Array, TensorSpec

log = logging.getLogger(__name__)


def open_litert(file: ModelFile, unit: str, options: RuntimeOptions) -> Runtime:
    """LiteRT (`ai-edge-litert`) on the CPU, on its own GPU path, or with an external delegate such as the Edge TPU's.

    Driver option `kernels=plain` goes without XNNPACK; for the units of a delegate see `parse_delegate`.
    """
    if unit == "gpu":
        _check_fits("litert", file)
        refuse_edgetpu(file)
        return open_gpu(file, options)
    return _open("litert", "ai_edge_litert", file, unit, options)


def open_tflite(file: ModelFile, unit: str, options: RuntimeOptions) -> Runtime:
    """tflite-runtime, for boards that LiteRT has left behind; units and options as for LiteRT, without the GPU."""
    return _open("tflite", "tflite_runtime", file, unit, options)


def refuse_edgetpu(file: ModelFile) -> None:
    """Raises DeviceNotFound for a model that only an Edge TPU can run; no interpreter has to see it for that."""
    if EDGETPU_OP in file.custom_ops:
        raise DeviceNotFound(
            f"{file.path} is compiled for the Edge TPU and runs on nothing else",
            hint="on a cpu use the model that it was compiled from",
        )


class LiteRT:
    """A model in a TFLite interpreter; see Runtime.

    claimed: how much of the model runs on the delegate, as in `63 of 65 operators`; empty without one.
    """

    def __init__(
        self,
        device: str,
        interpreter: Any,
        inputs: tuple[TensorSpec, ...],
        content: bytes,
        file: ModelFile,
        *,
        claimed: str = "",
    ) -> None:
        self.device = device
        self.claimed = claimed
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
            return tuple([self._interpreter.get_tensor(index) for index in self._output_indices])
        except (RuntimeError, ValueError) as failure:
            raise RuntimeFailed(f"{self.device} failed to run {self._name}: {vendor_words(failure)}") from failure

    def close(self) -> None:
        self._views = []
        self._interpreter = None
        self._content = b""


def _open(name: str, package: str, file: ModelFile, unit: str, options: RuntimeOptions) -> LiteRT:
    delegate = parse_delegate(name, unit, options.driver)
    if delegate is None and unit != "cpu":
        raise DeviceNotFound(f"{name} has no unit {unit!r}", hint=f"use {name}:cpu, or {name}:edgetpu")
    _check_fits(name, file)
    if delegate is not None:
        return _open_delegated(name, package, file, delegate, options)
    refuse_edgetpu(file)
    return _open_cpu(name, package, file, options)


def _check_fits(name: str, file: ModelFile) -> None:
    if file.format != "tflite":
        raise DeviceNotFound(f"{name} cannot read {file.path}, a .{file.format} model")


def _open_cpu(name: str, package: str, file: ModelFile, options: RuntimeOptions) -> LiteRT:
    device = f"{name}:cpu"
    content = read_weights(file)
    with quiet_stderr(log):
        module = _import(device, package)
        try:
            interpreter = _construct(module, device, content, options)
        except (RuntimeError, ValueError) as refusal:
            raise ModelError(f"{device} cannot load {file.path}: {first_line(refusal)}") from refusal
        try:
            inputs = _allocate(interpreter, file)
            plain = options.driver.get("kernels") == "plain"
            return LiteRT(f"{device}:plain" if plain else device, interpreter, inputs, content, file)
        except (RuntimeError, ValueError) as refusal:
            raise ModelError(f"{device} cannot run {file.path}: {first_line(refusal)}") from refusal


def _open_delegated(name: str, package: str, file: ModelFile, wanted: Delegate, options: RuntimeOptions) -> LiteRT:
    device = wanted.device
    if wanted.edgetpu and EDGETPU_OP not in file.custom_ops:
        raise DeviceNotFound(
            f"{device} cannot run {file.path}, which is not compiled for it", hint="compile it with edgetpu_compiler"
        )
    content = read_weights(file)
    with quiet_stderr(log):
        module = _import(device, package)
        try:
            return _with_delegate(module, content, file, wanted, options)
        except (DeviceNotFound, ModelError) as refused:
            let_go_in_frames(refused)
            raise


def _with_delegate(
    module: ModuleType, content: bytes, file: ModelFile, wanted: Delegate, options: RuntimeOptions
) -> LiteRT:
    device = wanted.device
    delegate = load_delegate(module, wanted)
    try:
        interpreter = _construct(module, device, content, options, delegate)
        keep_alive(delegate, interpreter)
        claims = Claims(interpreter)
        if not claims:
            raise DeviceNotFound(f"{device} claims no operator of {file.path}")
        inputs = _allocate(interpreter, file)
        claim = claims.settled(interpreter)
        if not claim.claimed:
            raise DeviceNotFound(f"{device} let go of {file.path} when its tensors were allocated")
        return LiteRT(device, interpreter, inputs, content, file, claimed=str(claim))
    except ValueError as refusal:
        raise ModelError(f"{device} cannot load {file.path}: {first_line(refusal)}") from refusal
    except RuntimeError as refusal:
        raise DeviceNotFound(f"{device} refuses {file.path}: {vendor_words(refusal)}") from refusal


def _import(device: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.interpreter")
    except ModuleNotFoundError as missing:
        if package == "tflite_runtime" and sys.version_info >= (3, 12):
            raise DeviceNotFound(f"{device} needs tflite-runtime, which ends with Python 3.11") from missing
        wanted = "'edgeinfer[tflite]'" if package == "tflite_runtime" else "ai-edge-litert"
        raise DeviceNotFound(f"{device} needs {missing.name}", hint=f"pip install {wanted}") from missing
    except (ImportError, OSError, AttributeError) as broken:
        raise DeviceNotFound(f"{device} does not load here: {first_line(broken)}") from broken


def _construct(module: ModuleType, device: str, content: bytes, options: RuntimeOptions, delegate: Any = None) -> Any:
    """An interpreter; a ValueError is about the model, a RuntimeError about the delegate."""
    wanted: dict[str, Any] = {"model_content": content, "num_threads": options.threads}
    if options.driver.get("kernels") == "plain":
        wanted["experimental_op_resolver_type"] = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    if delegate is not None:
        wanted["experimental_delegates"] = [delegate]
    known = inspect.signature(module.Interpreter).parameters
    try:
        return module.Interpreter(**{key: value for key, value in wanted.items() if key in known})
    except SystemError as mismatch:
        # tflite-runtime was built for numpy 1: it imports, and fails only here.
        raise DeviceNotFound(
            f"{device} does not work with numpy {np.__version__}", hint="pip install 'numpy<2'"
        ) from mismatch


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
