"""scripts/demo.py: what a newcomer sees first."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from scripts.local_broker import AMQTT, MOSQUITTO

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DEMO), *words],
        cwd=folder,
        env={**os.environ, "EDGEINFER_STATE": str(folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results_in(folder: Path) -> int:
    path = folder / "demo.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def frames_in(folder: Path) -> int:
    video = cv2.VideoCapture(str(folder / "demo.mp4"))
    count = 0
    while video.read()[0]:
        count += 1
    video.release()
    return count


def test_it_says_what_it_saw_how_fast_on_what_and_what_to_type_next(tmp_path):
    demo = start(tmp_path, "--frames", "30")
    out, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (0, "")
    assert "blood-cells looked at 30 frames of synthetic://blood-smear" in out
    assert "RBC" in out
    assert "frames per second" in out
    assert "Device  litert:cpu" in out
    assert out.rpartition("Next\n")[2].count("edgeinfer ") == 3
    assert (results_in(tmp_path), frames_in(tmp_path)) == (30, 30)


def test_another_source_model_and_device_can_be_given(tmp_path):
    demo = start(tmp_path, "synthetic://noise?live=1&fps=200", "--frames", "5", "--device", "onnx:cpu")
    out, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (0, "")
    # Of a camera a busy machine may drop a result for an output.
    assert re.search(r"looked at [3-5] frames of synthetic://noise", out), out
    assert "nothing that the model is sure enough of" in out
    assert "after its picture" in out
    assert "Device  onnx:cpu" in out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_keeps_what_it_has_and_still_says_what_it_saw(sent, tmp_path):
    # Like a file: of a camera a busy machine may drop a result for one output and not for the other.
    demo = start(tmp_path, "synthetic://blood-smear?frames=100000")
    deadline = time.monotonic() + 30
    while results_in(tmp_path) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    demo.send_signal(sent)
    out, err = demo.communicate(timeout=30)
    assert (demo.returncode, err) == (130, "")
    assert "blood-cells looked at" in out
    assert results_in(tmp_path) == frames_in(tmp_path) >= 5


def test_an_error_is_one_line_and_its_exit_code(tmp_path):
    demo = start(tmp_path, "absent.mp4")
    out, err = demo.communicate(timeout=60)
    assert (demo.returncode, out) == (5, "")
    assert err.startswith("error: no such file: 'absent.mp4'")
    assert err.count("\n") == 1


def test_with_a_broker_it_says_how_many_results_came_out_of_it(tmp_path):
    if MOSQUITTO is None and not AMQTT:
        pytest.skip("neither mosquitto nor amqtt is installed")
    demo = start(tmp_path, "--frames", "20", "--mqtt")
    out, err = demo.communicate(timeout=100)
    assert demo.returncode == 0, err
    assert re.search(r"^Broker  mqtt://localhost:\d+/ passed 20 results on", out, re.MULTILINE), out


def test_a_broker_elsewhere_may_be_away(tmp_path):
    demo = start(tmp_path, "--frames", "3", "--mqtt", "mqtt://localhost:1")
    out, err = demo.communicate(timeout=100)
    assert demo.returncode == 0, err
    assert "passed 0 results on" in out
