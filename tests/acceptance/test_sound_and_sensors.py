"""Sound and sensors through the command line: recordings in, what is heard out."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import threading
import tty
import wave
from collections import Counter

import numpy as np
import pytest
from microphones import WORD, microphone
from tiny_models import onnx_model

from edgeinfer.cli import main

WAKEWORDS_S = ((1.0, 1.65), (4.0, 4.76), (7.0, 7.36))
# Until so long after its end MLPerf Tiny's streaming benchmark takes a word for detected: `true_pos_max_delay_sec`.
AFTER_S = 0.5
WINDOW_S = 15_872 / 16_000
DIGITS_TOML = """schema = "edgeinfer.model/1"
name = "digits"
version = "1"
task = "vector"
decoder = "classes"
[weights]
tflite = "keras_lstm_mnist_int8.tflite"
[window]
rate_hz = 100.0
mean = [0.0]
std = [255.0]
"""


@pytest.fixture
def run(state, tmp_path, monkeypatch):
    """Run `edgeinfer run …` in this process, in an empty folder; gives the lines of its output."""
    monkeypatch.setenv("EDGEINFER_STATE", str(state))
    monkeypatch.chdir(tmp_path)

    def run_(*words: object) -> list[dict]:
        assert main(["run", "--quiet", "--output", "out.jsonl", *map(str, words)]) == 0
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    return run_


def heard(results: list[dict]) -> list[str | None]:
    return [result["classes"][0]["label"] if result["classes"] else None for result in results]


@pytest.mark.parametrize(("name", "label"), [("speech.wav", "Speech"), ("meow_16k.wav", "Cat")])
def test_what_yamnet_hears_most(run, test_data, name, label):
    results = run(
        "--model", test_data / "models/yamnet_with_metadata.tflite", "--source", test_data / "media/audio" / name
    )
    assert Counter(heard(results)).most_common(1)[0][0] == label


def test_speech_is_heard_by_a_microphone(environment, test_data, tmp_path):
    with wave.open(str(test_data / "media/audio/speech.wav")) as file:
        speech = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
    with microphone(tmp_path) as hearing:
        hearing.play(speech, times=1000)
        done = subprocess.run(
            [sys.executable, "-m", "edgeinfer", "run", "--source", WORD, "--frames", "5",
             "--model", test_data / "models/yamnet_with_metadata.tflite"],
            env={**environment, **hearing.environment}, cwd=tmp_path, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert Counter(heard(results)).most_common(1)[0][0] == "Speech"
    assert {result["source"]["uri"] for result in results} == {WORD}


# The model takes this "no" for "go", from the published features of the same recording, too.
@pytest.mark.parametrize(("name", "label"), [("yes", "Yes"), ("no", "Go"), ("silence", "Silence")])
def test_which_keyword_is_heard(run, test_data, name, label):
    source = test_data / f"media/audio/{name}_1000ms.wav"
    assert heard(run("--model", test_data / "models/mlperf_tiny/kws_dscnn_int8.tflite", "--source", source)) == [label]


def test_one_event_for_each_wakeword_and_none_besides(run, test_data, tmp_path):
    (tmp_path / "hall.toml").write_text(
        f"""[[pipeline]]
name = "hall"
model = "{test_data / "models/mlperf_tiny/streaming_wakeword.tflite"}"
source = "{test_data / "media/audio/streaming_wakeword_easy10s.wav"}"

