"""A board that gets warm, and the pipelines that are slowed for it: real ones, by a clock of the test's own."""

from __future__ import annotations

import json
import shutil
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.board import Roots, Vitals, Watch, recognise_board
from edgeinfer.clock import Clock
from edgeinfer.config import Config, GovernorConfig, PipelineConfig
from edgeinfer.errors import DeviceNotFound, ModelError, UsageError
from edgeinfer.model import open_model
from edgeinfer.node import Node
from edgeinfer.node.care import Care
from edgeinfer.node.governor import SHARES, step
from edgeinfer.pipeline import Pipeline
from edgeinfer.pipeline.assemble import open_pipeline

TESTS = Path(__file__).parents[2]
LIVE = "synthetic://test-card?fps=50&width=64&height=48"
FILE = "synthetic://test-card?frames=40&width=64&height=48"
HOT = Vitals(throttled=("the kernel throttles (cpufreq-cpu0)",))
CALM = Vitals()


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))


def opened(source: str = LIVE, **more) -> Pipeline:
    return open_pipeline(PipelineConfig(model="blood-cells", name="door", source=source, device="fake", **more))


class Drill:
    """Care of a pipeline that is never started: the test says how many frames it has computed."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.now_ns = 0
        self.vitals = CALM
        self.pipeline = pipeline
        self.models: tuple[str, ...] = ()
        self.changes: list[int] = []
        self.refusal: DeviceNotFound | None = None
        self.care = Care(GovernorConfig(), lambda: self.vitals, self, clock=Clock(lambda: self.now_ns))

    @property
    def pipelines(self) -> list[Pipeline]:
        return [self.pipeline]

    def lighter(self, pipeline: str) -> tuple[str, ...]:
        return self.models

    def change_model(self, pipeline: str, number: int) -> None:
        self.changes.append(number)
        if self.refusal is not None:
            raise self.refusal

    def over(self, seconds: float, fps: float) -> None:
        for _ in range(round(seconds / 2)):
            self.now_ns += 2_000_000_000
            self.pipeline.tally.add("inferred", round(2 * fps))
            self.care.look()


@pytest.fixture
def drill():
    pipeline = opened()
    yield Drill(pipeline)
    pipeline.close()


def test_a_pipeline_is_slowed_to_a_share_of_its_usual_rate_and_says_why(drill, caplog):
    drill.over(20, fps=12)
    assert drill.pipeline.state == "ok"
    assert drill.care.state is None
    drill.vitals = HOT
    drill.over(2, fps=12)
    assert drill.pipeline.state == "degraded: slowed to 6.0 fps: the kernel throttles (cpufreq-cpu0)"
    assert drill.care.state == "the kernel throttles (cpufreq-cpu0)"
    assert "governor: the kernel throttles (cpufreq-cpu0): door 6.0 of 12.0 fps" in caplog.text


def test_while_slowed_the_usual_rate_is_remembered_and_comes_back(drill):
    drill.over(20, fps=12)
    drill.vitals = HOT
    drill.over(2, fps=12)
    drill.vitals = CALM
    drill.over(124, fps=6)
    assert drill.pipeline.state.startswith("degraded: slowed to 9.0 fps")
    drill.over(124, fps=9)
    assert drill.pipeline.state == "ok"
    assert drill.care.state is None


def test_no_pipeline_is_slowed_below_the_least_rate(drill):
    drill.over(20, fps=2)
    drill.vitals = HOT
    drill.over(600, fps=2)
    assert drill.pipeline.state.startswith("degraded: slowed to 1.0 fps")


def test_a_pipeline_that_begins_on_a_hot_board_is_slowed_once_its_rate_is_known(drill):
    drill.vitals = HOT
    drill.over(8, fps=12)
    assert drill.pipeline.state == "ok"
    drill.over(4, fps=12)
    assert drill.pipeline.state.startswith("degraded: slowed to 6.0 fps")


def test_a_pause_does_not_count_as_slow(drill):
    drill.over(20, fps=12)
    drill.over(7200, fps=0)
    drill.vitals = HOT
    drill.over(2, fps=0)
    assert drill.pipeline.state.startswith("degraded: slowed to 6.0 fps")


def test_a_pipeline_that_was_begun_anew_is_measured_anew(drill):
    drill.over(20, fps=12)
    drill.vitals = HOT
    drill.over(2, fps=12)
    former, drill.pipeline = drill.pipeline, opened()
    former.close()
    drill.over(12, fps=40)
    assert drill.pipeline.state.startswith("degraded: slowed to 20.0 fps")


def test_a_recorded_board_on_a_ramp_slows_its_pipeline_before_the_limit(tmp_path):
    """From the file of the sensor to the rate of the pipeline: 60 to 85 °C in ten minutes, by a Raspberry Pi's tree."""
    folder = Path(shutil.copytree(TESTS / "boards/raspberry-pi-4", tmp_path / "pi", symlinks=True))
    roots = Roots(sys=folder / "sys", proc=folder / "proc", dev=folder / "dev")
    watch = Watch(recognise_board(roots, [TESTS.parent / "devices"]), roots)
    sensor = folder / "sys/class/thermal/thermal_zone0/temp"
    rates, pipeline = [], opened()
    drill = Drill(pipeline)
    care = Care(GovernorConfig(), watch.look, drill, clock=Clock(lambda: drill.now_ns))
    for look in range(301):
        drill.now_ns = look * 2_000_000_000
        now_c = 60 + 25 * look / 300
        sensor.write_text(f"{round(1000 * now_c)}\n")
        pipeline.tally.add("inferred", 60)
        care.look()
        if not rates or rates[-1][1] != pipeline.state:
            rates.append((now_c, pipeline.state, drill.now_ns))
    pipeline.close()
    assert rates[0][1] == "ok"
    assert 70 < rates[1][0] < 80
    assert "cpu-thermal is at" in rates[1][1]
    assert all(later[2] - earlier[2] >= 60e9 for earlier, later in pairwise(rates[1:]))


