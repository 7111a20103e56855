"""A runtime in a worker gives what it gives in this process, and its end is never ours."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import TFLITE_TYPES, onnx_model, tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RUNTIMES, RuntimeOptions, isolated
from edgeinfer.runtimes.isolated import Crew, Isolated

OpenIsolated = Callable[..., Isolated]


@pytest.fixture
def make(tmp_path) -> Callable[..., ModelFile]:
    def write(*words, **more) -> ModelFile:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tflite"
        path.write_bytes(tflite_model(*words, **more))
        return read_model_file(path)

    return write


@pytest.fixture
def open_(make) -> Iterator[OpenIsolated]:
    """Open the fake, or another runtime, in a worker; closed after the test."""
    opened: list[Isolated] = []

    def open_isolated(
        file: ModelFile | None = None, runtime: str = "fake", unit: str = "", *, deadline_s: float = 20, **driver: str
    ) -> Isolated:
        options = RuntimeOptions(threads=1, driver=driver)
        opened.append(Isolated(file or make(), runtime, unit, options, deadline_s=deadline_s, open_timeout_s=20))
        return opened[-1]

    yield open_isolated
    for each in opened:
        each.close()


@pytest.fixture
def boot(monkeypatch) -> Callable[[str], None]:
    """Let the worker execute some code before it begins to work."""

    def with_code(code: str) -> None:
        patched = isolated._BOOT.replace("work(number, job)", f"exec({code!r}); work(number, job)")
        monkeypatch.setattr(isolated, "_BOOT", patched)

    return with_code


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(happened: Callable[[], bool], timeout_s: float = 20) -> None:
    until_s = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.01)


def values_for(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(3)
    if dtype.startswith("float"):
        return noise.standard_normal(shape).astype(dtype)
    return noise.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", TFLITE_TYPES)
def test_every_type_gives_the_same_numbers_as_in_this_process(make, open_, dtype):
    quantised = {"scale": (0.5,), "zero_point": (3,)} if dtype in ("uint8", "int8") else {}
    file = make(dtype, (1, 3, 5), **quantised)
    there = open_(file, "litert", "cpu")
    here = RUNTIMES.get("litert")(file, "cpu", RuntimeOptions(threads=1))
    assert (there.inputs, there.outputs, there.device) == (here.inputs, here.outputs, here.device)
    for runtime in (there, here):
        runtime.input()[...] = values_for(dtype, (1, 3, 5))
    for ours, theirs in zip(there.run(), here.run(), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    here.close()


def test_every_run_is_a_new_one_in_the_same_memory(make, open_):
    runtime = open_(make("float32", (1, 7)), "litert", "cpu")
    for number in range(50):
        runtime.input()[...] = number
        assert runtime.run()[0].tolist() == [[number] * 7]


def test_the_fake_is_the_fake(make, open_):
    file = make("int8", (1, 4), scale=(0.5,), zero_point=(3,))
    assert open_(file).run()[0].tolist() == [[3, 3, 3, 3]]


def test_an_output_of_free_size_has_the_size_of_that_run(tmp_path, open_):
    path = tmp_path / "free.onnx"
    path.write_bytes(onnx_model("float32", (1, 4), graph=_nonzero_graph()))
    file = read_model_file(path)
    runtime = open_(file, "onnx", "cpu")
    for values, found in (([0, 1, 0, 1], [1, 3]), ([0, 0, 0, 0], []), ([1, 1, 1, 1], [0, 1, 2, 3])):
        runtime.input()[...] = np.array([values], dtype=np.float32)
        places, same = runtime.run()
        assert places.shape == (2, len(found))
        assert places[1].tolist() == found
        assert same.tolist() == [values]


def _nonzero_graph() -> bytes:
    from tiny_models import block, node, tensor_type, value_info

    return (
        block(1, node("NonZero", ["x"], ["y"]))
        + block(1, node("Identity", ["x"], ["z"]))
        + block(2, "tiny")
        + block(11, value_info("x", tensor_type("float32", (1, 4))))
        + block(12, value_info("y", tensor_type("int64", (2, "n"))))
        + block(12, value_info("z", tensor_type("float32", (1, 4))))
    )


def test_an_output_without_room_is_an_error_and_not_cut(open_, boot):
    """Whatever a runtime gives: here three times as much as it said."""
    boot(
        "import edgeinfer.runtimes.fake as fake, numpy; plain = fake.FakeRuntime.run; "
        "fake.FakeRuntime.run = lambda self: tuple(numpy.repeat(each, 3) for each in plain(self))"
    )
    with pytest.raises(RuntimeFailed, match="output 'y' takes 48 bytes, not 16"):
        open_().run()


def test_an_output_in_another_shape_is_given_in_that_shape(open_, boot):
    boot(
        "import edgeinfer.runtimes.fake as fake; plain = fake.FakeRuntime.run; "
        "fake.FakeRuntime.run = lambda self: tuple(each.reshape(2, 2)[:, :1] + 7 for each in plain(self))"
    )
    assert open_().run()[0].tolist() == [[7], [7]]


def test_a_crash_at_opening_is_an_error_here(open_, make):
    file = make()
    with pytest.raises(ModelError, match=rf"^fake died \(SIGABRT\) while it opened {re.escape(str(file.path))}$"):
        open_(file, crash_at="0")


def test_a_hang_at_opening_ends_with_the_worker(make, spawned):
    with pytest.raises(ModelError, match=r"fake did not open .* within 1 s"):
        Isolated(make(), "fake", "", RuntimeOptions(driver={"hang_at": "0"}), deadline_s=1, open_timeout_s=1)
    assert spawned[0].returncode == -signal.SIGKILL


def test_what_the_runtime_raises_at_opening_is_raised_here(open_, make):
    with pytest.raises(DeviceNotFound, match="unknown option of fake 'speed'") as missing:
        open_(speed="3")
    assert not isinstance(missing.value, RuntimeFailed)
    with pytest.raises(ModelError):
        open_(make(op="nobody-knows"), "litert", "cpu")
    with pytest.raises(RuntimeFailed, match="fake failed at run 0, as asked"):
        open_(fail_at="0")


def test_a_crash_in_a_run_leaves_the_input_to_be_read(open_):
    runtime = open_(crash_at="2")
    runtime.run()
    runtime.input()[...] = [[1, 2, 3, 4]]
    with pytest.raises(RuntimeFailed, match=r"fake died \(SIGABRT\) while it ran"):
        runtime.run()
    assert runtime.exit_signal == "SIGABRT"
    assert runtime.input().tolist() == [[1, 2, 3, 4]]
    with pytest.raises(RuntimeFailed, match="fake has lost its worker process"):
        runtime.run()


def test_a_hang_in_a_run_ends_within_the_deadline(open_, spawned):
    runtime = open_(hang_at="2", deadline_s=20)
    runtime.run()
    runtime.allow(0.3)
    began_s = time.monotonic()
    with pytest.raises(RuntimeFailed, match=r"fake did not answer within 0\.3 s and was killed"):
        runtime.run()
    assert 0.25 < time.monotonic() - began_s < 1.5
    assert spawned[0].returncode == -signal.SIGKILL
    runtime.input()[...] = 1


def test_the_deadline_can_be_changed_both_ways(open_):
    runtime = open_(latency_ms="200")
    runtime.allow(5)
    runtime.run()
    runtime.allow(0.02)
    with pytest.raises(RuntimeFailed, match=r"within 0\.02 s"):
        runtime.run()


def test_a_run_that_fails_can_be_followed_by_one_that_does_not(open_):
    runtime = open_(fail_at="2")
    runtime.run()
    with pytest.raises(RuntimeFailed, match=r"^fake failed at run 2, as asked$"):
        runtime.run()
    assert runtime.run()[0].tolist() == [[0, 0, 0, 0]]


def test_closing_twice_and_running_after_it(open_, spawned):
    runtime = open_()
    runtime.close()
    runtime.close()
    assert spawned[0].returncode == 0
    for use in (runtime.run, runtime.input):
        with pytest.raises(RuntimeFailed, match="fake is closed"):
            use()


def test_outputs_outlive_the_closing(open_, make):
    runtime = open_(make(), "litert", "cpu")
    runtime.input()[...] = [[1, 2, 3, 4]]
    (output,) = runtime.run()
    runtime.close()
    assert output.tolist() == [[1, 2, 3, 4]]


def test_a_stopped_worker_is_killed(open_, spawned):
    runtime = open_()
    spawned[0].send_signal(signal.SIGSTOP)
    runtime.allow(0.2)
    with pytest.raises(RuntimeFailed, match="was killed"):
        runtime.run()
    assert spawned[0].returncode == -signal.SIGKILL


def test_closing_does_not_wait_for_a_stopped_worker(open_, spawned):
    runtime = open_()
    spawned[0].send_signal(signal.SIGSTOP)
    began_s = time.monotonic()
    runtime.close()
    assert time.monotonic() - began_s < 5
    assert spawned[0].returncode == -signal.SIGKILL


def test_an_interrupted_run_is_not_answered_later(open_):
    """Ctrl-C while a run is under way: what comes back then is not the answer to the next one."""
    runtime = open_(latency_ms="600")
    runtime.run()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            runtime.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    with pytest.raises(RuntimeFailed, match="lost its worker"):
        runtime.run()


def test_what_a_worker_prints_is_bounded_and_never_on_our_stdout(open_, boot, capfd):
    boot(
        textwrap.dedent(
            """
            import edgeinfer.runtimes.fake as fake, os
            plain = fake.FakeRuntime.run
            def chatty(self):
                for stream in (1, 2):
                    os.write(stream, b"x" * (1 << 18))
                return plain(self)
            fake.FakeRuntime.run = chatty
            """
        )
    )
    runtime = open_()
    for _ in range(20):
        runtime.run()
        assert os.fstat(runtime._chatter).st_size < 2 << 20
    runtime.close()
    assert capfd.readouterr() == ("", "")


def test_the_last_line_that_a_worker_wrote_is_quoted(open_, boot):
    boot("import os; os.abort = lambda: (print('out of luck', flush=True), os._exit(7))")
    runtime = open_(crash_at="1")
    with pytest.raises(RuntimeFailed, match=r"fake ended \(exit 7\): out of luck while it ran"):
        runtime.run()


def test_a_worker_takes_what_it_started_along(open_, boot):
    boot("import subprocess; subprocess.Popen(['sleep', '300'])")
    started = len(_sleepers())
    runtime = open_(hang_at="1")
    wait_until(lambda: len(_sleepers()) == started + 1)
    runtime.allow(0.2)
    with pytest.raises(RuntimeFailed, match="was killed"):
        runtime.run()
    wait_until(lambda: len(_sleepers()) == started)


def _sleepers() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and is_alive(int(folder.name)):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes() == b"sleep\x00300\x00":
                    found.append(folder.name)
    return found


@pytest.fixture
def spawned(monkeypatch) -> list[subprocess.Popen]:
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *words, **more) -> None:
            super().__init__(*words, **more)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return started


def test_neither_files_nor_processes_are_left(make, spawned):
    file = make()

    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    def open_and_close(**driver: str) -> None:
        runtime = Isolated(file, "fake", "", RuntimeOptions(driver=driver), deadline_s=20)
        with contextlib.suppress(RuntimeFailed):
            runtime.run()
        runtime.close()

    open_and_close()
    before = descriptors()
    for _ in range(16):
        open_and_close()
    for _ in range(2):
        open_and_close(crash_at="1")
        with pytest.raises(ModelError):
            open_and_close(crash_at="0")
    assert descriptors() == before
    assert all(worker.returncode is not None for worker in spawned)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_program_that_has_no_descriptor_left_is_told_so(make):
    """And what was opened on the way is closed again."""
    program = textwrap.dedent(
        """
        import os, resource, sys
        from pathlib import Path
        from edgeinfer.bundle.load import read_model_file
        from edgeinfer.errors import DeviceNotFound
        from edgeinfer.runtimes import RuntimeOptions
        from edgeinfer.runtimes.isolated import Crew, Isolated
        file = read_model_file(Path(sys.argv[1]))
        before = len(os.listdir("/proc/self/fd"))
        for spare in range(8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + spare, 1024))
            try:
                Isolated(file, "fake", "", RuntimeOptions(), deadline_s=5).close()
            except DeviceNotFound as refused:
                print(refused)
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
            assert len(os.listdir("/proc/self/fd")) == before, spare
        """
    )
    words = [sys.executable, "-W", "error", "-c", program, str(make().path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "no worker process can be started: Too many open files" in done.stdout


_ORPHAN = """
import sys, threading, time
from pathlib import Path
from edgeinfer.bundle.load import read_model_file
from edgeinfer.runtimes import RuntimeOptions, isolated, worker

