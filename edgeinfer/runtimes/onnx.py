"""ONNX Runtime, on exactly the execution provider that was asked for.

Units: cpu, cuda[:N], tensorrt[:N], openvino[:cpu|:gpu|:npu], webgpu. Each but `cpu` needs a build of ONNX Runtime of
its own. A model that the provider cannot run whole is refused: ONNX Runtime would leave the rest to the CPU in silence.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.packages import installed_version
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.openvino import refuse_wide_integers
from edgeinfer.runtimes.shapes import settle_input
from edgeinfer.runtimes.stderr import quiet_stderr
from edgeinfer.runtimes.vendor import first_line
from edgeinfer.runtimes.weights import read_weights
from edgeinfer.tensor import Array, TensorSpec
from edgeinfer.words import unknown

log = logging.getLogger(__name__)

_CPU = "CPUExecutionProvider"
_ONLY_FATAL = 4
_MAX_NAMED_OPS = 5

# How it says that `session.disable_cpu_ep_fallback` was of use.
_CPU_REFUSED = "fallback to CPU EP has been explicitly disabled"

# All are one module, `onnxruntime`: of two that are installed, the last one written wins.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-webgpu")

# Where in ONNX Runtime's source an error was noticed, up to what it says.
_PLACE = re.compile(r"^/\S+:\d+ .*(?: was false\. |[)>] )")
_LOG_PLACE = re.compile(r"^.*\](\s*:\s*\d+\s*:\s*[A-Z_]+\s*:)?\s*")

# y = x, of one float: whether a provider can be had at all has to be asked with some model.
_IDENTITY = (
    b'\x08\x08::\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x04tinyZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x02\x10\r"
)


@dataclass(frozen=True, slots=True)
class _Provider:
    """What ONNX Runtime calls it, what is installed for it, and what may follow its name in a unit."""

    name: str
    package: str
    suffixes: str
    options: Callable[[str, RuntimeOptions], dict[str, str]]


def _no_options(suffix: str, options: RuntimeOptions) -> dict[str, str]:
    return {}


def _nvidia_options(suffix: str, options: RuntimeOptions) -> dict[str, str]:
    return {"device_id": suffix or "0"}


def _openvino_options(suffix: str, options: RuntimeOptions) -> dict[str, str]:
    chosen = {"device_type": (suffix or "cpu").upper()}
    if chosen["device_type"] != "NPU":  # It has only 16 bits.
        chosen["precision"] = "FP32"
    if options.threads is not None:
        chosen["num_of_threads"] = str(options.threads)
    return chosen


_CARD = r"\d{1,3}"
_PROVIDERS: Mapping[str, _Provider] = {
    "cpu": _Provider(_CPU, "onnxruntime", "", _no_options),
    "cuda": _Provider("CUDAExecutionProvider", "onnxruntime-gpu[cuda,cudnn]", _CARD, _nvidia_options),
    "tensorrt": _Provider("TensorrtExecutionProvider", "onnxruntime-gpu[cuda,cudnn]", _CARD, _nvidia_options),
    "openvino": _Provider("OpenVINOExecutionProvider", "onnxruntime-openvino", "cpu|gpu|npu", _openvino_options),
    "webgpu": _Provider("WebGpuExecutionProvider", "onnxruntime-webgpu", "", _no_options),
}
_NVIDIA = ("cuda", "tensorrt")


def open_onnx(file: ModelFile, unit: str, options: RuntimeOptions) -> Onnx:
    """ONNX Runtime on one execution provider; see OpenRuntime."""
    name, _, suffix = unit.partition(":")
    provider = _provider(unit, name, suffix)
    if file.format != "onnx":
        raise DeviceNotFound(f"onnx cannot read {file.path}, a .{file.format} model")
    inputs = tuple(settle_input(spec) for spec in file.inputs)
    content = read_weights(file)
    runtime = _import(unit)
    _require(runtime, unit, name, provider)
    session = _Opening(runtime, unit, provider, provider.options(suffix, options), options).session(content, file)
    return Onnx(f"onnx:{unit}", session, inputs, file, narrow=name == "openvino")


class Onnx:
    """A model in an ONNX Runtime session; see Runtime. narrow: its device computes integers in 32 bits."""

    def __init__(
        self, device: str, session: Any, inputs: tuple[TensorSpec, ...], file: ModelFile, *, narrow: bool
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = _outputs(session, file)
        self._session: Any = session
        self._narrow = narrow
        self._name = str(file.path)
        # The session reads contiguous arrays where they lie: written in place, nothing is copied.
        self._feed: dict[str, Array] = {spec.name: np.zeros(spec.shape, dtype=spec.dtype) for spec in inputs}
        self._output_names = [spec.name for spec in file.outputs]

    def input(self, index: int = 0) -> Array:
        return self._feed[self.inputs[index].name]

    def run(self) -> tuple[Array, ...]:
        if self._narrow:
            refuse_wide_integers(self.device, self._feed)
        try:
            return tuple(self._session.run(self._output_names, self._feed))
        except Exception as failure:  # ONNX Runtime's exceptions have no base of their own.
            raise RuntimeFailed(f"{self.device} failed to run {self._name}: {first_line(failure)}") from failure

    def close(self) -> None:
        self._session = None
        self._feed = {}


def _provider(unit: str, name: str, suffix: str) -> _Provider:
    provider = _PROVIDERS.get(name)
    if provider is None:
        raise DeviceNotFound(unknown("unit of onnx", unit, _PROVIDERS))
    if unit != name and not (provider.suffixes and re.fullmatch(provider.suffixes, suffix)):
        example = {"openvino": "onnx:openvino:gpu", "cuda": "onnx:cuda:1", "tensorrt": "onnx:tensorrt:1"}.get(name)
        hint = f"use onnx:{name}" + (f", or as in {example}" if example else "")
        raise DeviceNotFound(f"onnx:{unit} is not understood", hint=hint)
    return provider


def _import(unit: str) -> Any:
    try:
        with quiet_stderr(log):
            return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as missing:
        raise DeviceNotFound(f"onnx:{unit} needs {missing.name}", hint="pip install onnxruntime") from missing
    except (ImportError, OSError, AttributeError) as broken:
        raise DeviceNotFound(f"onnx:{unit} does not load here: {first_line(broken)}") from broken


def _require(runtime: Any, unit: str, name: str, provider: _Provider) -> None:
    """Raises DeviceNotFound where this build lacks the provider: asked for it all the same, it would take the CPU."""
    known = runtime.get_available_providers()
    if provider.name not in known:
        raise DeviceNotFound(
            f"onnx:{unit} needs an ONNX Runtime with {provider.name}, the one here has {', '.join(known)}",
            hint=_how_to_install(name, provider),
        )
    if name in _NVIDIA and hasattr(runtime, "preload_dlls"):
        # Where CUDA came with pip, nothing else finds it. What is missing is said on stdout, and more clearly later.
        with contextlib.redirect_stdout(io.StringIO()):
            runtime.preload_dlls()


def _how_to_install(name: str, provider: _Provider) -> str:
    installed = " ".join(package for package in _PACKAGES if installed_version(package) is not None)
    instead = f"pip uninstall -y {installed} && " if installed else ""
    if platform.machine() == "aarch64" and name in _NVIDIA:
        jetson = "on a Jetson install the onnxruntime-gpu that NVIDIA builds for your JetPack"
        # The wheels of PyPI for aarch64 are of CUDA 13, without TensorRT.
        return f"{jetson}, elsewhere {instead}pip install '{provider.package}'" if name == "cuda" else jetson
    if platform.machine() == "aarch64" and name in ("openvino", "webgpu"):
        return f"{provider.package} is made only for x86-64"
    also = ", and TensorRT from NVIDIA" if name == "tensorrt" else ""
    package = f"'{provider.package}'" if "[" in provider.package else provider.package
    return f"{instead}pip install {package}{also}"


class _Heard(logging.Handler):
    """What ONNX Runtime logs while it opens: there, and only there, it says why a provider cannot be made."""

    def __init__(self) -> None:
        super().__init__()
        self.log = logging.Logger(__name__, logging.DEBUG)
        self.log.addHandler(self)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
        log.debug("%s", self._lines[-1])

    def reason(self) -> str | None:
        """The first error, without the places in ONNX Runtime's source that it passed through."""
        errors = (line for line in self._lines if "[E:onnxruntime" in line)
        return next((_LOG_PLACE.sub("", line) for line in errors), None)


