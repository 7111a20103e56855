"""LiteRT's GPU path, on whatever has a Vulkan driver here; Mesa's lavapipe is enough."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import DeviceNotFound, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions, litert_gpu
from edgeinfer.runtimes.litert import open_litert
from edgeinfer.runtimes.litert_gpu import LiteRTGpu, open_gpu

MODELS = Path(__file__).parents[3] / "../shared/testdata/models"
FLOAT_MODEL = "conv_fc_mnist.tflite"

_OPEN = """
import sys
from pathlib import Path
from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import DeviceNotFound
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.litert_gpu import open_gpu
try:
    runtime = open_gpu(read_model_file(Path(sys.argv[1])), RuntimeOptions())
    runtime.run()
    runtime.run()
    runtime.close()
    print("ran on", runtime.adapter or "?", flush=True)
except DeviceNotFound as missing:
    print("no:", missing, flush=True)
import ctypes, os
ctypes.CDLL(None).fflush(None)  # As at any exit.
os._exit(0)  # LiteRT's own farewell, from its static destructors, is not what is looked at here.
"""


def saved(path: Path, content: bytes) -> ModelFile:
    path.write_bytes(content)
    return read_model_file(path)


def in_child(model: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return python(_OPEN, str(model), **environment)


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    environment.pop("PYTHONUNBUFFERED", None)  # It changes the C library's stdout too.
    return subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, timeout=100, env=environment)


@pytest.fixture(scope="module")
def gpu(tmp_path_factory) -> None:
    """In a child first: a graphics driver that crashes is no reason to lose the tests."""
    probe = tmp_path_factory.mktemp("probe") / "negate.tflite"
    probe.write_bytes(tflite_model(op="NEG"))
    done = in_child(probe)
    if done.stdout.startswith("no:"):
        pytest.skip(done.stdout.strip().removeprefix("no: "))
    assert done.stdout.startswith("ran on"), (done.returncode, done.stderr)
    # LiteRT's farewell, from its static destructors, would come below pytest's last line.
    atexit.register(os.dup2, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)


@pytest.fixture
def open_():
    opened: list[LiteRTGpu] = []

    def open_runtime(file: ModelFile) -> LiteRTGpu:
        opened.append(open_gpu(file, RuntimeOptions()))
        return opened[-1]

    yield open_runtime
    for runtime in opened:
        runtime.close()


@pytest.fixture(scope="module")
def real() -> Path:
    if not MODELS.is_dir():
        pytest.skip("the test data (../shared/testdata) are not here")
    return MODELS


def infer(runtime, seed: int = 0) -> list[np.ndarray]:
    noise = np.random.default_rng(seed)
    for index, spec in enumerate(runtime.inputs):
        real = noise.random(spec.shape) if spec.dtype.kind == "f" else noise.integers(0, 128, spec.shape)
        runtime.input(index)[...] = real
    return list(runtime.run())


def on_cpu(file: ModelFile, seed: int = 0) -> list[np.ndarray]:
    runtime = open_litert(file, "cpu", RuntimeOptions(threads=1, driver={"kernels": "plain"}))
    outputs = infer(runtime, seed)
    runtime.close()
    return outputs


@pytest.mark.usefixtures("gpu")
def test_a_float_model_gives_what_the_cpu_gives(open_, real):
    file = read_model_file(real / FLOAT_MODEL)
    runtime = open_(file)
    assert (runtime.device, runtime.claimed) == ("litert:gpu", "all 6 operators")
    assert runtime.inputs == file.inputs
    assert runtime.outputs == file.outputs
    for seed in (1, 2):
        for output, expected in zip(infer(runtime, seed), on_cpu(file, seed), strict=True):
            assert output.dtype == expected.dtype
            # Single precision in another order; half precision would be off by 1e-3.
            np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.usefixtures("gpu")
def test_a_quantised_model_gives_nearly_what_the_cpu_gives(open_, real):
    file = read_model_file(real / "mlperf_tiny/kws_dscnn_int8.tflite")
    (output,), (expected,) = infer(open_(file)), on_cpu(file)
    assert output.dtype == np.int8
    assert output.argmax() == expected.argmax()
    assert abs(output.astype(int) - expected).max() <= 8


@pytest.mark.usefixtures("gpu")
def test_several_inputs_and_outputs_keep_the_files_order(open_, real):
    file = read_model_file(real / "edgetpu/split_concat.tflite")
    runtime = open_(file)
    assert [spec.name for spec in runtime.inputs] == [spec.name for spec in file.inputs]
    for output, expected in zip(infer(runtime), on_cpu(file), strict=True):
        np.testing.assert_array_equal(output, expected)


def with_signature(content: bytes) -> bytes:
    """The model with a signature that names its tensors, and orders them the other way round."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    model = schema.ModelT.InitFromPackedBuf(content)
    graph = model.subgraphs[0]

    def named(indices) -> list:
        maps = []
        for place, index in enumerate(reversed(list(indices))):
            maps.append(schema.TensorMapT())
            maps[-1].name, maps[-1].tensorIndex = f"{'bacde'[place]}", int(index)
        return maps

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = named(graph.inputs), named(graph.outputs)
    model.signatureDefs = [signature]
    builder = Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.usefixtures("gpu")
