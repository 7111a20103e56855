"""ONNX Runtime's execution providers: which word opens which, and that nothing falls back to the CPU."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import pytest
from tiny_models import block, node, onnx_model, tensor_type, value_info

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes import onnx as driver
from edgeinfer.runtimes.onnx import open_onnx

onnxruntime = pytest.importorskip("onnxruntime", exc_type=ImportError)

TEST_DATA = Path(__file__).parents[3] / "../shared/testdata"
ONE_THREAD = RuntimeOptions(threads=1)
MODELS = ("mnist.onnx", "ultraface_rfb_320.onnx", "yolox_nano.onnx")

# Opens it, and what comes with its build of ONNX Runtime.
UNITS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}


def saved(path: Path, content: bytes) -> ModelFile:
    path.write_bytes(content)
    return read_model_file(path)


@pytest.fixture
def tiny(tmp_path) -> ModelFile:
    return saved(tmp_path / "tiny.onnx", onnx_model())


def graph_of(*nodes: bytes, output: bytes, shape=(4, 4)) -> bytes:
    kind = tensor_type("float32", shape)
    return (
        b"".join(block(1, each) for each in nodes)
        + block(2, "g")
        + block(11, value_info("x", kind))
        + block(12, output)
    )


@pytest.fixture
def partly_foreign(tmp_path) -> ModelFile:
    """A Relu, which every provider has, before a Det, which only the CPU has."""
    output = value_info("y", tensor_type("float32", ()))
    graph = graph_of(node("Relu", ["x"], ["r"]), node("Det", ["r"], ["y"]), output=output)
    return saved(tmp_path / "det.onnx", onnx_model(graph=graph))


@pytest.fixture(params=UNITS)
def unit(request, tmp_path) -> str:
    """A provider that works here."""
    if UNITS[request.param] not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {UNITS[request.param]}")
    try:
        # No Identity: that alone some leave to the CPU.
        relu = graph_of(node("Relu", ["x"], ["y"]), output=value_info("y", tensor_type("float32", (4, 4))))
        open_onnx(saved(tmp_path / "probe.onnx", onnx_model(graph=relu)), request.param, ONE_THREAD).close()
    except DeviceNotFound as missing:
        pytest.skip(str(missing))
    return str(request.param)


class Session:
    """An ONNX Runtime that has every provider, as far as opening goes."""

    def __init__(self, content, settings, *, providers, enable_fallback):
        self.asked = providers
        self.settings = settings
        self.enable_fallback = enable_fallback

    def get_providers(self):
        return [name for name, _ in self.asked] + ["CPUExecutionProvider"]

    def get_inputs(self):
        return []

    def get_outputs(self):
        return [type("Output", (), {"shape": [1, 4]})]


@pytest.fixture
def opened(monkeypatch) -> list[Session]:
    """Every session that is opened, none of which is real."""
    sessions: list[Session] = []

    def session(*words, **more):
        sessions.append(Session(*words, **more))
        return sessions[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*UNITS.values(), "CPUExecutionProvider"])
    return sessions


@pytest.mark.parametrize(
    ("word", "provider", "options"),
    [
        ("cuda", "CUDAExecutionProvider", {"device_id": "0"}),
        ("cuda:1", "CUDAExecutionProvider", {"device_id": "1"}),
        ("tensorrt:12", "TensorrtExecutionProvider", {"device_id": "12"}),
        ("openvino", "OpenVINOExecutionProvider", {"device_type": "CPU", "precision": "FP32", "num_of_threads": "1"}),
        (
            "openvino:gpu",
            "OpenVINOExecutionProvider",
            {"device_type": "GPU", "precision": "FP32", "num_of_threads": "1"},
        ),
        ("openvino:npu", "OpenVINOExecutionProvider", {"device_type": "NPU", "num_of_threads": "1"}),
        ("webgpu", "WebGpuExecutionProvider", {}),
    ],
)
def test_a_unit_opens_one_provider_and_forbids_the_rest(word, provider, options, opened, tiny):
    runtime = open_onnx(tiny, word, ONE_THREAD)
    (session,) = opened
    assert session.asked == [(provider, options)]
    assert session.settings.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert session.enable_fallback == 0
    assert runtime.device == f"onnx:{word}"


@pytest.mark.parametrize(
    "word", ["cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "tensorrt:gpu", "openvino:1", "webgpu:0"]
)
def test_what_may_not_follow_a_unit_is_refused(word, opened, tiny):
    with pytest.raises(DeviceNotFound, match=f"onnx:{word} is not understood; use onnx:"):
        open_onnx(tiny, word, ONE_THREAD)
    assert opened == []


def test_a_misspelt_unit_is_corrected(tiny):
    with pytest.raises(DeviceNotFound, match="unknown unit of onnx 'cuba': did you mean 'cuda'"):
        open_onnx(tiny, "cuba", ONE_THREAD)


@pytest.mark.parametrize(
    ("unit", "command"),
    [
        ("cuda", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("tensorrt", "pip install 'onnxruntime-gpu[cuda,cudnn]', and TensorRT from NVIDIA"),
        ("openvino", "pip install onnxruntime-openvino"),
        ("webgpu", "pip install onnxruntime-webgpu"),
    ],
)
def test_a_provider_that_is_not_built_in_is_said_with_the_command(unit, command, tiny, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(driver, "installed_version", lambda package: "1.32.0" if package == "onnxruntime" else None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceNotFound) as refused:
        open_onnx(tiny, unit, ONE_THREAD)
    assert str(refused.value) == (
        f"onnx:{unit} needs an ONNX Runtime with {UNITS[unit]}, the one here has CPUExecutionProvider; "
        f"pip uninstall -y onnxruntime && {command}"
    )


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("cuda", r"on a Jetson install .* for your JetPack, elsewhere pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        ("tensorrt", r"on a Jetson install .* for your JetPack$"),
        ("openvino", "onnxruntime-openvino is made only for x86-64"),
        ("webgpu", "onnxruntime-webgpu is made only for x86-64"),
    ],
)
def test_on_arm_the_command_is_another(unit, said, tiny, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(driver, "installed_version", lambda package: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceNotFound, match=said):
        open_onnx(tiny, unit, ONE_THREAD)


def test_a_session_that_took_the_cpu_instead_is_refused(tiny, opened, monkeypatch):
    monkeypatch.setattr(Session, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(DeviceNotFound, match="onnx:cuda was asked for, ONNX Runtime took CPUExecutionProvider"):
        open_onnx(tiny, "cuda", ONE_THREAD)


def test_a_session_that_took_another_provider_besides_is_refused(tiny, opened, monkeypatch):
    both = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(Session, "get_providers", lambda self: both)
    with pytest.raises(
        DeviceNotFound, match="onnx:tensorrt was asked for, ONNX Runtime took TensorrtExecutionProvider, CUDA"
    ):
        open_onnx(tiny, "tensorrt", ONE_THREAD)


def test_a_provider_that_cannot_be_made_says_why(tiny, monkeypatch):
    """As ONNX Runtime does without CUDA's libraries: it logs the reason, warns, and takes the CPU."""
    log_line = (
        b"\x1b[1;31m2026-01-01 00:00:00.000000000 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
        b"/a/b.cc:1 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : "
        b"Failed to load library cuda.so with error: libcublasLt.so.13: cannot open shared object file\n"
    )
    real = onnxruntime.InferenceSession

    def session(content, settings, *, providers, enable_fallback):
        os.write(2, log_line)
        return real(content, settings, providers=["CPUExecutionProvider"], enable_fallback=0)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(DeviceNotFound) as refused:
        open_onnx(tiny, "cuda", ONE_THREAD)
    assert "Failed to load library cuda.so with error: libcublasLt.so.13" in str(refused.value)
    assert "b.cc" not in str(refused.value)
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in str(refused.value)
    assert refused.value.exit_code == 4


