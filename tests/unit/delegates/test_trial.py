from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates.memory import Memory
from edgeinfer.delegates.trial import try_model
from edgeinfer.runtimes import RuntimeOptions


def fake(**driver: str) -> RuntimeOptions:
    return RuntimeOptions(threads=1, driver=driver)


@pytest.fixture
def file(tmp_path) -> ModelFile:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tflite_model())
    return read_model_file(path)


@pytest.fixture
def memory(tmp_path) -> Memory:
    return Memory(tmp_path / "state" / "trials")


def test_a_sound_model_passes(file):
    trial = try_model(file, "litert", "cpu", fake())
    assert trial.passed
    assert trial.reason is None


@pytest.mark.parametrize("run", ["0", "1", "2"])
def test_a_crash_while_loading_or_running_is_a_reason_and_not_our_end(file, run):
    trial = try_model(file, "fake", "", fake(crash_at=run))
    assert trial.reason == "fake crashed with it (SIGABRT)"
    assert trial.blame == "model"


def test_a_hang_ends_in_time_and_leaves_no_process(file):
    began_s = time.monotonic()
    trial = try_model(file, "fake", "", fake(hang_at="1"), timeout_s=1.5)
    assert trial.reason == "fake did not answer within 1.5 s"
    assert time.monotonic() - began_s < 10
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_child_that_would_never_end_is_killed(file, monkeypatch):
    from edgeinfer.delegates import trial

    monkeypatch.setattr(
        trial, "_BOOT", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    )
    assert try_model(file, "fake", "", fake(), timeout_s=1).reason == "fake did not answer within 1 s"


def test_a_failure_to_run_is_the_models_fault(file):
    trial = try_model(file, "fake", "", fake(fail_at="2"))
    assert trial.reason == "fake failed at run 2, as asked"
    assert trial.blame == "model"


def test_a_device_that_is_not_there_is_not_the_models_fault(file):
    trial = try_model(file, "litert", "quantum", fake())
    assert trial.blame == "device"
    assert "has no unit 'quantum'" in str(trial.reason)


def test_a_model_that_changed_meanwhile_is_said(file):
    file.path.write_bytes(file.path.read_bytes() + b"\0")
    assert "has changed since it was checked" in str(try_model(file, "fake", "", fake()).reason)


def test_a_model_that_is_gone_is_said(file):
    file.path.unlink()
    assert "cannot read" in str(try_model(file, "fake", "", fake()).reason)


def test_more_memory_than_there_is_is_a_reason(tmp_path):
    path = tmp_path / "huge.tflite"
    path.write_bytes(tflite_model("float32", (1, 1 << 28)))  # A file of 700 bytes, an input of 1 GB.
    code = (
        "import edgeinfer.delegates.trial as trial; trial._SPARE_BYTES = 0; trial._available_bytes = lambda: 64 << 20"
    )
    assert "needs more memory than there is" in in_a_bounded_child(read_model_file(path), code)


def in_a_bounded_child(file: ModelFile, code: str) -> str:
    from edgeinfer.delegates import trial

    boot, trial_boot = f"{code}; ", trial._BOOT
    try:
        trial._BOOT = trial_boot.replace("from edgeinfer.delegates.trial import answer", f"{boot}answer = trial.answer")
        return str(try_model(file, "fake", "", fake()).reason)
    finally:
        trial._BOOT = trial_boot


def test_sizes_that_somebody_settled_reach_the_child(tmp_path):
    path = tmp_path / "free.tflite"
    path.write_bytes(tflite_model("float32", (1, 1, 4), signature=(-1, -1, 4)))
    free = read_model_file(path)
    assert "dimension 1 free" in str(try_model(free, "fake", "", fake()).reason)
    settled = replace(free, inputs=(replace(free.inputs[0], shape=(1, 7, 4)),))
    assert try_model(settled, "fake", "", fake()).passed


