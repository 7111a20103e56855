"""A board that gets warm, and the pipelines that are slowed for it: real ones, by a clock of the test's own."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from edgeinfer.board import Roots, Vitals, Watch, recognise_board
from edgeinfer.clock import Clock
from edgeinfer.config import Config, GovernorConfig, PipelineConfig
from edgeinfer.node import Node
from edgeinfer.node.care import Care
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

    def __init__(self, pipeline: Pipeline, config: GovernorConfig | None = None) -> None:
        self.now_ns = 0
        self.vitals = CALM
        self.pipeline = pipeline
        self.care = Care(
            config or GovernorConfig(), lambda: self.vitals, lambda: [self.pipeline], clock=Clock(lambda: self.now_ns)
        )

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
    assert drill.care.state == "slowed to 50%: the kernel throttles (cpufreq-cpu0)"
    assert "governor: the kernel throttles (cpufreq-cpu0): 50 % of the usual rate: door 6.0 of 12.0 fps" in caplog.text


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
    now_ns, rates, pipeline = 0, [], opened()
    care = Care(GovernorConfig(), watch.look, lambda: [pipeline], clock=Clock(lambda: now_ns))
    for step in range(301):
        now_ns = step * 2_000_000_000
        now_c = 60 + 25 * step / 300
        sensor.write_text(f"{round(1000 * now_c)}\n")
        pipeline.tally.add("inferred", 60)
        care.look()
        if not rates or rates[-1][1] != pipeline.state:
            rates.append((now_c, pipeline.state, now_ns))
    pipeline.close()
    assert rates[0][1] == "ok"
    assert 70 < rates[1][0] < 80
    assert "cpu-thermal is at" in rates[1][1]
    assert all(later[2] - earlier[2] >= 60e9 for earlier, later in pairwise(rates[1:]))


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