def test_at_half_the_rate_the_models_change_and_only_then_it_is_slowed_further(drill):
    drill.models = ("small.tflite",)
    drill.over(20, fps=12)
    drill.vitals = HOT
    drill.over(2, fps=12)
    assert drill.changes == []
    drill.over(60, fps=6)
    assert drill.changes == [1]
    assert drill.pipeline.state.startswith(
        "degraded: slowed to 4.2 fps: with a lighter model, for the kernel throttles"
    )
    drill.vitals = CALM
    drill.over(3600, fps=6)
    assert drill.changes == [1, 0]
    assert drill.pipeline.state == "ok"


def test_a_model_that_cannot_be_opened_is_tried_once_a_level_and_the_rate_goes_down_instead(drill, caplog):
    drill.models, drill.refusal = ("small.tflite",), DeviceNotFound("no device for small.tflite")
    drill.over(20, fps=12)
    drill.vitals = HOT
    drill.over(2, fps=12)
    drill.over(100, fps=6)
    assert drill.changes == [1]
    assert "pipeline door keeps its model: no device for small.tflite" in caplog.text
    assert drill.pipeline.state == "degraded: slowed to 3.0 fps: the kernel throttles (cpufreq-cpu0)"


@pytest.mark.parametrize("lighter", [0, 1, 2])
def test_each_level_asks_for_less_than_the_one_before(lighter):
    steps = [step(level, lighter) for level in range(len(SHARES))]
    assert steps[0] == (1.0, 0)
    assert max(model for _, model in steps) == lighter
    assert all(now[0] < before[0] or now[1] > before[1] for before, now in pairwise(steps))


@pytest.fixture
def small(tmp_path) -> Path:
    """A bundle that finds the same things, and is another model by name."""
    folder = tmp_path / "small"
    shutil.copytree(TESTS.parent / "models/blood-cells", folder)
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace('name = "blood-cells"', 'name = "small"'))
    return folder