def test_a_child_that_prints_and_warns_is_understood(file, monkeypatch, capfd):
    from edgeinfer.delegates import trial

    noisy = trial._BOOT.replace("answer(job)", "print('hello from a library'); answer(job); print('bye')")
    monkeypatch.setattr(trial, "_BOOT", noisy)
    assert try_model(file, "fake", "", fake()).passed
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_child_without_an_answer_quotes_its_last_words(file, monkeypatch):
    from edgeinfer.delegates import trial

    monkeypatch.setattr(trial, "_BOOT", "import sys; sys.exit('libfancy.so: cannot open shared object file')")
    failed = try_model(file, "fake", "", fake())
    assert failed.reason == "fake ended without an answer (exit 1: libfancy.so: cannot open shared object file)"


def test_a_program_that_does_not_know_its_python_says_so(file, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert "does not know its Python" in str(try_model(file, "fake", "", fake()).reason)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "no child process" in str(try_model(file, "fake", "", fake()).reason)


def test_the_child_imports_from_where_its_parent_does(file, tmp_path):
    """An interpreter that knows edgeinfer only through PYTHONPATH tries models too."""
    package = Path(__file__).parents[3]
    installed = [entry for entry in sys.path if entry.endswith("-packages")]
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from edgeinfer.bundle.load import read_model_file
        from edgeinfer.delegates.trial import try_model
        from edgeinfer.runtimes import RuntimeOptions
        print(try_model(read_model_file(Path(sys.argv[1])), "fake", "", RuntimeOptions()).reason)
        """
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, str(file.path)],
        env={"PYTHONPATH": os.pathsep.join([str(package), *installed])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "None\n", done.stderr


def test_a_passed_trial_is_remembered(file, memory, tmp_path):
    assert not try_model(file, "litert", "cpu", fake(), memory=memory).remembered
    assert try_model(file, "litert", "cpu", fake(), memory=memory).remembered
    assert len(list((tmp_path / "state" / "trials").iterdir())) == 1


def test_another_model_driver_option_or_version_is_tried_again(file, memory, monkeypatch):
    job = {
        "sha256": file.sha256,
        "shapes": [[1, 4]],
        "runtime": "litert",
        "unit": "cpu",
        "driver": {},
        "threads": 1,
    }
    memory.add(job)
    assert memory.has(job)
    assert memory.has({**job, "threads": 4}), "the number of threads makes no model crash"
    for key, value in (("sha256", "0" * 64), ("shapes", [[2, 4]]), ("unit", "gpu"), ("driver", {"kernels": "plain"})):
        assert not memory.has({**job, key: value}), key
    from edgeinfer.delegates import memory as module

    monkeypatch.setattr(module, "version", lambda package: "99.0")
    assert not memory.has(job)


def test_failures_are_not_remembered(file, memory, tmp_path):
    try_model(file, "litert", "quantum", fake(), memory=memory)
    try_model(file, "fake", "", fake(fail_at="1"), memory=memory)
    assert not (tmp_path / "state").exists()


def test_a_damaged_memory_is_no_memory(file, memory, tmp_path):
    try_model(file, "litert", "cpu", fake(), memory=memory)
    (remembered,) = (tmp_path / "state" / "trials").iterdir()
    for content in (b"", remembered.read_bytes()[:-1], b"\0" * 100):
        remembered.write_bytes(content)
        assert not memory.has({**job_of(file)})


def job_of(file: ModelFile) -> dict:
    from edgeinfer.delegates.trial import _job

    return _job(file, "litert", "cpu", fake())


def test_a_state_folder_that_cannot_be_written_only_costs_time(file, tmp_path, caplog):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder is due")
    memory = Memory(blocked / "trials")
    with caplog.at_level(logging.DEBUG, "edgeinfer"):
        assert try_model(file, "litert", "cpu", fake(), memory=memory).passed
        assert not try_model(file, "litert", "cpu", fake(), memory=memory).remembered
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


def test_the_memory_has_an_end(memory, tmp_path, file):
    folder = tmp_path / "state" / "trials"
    folder.mkdir(parents=True)
    for index in range(300):
        (folder / f"{index}.json").write_text("{}")
        os.utime(folder / f"{index}.json", (index, index))
    memory.add(job_of(file))
    left = list(folder.iterdir())
    assert len(left) == 256
    assert not (folder / "0.json").exists()
    assert memory.has(job_of(file))
