from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tiny_models import onnx_model, tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import choose, open_device
from edgeinfer.delegates.trial import Trial
from edgeinfer.errors import DeviceNotFound, ModelError


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def tflite(tmp_path) -> ModelFile:
    (tmp_path / "tiny.tflite").write_bytes(tflite_model())
    return read_model_file(tmp_path / "tiny.tflite")


@pytest.fixture
def onnx(tmp_path) -> ModelFile:
    (tmp_path / "tiny.onnx").write_bytes(onnx_model())
    return read_model_file(tmp_path / "tiny.onnx")


@pytest.fixture
def refused(monkeypatch) -> dict[str, Trial]:
    """Trials by `runtime` or `runtime plain`, and those that are not named here pass without a child."""
    trials: dict[str, Trial] = {}

    def stub(file, runtime, unit, options, **more):
        return trials.get(f"{runtime} plain" if options.driver else runtime, Trial())

    monkeypatch.setattr(choose, "try_model", stub)
    return trials


@pytest.mark.parametrize("word", ["auto", "cpu", "litert:cpu"])
def test_a_tflite_model_runs_on_litert(tflite, word):
    runtime = open_device(tflite, word, threads=1, paced=True)
    assert runtime.device == "litert:cpu"
    runtime.close()


@pytest.mark.parametrize("word", ["auto", "cpu", "onnx:cpu"])
def test_an_onnx_model_runs_on_onnx_runtime(onnx, word):
    runtime = open_device(onnx, word)
    assert runtime.device == "onnx:cpu"
    runtime.close()


def test_one_line_is_logged_for_what_was_taken_and_why(tflite, refused, caplog):
    refused["litert"] = Trial("litert:cpu crashed with it (SIGSEGV)")
    with caplog.at_level(logging.INFO, "edgeinfer"):
        runtime = open_device(tflite, "auto")
    runtime.close()
    assert runtime.device == "litert:cpu:plain"
    assert [record.getMessage() for record in caplog.records] == [
        "tiny.tflite runs on litert:cpu:plain; litert:cpu crashed with it (SIGSEGV)"
    ]


def test_an_exact_device_is_taken_or_the_error_says_why_not(tflite, refused):
    refused["litert"] = Trial("litert:cpu crashed with it (SIGSEGV)")
    with pytest.raises(ModelError, match=r"cannot run .*tiny.tflite: litert:cpu crashed with it \(SIGSEGV\)$"):
        open_device(tflite, "litert:cpu")


def test_all_reasons_are_raised_together_and_each_once(tflite, refused, monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: object())
    refused["litert"] = refused["litert plain"] = Trial("litert:cpu cannot load it: odd")
    refused["tflite"] = Trial("tflite:cpu does not work with numpy 2.4", "device")
    with pytest.raises(ModelError) as raised:
        open_device(tflite, "auto")
    reasons = "litert:cpu cannot load it: odd; tflite:cpu does not work with numpy 2.4"
    assert str(raised.value) == f"cannot run {tflite.path}: {reasons}"