[[pipeline.rule]]
name = "called"
kind = "label"
classes = ["Marvin"]
score_min = 0.8
clear = 0.3
for_s = 0.1
"""
    )
    lines = run("--config", "hall.toml")
    told = [line for line in lines if line["schema"] == "edgeinfer.event/1" and "end" not in line]
    at_s = [line["position_s"] + WINDOW_S for line in told]
    assert len(at_s) == len(WAKEWORDS_S)
    assert all(begin <= found <= end + AFTER_S for found, (begin, end) in zip(sorted(at_s), WAKEWORDS_S, strict=True))


def test_speech_is_where_it_is(run, test_data):
    results = run(
        "--model", test_data / "models/silero_vad_16k.onnx", "--source", test_data / "media/audio/speech.wav",
        "--score-min", 0.5,
    )  # fmt: skip
    speech_s = [result["position_s"] for result in results if result["classes"]]
    assert min(speech_s) == pytest.approx(0.70, abs=0.1)
    assert max(speech_s) == pytest.approx(3.87, abs=0.1)


def test_sound_that_is_no_machine_is_an_anomaly(run, test_data):
    results = run(
        "--model", test_data / "models/mlperf_tiny/ad01_int8.tflite", "--threshold", 30,
        "--source", test_data / "media/audio/speech.wav",
    )  # fmt: skip
    assert all(result["anomaly"]["is_anomaly"] for result in results)


@pytest.mark.parametrize("source", [[], ["--source", "meow_16k.wav"]], ids=["noise", "recording"])
def test_a_model_of_sound_is_measured(state, test_data, monkeypatch, capsys, source):
    monkeypatch.setenv("EDGEINFER_STATE", str(state))
    monkeypatch.chdir(test_data / "media/audio")
    model = test_data / "models/yamnet_with_metadata.tflite"
    assert main(["bench", str(model), *source, "--seconds", "0.1", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    said = f"{source[1]}, 15600 samples at 16000 Hz" if source else "one window of noise"
    assert found["source"] == said
    assert found["end_to_end"]["queries"] >= 3


@pytest.fixture
def digits(test_data, tmp_path):
    """A bundle that does not name its channels, five pictures' rows for it, and what they show."""
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "keras_lstm_mnist_int8.tflite").symlink_to(test_data / "models/keras_lstm_mnist_int8.tflite")
    (folder / "model.toml").write_text(DIGITS_TOML)
    mnist = test_data / "labelled/mnist"
    pictures = gzip.decompress((mnist / "t10k-images-idx3-ubyte.gz").read_bytes())[16 : 16 + 4 * 28 * 28]
    labels = gzip.decompress((mnist / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:12]
    return folder, np.frombuffer(pictures, np.uint8).reshape(-1, 28), [str(label) for label in labels]


def test_a_recording_of_a_sensor(run, digits, tmp_path):
    folder, rows, labels = digits
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *(f"x{column}" for column in range(28))])
        writer.writerows([f"{number / 100:.2f}", *row] for number, row in enumerate(rows))
    assert heard(run("--model", folder, "--source", "log.csv")) == labels


@pytest.fixture
def as_it_comes(tmp_path):
    """What names a model that gives what it takes, two samples of four channels, and a recording of one window."""
    (tmp_path / "as_it_comes.onnx").write_bytes(onnx_model(shape=(1, 2, 4)))
    rows = [[0.0, 10, 20, 30, 40], [0.1, 11, 22, 33, 44]]
    text = "".join(",".join(map(str, row)) + "\n" for row in [["time", "a", "b", "c", "d"], *rows])
    (tmp_path / "log.csv").write_text(text)
    model = ("--model", "as_it_comes.onnx", "--task", "vector", "--decoder", "values", "--sample-rate", 10)
    return (*model, "--source", "log.csv")


def test_each_channel_has_a_mean_of_its_own(run, as_it_comes):
    (result,) = run(*as_it_comes, "--mean", "10,20,30,40", "--std", "1,2,0.5,4")
    assert [each["value"] for each in result["values"]] == [0, 0, 0, 0, 1, 1, 6, 1]


def test_what_is_counted_is_called_a_window(state, tmp_path, monkeypatch, capsys, as_it_comes):
    monkeypatch.setenv("EDGEINFER_STATE", str(state))
    monkeypatch.chdir(tmp_path)
    assert main(["run", *map(str, as_it_comes), "--output", "out.jsonl"]) == 0
    closing = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"edgeinfer: main: 1 windows in \d+\.\d s, \d+\.\d a second on ", closing)
    assert main(["tune", *map(str, as_it_comes[1:-2]), "--seconds", "1"]) == 0
    assert "Best by windows per second: " in capsys.readouterr().out


@pytest.mark.parametrize("given", ["1,2,3", "1,2,3,4,5"])
def test_how_many_channels_a_model_takes_is_said(state, tmp_path, monkeypatch, capsys, as_it_comes, given):
    monkeypatch.setenv("EDGEINFER_STATE", str(state))
    monkeypatch.chdir(tmp_path)
    assert main(["run", *map(str, as_it_comes), "--mean", given, "--std", "1"]) == 2
    said = f"mean is given for {given.count(',') + 1} channels, and as_it_comes.onnx takes 4; give 1 for all, or 4"
    assert capsys.readouterr().err.splitlines() == [f"edgeinfer: error: {said}"]


def test_a_sensor_at_a_serial_port(run, digits):
    folder, rows, labels = digits
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    stopped = threading.Event()

    def send() -> None:
        # The first line of a port is left out, as its beginning may be lost.
        os.write(ours, b"half a line\n")
        for number, row in enumerate(itertools.cycle(rows)):
            os.write(ours, (f"{number / 100:.2f}," + ",".join(map(str, row)) + "\n").encode())
            if stopped.wait(0.005):
                return

    sender = threading.Timer(1.0, send)
    sender.start()
    try:
        source = f"serial://{os.ttyname(theirs)}?format=csv&time=0"
        found = heard(run("--model", folder, "--source", source, "--frames", 2))
    finally:
        stopped.set()
        sender.join()
        os.close(ours)
        os.close(theirs)
    # A window that waits gives way to a newer one.
    assert len(found) == 2
    assert set(found) <= set(labels)
