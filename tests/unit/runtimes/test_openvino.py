"""OpenVINO: its devices by word, its arithmetic, and what it would do unasked."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import block, node, onnx_model, tensor_type, tflite_model, value_info

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates.proof import compare
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RUNTIMES, RuntimeOptions
from edgeinfer.runtimes import openvino as driver
from edgeinfer.runtimes.openvino import open_openvino
from edgeinfer.tensor import dequantize

TEST_DATA = Path(__file__).parents[3] / "../shared/testdata"
ONE_THREAD = RuntimeOptions(threads=1)

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed: pip install 'edgeinfer[openvino]'"
)


@pytest.fixture(scope="module")
def real() -> Path:
    folder = TEST_DATA / "models"
    if not folder.is_dir():
        pytest.skip("the test data (../shared/testdata) are not here")
    return folder


def saved(path: Path, content: bytes) -> ModelFile:
    path.write_bytes(content)
    return read_model_file(path)


@pytest.fixture
def tiny(tmp_path) -> ModelFile:
    return saved(tmp_path / "tiny.tflite", tflite_model())


class Board:
    """A core that has the devices it is told, computes on the CPU, and says that it did not."""

    def __init__(self, core, *devices: str, refuse: tuple[str, ...] = (), took: str | None = None) -> None:
        self._core, self.available_devices, self._refuse, self._took = core, list(devices), refuse, took
        self.read_model = core.read_model
        self.asked: list[tuple[str, dict]] = []

    def get_property(self, device: str, name: str) -> str:
        return "Type.DISCRETE" if (device, name) == ("GPU.1", "DEVICE_TYPE") else "Type.INTEGRATED"

    def compile_model(self, model, device: str, properties: dict):
        self.asked.append((device, properties))
        if device in self._refuse:
            raise RuntimeError("Exception from src/core.cpp:1:\n\n[GPU] out of memory\n")
        compiled = self._core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        return Compiled(compiled, self._took or device)


class Compiled:
    def __init__(self, compiled, device: str) -> None:
        self.inputs, self.outputs, self.create_infer_request = (
            compiled.inputs,
            compiled.outputs,
            compiled.create_infer_request,
        )
        self._device = device

    def get_property(self, name: str) -> list[str]:
        assert name == "EXECUTION_DEVICES"
        return [self._device]


@pytest.fixture
def board(monkeypatch):
    """Puts devices into this computer."""

    def install(*devices: str, **more) -> Board:
        made = Board(driver._new_core(), *devices, **more)
        monkeypatch.setattr(driver, "_core", lambda unit: made)
        return made

    return install


# Words


@pytest.mark.parametrize("unit", ["", "CPU", "cpu:0", "gpu:", "gpu:x", "npu:1", "auto:gpu", "hetero:gpu,cpu", "tpu"])
def test_a_word_that_means_nothing_is_said(unit, tiny):
    with pytest.raises(
        DeviceNotFound, match=f"openvino has no unit {unit!r}; use openvino:cpu, gpu, gpu:1, npu or auto"
    ):
        open_openvino(tiny, unit, ONE_THREAD)


def test_without_openvino_the_extra_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    driver._new_core.cache_clear()
    with pytest.raises(DeviceNotFound, match=r"openvino:cpu needs openvino; pip install 'edgeinfer\[openvino\]'"):
        open_openvino(tiny, "cpu", ONE_THREAD)


def test_an_operator_that_it_lacks_is_named_before_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    driver._new_core.cache_clear()
    file = saved(tmp_path / "ssd.tflite", tflite_model(op="TFLite_Detection_PostProcess"))
    with pytest.raises(ModelError, match="OpenVINO lacks TFLite_Detection_PostProcess; use litert:cpu"):
        open_openvino(file, "cpu", ONE_THREAD)


def test_an_edge_tpu_model_fits_nothing_else(tmp_path):
    file = saved(tmp_path / "tpu.tflite", tflite_model(op="edgetpu-custom-op"))
    with pytest.raises(DeviceNotFound, match="compiled for the Edge TPU and runs on nothing else"):
        open_openvino(file, "cpu", ONE_THREAD)


# Devices


@needs_openvino
@pytest.mark.parametrize(
    ("unit", "devices", "asked", "device"),
    [
        ("cpu", ["CPU"], "CPU", "openvino:cpu"),
        ("gpu", ["CPU", "GPU"], "GPU", "openvino:gpu"),
        ("gpu", ["CPU", "GPU.0", "GPU.1"], "GPU.0", "openvino:gpu"),
        ("gpu:0", ["CPU", "GPU.0", "GPU.1"], "GPU.0", "openvino:gpu"),
        ("gpu:1", ["CPU", "GPU.0", "GPU.1"], "GPU.1", "openvino:gpu:1"),
        ("npu", ["CPU", "NPU"], "NPU", "openvino:npu"),
        ("auto", ["CPU"], "CPU", "openvino:cpu"),
        ("auto", ["CPU", "GPU", "NPU"], "GPU", "openvino:gpu"),
        ("auto", ["CPU", "GPU.0", "GPU.1"], "GPU.1", "openvino:gpu:1"),
        ("auto", ["CPU", "NPU"], "CPU", "openvino:cpu"),
    ],
)
def test_a_word_takes_a_device_and_the_runtime_says_which(unit, devices, asked, device, board, tiny):
    core = board(*devices)
    runtime = open_openvino(tiny, unit, ONE_THREAD)
    assert [each for each, _ in core.asked] == [asked]
    assert runtime.device == device
    runtime.close()


@needs_openvino
@pytest.mark.parametrize(
    ("unit", "devices", "said"),
    [
        ("gpu", ["CPU"], "openvino:gpu is not here, OpenVINO finds openvino:cpu; install intel-opencl-icd"),
        ("npu", ["CPU", "GPU.0"], "OpenVINO finds openvino:cpu, openvino:gpu; install Intel's linux-npu-driver"),
        ("gpu:1", ["CPU", "GPU.0"], "openvino:gpu:1 is not here"),
        ("auto", ["NPU"], "openvino:auto is not here, OpenVINO finds openvino:npu"),
        ("cpu", [], "OpenVINO finds no device at all"),
    ],
)
def test_a_device_that_is_not_here_is_said_with_those_that_are(unit, devices, said, board, tiny):
    core = board(*devices)
    with pytest.raises(DeviceNotFound) as refused:
        open_openvino(tiny, unit, ONE_THREAD)
    assert said in str(refused.value)
    assert core.asked == []


@needs_openvino
def test_another_device_than_was_asked_for_is_refused(board, tiny):
    board("CPU", "GPU.0", took="CPU")
    with pytest.raises(DeviceNotFound, match="openvino:gpu was asked for, OpenVINO took openvino:cpu"):
        open_openvino(tiny, "gpu", ONE_THREAD)


@needs_openvino
def test_auto_goes_on_and_says_why(board, tiny, caplog):
    core = board("CPU", "GPU.0", "GPU.1", refuse=("GPU.1",))
    with caplog.at_level(logging.INFO, "edgeinfer"):
        runtime = open_openvino(tiny, "auto", ONE_THREAD)
    assert [each for each, _ in core.asked] == ["GPU.1", "GPU.0"]
    assert runtime.device == "openvino:gpu"
    assert [record.message for record in caplog.records if record.levelno >= logging.INFO] == [
        f"openvino:gpu:1 cannot run {tiny.path}: [GPU] out of memory"
    ]
    runtime.close()


@needs_openvino
def test_a_refusal_is_one_line_of_what_it_says_and_not_of_where(board, tiny):
    board("CPU", refuse=("CPU",))
    with pytest.raises(ModelError) as refused:
        open_openvino(tiny, "cpu", ONE_THREAD)
    assert str(refused.value) == f"openvino:cpu cannot run {tiny.path}: [GPU] out of memory"
    assert isinstance(refused.value.__cause__, RuntimeError)


@needs_openvino
@pytest.mark.parametrize(
    ("unit", "properties"),
    [
        ("cpu", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 3}),
        ("gpu", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}),
        ("npu", {"PERFORMANCE_HINT": "LATENCY"}),
    ],
)
def test_each_device_is_told_what_it_understands(unit, properties, board, tiny):
    core = board("CPU", "GPU", "NPU")
    open_openvino(tiny, unit, RuntimeOptions(threads=3)).close()
    assert core.asked[0][1] == properties


@needs_openvino
def test_a_cpu_with_bf16_computes_in_f32_all_the_same(tiny, monkeypatch):
    seen = []
    real = driver._compile

    def compile_(*words):
        device, compiled = real(*words)
        seen.extend(
            (
                compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
                compiled.get_property("INFERENCE_NUM_THREADS"),
            )
        )
        return device, compiled

    monkeypatch.setattr(driver, "_compile", compile_)
    open_openvino(tiny, "cpu", ONE_THREAD).close()
    assert seen == ["f32", 1]


# Numbers


def both(file: ModelFile, reference: str, *inputs: np.ndarray):
    outputs = []
    for name in ("openvino", reference):
        runtime = RUNTIMES.get(name)(file, "cpu", ONE_THREAD)
        assert runtime.inputs == file.inputs
        for index, values in enumerate(inputs):
            runtime.input(index)[...] = values
        outputs.append(runtime.run())
        assert [each.dtype for each in outputs[-1]] == [spec.dtype for spec in file.outputs]
        assert [each.shape for each in outputs[-1]] == [spec.shape for spec in runtime.outputs]
        runtime.close()
    return outputs


@needs_openvino
@pytest.mark.parametrize("name", ["mnist.onnx", "ultraface_rfb_320.onnx", "nanodet_m_320.onnx", "yolox_nano.onnx"])
def test_float_onnx_agrees_with_onnx_runtime(name, real):
    file = read_model_file(real / name)
    inputs = np.random.default_rng(0).random(file.inputs[0].shape, dtype=np.float32)
    for ours, theirs in zip(*both(file, "onnx", inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@needs_openvino
@pytest.mark.parametrize(
    "name", ["conv_fc_mnist.tflite", "mlperf_tiny/ic_resnet8_fp32.tflite", "yolox_nano_float16.tflite"]
)
def test_float_tflite_agrees_with_litert(name, real):
    file = read_model_file(real / name)
    inputs = np.random.default_rng(0).random(file.inputs[0].shape, dtype=np.float32)
    for ours, theirs in zip(*both(file, "litert", inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@needs_openvino
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1_0.25_128_quant.tflite",  # uint8
        "mobilenet_v2_1.0_224_quant.tflite",
        "mlperf_tiny/ic_resnet8_int8.tflite",  # int8
        "mlperf_tiny/vww_96_int8.tflite",
        "mlperf_tiny/ad01_int8.tflite",
    ],
)
def test_quantised_tflite_keeps_its_integers_and_agrees_with_litert(name, real):
    file = read_model_file(real / name)
    spec = file.inputs[0]
    ends = np.iinfo(spec.dtype)
    inputs = np.random.default_rng(0).integers(ends.min, ends.max, spec.shape, dtype=spec.dtype, endpoint=True)
    found, expected = both(file, "litert", inputs)
    # Each layer may round differently, and without instructions for 8 bits more so: 14 steps instead of 8 were seen.
    assert compare(file, [found], [expected], file.outputs).reason is None
    for ours, theirs, output in zip(found, expected, file.outputs, strict=True):
        assert output.quantization is not None
        assert dequantize(ours, output.quantization).argmax() == dequantize(theirs, output.quantization).argmax()


@needs_openvino
def test_several_inputs_and_outputs_are_in_the_order_of_the_file(real):
    file = read_model_file(real / "edgetpu" / "split_concat.tflite")
    noise = np.random.default_rng(0)
    inputs = [noise.integers(0, 256, spec.shape, dtype=np.uint8) for spec in file.inputs]
    assert (len(inputs), len(file.outputs)) == (3, 5)
    for ours, theirs in zip(*both(file, "litert", *inputs), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@needs_openvino
def test_outputs_are_told_apart_by_name(tmp_path, monkeypatch):
    kind = tensor_type("float32", (1, 4))
    graph = block(1, node("Relu", ["x"], ["up"])) + block(1, node("Neg", ["x"], ["down"])) + block(2, "g")
    graph += block(11, value_info("x", kind)) + block(12, value_info("up", kind)) + block(12, value_info("down", kind))
    file = saved(tmp_path / "two.onnx", onnx_model(graph=graph))
    turned = replace(file, outputs=file.outputs[::-1], output_ops=file.output_ops[::-1])
    for each, expected in ((file, [[1, 1, 1, 1], [-1, -1, -1, -1]]), (turned, [[-1, -1, -1, -1], [1, 1, 1, 1]])):
        runtime = open_openvino(each, "cpu", ONE_THREAD)
        runtime.input()[...] = 1
        assert [output.tolist()[0] for output in runtime.run()] == expected
        runtime.close()


@needs_openvino
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "int16", "int32", "int64", "bool", "float16"])
def test_onnx_goes_in_and_out_in_every_dtype(dtype, tmp_path):
    runtime = open_openvino(saved(tmp_path / "x.onnx", onnx_model(dtype, ("batch", 4))), "cpu", ONE_THREAD)
    values = np.array([[1, 0, 1, 1]], dtype)
    runtime.input()[...] = values
    (output,) = runtime.run()
    assert output.dtype == values.dtype
    np.testing.assert_array_equal(output, values)
    runtime.close()


@needs_openvino
def test_a_number_that_would_wrap_is_refused(tmp_path):
    runtime = open_openvino(saved(tmp_path / "wide.onnx", onnx_model("int64", (2,))), "cpu", ONE_THREAD)
    runtime.input()[...] = [2**31 - 1, -(2**31)]
    assert runtime.run()[0].tolist() == [2**31 - 1, -(2**31)]
    for beyond in (2**31, -(2**31) - 1, 2**40):
        runtime.input()[...] = [0, beyond]
        with pytest.raises(RuntimeFailed, match=f"openvino:cpu computes integers in 32 bits, .* 'x' holds {beyond}"):
            runtime.run()
    runtime.close()


@needs_openvino
def test_a_tensor_that_it_sees_otherwise_than_the_file_is_refused(tiny):
    other = replace(tiny, outputs=(replace(tiny.outputs[0], dtype=np.dtype(np.int8)),))
    with pytest.raises(ModelError, match=r"OpenVINO sees 'y' of .* as float32\[1,4\], the file says int8\[1,4\]"):
        open_openvino(other, "cpu", ONE_THREAD)


# Files


@needs_openvino
def test_a_file_that_changes_while_it_is_read_is_refused(tiny, board):
    core = board("CPU")
    read = core.read_model

    def read_model(path):
        model = read(path)
        tiny.path.write_bytes(tiny.path.read_bytes() + b"\0")
        return model

    core.read_model = read_model
    with pytest.raises(ModelError, match="has changed since it was checked"):
        open_openvino(tiny, "cpu", ONE_THREAD)


@needs_openvino
def test_it_does_not_lean_on_the_file_afterwards(real, tmp_path):
    content = (real / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    file = saved(tmp_path / "m.tflite", content)
    runtime = open_openvino(file, "cpu", ONE_THREAD)
    runtime.input()[...] = 7
    before = runtime.run()[0]
    file.path.write_bytes(bytes(len(content)))
    assert str(file.path) not in Path("/proc/self/maps").read_text()
    np.testing.assert_array_equal(runtime.run()[0], before)
    runtime.close()


@needs_openvino
def test_a_tflite_model_under_another_name_is_refused_with_advice(tmp_path):
    file = saved(tmp_path / "model.bin", tflite_model())
    with pytest.raises(ModelError, match=r"let the name of .*model\.bin end with \.tflite"):
        open_openvino(file, "cpu", ONE_THREAD)


@needs_openvino
def test_an_operator_of_onnx_that_nobody_knows_is_the_models_fault(tmp_path):
    kind = tensor_type("float32", (1, 4))
    graph = block(1, node("NoSuchOperator", ["x"], ["y"])) + block(2, "g")
    graph += block(11, value_info("x", kind)) + block(12, value_info("y", kind))
    with pytest.raises(ModelError, match=r"openvino:cpu cannot load .*NoSuchOperator") as refused:
        open_openvino(saved(tmp_path / "odd.onnx", onnx_model(graph=graph)), "cpu", ONE_THREAD)
    assert len(str(refused.value).splitlines()) == 1


# Its life


@needs_openvino
def test_what_it_gave_does_not_change_with_the_next_run(tiny):
    runtime = open_openvino(tiny, "cpu", ONE_THREAD)
    runtime.input()[...] = 1
    (first,) = runtime.run()
    runtime.input()[...] = 2
    (second,) = runtime.run()
    assert (first.tolist(), second.tolist()) == ([[1, 1, 1, 1]], [[2, 2, 2, 2]])
    runtime.close()


@needs_openvino
def test_a_closed_one_does_not_run(tiny):
    runtime = open_openvino(tiny, "cpu", ONE_THREAD)
    runtime.close()
    with pytest.raises(RuntimeFailed, match="openvino:cpu is closed"):
        runtime.run()


@needs_openvino
def test_it_tells_nobody_that_it_runs(tiny, tmp_path):
    """`import openvino` alone would send a report and write into the home folder."""
    pytest.importorskip("openvino_telemetry", reason="openvino_telemetry is not installed, so it cannot report")
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import json, pathlib, sys, threading\n"
        "seen = []\n"
        "sys.addaudithook(lambda name, words: seen.append(name) if name.startswith('socket.') else None)\n"
        "from edgeinfer.bundle.load import read_model_file\n"
        "from edgeinfer.runtimes import RUNTIMES, RuntimeOptions\n"
        "runtime = RUNTIMES.get('openvino')(read_model_file(pathlib.Path(sys.argv[1])), 'cpu', RuntimeOptions())\n"
        "runtime.run(); runtime.close()\n"
        "print(json.dumps([seen, threading.active_count(), 'openvino_telemetry' in sys.modules]))\n"
    )
    environment = {**os.environ, "HOME": str(home), "CI": ""}
    words = [sys.executable, "-c", code, str(tiny.path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stderr == ""
    assert json.loads(done.stdout) == [[], 1, False]
    assert list(home.iterdir()) == []


def test_nothing_of_it_is_imported_before_it_is_opened():
    code = "import sys, edgeinfer.runtimes.openvino; print([n for n in sys.modules if n.split('.')[0] == 'openvino'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