def test_the_question_for_a_provider_is_a_model_that_onnx_runtime_takes():
    session = onnxruntime.InferenceSession(driver._IDENTITY, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": np.array([7], np.float32)})
    assert output.tolist() == [7]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "/src/webgpu.cc:65 onnxruntime::<lambda(wgpu::Adapter*)> status == Success was false. No adapters",
            "No adapters",
        ),
        (
            "/src/state.cc:729 void onnxruntime::Register(const onnxruntime::ProviderOptions&) Please install",
            "Please install",
        ),
    ],
)
def test_a_provider_that_raises_is_a_missing_device_and_not_a_bad_model(message, said, tiny, opened, monkeypatch):
    def refuse(*words, **more):
        raise RuntimeError(message)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(DeviceNotFound) as refused:
        open_onnx(tiny, "webgpu", ONE_THREAD)
    assert str(refused.value) == f"onnx:webgpu does not work here: {said}"
    assert isinstance(refused.value.__cause__, RuntimeError)


@pytest.mark.timeout(600)  # A GPU that is drawn by the CPU takes minutes for the largest.
@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_the_cpu_does(unit, name):
    if not (TEST_DATA / "models").is_dir():
        pytest.skip("the test data (../shared/testdata) are not here")
    file = read_model_file(TEST_DATA / "models" / name)
    pixels = np.random.default_rng(0).random(file.inputs[0].shape, dtype=np.float32)
    outputs = []
    for each in (unit, "cpu"):
        runtime = open_onnx(file, each, ONE_THREAD)
        runtime.input()[...] = pixels
        outputs.append(runtime.run())
        runtime.close()
    for there, here in zip(*outputs, strict=True):
        np.testing.assert_allclose(there, here, rtol=2e-3, atol=2e-3)