def test_the_files_order_counts_where_a_signature_has_another(open_, real, tmp_path):
    content = (real / "edgetpu/split_concat.tflite").read_bytes()
    file = saved(tmp_path / "signed.tflite", with_signature(content))
    for output, expected in zip(infer(open_(file)), on_cpu(file), strict=True):
        np.testing.assert_array_equal(output, expected)


@pytest.mark.usefixtures("gpu")
def test_an_operator_that_it_lacks_is_named_and_never_left_to_the_cpu(open_, real):
    with pytest.raises(DeviceNotFound, match=r"cannot run all of .*: not TFLite_Detection_PostProcess$"):
        open_(read_model_file(real / "ssd_mobilenet_v1_coco.tflite"))
    with pytest.raises(DeviceNotFound, match=r"cannot run .*: Variable tensors not yet supported.$"):
        open_(read_model_file(real / "keras_lstm_mnist_int8.tflite"))


@pytest.mark.usefixtures("gpu")
def test_a_model_that_it_only_shares_is_refused(open_, tmp_path, monkeypatch):
    from ai_edge_litert.compiled_model import CompiledModel

    monkeypatch.setattr(CompiledModel, "is_fully_accelerated", lambda self: False)
    with pytest.raises(DeviceNotFound, match="it takes only some of the operators"):
        open_(saved(tmp_path / "negate.tflite", tflite_model(op="NEG")))


@pytest.mark.usefixtures("gpu")
def test_a_free_batch_is_one(open_, tmp_path):
    file = saved(tmp_path / "free.tflite", tflite_model(shape=(2, 3, 4), signature=(-1, 3, 4), op="NEG"))
    runtime = open_(file)
    assert runtime.inputs[0].shape == runtime.outputs[0].shape == (1, 3, 4)
    runtime.input()[...] = 3
    (output,) = runtime.run()
    assert output.tolist() == np.full((1, 3, 4), -3).tolist()


@pytest.mark.usefixtures("gpu")
def test_outputs_stay_valid_until_the_next_run(open_, tmp_path):
    runtime = open_(saved(tmp_path / "negate.tflite", tflite_model(op="NEG")))
    runtime.input()[...] = 1
    (output,) = runtime.run()
    runtime.input()[...] = 2
    assert (output == -1).all()
    assert (runtime.run()[0] == -2).all()


@pytest.mark.usefixtures("gpu")
def test_it_may_be_closed_twice_and_then_does_not_run(open_, tmp_path):
    runtime = open_(saved(tmp_path / "negate.tflite", tflite_model(op="NEG")))
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeFailed, match="litert:gpu is closed"):
        runtime.run()


