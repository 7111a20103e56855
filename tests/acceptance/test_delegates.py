"""A real delegate under both runtimes, on real models: what it takes, what it computes, and how it fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from delegate.fault_delegate import edgetpu_outputs, fault_library, fault_unit

from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import open_device
from edgeinfer.delegates.proof import Sample
from edgeinfer.errors import DeviceNotFound, RuntimeFailed
from edgeinfer.runtimes import RUNTIMES, Runtime, RuntimeOptions
from edgeinfer.runtimes.delegate import LIBRARY_VARIABLE
from edgeinfer.tensor import Array

PLAIN = {"kernels": "plain"}
FLOAT_MODEL = "mlperf_tiny/ic_resnet8_fp32.tflite"
INT_MODEL = "mobilenet_v1_0.25_128_quant.tflite"
EDGETPU_MODEL = "edgetpu/mobilenet_v1_0.25_128_quant_edgetpu.tflite"


@pytest.fixture(params=["litert", "tflite"])
def name(request) -> str:
    package = {"litert": "ai_edge_litert", "tflite": "tflite_runtime"}[request.param]
    pytest.importorskip(f"{package}.interpreter", reason=f"{package} is not installed")
    return str(request.param)


@pytest.fixture
def open_(name, test_data):
    """(model, unit) -> an open runtime, closed after the test."""
    opened: list[Runtime] = []

    def open_runtime(model: str, unit: str, **driver: str) -> Runtime:
        file = read_model_file(test_data / "models" / model)
        opened.append(RUNTIMES.get(name)(file, unit, RuntimeOptions(threads=1, driver=driver)))
        return opened[-1]

    yield open_runtime
    for runtime in opened:
        runtime.close()


def fill(runtime: Runtime, seed: int = 0) -> list[Array]:
    noise = np.random.default_rng(seed)
    values = []
    for index, spec in enumerate(runtime.inputs):
        real = noise.random(spec.shape) if spec.dtype.kind == "f" else noise.integers(0, 128, spec.shape)
        values.append(real.astype(spec.dtype))
        runtime.input(index)[...] = values[-1]
    return values


def infer(runtime: Runtime, seed: int = 0) -> list[Array]:
    fill(runtime, seed)
    return [np.array(each) for each in runtime.run()]


def test_an_edge_tpu_model_runs_where_something_claims_its_operator(open_, name, monkeypatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, str(fault_library()))
    runtime = open_(EDGETPU_MODEL, "edgetpu")
    assert runtime.device == f"{name}:edgetpu"
    assert runtime.claimed == "1 of 1 operators"
    for seed in (1, 2):
        values = fill(runtime, seed)
        for output, expected in zip(runtime.run(), edgetpu_outputs(values, runtime.outputs), strict=True):
            np.testing.assert_array_equal(output, expected)


def test_every_input_of_an_edge_tpu_model_reaches_every_output(open_):
    runtime = open_("edgetpu/split_concat_edgetpu.tflite", "edgetpu", library=str(fault_library()))
    before = infer(runtime)
    assert len(before) == 5
    for index in range(len(runtime.inputs)):
        fill(runtime)
        runtime.input(index)[0, 0, 0, 0] += 1
        assert all((now != then).any() for now, then in zip(runtime.run(), before, strict=True))
    for now, then in zip(infer(runtime), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_what_the_edge_tpu_leaves_over_runs_on_the_cpu(open_):
    runtime = open_("edgetpu/movenet_lightning_int8_edgetpu.tflite", "edgetpu", library=str(fault_library()))
    assert runtime.claimed == "1 of 60 operators"
    first, again, other = infer(runtime, 1), infer(runtime, 1), infer(runtime, 2)
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize(
    ("unit", "asked"), [("edgetpu", ""), ("edgetpu:usb", " device=usb"), ("edgetpu:pci", " device=pci"),
                        ("edgetpu:1", " device=:1")]
)  # fmt: skip
def test_the_library_is_told_which_edge_tpu(open_, name, unit, asked, tmp_path, monkeypatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, str(fault_library()))
    runtime = open_(EDGETPU_MODEL, unit, journal=str(tmp_path / "journal"))
    assert runtime.device == f"{name}:{unit}"
    assert (tmp_path / "journal").read_text().splitlines()[0] == f"create{asked}"


@pytest.mark.parametrize(
    ("model", "claim", "claimed"),
    [
        (INT_MODEL, "all", "1 of 31 operators"),
        ("ssd_mobilenet_v1_coco.tflite", "RESHAPE", "13 of 64 operators"),
        ("movenet_lightning_int8.tflite", "RESHAPE", "12 of 157 operators"),
        ("yolox_nano_float16.tflite", "ADD+RESHAPE", "13 of 841 operators"),
    ],
)
def test_a_correct_delegate_gives_what_the_reference_kernels_give(open_, model, claim, claimed):
    delegated = open_(model, fault_unit(claim=claim), **PLAIN)
    assert delegated.claimed == claimed
    for output, expected in zip(infer(delegated), infer(open_(model, "cpu", **PLAIN)), strict=True):
        np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("fault", ["nan", "wrong"])
def test_a_wrong_delegate_gives_something_else_from_the_run_on_that_was_asked_for(open_, fault):
    delegated = open_(FLOAT_MODEL, fault_unit(claim="all", fault=fault, at=2))
    (good,) = infer(open_(FLOAT_MODEL, "cpu"))
    np.testing.assert_allclose(infer(delegated)[0], good, atol=1e-5)
    for _ in range(2):
        (bad,) = infer(delegated)
        assert np.isnan(bad).all() if fault == "nan" else abs(bad - good).max() > 0.01


def test_a_wrong_delegate_changes_the_integers_of_an_edge_tpu_model(open_):
    library = str(fault_library())
    (good,) = infer(open_(EDGETPU_MODEL, "edgetpu", library=library))
    (wrong,) = infer(open_(EDGETPU_MODEL, "edgetpu", library=library, fault="wrong"))
    (nan,) = infer(open_(EDGETPU_MODEL, "edgetpu", library=library, fault="nan"))
    assert ((wrong - good).ravel()[::2] == 40).all()
    assert (nan == 255).all()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("create_fails", r":edgetpu is not to be had: no Edge TPU answers; plug it in: lsusb should list 1a6e:089a"),
        ("prepare_fails", r":edgetpu refuses .*: fault delegate: this graph is refused, as asked$"),
        ("claims_nothing", r":edgetpu claims no operator of .*_edgetpu.tflite$"),
        ("nonsense", r":edgetpu is not to be had: fault=nonsense: no such fault"),
    ],
)
def test_a_device_that_cannot_be_had_says_why(open_, fault, said):
    with pytest.raises(DeviceNotFound, match=said) as refused:
        open_(EDGETPU_MODEL, "edgetpu", library=str(fault_library()), fault=fault)
    assert refused.value.exit_code == 4
    assert not isinstance(refused.value, RuntimeFailed)


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        ({"fault": "prepare_fails", "claim": "all"}, "refuses .*: fault delegate: this graph is refused, as asked$"),
        ({"fault": "claims_nothing", "claim": "all"}, "claims no operator of "),
        ({"claim": "none"}, "claims no operator of "),
        ({"fault": "create_fails"}, "is not to be had: the library made no delegate and gave no reason$"),
    ],
)
def test_a_delegate_that_takes_nothing_is_never_a_silent_cpu(open_, driver, said):
    with pytest.raises(DeviceNotFound, match=said):
        open_(INT_MODEL, fault_unit(**driver))


def test_a_run_that_fails_is_one_line_in_the_delegates_own_words(open_, name):
    unit = fault_unit(claim="all", fault="invoke_error", at=2)
    runtime = open_(INT_MODEL, unit)
    runtime.run()
    with pytest.raises(RuntimeFailed) as failed:
        runtime.run()
    path = failed.value.message.partition(" failed to run ")[2].partition(": ")[0]
    assert str(failed.value) == f"{name}:{unit} failed to run {path}: fault delegate: run 2 failed, as asked"


def test_a_device_that_comes_back_is_taken_again(open_, tmp_path):
    unplugged = tmp_path / "unplugged"
    unplugged.touch()
    driver = {"library": str(fault_library()), "fault": "create_fails", "only_if": str(unplugged)}
    with pytest.raises(DeviceNotFound, match="no Edge TPU answers on USB"):
        open_(EDGETPU_MODEL, "edgetpu:usb", **driver)
    unplugged.unlink()
    assert open_(EDGETPU_MODEL, "edgetpu:usb", **driver).claimed == "1 of 1 operators"


def test_the_faults_can_be_told_by_the_environment_too(open_, monkeypatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, str(fault_library()))
    monkeypatch.setenv("FAULT_DELEGATE", "fault=invoke_error,slow_ms=50")
    runtime = open_(EDGETPU_MODEL, "edgetpu")
    began_s = time.monotonic()
    with pytest.raises(RuntimeFailed, match="fault delegate: run 1 failed, as asked"):
        runtime.run()
    assert time.monotonic() - began_s >= 0.05


def test_an_edge_tpu_model_is_held_to_the_outputs_that_came_with_it(test_data, tmp_path, monkeypatch):
    """No reference kernels run it: without a golden sample any numbers would pass."""
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path))
    monkeypatch.setenv(LIBRARY_VARIABLE, str(fault_library()))
    file = read_model_file(test_data / "models" / EDGETPU_MODEL)
    inputs = tuple(np.random.default_rng(3).integers(0, 256, spec.shape, np.uint8) for spec in file.inputs)
    known = Sample("golden[0]", inputs, tuple(edgetpu_outputs(inputs, file.outputs)), sha256="known")
    open_device(file, "litert:edgetpu", golden=[known]).close()
    monkeypatch.setenv("FAULT_DELEGATE", "fault=wrong")
    with pytest.raises(
        DeviceNotFound, match=r"something else than golden\[0\]\.outputs says: output .* is off by 0\.\d"
    ):
        open_device(file, "litert:edgetpu", golden=[replace(known, sha256="known, on another day")])
    open_device(file, "litert:edgetpu").close()


def test_an_ordinary_model_is_not_for_the_edge_tpu(open_):
    with pytest.raises(DeviceNotFound, match="which is not compiled for it; compile it with edgetpu_compiler"):
        open_(INT_MODEL, "edgetpu", library=str(fault_library()))


def test_an_edge_tpu_model_is_not_for_the_cpu(open_):
    with pytest.raises(DeviceNotFound, match="compiled for the Edge TPU and runs on nothing else"):
        open_(EDGETPU_MODEL, "cpu")


# Faults that take their process along, or keep it.

_RUN = """
import sys
import time
from collections.abc import Callable
from pathlib import Path
from edgeinfer.bundle.load import read_model_file
from edgeinfer.runtimes import RUNTIMES, RuntimeOptions

