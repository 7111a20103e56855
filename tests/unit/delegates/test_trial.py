from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import trial
from edgeinfer.delegates.memory import Memory
from edgeinfer.delegates.proof import Sample
from edgeinfer.delegates.trial import Candidate, Reference, Refused, open_proven, run_deadline_s, trial_key, try_model
from edgeinfer.errors import RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions, isolated
from edgeinfer.runtimes.isolated import Crew


def fake(**driver: str) -> Candidate:
    return Candidate("fake", "", RuntimeOptions(threads=1, driver=driver))


LITERT = Candidate("litert", "cpu", RuntimeOptions(threads=1))


def tried(file: ModelFile, candidate: Candidate, *, timeout_s: float = 60, memory: Memory | None = None) -> str | None:
    """Why it was refused and who is to blame, as in `model: it crashed`; None where it passed."""
    try:
        try_model(file, candidate, Reference(file, timeout_s=timeout_s), timeout_s=timeout_s, memory=memory)
    except Refused as refused:
        return f"{refused.blame}: {refused}"
    return None


@pytest.fixture
def file(tmp_path) -> ModelFile:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tflite_model())
    return read_model_file(path)


@pytest.fixture
def silent(tmp_path) -> ModelFile:
    """A model that no reference kernels run, so that the fake's zeros are not held against them."""
    path = tmp_path / "silent.tflite"
    path.write_bytes(tflite_model(op="nobody-knows"))
    return read_model_file(path)


@pytest.fixture
def memory(tmp_path) -> Memory:
    return Memory(tmp_path / "state" / "trials")


@pytest.fixture
def spawned(monkeypatch) -> list[subprocess.Popen]:
    """Every worker that is started."""
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *words, **more) -> None:
            super().__init__(*words, **more)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return started


def test_a_sound_model_passes(file):
    assert tried(file, LITERT) is None


@pytest.mark.parametrize(("run", "when"), [("0", "opened"), ("1", "ran"), ("2", "ran"), ("3", "ran")])
def test_a_crash_while_loading_or_running_is_a_reason_and_not_our_end(silent, run, when):
    assert tried(silent, fake(crash_at=run)) == f"model: fake died (SIGABRT) while it {when} {silent.path}"


@pytest.mark.parametrize("run", ["0", "1", "2"])
def test_a_hang_ends_in_time_and_leaves_no_process(silent, run, spawned):
    began_s = time.monotonic()
    assert re.search(
        r"^model: fake did not (answer|open .*) within [\d.]+ s", str(tried(silent, fake(hang_at=run), timeout_s=1.5))
    )
    assert time.monotonic() - began_s < 10
    assert all(worker.returncode is not None for worker in spawned)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_all_runs_of_a_trial_share_its_time(silent):
    began_s = time.monotonic()
    assert "did not answer within" in str(tried(silent, fake(latency_ms="900"), timeout_s=2))
    assert time.monotonic() - began_s < 3.5


def test_a_child_that_would_never_end_is_killed(file, monkeypatch):
    boot = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    monkeypatch.setattr(isolated, "_BOOT", boot)
    assert tried(file, fake(), timeout_s=1) == f"model: fake did not open {file.path} within 1 s"


def test_a_failure_to_run_is_the_models_fault(silent):
    assert tried(silent, fake(fail_at="2")) == "model: fake failed at run 2, as asked"


def test_a_device_that_is_not_there_is_not_the_models_fault(file):
    assert re.match("device: litert has no unit 'quantum'", str(tried(file, Candidate("litert", "quantum"))))


def test_a_device_that_computes_something_else_is_refused_with_the_figures(file):
    reason = str(tried(file, fake()))
    assert re.match(r"device: fake computes something else than the reference: output 'y' is off by [\d.]+ ", reason)
    assert reason.endswith("standard deviations, at most 0.05 are allowed")


def test_a_device_that_gives_nan_is_refused(file, silent):
    for each in (file, silent):
        assert tried(each, fake(nan_at="2")) == "device: fake computes nonsense: output 'y' is 100% NaN or infinite"


def test_what_a_model_gives_by_itself_is_no_devices_fault(file):
    """The logarithm of zero is minus infinity on every correct device."""

    class LogOfZero(Reference):
        def outputs(self, crew=None):
            return [(np.full((1, 4), -np.inf, dtype=np.float32),) for _ in range(2)]

    try_model(file, fake(nan_at="1"), LogOfZero(file))


def test_a_model_that_changed_meanwhile_is_said(file):
    file.path.write_bytes(file.path.read_bytes() + b"\0")
    assert "has changed since it was checked" in str(tried(file, LITERT))


