"""OpenVINO: Intel's CPUs, GPUs and NPUs, and the CPUs of Arm; reads TFLite and ONNX."""

from __future__ import annotations

import functools
import importlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.litert import refuse_edgetpu
from edgeinfer.runtimes.shapes import settle_input
from edgeinfer.runtimes.stderr import quiet_stderr
from edgeinfer.runtimes.vendor import first_line
from edgeinfer.runtimes.weights import read_weights
from edgeinfer.tensor import Array, TensorSpec

log = logging.getLogger(__name__)

_UNIT = re.compile(r"auto|cpu|npu|gpu(:\d{1,3})?")
_FORMATS = ("onnx", "tflite")
_INT32 = np.iinfo(np.int32)
_TELEMETRY = "openvino_telemetry"

# Where in OpenVINO's source an exception passed through.
_PLACE = re.compile(r"Exception from |Check '|FrontEnd API failed with ")

_DRIVERS = {
    "gpu": "install intel-opencl-icd and join the group that owns /dev/dri/renderD*",
    "npu": "install Intel's linux-npu-driver and join the group that owns /dev/accel/accel*",
}


def open_openvino(file: ModelFile, unit: str, options: RuntimeOptions) -> OpenVINO:
    """OpenVINO on `cpu`, `gpu`, `gpu:1`, `npu`, or `auto`: a discrete GPU, another GPU, the CPU; see OpenRuntime."""
    if not _UNIT.fullmatch(unit):
        raise DeviceNotFound(f"openvino has no unit {unit!r}", hint="use openvino:cpu, gpu, gpu:1, npu or auto")
    if file.format not in _FORMATS:
        raise DeviceNotFound(f"openvino cannot read {file.path}, a .{file.format} model")
    refuse_edgetpu(file)
    if file.format == "tflite" and file.custom_ops:
        lacking = ", ".join(sorted(file.custom_ops))
        raise ModelError(f"openvino:{unit} cannot run {file.path}: OpenVINO lacks {lacking}", hint="use litert:cpu")
    with quiet_stderr(log):
        core = _core(unit)
        devices = _devices(core, unit)
        model, inputs = _read(core, unit, file)
        device, compiled = _compile(core, model, devices, file, options)
        return OpenVINO(device, compiled, inputs, file)


def refuse_wide_integers(device: str, inputs: Mapping[str, Array]) -> None:
    """Raises RuntimeFailed for a number beyond the 32 bits that OpenVINO computes integers in: it would wrap."""
    for name, values in inputs.items():
        if values.size and values.dtype.kind in "iu" and np.iinfo(values.dtype).max > _INT32.max:
            for value in (int(values.min()), int(values.max())):
                if not _INT32.min <= value <= _INT32.max:
                    raise RuntimeFailed(f"{device} computes integers in 32 bits, and input {name!r} holds {value}")


class OpenVINO:
    """A compiled model and one request; see Runtime."""

    def __init__(self, device: str, compiled: Any, inputs: tuple[TensorSpec, ...], file: ModelFile) -> None:
        self.device = device
        self.inputs = inputs
        self._name = str(file.path)
        try:
            order = _in_order_of(file.inputs, compiled.inputs, self._name)
            self._output_order = _in_order_of(file.outputs, compiled.outputs, self._name)
            self.outputs = _settled(file.outputs, [compiled.outputs[index] for index in self._output_order], self._name)
            _settled(inputs, [compiled.inputs[index] for index in order], self._name)
            self._request: Any = compiled.create_infer_request()
            self._tensors = [self._request.get_input_tensor(index) for index in order]
            for index, tensor in zip(order, self._tensors, strict=True):
                self._request.set_input_tensor(index, tensor)  # So that it stays the memory that is read.
                tensor.data[...] = 0
        except ModelError:
            raise
        except Exception as refusal:  # OpenVINO's exceptions have no base of their own.
            raise ModelError(f"{device} cannot run {self._name}: {_reason(refusal)}") from refusal

    def input(self, index: int = 0) -> Array:
        view: Array = self._tensors[index].data
        return view

    def run(self) -> tuple[Array, ...]:
        if self._request is None:
            raise RuntimeFailed(f"{self.device} is closed")
        named = zip(self.inputs, self._tensors, strict=True)
        refuse_wide_integers(self.device, {spec.name: tensor.data for spec, tensor in named})
        try:
            self._request.infer(share_outputs=True)
            # Copied, as the other runtimes do: the next run writes into the same memory.
            return tuple(self._request.get_output_tensor(index).data.copy() for index in self._output_order)
        except Exception as failure:  # OpenVINO's exceptions have no base of their own.
            raise RuntimeFailed(f"{self.device} failed to run {self._name}: {_reason(failure)}") from failure

    def close(self) -> None:
        self._tensors = []
        self._request = None