def test_where_no_device_is_to_be_had_it_is_not_the_models_fault(tflite, refused, monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    refused["litert"] = refused["litert plain"] = Trial("litert:cpu needs ai_edge_litert", "device")
    with pytest.raises(DeviceNotFound) as raised:
        open_device(tflite, "auto")
    assert raised.value.exit_code == 4


def test_auto_never_ends_on_fake(tflite, refused):
    for name in ("litert", "litert plain", "tflite"):
        refused[name] = Trial("no", "device")
    for word in ("auto", "cpu"):
        with pytest.raises(DeviceNotFound):
            open_device(tflite, word)


def test_a_trial_that_passed_and_an_opening_that_fails_goes_on_to_the_next(tflite, refused, monkeypatch):
    from edgeinfer.runtimes import litert

    original = litert.open_litert

    def picky(file, unit, options):
        if not options.driver:
            raise ModelError(f"litert:cpu cannot load {file.path}: today")
        return original(file, unit, options)

    monkeypatch.setattr(litert, "open_litert", picky)
    runtime = open_device(tflite, "auto")
    assert runtime.device == "litert:cpu:plain"
    runtime.close()


def test_fake_is_taken_where_it_is_asked_for(tflite):
    runtime = open_device(tflite, "fake")
    assert runtime.device == "fake"
    quick = open_device(tflite, "fake:latency_ms=0,fail_at=3")
    quick.run()
    quick.close()
    runtime.close()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("fake:latency_ms", "is not understood"),
        ("fake:=3", "is not understood"),
        ("fake:speed=3", "unknown option of fake 'speed'"),
        ("gpu", "this version cannot drive 'gpu' yet; use auto or cpu"),
        ("npu", "cannot drive 'npu' yet"),
        ("edgetpu", "cannot drive 'edgetpu' yet"),
        ("edgetpu:usb", "cannot drive"),
        ("litert:gpu", "cannot drive"),
        ("litert:edgetpu:usb", "cannot drive"),
        ("litert:delegate=/lib/x.so,a=b", "cannot drive"),
        ("onnx:cuda", "cannot drive"),
        ("onnx:tensorrt", "cannot drive"),
        ("openvino:npu", "cannot drive"),
        ("litert:cpuu", "did you mean 'litert:cpu'?"),
        ("lite:cpu", "did you mean"),
        ("autoo", "did you mean 'auto'?"),
        ("", "known: auto, cpu"),
        ("toaster", "known: auto, cpu"),
        ("onnx:cpu", "onnx:cpu cannot read"),
    ],
)
def test_a_device_that_cannot_be_had_says_why(tflite, word, said):
    with pytest.raises(DeviceNotFound) as raised:
        open_device(tflite, word)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_format_names_the_device_that_fits(tflite, onnx):
    with pytest.raises(DeviceNotFound, match="use auto or litert:cpu"):
        open_device(tflite, "onnx:cpu")
    with pytest.raises(DeviceNotFound, match="use auto or onnx:cpu"):
        open_device(onnx, "litert:cpu")


@pytest.mark.parametrize("word", ["auto", "cpu", "litert:cpu"])
def test_an_edge_tpu_model_needs_an_edge_tpu_and_no_child_to_say_so(tmp_path, word, monkeypatch):
    monkeypatch.setattr(choose, "try_model", lambda *words, **more: pytest.fail("a trial was made"))
    (tmp_path / "tpu.tflite").write_bytes(tflite_model(op="edgetpu-custom-op"))
    with pytest.raises(DeviceNotFound, match="compiled for the Edge TPU") as raised:
        open_device(read_model_file(tmp_path / "tpu.tflite"), word)
    assert raised.value.exit_code == 4


def test_only_the_first_start_pays_for_the_trial(tflite, state, monkeypatch):
    open_device(tflite, "auto").close()
    assert len(list((state / "trials").iterdir())) == 1

    def no_child(*words, **more):
        pytest.fail("a second child was started")

    monkeypatch.setattr("subprocess.Popen", no_child)
    open_device(tflite, "auto").close()


def test_a_runtime_of_another_package_is_found_by_its_name(tflite, refused, monkeypatch):
    from edgeinfer.runtimes import RUNTIMES
    from edgeinfer.runtimes.fake import FakeRuntime

    monkeypatch.setattr(RUNTIMES, "names", lambda: ("abacus", "fake", "litert", "onnx", "tflite"))
    seen = []

    def get(name, error):
        seen.append(name)
        return lambda file, unit, options: seen.append(unit) or FakeRuntime(file)

    monkeypatch.setattr(RUNTIMES, "get", get)
    open_device(tflite, "abacus:beads").close()
    assert seen == ["abacus", "beads"]
    with pytest.raises(DeviceNotFound, match="did you mean 'abacus'"):
        open_device(tflite, "abakus")