isolated._BOOT = isolated._BOOT.replace(
    "work(number, job)", "import edgeinfer.runtimes.worker as w; w._LATE_S = 0.2; work(number, job)"
)
driver = {"hang_at": sys.argv[2]} if len(sys.argv) > 2 else {}
opened = []
def begin():
    file = read_model_file(Path(sys.argv[1]))
    opened.append(isolated.Isolated(file, "fake", "", RuntimeOptions(driver=driver), deadline_s=2, open_timeout_s=2))
    if driver:
        opened[0].run()
threading.Thread(target=begin, daemon=True).start()
time.sleep(60)
"""


@pytest.mark.parametrize("hang_at", ["", "0", "1"])
def test_a_worker_ends_when_its_parent_is_killed(make, hang_at):
    words = [sys.executable, "-c", _ORPHAN, str(make().path), *([hang_at] if hang_at else [])]
    with subprocess.Popen(words) as parent:
        children: list[int] = []

        def has_worker() -> bool:
            children[:] = map(int, Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())
            for task in Path(f"/proc/{parent.pid}/task").iterdir():
                children.extend(map(int, (task / "children").read_text().split()))
            return any(b"memfd:edgeinfer-worker" in _stderr(pid) for pid in children)

        try:
            wait_until(has_worker)
            time.sleep(0.5)
        finally:
            parent.kill()
    assert children
    wait_until(lambda: not any(map(is_alive, children)), timeout_s=10)


def _stderr(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return bytes(Path(f"/proc/{pid}/fd/2").readlink())
    return b""


def test_ctrl_c_on_the_terminal_does_not_reach_the_worker(open_, spawned):
    runtime = open_()
    assert os.getpgid(spawned[0].pid) == spawned[0].pid != os.getpgid(0)
    assert runtime.run()


def test_a_worker_that_cannot_be_killed_keeps_nobody(open_, monkeypatch):
    """As one whose driver hangs in the kernel: it is given up, then and at the closing."""
    runtime = open_(hang_at="1")
    runtime.allow(0.1)
    pid = runtime._worker.pid
    with monkeypatch.context() as deaf:
        deaf.setattr(os, "killpg", lambda group, number: None)
        began_s = time.monotonic()
        with pytest.raises(RuntimeFailed, match="did not answer within"):
            runtime.run()
        runtime.close()
        assert time.monotonic() - began_s < 1.5
    os.killpg(pid, signal.SIGKILL)
    runtime._worker.wait(20)


def test_workers_in_the_background_give_way_and_can_be_dismissed_while_they_open(make):
    crew = Crew()
    file = make()
    calm = Isolated(file, "fake", "", RuntimeOptions(), deadline_s=20, crew=crew)
    assert os.getpriority(os.PRIO_PROCESS, calm._worker.pid) >= 10
    dismissal = threading.Timer(0.2, crew.dismiss)
    dismissal.start()
    with pytest.raises(ModelError, match=r"fake died \(SIGKILL\) while it opened"):
        Isolated(file, "fake", "", RuntimeOptions(driver={"hang_at": "0"}), deadline_s=20, crew=crew)
    with pytest.raises(RuntimeFailed):
        calm.run()
    with pytest.raises(ModelError, match=r"fake died \(SIGKILL\) while it opened"):
        Isolated(file, "fake", "", RuntimeOptions(), deadline_s=20, crew=crew)
    calm.close()
    dismissal.join()