name, model, unit = sys.argv[1:]
runtime = RUNTIMES.get(name)(read_model_file(Path(model)), unit, RuntimeOptions(threads=1))
for number in (1, 2, 3):
    runtime.run()
    print(number, flush=True)
"""


def run_thrice(name: str, model: Path, unit: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _RUN, name, str(model), unit]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("model", [FLOAT_MODEL, EDGETPU_MODEL])
def test_a_crash_comes_at_the_run_that_was_asked_for(name, test_data, model):
    claim = "edgetpu" if model == EDGETPU_MODEL else "all"
    with run_thrice(name, test_data / "models" / model, fault_unit(claim=claim, fault="crash", at=3)) as child:
        out, _ = child.communicate(timeout=60)
    assert out.split() == ["1", "2"]
    assert child.returncode == -11


def test_a_hang_is_ended_by_a_kill_and_by_nothing_else(name, test_data, tmp_path):
    journal = tmp_path / "journal"
    unit = fault_unit(claim="all", fault="hang", at=2, journal=journal)
    with run_thrice(name, test_data / "models" / INT_MODEL, unit) as child:
        try:
            wait_for(lambda: journal.exists() and "invoke 2\n" in journal.read_text())
            child.send_signal(signal.SIGINT)  # Python acts on it only when the run is over.
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.5)
        finally:
            child.kill()
        assert child.stdout is not None
        assert child.stdout.read() == "1\n"
    assert child.returncode == -9


def wait_for(happened: Callable[[], bool], timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
