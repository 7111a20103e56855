from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_models import onnx_model, tflite_model

from edgeinfer.board.profile import Ladder
from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import Failover, choose, open_device, threads_for
from edgeinfer.delegates.trial import Refused
from edgeinfer.errors import DeviceNotFound, ModelError
from edgeinfer.runtimes import RUNTIMES
from edgeinfer.runtimes.delegate import LIBRARY_VARIABLE
from edgeinfer.runtimes.fake import FakeRuntime


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
def refused(monkeypatch) -> dict[str, Refused]:
    """Why a device is refused, by its word; a CPU that is not named here passes without a worker."""
    refusals: dict[str, Refused] = {}

    def stub(file, candidate, reference, **more):
        plain = ":plain" if candidate.options.driver else ""
        refusal = refusals.get(f"{candidate.device}{plain}")
        if refusal is not None:
            raise refusal

    monkeypatch.setattr(choose, "try_model", stub)
    return refusals


@pytest.fixture
def board(monkeypatch) -> Callable[..., None]:
    """Let `auto` find a board with that ladder for .tflite models."""

    def with_ladder(*words: str, edgetpu: tuple[str, ...] = ()) -> None:
        profile = SimpleNamespace(ladder=Ladder(tflite=words, edgetpu=edgetpu), threads=None)
        found = SimpleNamespace(profile=profile, clusters=(), cores=2)
        monkeypatch.setattr(choose, "recognise_board", lambda: found)

    with_ladder("litert:cpu", "litert:cpu:plain", "tflite:cpu")
    return with_ladder


@pytest.mark.parametrize(("word", "is_alone"), [("cpu", False), ("litert:cpu", True)])
def test_a_device_is_told_whether_another_could_take_over(tflite, monkeypatch, word, is_alone):
    told = []
    proven = choose.open_proven
    monkeypatch.setattr(
        choose, "open_proven", lambda *given, **more: told.append(more["is_alone"]) or proven(*given, **more)
    )
    open_device(tflite, word, isolate=True).close()
    assert told == [is_alone]


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
    refused["litert:cpu"] = Refused("litert:cpu died with it (SIGSEGV)", "model")
    with caplog.at_level(logging.INFO, "edgeinfer"):
        runtime = open_device(tflite, "auto")
    runtime.close()
    assert runtime.device == "litert:cpu:plain"
    assert [record.getMessage() for record in caplog.records] == [
        "tiny.tflite runs on litert:cpu:plain; litert:cpu died with it (SIGSEGV)"
    ]


def test_an_exact_device_is_taken_or_the_error_says_why_not(tflite, refused):
    refused["litert:cpu"] = Refused("litert:cpu died with it (SIGSEGV)", "model")
    with pytest.raises(ModelError, match=r"cannot run .*tiny.tflite: litert:cpu died with it \(SIGSEGV\)$"):
        open_device(tflite, "litert:cpu")


@pytest.mark.usefixtures("board")
def test_all_reasons_are_raised_together_and_each_once(tflite, refused):
    refused["litert:cpu"] = refused["litert:cpu:plain"] = Refused("litert:cpu cannot load it: odd", "model")
    refused["tflite:cpu"] = Refused("tflite:cpu does not work with numpy 2.4", "device")
    with pytest.raises(ModelError) as raised:
        open_device(tflite, "auto")
    reasons = "litert:cpu cannot load it: odd; tflite:cpu does not work with numpy 2.4"
    assert str(raised.value) == f"cannot run {tflite.path}: {reasons}"


@pytest.mark.usefixtures("board")
def test_where_no_device_is_to_be_had_it_is_not_the_models_fault(tflite, refused):
    for word in ("litert:cpu", "litert:cpu:plain", "tflite:cpu"):
        refused[word] = Refused(f"{word} needs a package", "device")
    with pytest.raises(DeviceNotFound) as raised:
        open_device(tflite, "auto")
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("listed", [("litert:cpu", "litert:cpu:plain", "tflite:cpu"), ()])
def test_auto_never_ends_on_fake(tflite, refused, board, listed):
    board(*listed)
    for word in ("litert:cpu", "litert:cpu:plain", "tflite:cpu"):
        refused[word] = Refused("no", "device")
    for word in ("auto", "cpu"):
        with pytest.raises(DeviceNotFound):
            open_device(tflite, word)


@pytest.mark.usefixtures("refused")
def test_auto_walks_the_boards_ladder_and_says_why_each_better_rung_was_refused(tflite, board, caplog):
    board("litert:edgetpu:usb", "litert:cpu:plain", "litert:cpu")
    with caplog.at_level(logging.INFO, "edgeinfer"):
        runtime = open_device(tflite, "auto")
    runtime.close()
    assert runtime.device == "litert:cpu:plain"
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("tiny.tflite runs on litert:cpu:plain; litert:edgetpu:usb cannot run it, which is not")


@pytest.mark.usefixtures("refused")
def test_a_board_may_list_another_packages_runtime(tflite, board, monkeypatch):
    board("abacus:beads", "litert:cpu")
    monkeypatch.setattr(RUNTIMES, "names", lambda: ("abacus", "litert"))
    monkeypatch.setattr(RUNTIMES, "get", lambda name, error: lambda file, unit, options: FakeRuntime(file))
    runtime = open_device(tflite, "auto")
    assert runtime.device == "fake"
    runtime.close()


@pytest.mark.parametrize("word", ["auto", "cpu"])
def test_a_list_of_devices_outlives_the_death_of_one_and_an_exact_one_is_that_one(tflite, refused, word):
    runtime = open_device(tflite, word)
    assert isinstance(runtime, Failover)
    assert runtime.state == "ok"
    runtime.close()
    alone = open_device(tflite, "litert:cpu")
    assert not isinstance(alone, Failover)
    alone.close()