def test_a_node_exchanges_the_model_between_two_frames_and_no_frame_of_a_file_is_lost(small, tmp_path):
    out = tmp_path / "out.jsonl"
    config = PipelineConfig(
        model="blood-cells",
        name="door",
        source="synthetic://test-card?frames=300&width=64&height=48",
        device="fake",
        output=(str(out),),
        lighter=(str(small),),
    )
    node = Node(Config(pipeline=(config,)))
    door = node.pipelines[0]
    door.set_rate(200.0)
    node.set_score_min("door", 0.9)
    try:
        node.start()
        node.change_model("door", 1)
        while door.facts.model.name != "small":
            pass
        assert door.facts.bundle.decode.score_min == 0.9
        node.change_model("door", 0)
        assert door.wait(60)
    finally:
        node.close()
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["seq"] for each in results] == list(range(300))
    names = [name for name, _ in groupby(each["model"]["name"] for each in results)]
    assert names[-2:] == ["small", "blood-cells"]


def test_a_model_that_comes_when_the_pipeline_has_ended_is_closed():
    pipeline, late = opened(FILE), open_model("blood-cells", device="fake")
    pipeline.run()
    pipeline.exchange(late)
    with pytest.raises(UsageError, match="is closed"):
        late(np.zeros((8, 8, 3), np.uint8))


def test_a_model_with_other_classes_cannot_stand_in(small):
    (small / "labels.txt").write_text("cat\ndog\nbird\n")
    with pytest.raises(ModelError, match="its labels are not the same"):
        opened(lighter=(str(small),))


@pytest.mark.parametrize("source", [LIVE, FILE])
def test_a_slowed_pipeline_goes_on_and_a_file_loses_no_frame(source):
    pipeline = opened(source)
    pipeline.set_rate(200.0, "the board is warm")
    pipeline.start()
    try:
        while pipeline.tally["published"] < 20:
            pass
        assert pipeline.wait(0) or pipeline.state == "degraded: slowed to 200.0 fps: the board is warm"
        pipeline.set_rate(None)
        if source == FILE:
            assert pipeline.wait(60)
            assert pipeline.report().results == 40
            assert pipeline.report().dropped == {}
        else:
            assert pipeline.state == "ok"
    finally:
        pipeline.close()


def test_the_next_frame_of_a_slowed_file_waits_for_its_time_and_a_stop_does_not():
    pipeline = opened("synthetic://test-card?frames=100000&width=64&height=48")
    pipeline.set_rate(0.001)
    pipeline.start()
    while pipeline.tally["published"] < 1:
        pass
    assert not pipeline.wait(0.2)
    assert pipeline.tally["published"] == 1
    pipeline.close()
    assert pipeline.state == "stopped"


@pytest.mark.parametrize(
    ("config", "watches"), [(None, False), (GovernorConfig(enabled=False), False), (GovernorConfig(), True)]
)
def test_a_node_cares_for_its_board_where_it_is_asked_to(config, watches):
    node = Node(Config(pipeline=(PipelineConfig(model="blood-cells", source=LIVE, device="fake"),), governor=config))
    try:
        node.start()
        assert (node._care is not None) == watches
        assert node.care is None
    finally:
        node.close()


def test_a_governor_that_fails_leaves_the_pipelines_at_their_full_rate(drill, caplog, monkeypatch):
    drill.over(20, fps=12)
    drill.vitals = HOT
    drill.over(2, fps=12)
    assert drill.pipeline.state != "ok"
    drill.vitals = None  # Nothing that a Watch gives.
    monkeypatch.setattr("edgeinfer.node.care._LOOK_S", 0.0)
    drill.care.start()
    drill.care._thread.join(30)
    assert "the governor is given up" in caplog.text
    assert drill.pipeline.state == "ok"