@functools.cache
def _new_core() -> Any:
    # One for the process: each loads the devices' drivers anew.
    with _no_telemetry():
        return importlib.import_module("openvino").Core()


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """`import openvino` reports over the network and writes into the home folder, unless its reporter is missing."""
    if _TELEMETRY in sys.modules:
        yield  # Somebody else has made that choice.
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # This is how an import is refused.
    try:
        yield
    finally:
        sys.modules.pop(_TELEMETRY, None)


def _core(unit: str) -> Any:
    try:
        return _new_core()
    except ModuleNotFoundError as missing:
        hint = "pip install 'edgeinfer[openvino]'"
        raise DeviceNotFound(f"openvino:{unit} needs {missing.name}", hint=hint) from missing
    except Exception as broken:  # OpenVINO's exceptions have no base of their own.
        raise DeviceNotFound(f"openvino:{unit} does not load here: {_reason(broken)}") from broken


def _devices(core: Any, unit: str) -> list[str]:
    """The devices to try, as OpenVINO calls them, the best first. Raises DeviceNotFound where there is none."""
    available: list[str] = core.available_devices
    kind, _, index = unit.partition(":")
    if kind == "auto":
        # Not OpenVINO's own AUTO: it answers from the CPU at first and moves to the GPU in the middle of a stream. Like
        # it, this leaves the NPU out: its 16 bits are for those who ask for them.
        gpus = [each for each in available if each.partition(".")[0] == "GPU"]
        found = sorted(gpus, key=lambda each: "DISCRETE" not in str(core.get_property(each, "DEVICE_TYPE")))
        found += [each for each in available if each == "CPU"]
    else:
        found = [each for each in available if _word(each) == f"openvino:{unit.removesuffix(':0')}"]
        if not found and not index:  # A device may be numbered though the first is gone.
            found = [each for each in available if each.partition(".")[0] == kind.upper()][:1]
    if not found:
        seen = ", ".join(_word(each) for each in available) or "no device at all"
        raise DeviceNotFound(f"openvino:{unit} is not here, OpenVINO finds {seen}", hint=_DRIVERS.get(kind))
    return found


def _word(device: str) -> str:
    """`openvino:gpu:1` for what OpenVINO calls GPU.1."""
    kind, _, index = device.lower().partition(".")
    return f"openvino:{kind}" if index in ("", "0") else f"openvino:{kind}:{index}"