@pytest.mark.parametrize("word", ["litert:cpu", "fake"])
def test_a_cpu_may_have_a_process_of_its_own(tmp_path, word):
    (tmp_path / "model.tflite").write_bytes(tflite_model(op="RESHAPE" if word == "litert:cpu" else "nobody-knows"))
    runtime = open_device(read_model_file(tmp_path / "model.tflite"), word, isolate=True)
    try:
        assert isinstance(runtime, Failover)
        assert runtime.device == word
        runtime.input()[...] = [[1, 2, 3, 4]]
        assert runtime.run()[0].tolist() == ([[1, 2, 3, 4]] if word == "litert:cpu" else [[0, 0, 0, 0]])
    finally:
        runtime.close()


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
        ("edgetpu", "litert:edgetpu:usb cannot run it, which is not compiled for it; compile it with edgetpu_compiler"),
        ("litert:edgetpu:usb", "litert:edgetpu:usb cannot run it, which is not compiled for it"),
        ("litert:delegate=/nowhere/x.so,a=b", "/nowhere/x.so: cannot open shared object file"),
        ("litert:delegate=", "is not understood; write it as in litert:delegate=/path/lib.so,key=value"),
        ("litert", "'litert' names no device of litert; such as litert:cpu"),
        ("onnx:cuda", "onnx:cuda cannot read"),
        ("onnx:tensorrt", "use auto or litert:cpu"),
        ("edgetpu:usb", "unknown device 'edgetpu:usb'"),
        ("npu", "openvino:npu"),
        ("openvino:npu", "openvino:npu"),
        ("gpu", "litert:gpu"),
        ("litert:gpu", "litert:gpu"),
        ("litert:cpuu", "litert has no unit 'cpuu'; use litert:cpu"),
        ("lite:cpu", "did you mean"),
        ("autoo", "did you mean 'auto'?"),
        ("", "known: auto, "),
        ("toaster", "known: auto, "),
        ("onnx:cpu", "onnx:cpu cannot read"),
    ],
)
def test_a_device_that_cannot_be_had_says_why(tflite, word, said, monkeypatch):
    # Mesa's software driver would make a GPU of any machine.
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(variable, "/nowhere/icd.json")
    with pytest.raises(DeviceNotFound) as raised:
        open_device(tflite, word)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.exit_code == 4


def test_a_format_names_the_device_that_fits(tflite, onnx):
    with pytest.raises(DeviceNotFound, match="use auto or litert:cpu"):
        open_device(tflite, "onnx:cpu")
    with pytest.raises(DeviceNotFound, match="use auto or onnx:cpu"):
        open_device(onnx, "litert:cpu")


@pytest.mark.parametrize("word", ["auto", "cpu", "litert:cpu"])
def test_an_edge_tpu_model_needs_an_edge_tpu(tmp_path, word, monkeypatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, "/nowhere/libedgetpu.so.1")
    (tmp_path / "tpu.tflite").write_bytes(tflite_model(op="edgetpu-custom-op"))
    said = "libedgetpu.so.1" if word == "auto" else "compiled for the Edge TPU"
    with pytest.raises(DeviceNotFound, match=said) as raised:
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


def cores_seen(monkeypatch) -> list[tuple[set[int], int | None]]:
    """The cores on which a runtime was opened, and its threads."""
    seen: list[tuple[set[int], int | None]] = []

    def open_watched(file, unit, options):
        seen.append((os.sched_getaffinity(0), options.threads))
        return FakeRuntime(file)

    monkeypatch.setattr(RUNTIMES, "get", lambda name, error=None: open_watched)
    return seen


def rock(threads: int | None = None) -> SimpleNamespace:
    """A board whose big core is the first that we may use, and which has another one."""
    first = min(os.sched_getaffinity(0))
    clusters = (SimpleNamespace(cpus=(first,), big=True), SimpleNamespace(cpus=(4000,), big=False))
    profile = SimpleNamespace(ladder=Ladder(), threads=threads, name="rock")
    return SimpleNamespace(profile=profile, clusters=clusters, cores=2)


@pytest.mark.parametrize(
    ("profile", "asked", "threads", "stays"),
    [(None, None, 1, True), (4, None, 1, True), (None, 1, 1, True), (None, 2, 2, False)],
)
def test_threads_are_as_many_as_big_cores_and_stay_there(tflite, refused, monkeypatch, profile, asked, threads, stays):
    monkeypatch.setattr("edgeinfer.board.cores._usable", lambda: {min(os.sched_getaffinity(0))})
    seen = cores_seen(monkeypatch)
    before = os.sched_getaffinity(0)
    heavy = replace(tflite, size_bytes=4_000_000_000)
    open_device(heavy, "litert:cpu", threads=asked, board=rock(profile)).close()
    assert seen == [({min(before)} if stays else before, threads)]
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("size_bytes", "is_quantised", "threads"),
    [(500_000, True, 1), (3_600_000, True, 4), (1_900_000, False, 1), (14_000_000, False, 4)],
)
def test_a_light_model_computes_with_one_thread(tflite, monkeypatch, size_bytes, is_quantised, threads):
    monkeypatch.setattr("edgeinfer.board.cores._usable", lambda: {0, 1, 2, 3})
    picture = replace(tflite.inputs[0], shape=(1, 128, 128, 3))
    file = replace(tflite, size_bytes=size_bytes, is_quantised=is_quantised, inputs=(picture,))
    assert threads_for(file, rock(threads=4)) == threads
