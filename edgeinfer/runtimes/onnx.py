"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from typing import Any

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.shapes import settle_input
from edgeinfer.runtimes.stderr import quiet_stderr
from edgeinfer.runtimes.vendor import first_line
from edgeinfer.runtimes.weights import read_weights
from edgeinfer.tensor import Array, TensorSpec

log = logging.getLogger(__name__)

_PROVIDER = "CPUExecutionProvider"
_ONLY_FATAL = 4


def open_onnx(file: ModelFile, unit: str, options: RuntimeOptions) -> Onnx:
    """ONNX Runtime; see OpenRuntime."""
    if unit != "cpu":
        raise DeviceNotFound(f"onnx runs only on the cpu in this version, not on {unit!r}", hint="use onnx:cpu")
    if file.format != "onnx":
        raise DeviceNotFound(f"onnx cannot read {file.path}, a .{file.format} model")
    inputs = tuple(settle_input(spec) for spec in file.inputs)
    content = read_weights(file)
    with quiet_stderr(log):
        runtime = _import()
        session = _open_session(runtime, content, file, options)
    used = session.get_providers()
    if used != [_PROVIDER]:
        raise DeviceNotFound(f"onnx:cpu was asked for, ONNX Runtime took {', '.join(used)}")
    return Onnx(session, inputs, file)


class Onnx:
    """A model in an ONNX Runtime session; see Runtime."""

    def __init__(self, session: Any, inputs: tuple[TensorSpec, ...], file: ModelFile) -> None:
        self.device = "onnx:cpu"
        self.inputs = inputs
        self.outputs = _outputs(session, file)
        self._session: Any = session
        self._name = str(file.path)
        # The session reads contiguous arrays where they lie: written in place, nothing is copied.
        self._feed: dict[str, Array] = {spec.name: np.zeros(spec.shape, dtype=spec.dtype) for spec in inputs}
        self._output_names = [spec.name for spec in file.outputs]

    def input(self, index: int = 0) -> Array:
        return self._feed[self.inputs[index].name]

    def run(self) -> tuple[Array, ...]:
        try:
            return tuple(self._session.run(self._output_names, self._feed))
        except Exception as failure:  # ONNX Runtime's exceptions have no base of their own.
            raise RuntimeFailed(f"onnx:cpu failed to run {self._name}: {first_line(failure)}") from failure

    def close(self) -> None:
        self._session = None
        self._feed = {}


def _import() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as missing:
        raise DeviceNotFound(f"onnx:cpu needs {missing.name}", hint="pip install onnxruntime") from missing
    except (ImportError, OSError, AttributeError) as broken:
        raise DeviceNotFound(f"onnx:cpu does not load here: {first_line(broken)}") from broken


def _open_session(runtime: Any, content: bytes, file: ModelFile, options: RuntimeOptions) -> Any:
    runtime.disable_telemetry_events()
    settings = runtime.SessionOptions()
    settings.log_severity_level = _ONLY_FATAL
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if options.paced:
        # Spinning between paced frames burns 24 CPU-ms a frame where sleeping burns 2.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # Its own fallback prints to stdout and tries the same again.
        return runtime.InferenceSession(content, settings, providers=[_PROVIDER], enable_fallback=0)
    except Exception as refusal:  # ONNX Runtime's exceptions have no base of their own.
        raise ModelError(f"onnx:cpu cannot load {file.path}: {first_line(refusal)}") from refusal


def _outputs(session: Any, file: ModelFile) -> tuple[TensorSpec, ...]:
    """The outputs with a batch of one where a free first size bears the name of an input's free first size.

    Any other free size is known only after a run.
    """
    batches = {each.shape[0] for each in session.get_inputs() if each.shape and isinstance(each.shape[0], str)}
    return tuple(
        replace(spec, shape=(1, *spec.shape[1:])) if spec.shape and each.shape[0] in batches else spec
        for spec, each in zip(file.outputs, session.get_outputs(), strict=True)
    )