@dataclass(frozen=True, slots=True)
class _Opening:
    """The attempt to open a model on one provider, and the search for the reason where it fails."""

    runtime: Any
    unit: str
    provider: _Provider
    provider_options: dict[str, str]
    options: RuntimeOptions
    heard: _Heard = field(default_factory=_Heard)

    def session(self, content: bytes, file: ModelFile) -> Any:
        """Raises DeviceNotFound where the provider cannot be had, ModelError where it cannot run the whole model."""
        self.runtime.disable_telemetry_events()
        try:
            session = self._open(content, alone=True)
        except Exception as refusal:  # ONNX Runtime's exceptions have no base of their own.
            if self.provider.name != _CPU:
                self._require_provider(refusal)
                self._require_all_nodes(content, file, refusal)
            raise ModelError(f"onnx:{self.unit} cannot load {file.path}: {first_line(refusal)}") from refusal
        self._require_used(session)
        return session

    def _open(self, content: bytes, *, alone: bool) -> Any:
        settings = self.runtime.SessionOptions()
        settings.log_severity_level = _ONLY_FATAL
        if self.options.threads is not None:
            settings.intra_op_num_threads = self.options.threads
        if self.options.paced:
            # Spinning between paced frames burns 24 CPU-ms a frame where sleeping burns 2.
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.provider.name != _CPU:
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1" if alone else "0")
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "0" if alone else "1")
        with quiet_stderr(self.heard.log):
            return self.runtime.InferenceSession(
                content,
                settings,
                providers=[(self.provider.name, self.provider_options)],
                enable_fallback=0,  # Its own fallback prints to stdout and tries the same again.
            )

    def _require_used(self, session: Any) -> None:
        used = session.get_providers()
        if used[:1] != [self.provider.name] or not {*used} <= {self.provider.name, _CPU}:
            reason = self.heard.reason()
            because = f": {reason}" if reason else ""
            raise DeviceNotFound(f"onnx:{self.unit} was asked for, ONNX Runtime took {', '.join(used)}{because}")

    def _require_provider(self, refusal: Exception) -> None:
        """Raises DeviceNotFound where the provider cannot run anything here."""
        hint = f"pip install '{self.provider.package}'" if self.provider.suffixes == _CARD else None
        try:
            self._require_used(self._open(_IDENTITY, alone=False))
        except DeviceNotFound as other:
            raise DeviceNotFound(other.message, hint=hint) from refusal
        except Exception as nothing:  # ONNX Runtime's exceptions have no base of their own.
            reason = self.heard.reason() or first_line(RuntimeError(_PLACE.sub("", str(nothing))))
            raise DeviceNotFound(f"onnx:{self.unit} does not work here: {reason}", hint=hint) from nothing

    def _require_all_nodes(self, content: bytes, file: ModelFile, refusal: Exception) -> None:
        """Raises ModelError where the provider takes only a part of the model."""
        if _CPU_REFUSED in str(refusal):
            raise ModelError(
                f"onnx:{self.unit} cannot run all of {file.path}: it would leave {self._left(content)} to the CPU",
                hint="use onnx:cpu",
            ) from refusal

    def _left(self, content: bytes) -> str:
        """The operators that the provider does not take, as far as this ONNX Runtime can tell."""
        try:
            parts = self._open(content, alone=False).get_provider_graph_assignment_info()
        except Exception:  # ONNX Runtime before 1.24 cannot be asked; the refusal stands in any case.
            log.debug("what onnx:%s leaves to the CPU is not known", self.unit, exc_info=True)
            return "a part"
        ops = sorted({node.op_type for part in parts if part.ep_name == _CPU for node in part.get_nodes()})
        more = f" and {len(ops) - _MAX_NAMED_OPS} more" if len(ops) > _MAX_NAMED_OPS else ""
        return ", ".join(ops[:_MAX_NAMED_OPS]) + more if ops else "a part"


def _outputs(session: Any, file: ModelFile) -> tuple[TensorSpec, ...]:
    """The outputs with a batch of one where a free first size bears the name of an input's free first size.

    Any other free size is known only after a run.
    """
    batches = {each.shape[0] for each in session.get_inputs() if each.shape and isinstance(each.shape[0], str)}
    return tuple(
        replace(spec, shape=(1, *spec.shape[1:])) if spec.shape and each.shape[0] in batches else spec
        for spec, each in zip(file.outputs, session.get_outputs(), strict=True)
    )