def test_a_model_that_is_gone_is_said(file):
    file.path.unlink()
    assert "cannot read" in str(tried(file, LITERT))


def test_more_memory_than_there_is_is_a_reason(tmp_path, monkeypatch):
    path = tmp_path / "huge.tflite"
    path.write_bytes(tflite_model("float32", (1, 1 << 28)))  # A file of 700 bytes, an input of 1 GB.
    bound = (
        "import edgeinfer.runtimes.worker as worker; worker._SPARE_BYTES = 0; "
        "worker._available_bytes = lambda: 64 << 20; work = worker.work; "
    )
    monkeypatch.setattr(isolated, "_BOOT", isolated._BOOT.replace("work(number, job)", f"{bound}work(number, job)"))
    assert re.match("model: .* needs more memory than there is", str(tried(read_model_file(path), fake())))


def test_sizes_that_somebody_settled_reach_the_child(tmp_path):
    path = tmp_path / "free.tflite"
    path.write_bytes(tflite_model("float32", (1, 1, 4), signature=(-1, -1, 4), op="nobody-knows"))
    free = read_model_file(path)
    assert "dimension 1 free" in str(tried(free, fake()))
    settled = replace(free, inputs=(replace(free.inputs[0], shape=(1, 7, 4)),))
    assert tried(settled, fake()) is None


def test_a_child_that_prints_and_warns_is_understood(file, monkeypatch, capfd):
    noisy = isolated._BOOT.replace(
        "work(number, job)", "print('hello from a library'); work(number, job); print('bye')"
    )
    monkeypatch.setattr(isolated, "_BOOT", noisy)
    assert tried(file, LITERT) is None
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_child_without_an_answer_quotes_its_last_words(file, monkeypatch):
    monkeypatch.setattr(isolated, "_BOOT", "import sys; sys.exit('libfancy.so: cannot open shared object file')")
    words = "libfancy.so: cannot open shared object file"
    assert tried(file, fake()) == f"model: fake ended (exit 1): {words} while it opened {file.path}"


