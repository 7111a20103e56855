"""From a word for a sensor to windows at a model, through a pipeline as it is opened for a person."""

from __future__ import annotations

import dataclasses
import os
import pty
import threading
import time
import tty
from pathlib import Path

import pytest

from edgeinfer.bundle.facts import WindowInput
from edgeinfer.config import PipelineConfig
from edgeinfer.errors import SourceError, UsageError
from edgeinfer.pipeline import Limits, Pipeline, assemble
from edgeinfer.sinks.memory import MemorySink

WINDOW = WindowInput(0, 10.0, 5, 5, (), (0.0,), (1.0,), "linear", 0.3)


class Listening:
    """A model that answers as the one it stands before does for a picture, and keeps the windows that it was given."""

    def __init__(self, model, window: WindowInput | None, picture) -> None:
        self._model = model
        self._picture = picture
        image = model.bundle.image if window is None else None
        self.bundle = dataclasses.replace(model.bundle, image=image, window=window)
        self.heard: list = []

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def answer(self, window, *, prepared, comes_back):
        assert prepared is None, "windows are not prepared"
        self.heard.append(window)
        return self._model.answer(
            dataclasses.replace(self._picture, seq=window.seq, uri=window.uri), comes_back=comes_back
        )


@pytest.fixture
def opened(make_model, monkeypatch: pytest.MonkeyPatch):
    """Open a pipeline with a model that stands in for one that takes windows."""
    from edgeinfer.sources import open_source

    source = open_source("synthetic://noise?width=32&height=32&frames=1")
    picture = source.read()
    source.close()

    def open_(window: WindowInput | None = WINDOW, **config):
        model = Listening(make_model()[0], window, picture)
        monkeypatch.setattr(assemble, "open_model_of", lambda *_, **__: model)
        sink = MemorySink()
        return assemble.open_pipeline(PipelineConfig(model="m", **config), sinks=[sink]), model, sink

    return open_


def recording(folder: Path) -> str:
    path = folder / "log.csv"
    rows = [f"{index / 10:.1f},{index}" for index in range(30) if index not in (7, *range(12, 18))]
    path.write_text("\n".join(["time,a", *rows, "2.95,what"]))
    return str(path)


def test_windows_reach_the_model_and_what_was_skipped_the_report(opened, tmp_path: Path) -> None:
    pipeline, model, sink = opened(source=recording(tmp_path))
    report = pipeline.run()
    assert report.error is None
    assert [window.values[0, 0] for window in model.heard] == [0, 5, 18, 23]
    assert [window.filled for window in model.heard] == [0, 0.2, 0, 0]
    assert [window.seq for window in model.heard] == [0, 1, 2, 3]
    assert report.results == 4
    assert len(list(sink)) == 4
    assert report.skipped == {"garbage": "1, the last: '2.95,what'", "gaps": "1"}


def test_the_configuration_overrides_what_the_model_says(opened, tmp_path: Path) -> None:
    pipeline, model, _ = opened(source=recording(tmp_path), missing={"a": "hold"}, missing_s=10)
    assert pipeline.run().error is None
    assert model.heard[1].values[2, 0] == 6
    assert len(model.heard) == 5 + 1


@pytest.mark.parametrize(
    ("window", "config", "says"),
    [
        (None, {"source": "LOG"}, "takes pictures, and .* gives samples"),
        (WINDOW, {"source": "synthetic://noise"}, "takes samples, and .* gives pictures"),
        (None, {"source": "synthetic://noise", "missing": "hold"}, "missing is for samples"),
        (WINDOW, {"source": "LOG", "gate": "motion"}, "gate is for pictures"),
    ],
)
def test_a_source_that_does_not_fit_is_said_before_anything_runs(opened, tmp_path, window, config, says) -> None:
    config["source"] = config["source"].replace("LOG", recording(tmp_path))
    with pytest.raises(UsageError, match=says):
        opened(window, **config)


def test_picture_options_are_no_options_of_a_recording(opened, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="width cannot be chosen for a recording"):
        opened(source=recording(tmp_path), width=640)


class Waiting:
    """A live source that gives nothing for a second and ends then; all the while it may have its driver's answers."""

    uri, live, fps, skipped = "waiting", True, None, {}

    def __init__(self, *, looks: bool) -> None:
        self.looked_ns = 0
        self._looks = looks
        self._closed = threading.Event()

    def read(self):
        for _ in range(24):
            if self._closed.wait(0.05):
                break
            if self._looks:
                self.looked_ns = time.monotonic_ns()

    def close(self) -> None:
        self._closed.set()


@pytest.mark.parametrize("looks", [True, False])
def test_a_read_that_waits_for_enough_samples_does_not_hang(make_model, looks: bool) -> None:
    pipeline = Pipeline(make_model()[0], Waiting(looks=looks), [], limits=Limits(first_frame_s=0.2))
    error = pipeline.run().error
    assert (error is None) == looks, error


class Sensor(threading.Thread):
    """Says a number twenty times a second at a pseudo-terminal, under a path of its own, until unplugged."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._end, self._port = pty.openpty()
        tty.setraw(self._port)
        path.unlink(missing_ok=True)
        path.symlink_to(os.ttyname(self._port))
        self._unplugged = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._unplugged.wait(0.05):
            os.write(self._end, b'{"a": 1.5}\n')

    def unplug(self) -> None:
        self._unplugged.set()
        self.join()
        os.close(self._end)
        os.close(self._port)


def test_a_cable_that_comes_back_is_read_on(opened, tmp_path: Path) -> None:
    path = tmp_path / "ttyTEST0"
    sensor = Sensor(path)
    pipeline, model, _ = opened(dataclasses.replace(WINDOW, missing_s=1.0), source=f"serial://{path}")
    pipeline.start()
    until(lambda: len(model.heard) >= 2)
    sensor.unplug()
    until(lambda: pipeline.tally["source.lost"] == 1)
    before = len(model.heard)
    sensor = Sensor(path)
    until(lambda: len(model.heard) >= before + 2)
    pipeline.stop()
    pipeline.wait()
    sensor.unplug()
    assert pipeline.report().counts["source.reopened"] == 1
    assert [window.follows for window in model.heard[before : before + 2]] == [False, True]
    assert (model.heard[before].values == 1.5).all()


def until(is_so) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