@pytest.mark.usefixtures("gpu")
def test_nothing_is_printed_not_even_to_stdout(real):
    # What LiteRT prints to stdout would otherwise stand among the results.
    done = in_child(real / FLOAT_MODEL)
    assert done.stdout.startswith("ran on ")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_what_a_library_left_in_its_buffer_is_taken_too():
    code = (
        "import ctypes; from edgeinfer.runtimes.litert_gpu import _quiet; said = []; libc = ctypes.CDLL(None)\n"
        "with _quiet(said): libc.printf(b'INFO: late\\n')\n"
        "libc.fflush(None); print(said)"
    )
    assert python(code).stdout == "['INFO: late']\n"


def test_what_others_print_meanwhile_reaches_the_terminal(capfd):
    said: list[str] = []
    with litert_gpu._quiet(said):
        os.write(1, b'{"seq": 1}\nINFO: Failed to load OpenCL library\n')
        os.write(2, b"edgeinfer: camera lost\n    at CheckVkSuccessImpl (dawn.cpp:1)\n\n")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ('{"seq": 1}\n', "edgeinfer: camera lost\n")
    assert [line for line in said if line] == ["    at CheckVkSuccessImpl (dawn.cpp:1)", said[-1]]


@pytest.mark.usefixtures("gpu")
def test_the_adapter_is_named(open_, tmp_path):
    assert open_(saved(tmp_path / "negate.tflite", tflite_model(op="NEG"))).adapter


@pytest.mark.usefixtures("gpu")
def test_descriptors_come_back(tmp_path):
    file = saved(tmp_path / "negate.tflite", tflite_model(op="NEG"))
    open_gpu(file, RuntimeOptions()).close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        open_gpu(file, RuntimeOptions()).close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


# Without a GPU.


def test_without_a_vulkan_driver_it_is_a_missing_device(tmp_path):
    (tmp_path / "negate.tflite").write_bytes(tflite_model(op="NEG"))
    nothing = str(tmp_path / "nothing.json")
    done = in_child(tmp_path / "negate.tflite", VK_ICD_FILENAMES=nothing, VK_DRIVER_FILES=nothing)
    assert done.stdout == (
        "no: litert:gpu finds no GPU with a Vulkan driver; apt install mesa-vulkan-drivers, of Mesa 23 or later\n"
    )
    assert done.stderr == ""


def test_a_type_that_it_has_not_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.compiled_model", None)
    with pytest.raises(DeviceNotFound, match="litert:gpu has no int64, the type of 'x' in"):
        open_gpu(saved(tmp_path / "wide.tflite", tflite_model("int64")), RuntimeOptions())


def test_a_litert_without_compiled_model_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.compiled_model", None)
    with pytest.raises(DeviceNotFound, match=r"litert:gpu needs .*; pip install 'ai-edge-litert>=2.1.6'"):
        open_gpu(saved(tmp_path / "tiny.tflite", tflite_model()), RuntimeOptions())


def test_models_for_others_are_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(litert_gpu, "_compile", lambda module, content: pytest.fail("it was loaded"))
    edgetpu = saved(tmp_path / "tpu.tflite", tflite_model(op="edgetpu-custom-op"))
    with pytest.raises(DeviceNotFound, match="compiled for the Edge TPU and runs on nothing else"):
        open_litert(edgetpu, "gpu", RuntimeOptions())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (["INFO: x", "ERROR: [model_load.cc:316] No such thing."], "No such thing."),
        (["ERROR: [a.cc:1]", "ERROR: [b.cc:2] second"], "second"),
        ([], "Some ops are not accelerated."),
    ],
)
def test_the_reason_is_what_was_said_rather_than_a_line_of_source(said, reason):
    refusal = RuntimeError("ERROR: [./litert/cc/litert_compiled_model.h:1961]\n└ Some ops are not accelerated.")
    assert litert_gpu._reason(refusal, said) == reason


def test_what_it_says_is_in_the_debug_log(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, litert_gpu.__name__), litert_gpu._quiet([]):
        os.write(2, b"INFO: [environment.cc:36] Creating LiteRT environment\n")
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
