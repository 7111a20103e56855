"""LiteRT, tflite-runtime and ONNX Runtime: what is not the same for every runtime."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tiny_models import block, node, onnx_model, tensor_type, tflite_model, value_info

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.litert import open_litert, open_tflite
from edgeinfer.runtimes.onnx import open_onnx
from edgeinfer.runtimes.stderr import quiet_stderr
from edgeinfer.runtimes.vendor import first_line

TEST_DATA = Path(__file__).parents[3] / "../shared/testdata"
PLAIN = RuntimeOptions(threads=1, driver={"kernels": "plain"})
ONE_THREAD = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def real() -> Path:
    folder = TEST_DATA / "models"
    if not folder.is_dir():
        pytest.skip("the test data (../shared/testdata) are not here")
    return folder


def saved(path: Path, content: bytes) -> ModelFile:
    path.write_bytes(content)
    return read_model_file(path)


def test_plain_kernels_say_so_and_agree_with_xnnpack(real):
    file = read_model_file(real / "mobilenet_v1_0.25_128_quant.tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    outputs = {}
    for options in (ONE_THREAD, PLAIN):
        runtime = open_litert(file, "cpu", options)
        runtime.input()[...] = pixels
        outputs[runtime.device] = runtime.run()[0].astype(int)
        runtime.close()
    assert sorted(outputs) == ["litert:cpu", "litert:cpu:plain"]
    xnnpack, plain = outputs.values()
    assert xnnpack.argmax() == plain.argmax()
    assert abs(xnnpack - plain).max() <= 8, "the two round differently, by more on noise than on pictures"


def test_outputs_without_a_shape_in_the_file_get_the_interpreters(real):
    file = read_model_file(real / "ssd_mobilenet_v1_coco_no_metadata.tflite")
    assert [spec.shape for spec in file.outputs] == [()] * 4
    runtime = open_litert(file, "cpu", ONE_THREAD)
    assert [spec.shape for spec in runtime.outputs] == [(1, 10, 4), (1, 10), (1, 10), (1,)]
    assert [output.shape for output in runtime.run()] == [spec.shape for spec in runtime.outputs]
    runtime.close()


def test_an_edge_tpu_model_is_refused_before_the_interpreter_sees_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    file = saved(tmp_path / "tpu.tflite", tflite_model(op="edgetpu-custom-op"))
    with pytest.raises(DeviceNotFound, match="compiled for the Edge TPU and runs on nothing else") as refused:
        open_litert(file, "cpu", ONE_THREAD)
    assert refused.value.exit_code == 4


def test_an_operator_that_nobody_knows_is_the_models_fault(tmp_path):
    file = saved(tmp_path / "odd.tflite", tflite_model(op="mystery"))
    with pytest.raises(ModelError, match="unresolved custom op: mystery") as refused:
        open_litert(file, "cpu", ONE_THREAD)
    assert refused.value.__cause__ is not None


def test_memory_still_held_is_a_failure_to_run_and_no_riddle(tmp_path):
    runtime = open_litert(saved(tmp_path / "tiny.tflite", tflite_model()), "cpu", ONE_THREAD)
    held = runtime.input()
    with pytest.raises(RuntimeFailed, match="litert:cpu failed to run"):
        runtime.run()
    del held
    runtime.run()
    runtime.close()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="says something else from Python 3.12 on")
def test_a_missing_tflite_runtime_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    with pytest.raises(DeviceNotFound, match=r"pip install 'edgeinfer\[tflite\]'"):
        open_tflite(saved(tmp_path / "tiny.tflite", tflite_model()), "cpu", ONE_THREAD)


def test_a_tflite_runtime_that_cannot_do_with_this_numpy_says_so(tmp_path, monkeypatch):
    class Interpreter:
        def __init__(self, model_content=None, num_threads=None):
            raise SystemError("initialization of _pywrap raised unreported exception")

    module = types.ModuleType("tflite_runtime.interpreter")
    module.Interpreter = Interpreter
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", module)
    with pytest.raises(DeviceNotFound, match=rf"does not work with numpy {np.__version__}; pip install 'numpy<2'"):
        open_tflite(saved(tmp_path / "tiny.tflite", tflite_model()), "cpu", ONE_THREAD)


def test_onnx_refuses_what_its_graph_cannot_do(tmp_path):
    kind = tensor_type("float32", (1, 4))
    graph = block(1, node("NoSuchOperator", ["x"], ["y"])) + block(2, "g")
    graph += block(11, value_info("x", kind)) + block(12, value_info("y", kind))
    file = saved(tmp_path / "odd.onnx", onnx_model(graph=graph))
    with pytest.raises(ModelError, match=r"onnx:cpu cannot load .*NoSuchOperator") as refused:
        open_onnx(file, "cpu", ONE_THREAD)
    assert len(str(refused.value).splitlines()) == 1


def test_onnx_runtime_prints_nothing_when_it_refuses_or_fails(tmp_path, capfd, monkeypatch):
    import onnxruntime

    def refuse(*words, **more):
        raise ValueError("no")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", refuse)
    with pytest.raises(ModelError, match=r"onnx:cpu cannot load .*: no"):
        open_onnx(saved(tmp_path / "tiny.onnx", onnx_model()), "cpu", ONE_THREAD)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_tensor_name_that_is_no_text_is_an_error_of_ours(tmp_path):
    content = tflite_model().replace(b"\x01\0\0\0y\0", b"\x01\0\0\0\xb0\0")
    file = saved(tmp_path / "tiny.tflite", content)
    assert file.outputs[0].name == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(ModelError, match=r"litert:cpu cannot run .*utf-8"):
        open_litert(file, "cpu", ONE_THREAD)


def test_onnx_that_took_another_provider_is_not_taken_for_a_cpu(tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["AzureExecutionProvider"])
    with pytest.raises(DeviceNotFound, match="took AzureExecutionProvider"):
        open_onnx(saved(tmp_path / "tiny.onnx", onnx_model()), "cpu", ONE_THREAD)


def test_onnx_threads_sleep_between_paced_frames(tmp_path, monkeypatch):
    import onnxruntime

    seen = []
    original = onnxruntime.InferenceSession

    def session(content, settings, **more):
        seen.append(
            (settings.intra_op_num_threads, settings.get_session_config_entry("session.intra_op.allow_spinning"))
        )
        return original(content, settings, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    open_onnx(saved(tmp_path / "tiny.onnx", onnx_model()), "cpu", RuntimeOptions(threads=2, paced=True)).close()
    assert seen == [(2, "0")]


def test_only_a_size_of_the_same_name_is_taken_for_the_batch(tmp_path):
    graph = (
        block(1, node("Identity", ["x"], ["same"]))
        + block(1, node("NonZero", ["x"], ["other"]))
        + block(2, "g")
        + block(11, value_info("x", tensor_type("float32", ("n", 4))))
        + block(12, value_info("same", tensor_type("float32", ("n", 4))))
        + block(12, value_info("other", tensor_type("int64", (2, "found"))))
    )
    runtime = open_onnx(saved(tmp_path / "two.onnx", onnx_model(graph=graph)), "cpu", ONE_THREAD)
    assert [spec.shape for spec in runtime.outputs] == [(1, 4), (2, -1)]
    runtime.input()[...] = [[0, 1, 0, 1]]
    assert [output.shape for output in runtime.run()] == [(1, 4), (2, 2)]
    runtime.close()


def test_opening_prints_nothing(tmp_path):
    # XNNPACK announces itself once in a process, so it takes a new one to see whether it is silenced.
    (tmp_path / "tiny.tflite").write_bytes(tflite_model(op="NEG"))
    code = (
        "import sys, pathlib; from edgeinfer.bundle.load import read_model_file; from edgeinfer.runtimes import *; "
        "runtime = RUNTIMES.get('litert')(read_model_file(pathlib.Path(sys.argv[1])), 'cpu', RuntimeOptions()); "
        "runtime.run(); runtime.close(); print('done')"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "tiny.tflite")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_chatter_goes_to_the_log_and_all_else_to_the_terminal(capfd, caplog):
    log = logging.getLogger("test.chatter")
    with caplog.at_level(logging.DEBUG, "test.chatter"), quiet_stderr(log):
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        os.write(2, b"another thread says hello\n")
        os.write(2, b"I0000 00:00:1 port.cc:1] noise\n")
    assert capfd.readouterr().err == "another thread says hello\n"
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]
    os.write(2, b"back again\n")
    assert capfd.readouterr().err == "back again\n"


def test_stderr_comes_back_after_an_error(capfd):
    with pytest.raises(ValueError, match="inside"), quiet_stderr(logging.getLogger("test.chatter")):
        raise ValueError("inside")
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_no_descriptor_leaks(tmp_path):
    file = saved(tmp_path / "tiny.tflite", tflite_model())
    open_litert(file, "cpu", ONE_THREAD).close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        open_litert(file, "cpu", ONE_THREAD).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one\ntwo", "one"),
        ("\n\n  three ", "three"),
        ("", "ValueError"),
        ("a was not true.Tensor 33 has invalid parameters.", "a was not true."),
        ("x" * 500, "x" * 200 + "…"),
    ],
)
def test_vendors_are_quoted_in_one_line(message, line):
    assert first_line(ValueError(message)) == line
