"""LiteRT on a GPU, by its CompiledModel: WebGPU over the board's Vulkan driver."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.delegate import let_go_in_frames
from edgeinfer.runtimes.shapes import settle_input
from edgeinfer.runtimes.stderr import quiet_stderr
from edgeinfer.runtimes.vendor import first_line
from edgeinfer.runtimes.weights import read_weights
from edgeinfer.tensor import Array, TensorSpec

log = logging.getLogger(__name__)

_DEVICE = "litert:gpu"
_DTYPES = ("bool", "float16", "float32", "int8", "int32", "uint8")

_NO_ADAPTER = "No adapters found"
_UNSUPPORTED = "not supported by GPU delegate:"
_UNSUPPORTED_END = re.compile(r"(\d+|No) operations will run")
_SOFTWARE = re.compile(r"llvmpipe|lavapipe|SwiftShader", re.IGNORECASE)
_ADAPTER = re.compile(r"Selected adapter: (.*?), arch=")
_WHERE = re.compile(r"^(└ )?ERROR: (\[[^]]*\] ?)?")

# LiteRT's, Dawn's and Abseil's; the names of operators stand on lines of their own.
_CHATTER = re.compile(
    rb"(INFO|WARNING|Warning|ERROR|VERBOSE): |[IWEF]\d{4} \d\d:|\xe2\x94\x94 |    at |=== Source Location|third_party/"
    rb"|See instructions: |(\d+|No) operations will run|[A-Z0-9_]+( \S+)?: |\s*$"
)


def open_gpu(file: ModelFile, options: RuntimeOptions) -> LiteRTGpu:
    """The model on the GPU, in 32-bit floats, or DeviceNotFound with the reason; no operator is left to the CPU.

    With the driver option `adapter=hardware` an adapter that computes on the CPU is no GPU.
    Each model makes its own GPU context. A driver's crash takes the process along: open it in one that may die.
    """
    for spec in (*file.inputs, *file.outputs):
        if spec.dtype.name not in _DTYPES:
            raise DeviceNotFound(f"{_DEVICE} has no {spec.dtype.name}, the type of {spec.name!r} in {file.path}")
    content = read_weights(file)
    said: list[str] = []
    try:
        with _quiet(said):
            try:
                runtime = LiteRTGpu(file, _compile(_import(), content), content)
            except (RuntimeError, ModelError) as refusal:
                let_go_in_frames(refusal)
                raise
    except RuntimeError as refusal:
        raise _refused(file, refusal, said) from refusal
    runtime.adapter = _adapter(said)
    if options.driver.get("adapter") == "hardware" and _SOFTWARE.search(runtime.adapter):
        runtime.close()
        raise DeviceNotFound(f"{_DEVICE} has only {runtime.adapter}, which computes on the CPU")
    return runtime


class LiteRTGpu:
    """A model compiled for the GPU; see Runtime.

    claimed: that every operator runs there. adapter: the GPU's name, which tells a software rasteriser from a GPU;
    empty where the driver did not say.
    """

    def __init__(self, file: ModelFile, model: Any, content: bytes) -> None:
        if not model.is_fully_accelerated():
            raise RuntimeError("it takes only some of the operators")
        self.device = _DEVICE
        self.claimed = f"all {sum(file.ops.values())} operators"
        self.adapter = ""
        self._name = str(file.path)
        self._model: Any = model
        self._content = content  # The model points into it.
        key, order = next(iter(model.get_signature_list().items()))
        taken = _Side.of(file.inputs, order["inputs"], model.get_input_tensor_details(key))
        self.inputs = _settle_inputs(file, model, taken)
        given = _Side.of(file.outputs, order["outputs"], model.get_output_tensor_details(key))
        self.outputs = tuple(replace(spec, shape=shape) for spec, shape in zip(file.outputs, given.shapes, strict=True))
        self._input_places, self._output_places = taken.places, given.places
        self._memory = tuple(np.zeros(spec.shape, dtype=spec.dtype) for spec in self.inputs)
        self._input_buffers: list[Any] = model.create_input_buffers(0)
        self._output_buffers: list[Any] = model.create_output_buffers(0)
        self._write()  # The first one prints.

    def input(self, index: int = 0) -> Array:
        return self._memory[index]

    def run(self) -> tuple[Array, ...]:
        if self._model is None:
            raise RuntimeFailed(f"{_DEVICE} is closed")
        try:
            self._write()
            self._model.run_by_index(0, self._input_buffers, self._output_buffers)
            return tuple(self._read(spec, place) for spec, place in zip(self.outputs, self._output_places, strict=True))
        except (RuntimeError, ValueError) as failure:
            raise RuntimeFailed(f"{_DEVICE} failed to run {self._name}: {_reason(failure, [])}") from failure

    def close(self) -> None:
        with _quiet([]):
            self._input_buffers, self._output_buffers = [], []
            self._model = None
        self._content = b""

    def _write(self) -> None:
        for tensor, place in zip(self._memory, self._input_places, strict=True):
            self._input_buffers[place].write(tensor)

    def _read(self, spec: TensorSpec, place: int) -> Array:
        values: Array = self._output_buffers[place].read(int(np.prod(spec.shape)), spec.dtype)
        return values.reshape(spec.shape)


def _import() -> Any:
    try:
        return importlib.import_module("ai_edge_litert.compiled_model")
    except ModuleNotFoundError as missing:
        raise DeviceNotFound(f"{_DEVICE} needs {missing.name}", hint="pip install 'ai-edge-litert>=2.1.6'") from missing
    except (ImportError, OSError, AttributeError) as broken:
        raise DeviceNotFound(f"{_DEVICE} does not load here: {first_line(broken)}") from broken


def _compile(module: Any, content: bytes) -> Any:
    # With GPU | CPU it would share a model out; half-precision, its default, turns some models into NaN.
    options = module.Options(
        hardware_accelerators=module.HardwareAccelerator.GPU, gpu_options=module.GpuOptions(enforce_f32=True)
    )
    # From a file that was cut off it would segfault.
    return module.CompiledModel.from_buffer(content, options=options)


@dataclass(frozen=True, slots=True)
class _Side:
    """A signature's inputs or outputs. places: where each of the file's tensors stands among them."""

    places: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(specs: tuple[TensorSpec, ...], order: list[str], details: dict[str, Any]) -> _Side:
        """order: the signature's own names, as its buffers go; they need not be the tensors' names or order."""
        names = [details[name]["name"] for name in order]
        if sorted(names) != sorted({spec.name for spec in specs}) or len(names) != len(specs):
            raise RuntimeError(f"its signature names {', '.join(names)}, not the tensors of its graph")
        places = tuple(names.index(spec.name) for spec in specs)
        return _Side(places, tuple(tuple(map(int, details[order[place]]["shape"])) for place in places))


def _settle_inputs(file: ModelFile, model: Any, side: _Side) -> tuple[TensorSpec, ...]:
    settled = []
    for spec, place, known in zip(file.inputs, side.places, side.shapes, strict=True):
        settled.append(settle_input(spec, known))
        if settled[-1].shape != known:
            model.resize_input_tensor(place, settled[-1].shape, strict=False)
    return tuple(settled)


def _adapter(said: list[str]) -> str:
    found = (_ADAPTER.search(line) for line in said)
    return next((match[1] for match in found if match), "")


def _refused(file: ModelFile, refusal: BaseException, said: list[str]) -> DeviceNotFound:
    if any(_NO_ADAPTER in line for line in said):
        return DeviceNotFound(
            f"{_DEVICE} finds no GPU with a Vulkan driver", hint="apt install mesa-vulkan-drivers, of Mesa 23 or later"
        )
    unsupported = _unsupported(said)
    if unsupported:
        return DeviceNotFound(f"{_DEVICE} cannot run all of {file.path}: not {', '.join(unsupported)}")
    return DeviceNotFound(f"{_DEVICE} cannot run {file.path}: {_reason(refusal, said)}")


def _unsupported(said: list[str]) -> list[str]:
    """The operators that LiteRT lists, each on its own line, before it says how many run where."""
    listed = False
    found: list[str] = []
    for line in said:
        if _UNSUPPORTED in line:
            listed = True
        elif _UNSUPPORTED_END.match(line):
            break
        elif listed:
            found.append(line.partition(":")[0].removeprefix("CUSTOM ").strip())
    return list(dict.fromkeys(each for each in found if each))


def _reason(refusal: BaseException, said: list[str]) -> str:
    """LiteRT's exceptions mostly name a line of its source: what it said on stderr comes first."""
    lines = [line for line in said if line.startswith("ERROR: ")] + str(refusal).splitlines()
    words = [_WHERE.sub("", line).removeprefix("└ ").strip() for line in lines]
    return first_line(RuntimeError(next((each for each in words if each), "")))


@contextmanager
def _quiet(said: list[str]) -> Iterator[None]:
    """What LiteRT, Dawn and the driver print goes to the log and into `said`, also what they print to stdout."""
    with quiet_stderr(log), _heard(1, said), _heard(2, said):
        yield


@contextmanager
def _heard(descriptor: int, said: list[str]) -> Iterator[None]:
    try:
        before = os.dup(descriptor)
    except OSError:
        yield  # A service may run without it.
        return
    captured = os.memfd_create("edgeinfer-gpu", os.MFD_CLOEXEC)
    os.dup2(captured, descriptor)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # A pipe's stdout is written at exit, if not now.
        os.dup2(before, descriptor)
        _sort_out(captured, before, said)
        os.close(captured)
        os.close(before)


def _sort_out(captured: int, before: int, said: list[str]) -> None:
    for line in os.pread(captured, os.fstat(captured).st_size, 0).splitlines(keepends=True):
        if _CHATTER.match(line):
            said.append(line.decode(errors="replace").rstrip())
            log.debug("%s", said[-1])
            continue
        with suppress(OSError):  # Nobody may be listening.
            os.write(before, line)