def _read(core: Any, unit: str, file: ModelFile) -> tuple[Any, tuple[TensorSpec, ...]]:
    """The model with every input size settled, and its inputs in the order of the file."""
    content = read_weights(file)
    if file.format == "tflite" and file.path.suffix != ".tflite":
        hint = f"let the name of {file.path} end with .tflite"
        raise ModelError(f"openvino:{unit} knows a TFLite model only by its name", hint=hint)
    try:
        # It takes no TFLite model from memory. It copies the file, and what it copied lay between two looks at it.
        model = core.read_model(content, b"") if file.format == "onnx" else core.read_model(str(file.path))
        order = _in_order_of(file.inputs, model.inputs, str(file.path))
        ports = [model.inputs[index] for index in order]
        inputs = tuple(settle_input(spec, _shape(port)) for spec, port in zip(file.inputs, ports, strict=True))
        if any(spec.shape != _shape(port) for spec, port in zip(inputs, ports, strict=True)):
            model.reshape({index: list(spec.shape) for index, spec in zip(order, inputs, strict=True)})
    except ModelError:
        raise
    except Exception as refusal:  # OpenVINO's exceptions have no base of their own.
        raise ModelError(f"openvino:{unit} cannot load {file.path}: {_reason(refusal)}") from refusal
    if file.format == "tflite":
        read_weights(file)
    return model, inputs


def _compile(
    core: Any, model: Any, devices: Sequence[str], file: ModelFile, options: RuntimeOptions
) -> tuple[str, Any]:
    """The first of the devices that takes the model, as a word, and the model compiled for it."""
    refusals: list[str] = []
    for device in devices:
        word = _word(device)
        try:
            compiled = core.compile_model(model, device, _properties(device, options))
            used = [_word(each) for each in compiled.get_property("EXECUTION_DEVICES")]
        except Exception as refusal:  # OpenVINO's exceptions have no base of their own.
            refusals.append(f"{word} cannot run {file.path}: {_reason(refusal)}")
            if device == devices[-1]:
                raise ModelError("; ".join(refusals)) from refusal
            log.info("%s", refusals[-1])
            continue
        if used != [word]:
            raise DeviceNotFound(f"{word} was asked for, OpenVINO took {', '.join(used) or 'nothing'}")
        return word, compiled
    raise AssertionError("no device to try")


def _properties(device: str, options: RuntimeOptions) -> dict[str, Any]:
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device != "NPU":
        # Left to itself a CPU that has bf16 computes with its 8 bits of mantissa. An NPU has fp16 and nothing wider.
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if device == "CPU" and options.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = options.threads
    return properties


def _in_order_of(specs: Sequence[TensorSpec], ports: Sequence[Any], name: str) -> list[int]:
    """Which port each tensor of the file is: by name, or by position where names do not tell."""
    if len(ports) != len(specs):
        raise ModelError(f"OpenVINO sees {len(ports)} tensors where {name} has {len(specs)}")
    by_name = {each: index for index, port in enumerate(ports) for each in port.names}
    order = [by_name[spec.name] for spec in specs if spec.name in by_name]
    return order if len(set(order)) == len(specs) else list(range(len(ports)))


def _settled(specs: Sequence[TensorSpec], ports: Sequence[Any], name: str) -> tuple[TensorSpec, ...]:
    """The tensors of the file, with the sizes that OpenVINO settled on. Raises ModelError where the two disagree."""
    settled = []
    for spec, port in zip(specs, ports, strict=True):
        shape, dtype = _shape(port), port.element_type.to_dtype()
        same_rank = len(shape) == len(spec.shape) or not spec.shape
        sizes = zip(spec.shape, shape, strict=False)
        if dtype != spec.dtype or not same_rank or any(a >= 0 and b >= 0 and a != b for a, b in sizes):
            text = replace(spec, shape=shape, dtype=np.dtype(dtype), quantization=None).describe()
            raise ModelError(f"OpenVINO sees {spec.name!r} of {name} as {text}, the file says {spec.describe()}")
        settled.append(replace(spec, shape=shape))
    return tuple(settled)


def _shape(port: Any) -> tuple[int, ...]:
    """-1 for a size that is free."""
    partial = port.partial_shape
    if not partial.rank.is_static:
        return ()
    return tuple(size.get_length() if size.is_static else -1 for size in partial)


def _reason(error: BaseException) -> str:
    """What an exception says, as one line, without the places in OpenVINO's source that it passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = " ".join(line for line in lines if line and not _PLACE.match(line))
    return first_line(RuntimeError(said)) if said else first_line(error)