def test_a_program_that_does_not_know_its_python_says_so(file, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert re.match("device: .* does not know its Python", str(tried(file, fake())))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert tried(file, fake()) == "device: no worker process can be started: No such file or directory"


def test_the_child_imports_from_where_its_parent_does(silent, tmp_path):
    """An interpreter that knows edgeinfer only through PYTHONPATH tries models too."""
    package = Path(__file__).parents[3]
    installed = [entry for entry in sys.path if entry.endswith("-packages")]
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from edgeinfer.bundle.load import read_model_file
        from edgeinfer.delegates.trial import Candidate, Reference, try_model
        file = read_model_file(Path(sys.argv[1]))
        print(try_model(file, Candidate("fake", ""), Reference(file)))
        """
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, str(silent.path)],
        env={"PYTHONPATH": os.pathsep.join([str(package), *installed])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "None\n", done.stderr


def test_a_crash_while_letting_go_of_the_model_is_refused_and_not_remembered(file, memory, monkeypatch, tmp_path):
    """It would take this process along, were the model opened here."""
    dying = isolated._BOOT.replace("work(number, job)", "work(number, job); import os; os.abort()")
    monkeypatch.setattr(isolated, "_BOOT", dying)
    assert tried(file, LITERT, memory=memory) == "model: litert:cpu died with it (SIGABRT)"
    assert list((tmp_path / "state" / "trials").iterdir()) == []


def test_a_proven_worker_is_warm_and_has_a_deadline(file, spawned):
    worker = open_proven(file, LITERT, Reference(file))
    try:
        worker.input()[...] = [[1, 2, 3, 4]]
        assert worker.run()[0].tolist() == [[1, 2, 3, 4]]
        spawned[0].send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        with pytest.raises(RuntimeFailed, match="did not answer within"):
            worker.run()
        assert time.monotonic() - began_s < 2
    finally:
        worker.close()


@pytest.mark.parametrize(("slowest_s", "deadline_s"), [(0.001, 0.5), (0.05, 0.5), (0.1, 1.0), (0.3, 1.3), (5, 6)])
def test_a_deadline_is_ten_times_the_slowest_run_and_a_second_more_at_most(slowest_s, deadline_s):
    assert run_deadline_s(slowest_s) == deadline_s


@pytest.mark.parametrize(("slowest_s", "deadline_s"), [(0.001, 2), (0.3, 3), (0.5, 5), (5, 15)])
def test_a_device_that_nothing_could_replace_is_given_longer(slowest_s, deadline_s):
    assert run_deadline_s(slowest_s, is_alone=True) == deadline_s


@pytest.mark.parametrize(("is_alone", "fitting_s", "expected_s"), [(False, 0.5, 0.5), (True, 2.0, 2.0), (True, 70, 60)])
def test_a_proven_worker_may_take_as_long_as_fits_and_no_longer_than_its_proof(
    file, monkeypatch, is_alone, fitting_s, expected_s
):
    allowed, asked = [], []
    monkeypatch.setattr(isolated.Isolated, "allow", lambda worker, deadline_s: allowed.append(deadline_s))
    monkeypatch.setattr(trial, "run_deadline_s", lambda slowest_s, **more: asked.append(more) or fitting_s)
    open_proven(file, LITERT, Reference(file), timeout_s=60, is_alone=is_alone).close()
    assert (allowed[-1], asked) == (expected_s, [{"is_alone": is_alone}])


def test_the_reference_computes_at_most_once_and_only_where_it_is_needed(file, spawned, memory):
    reference = Reference(file)
    plain = Candidate("litert", "cpu", RuntimeOptions(driver={"kernels": "plain"}))
    try_model(file, plain, reference)
    assert len(spawned) == 1, "it is the reference itself"
    try_model(file, LITERT, reference, memory=memory)
    assert len(spawned) == 3
    try_model(file, LITERT, reference)
    assert len(spawned) == 4
    try_model(file, LITERT, Reference(file), memory=memory)
    assert len(spawned) == 4


def test_a_model_that_the_reference_cannot_run_only_has_to_give_numbers(silent, caplog):
    with caplog.at_level(logging.DEBUG, "edgeinfer"):
        assert tried(silent, fake()) is None
    assert "is no reference for" in caplog.text


def test_neither_files_nor_processes_are_left(file, silent):
    def in_use() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    assert tried(file, LITERT) is None
    before = in_use()
    for _ in range(5):
        open_proven(silent, fake(), Reference(silent)).close()
        assert tried(silent, fake(crash_at="1")) is not None
        assert tried(silent, fake(crash_at="0")) is not None
        assert tried(file, Candidate("litert", "quantum")) is not None
    assert in_use() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_passed_trial_is_remembered(file, memory, tmp_path, spawned):
    assert tried(file, LITERT, memory=memory) is None
    made = len(spawned)
    assert tried(file, LITERT, memory=memory) is None
    assert len(spawned) == made
    assert len(list((tmp_path / "state" / "trials").iterdir())) == 1
    memory.forget(trial_key(file, LITERT))
    memory.forget(trial_key(file, LITERT))
    assert tried(file, LITERT, memory=memory) is None
    assert len(spawned) == 2 * made


def test_another_build_of_a_delegates_library_is_tried_again(file, memory, tmp_path):
    library = tmp_path / "lib.so"
    library.write_bytes(b"one")
    delegated = Candidate("litert", f"delegate={library},key=value")
    memory.add(trial_key(file, delegated))
    assert memory.has(trial_key(file, delegated))
    library.write_bytes(b"another")
    assert not memory.has(trial_key(file, delegated))


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

    for asked in ("installed_version", "runtime_version"):
        for known in ("99.0", None):
            with monkeypatch.context() as patch:
                patch.setattr(module, asked, lambda package, known=known: known)
                assert not memory.has(job), (asked, known)


def test_failures_are_not_remembered(file, memory, tmp_path):
    assert tried(file, Candidate("litert", "quantum"), memory=memory)
    assert tried(file, fake(fail_at="1"), memory=memory)
    assert tried(file, fake(), memory=memory)
    assert not (tmp_path / "state").exists()


def test_a_damaged_memory_is_no_memory(file, memory, tmp_path):
    assert tried(file, LITERT, memory=memory) is None
    (remembered,) = (tmp_path / "state" / "trials").iterdir()
    for content in (b"", remembered.read_bytes()[:-1], b"\0" * 100):
        remembered.write_bytes(content)
        assert not Memory(remembered.parent).has(trial_key(file, LITERT))


def test_a_state_folder_that_cannot_be_written_only_costs_time(file, tmp_path, caplog):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder is due")
    memory = Memory(blocked / "trials")
    with caplog.at_level(logging.DEBUG, "edgeinfer"):
        assert tried(file, LITERT, memory=memory) is None
        assert not Memory(blocked / "trials").has(trial_key(file, LITERT))
        assert memory.has(trial_key(file, LITERT)), "as long as this process lives it is known"
        memory.forget(trial_key(file, LITERT))
        assert not memory.has(trial_key(file, LITERT))
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


def test_the_memory_has_an_end(memory, tmp_path, file):
    folder = tmp_path / "state" / "trials"
    folder.mkdir(parents=True)
    for index in range(300):
        (folder / f"{index}.json").write_text("{}")
        os.utime(folder / f"{index}.json", (index, index))
    memory.add(trial_key(file, LITERT))
    left = list(folder.iterdir())
    assert len(left) == 256
    assert not (folder / "0.json").exists()
    assert memory.has(trial_key(file, LITERT))


# Samples that came with the model.


def golden(number: float, outputs: float | None = None) -> Sample:
    """For the model that gives back its input."""
    tensor = np.array([[1, 2, 3, 4]], dtype=np.float32)
    expected = None if outputs is None else (tensor * outputs,)
    return Sample("golden[0]", (tensor * number,), expected, sha256=f"{number} {outputs}")


def tried_with(file: ModelFile, candidate: Candidate, sample: Sample, memory: Memory | None = None) -> str | None:
    try:
        try_model(file, candidate, Reference(file, golden=[sample]), memory=memory)
    except Refused as refused:
        return f"{refused.blame}: {refused}"
    return None


def test_a_golden_sample_is_run_and_compared_with_the_reference(file):
    assert tried_with(file, LITERT, golden(3)) is None
    reference = Reference(file, golden=[golden(3)])
    assert reference.outputs()[0][0].tolist() == [[3, 6, 9, 12]]
    assert len(reference.outputs()) == 3


def test_outputs_that_are_known_hold_for_the_reference_too(file):
    plain = Candidate("litert", "cpu", RuntimeOptions(driver={"kernels": "plain"}))
    for candidate in (LITERT, plain):
        assert tried_with(file, candidate, golden(3, 3)) is None
        reason = "litert:cpu computes something else than golden[0].outputs says: output 'y' is off by "
        assert str(tried_with(file, candidate, golden(3, 5))).startswith(f"model: {reason}")


def test_what_the_reference_cannot_run_is_held_to_the_outputs_that_are_known(silent):
    """The fake gives zeros for all inputs."""
    fakes = Candidate("fake", "", RuntimeOptions(threads=1))
    assert tried_with(silent, fakes, golden(3, 0)) is None
    reason = "device: fake computes something else than golden[0].outputs says: output 'y' is off by "
    assert str(tried_with(silent, fakes, golden(3, 3))).startswith(reason)


def test_another_packages_runtime_need_not_know_them(silent):
    assert tried_with(silent, replace(fake(), is_foreign=True), golden(3, 3)) is None


def test_other_samples_are_another_trial(file, memory, spawned):
    assert tried_with(file, LITERT, golden(3, 3), memory) is None
    made = len(spawned)
    assert tried_with(file, LITERT, golden(3, 3), memory) is None
    assert len(spawned) == made
    assert tried_with(file, LITERT, golden(4, 4), memory) is None
    assert len(spawned) == 2 * made


def test_a_device_that_is_remembered_runs_one_sample_and_is_held_to_its_known_outputs(file, memory):
    is_right, was_wrong = golden(3, 3), replace(golden(3, 5), sha256=golden(3, 3).sha256)
    assert tried_with(file, LITERT, is_right, memory) is None
    open_proven(file, LITERT, Reference(file, golden=[is_right]), memory=memory).close()
    with pytest.raises(Refused, match=r"something else than golden\[0\]\.outputs says"):
        open_proven(file, LITERT, Reference(file, golden=[was_wrong]), memory=memory)


def test_a_proven_worker_gives_for_its_sample_what_it_gave(file):
    worker = open_proven(file, LITERT, Reference(file, golden=[golden(3)]))
    try:
        worker.input()[...] = [[9, 8, 7, 6]]
        assert worker.recheck() is None
        assert worker.input().tolist() == [[9, 8, 7, 6]], "a frame that waits there is kept"
        assert worker.run()[0].tolist() == [[9, 8, 7, 6]]
        assert worker.run_s < 20
    finally:
        worker.close()


def test_a_proof_that_is_broken_off_passes_nothing_and_is_not_remembered(file, memory, tmp_path):
    """Without a reference everything passes: one that was killed must not count as none."""
    crew = Crew()

    class Dismissed(Reference):
        def outputs(self, crew=None):
            crew.dismiss()
            return super().outputs(crew)

    with pytest.raises(Refused, match="the proof was broken off"):
        try_model(file, fake(), Dismissed(file), memory=memory, crew=crew)
    assert not (tmp_path / "state").exists()


def test_a_reference_that_could_not_run_is_tried_again_later(file, silent):
    sound, without = Reference(file), Reference(silent, golden=[golden(3)])
    assert sound.renewed() is sound
    assert without.renewed() is without, "it was not asked yet"
    assert without.outputs() is None
    assert without.renewed() is not without
    assert without.renewed().golden == without.golden
    assert sound.outputs() is not None
    assert sound.renewed() is sound