def test_a_model_that_it_would_leave_partly_to_the_cpu_is_refused_by_name(unit, partly_foreign):
    with pytest.raises(
        ModelError, match=rf"onnx:{unit} cannot run all of .*: it would leave (Det|a part) to the CPU; use onnx:cpu"
    ):
        open_onnx(partly_foreign, unit, ONE_THREAD)
    runtime = open_onnx(partly_foreign, "cpu", ONE_THREAD)
    runtime.input()[...] = np.eye(4, dtype=np.float32) * 2
    assert runtime.run()[0] == 16
    runtime.close()


def test_what_it_would_leave_to_the_cpu_is_named_with_a_limit(tiny, opened, monkeypatch):
    class Refusing(Session):
        def __init__(self, content, settings, **more):
            super().__init__(content, settings, **more)
            if settings.get_session_config_entry("session.disable_cpu_ep_fallback") == "1":
                raise RuntimeError(
                    "nodes are on the CPU, but fallback to CPU EP has been explicitly disabled by the user."
                )

        def get_provider_graph_assignment_info(self):
            assert self.settings.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
            return [Part("CPUExecutionProvider", "TopK", "Det", *ops), Part("CUDAExecutionProvider", "Relu")]

    class Part:
        def __init__(self, ep_name, *op_types):
            self.ep_name, self._nodes = ep_name, [type("Node", (), {"op_type": each}) for each in op_types]

        def get_nodes(self):
            return self._nodes

    ops: list[str] = ["Det"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", Refusing)
    with pytest.raises(ModelError, match=r"it would leave Det, TopK to the CPU; use onnx:cpu"):
        open_onnx(tiny, "cuda", ONE_THREAD)
    ops.extend("ABCDE")
    with pytest.raises(ModelError, match=r"it would leave A, B, C, D, Det and 2 more to the CPU"):
        open_onnx(tiny, "cuda", ONE_THREAD)
    monkeypatch.delattr(Refusing, "get_provider_graph_assignment_info")
    with pytest.raises(ModelError, match=r"it would leave a part to the CPU"):
        open_onnx(tiny, "cuda", ONE_THREAD)


def test_a_broken_model_is_the_models_fault_on_any_provider(unit, tmp_path):
    output = value_info("y", tensor_type("float32", (4, 4)))
    graph = graph_of(node("NoSuchOperator", ["x"], ["y"]), output=output)
    with pytest.raises(ModelError, match=rf"onnx:{unit} cannot load .*NoSuchOperator"):
        open_onnx(saved(tmp_path / "odd.onnx", onnx_model(graph=graph)), unit, ONE_THREAD)


def test_integers_that_openvino_would_wrap_are_refused(unit, tmp_path):
    if unit != "openvino":
        pytest.skip(f"{unit} computes int64 in 64 bits, or not at all")
    try:
        runtime = open_onnx(saved(tmp_path / "wide.onnx", onnx_model("int64", (2,))), unit, ONE_THREAD)
    except ModelError as refused:
        pytest.skip(str(refused))
    runtime.input()[...] = [2**31 - 1, -(2**31)]
    assert runtime.run()[0].tolist() == [2**31 - 1, -(2**31)]
    runtime.input()[...] = [0, 2**40]
    with pytest.raises(
        RuntimeFailed, match="onnx:openvino computes integers in 32 bits, and input 'x' holds 1099511627776"
    ):
        runtime.run()
    runtime.close()
