from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.tflite import read_tflite
from edgeinfer.errors import DeviceNotFound, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.fake import FakeRuntime, Faults, open_fake


def model(dtype: str = "float32", **more) -> ModelFile:
    return read_tflite(Path("tiny.tflite"), tflite_model(dtype, (1, 4), **more), "")


def opened(**driver: str) -> FakeRuntime:
    return open_fake(model(), "", RuntimeOptions(driver=driver))


def test_outputs_are_the_stored_form_of_real_zero():
    runtime = FakeRuntime(model("int8", scale=[0.5], zero_point=[-7]))
    (output,) = runtime.run()
    assert output.tolist() == [[-7, -7, -7, -7]]


def test_outputs_can_be_given():
    runtime = FakeRuntime(model(), outputs=lambda inputs: (inputs[0] * 2,))
    runtime.input()[...] = [[1, 2, 3, 4]]
    assert runtime.run()[0].tolist() == [[2, 4, 6, 8]]


def test_it_remembers_what_it_saw():
    runtime = FakeRuntime(model())
    for value in (1, 2, 2, 1):
        runtime.input()[...] = value
        runtime.run()
    one, two, two_again, one_again = runtime.seen
    assert (one, two) == (one_again, two_again)
    assert one != two
    assert runtime.runs == 4


def test_what_it_remembers_has_an_end():
    runtime = FakeRuntime(model())
    for _ in range(1005):
        runtime.run()
    assert len(runtime.seen) == 1000
    assert runtime.runs == 1005


def test_latency_is_slept():
    slept: list[float] = []
    runtime = FakeRuntime(model(), Faults.parse({"latency_ms": "200"}), sleep=slept.append)
    runtime.run()
    assert slept == [0.2]


def test_it_fails_at_the_run_that_was_asked_for_and_at_no_other():
    runtime = opened(fail_at="2")
    runtime.run()
    with pytest.raises(RuntimeFailed, match="run 2"):
        runtime.run()
    runtime.run()


def test_it_can_fail_while_opening():
    with pytest.raises(RuntimeFailed, match="run 0"):
        opened(fail_at="0")


def test_nan_comes_at_the_run_that_was_asked_for():
    runtime = opened(nan_at="2")
    assert not np.isnan(runtime.run()[0]).any()
    assert np.isnan(runtime.run()[0]).all()
    assert not np.isnan(runtime.run()[0]).any()


def test_a_run_that_hangs_ends_when_it_is_closed():
    runtime = opened(hang_at="1")
    ended: list[str] = []

    def hang() -> None:
        try:
            runtime.run()
        except RuntimeFailed as closed:
            ended.append(str(closed))

    thread = threading.Thread(target=hang)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    runtime.close()
    thread.join(5)
    assert ended == ["fake was closed while run 1 hung, as asked"]


def test_a_closed_one_does_not_run():
    runtime = opened()
    runtime.close()
    with pytest.raises(RuntimeFailed, match="closed"):
        runtime.run()


def test_it_can_kill_its_process(tmp_path):
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tflite_model())
    code = (
        "import sys, pathlib; from edgeinfer.bundle.load import read_model_file; "
        "from edgeinfer.runtimes.fake import FakeRuntime, Faults; "
        "runtime = FakeRuntime(read_model_file(pathlib.Path(sys.argv[1])), Faults(crash_at=2)); "
        "runtime.run(); print('once', flush=True); runtime.run(); print('twice')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "once\n"
    assert done.returncode == -6


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        ({"latency": "1"}, "did you mean 'latency_ms'?"),
        ({"fail_at": "soon"}, "fake:fail_at=soon is not a number"),
        ({"fail_at": "-2"}, "out of range"),
        ({"latency_ms": "nan"}, "out of range"),
    ],
)
def test_options_that_make_no_sense_are_named(driver, said):
    with pytest.raises(DeviceNotFound) as refused:
        opened(**driver)
    assert said in str(refused.value)


def test_of_exclusive_ones_only_one_is_open():
    first = opened(exclusive="1")
    with pytest.raises(DeviceNotFound, match="in use"):
        opened(exclusive="1")
    opened().close()
    first.close()
    first.close()
    with pytest.raises(RuntimeFailed):
        opened(exclusive="1", fail_at="0")
    opened(exclusive="1").close()
