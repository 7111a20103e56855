"""The pipelines of one process: opened together, commanded, and changed while they run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest

from edgeinfer.clock import Clock
from edgeinfer.config import Config, PipelineConfig, RuleConfig, UplinkConfig
from edgeinfer.errors import ConfigError, SourceError, UsageError
from edgeinfer.node import Node

LIVE = "synthetic://test-card?fps=50&width=64&height=48"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def pipeline(name: str, **more) -> PipelineConfig:
    """One that runs for ever and writes nothing."""
    return PipelineConfig(**{"model": "blood-cells", "name": name, "source": LIVE, "device": "fake", **more})


class Rereads:
    """A configuration file that somebody edits."""

    def __init__(self, *pipelines: PipelineConfig) -> None:
        self.config = Config(pipeline=pipelines)
        self.error: ConfigError | None = None

    def __call__(self) -> Config:
        if self.error is not None:
            raise self.error
        return self.config


def published(node: Node, name: str) -> int:
    return next(each for each in node.pipelines if each.name == name).tally["published"]


def wait_until(condition) -> None:
    while not condition():
        time.sleep(0.005)


@pytest.fixture
def started():
    """Nodes that are closed after the test."""
    nodes: list[Node] = []

    def start(*pipelines: PipelineConfig, reread=None) -> Node:
        node = Node(Config(pipeline=pipelines), reread=reread)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.close()


def test_what_cannot_be_opened_lets_go_of_what_was():
    with pytest.raises(SourceError, match=r"^pipeline b: "):
        Node(Config(pipeline=(pipeline("a"), pipeline("b", source="no-such-file.mp4"))))


def test_waiting_ends_when_a_pipeline_does(started):
    node = started(pipeline("a", source="synthetic://test-card?frames=3&width=64&height=48"))
    assert node.wait(60)
    assert node.pipelines[0].report().results == 3


def test_a_paused_pipeline_takes_up_no_frame_of_a_camera_until_it_is_resumed(started):
    node = started(pipeline("a"), pipeline("b"))
    wait_until(lambda: published(node, "a") > 2 and published(node, "b") > 2)
    node.pause("a")
    first = node.pipelines[0]
    wait_until(lambda: first.tally["dropped.paused"] > 3)
    assert first.state == "paused"
    before = published(node, "a"), published(node, "b")
    wait_until(lambda: published(node, "b") > before[1] + 3)
    assert published(node, "a") == before[0]
    node.resume(None)
    wait_until(lambda: published(node, "a") > before[0] + 3)
    assert first.state == "ok"


def test_a_paused_file_waits_and_loses_nothing(started, tmp_path):
    out = tmp_path / "out.jsonl"
    node = started(
        pipeline("a", source="synthetic://test-card?frames=400&width=64&height=48", output=(str(out),)),
    )
    node.pause(None)
    assert not node.pipelines[0].wait(0.2)
    node.resume("a")
    assert node.pipelines[0].wait(60)
    assert len(out.read_text().splitlines()) == 400


def test_a_paused_pipeline_can_be_stopped():
    node = Node(Config(pipeline=(pipeline("a", source="synthetic://test-card?frames=100000&width=64&height=48"),)))
    node.start()
    node.pause(None)
    node.close()
    assert node.pipelines[0].state == "stopped"


def test_a_threshold_holds_from_the_next_frame_on(started, tmp_path):
    out = tmp_path / "out.jsonl"
    node = started(
        PipelineConfig(model="blood-cells", source=LIVE, score_min=0.0, name="cells", output=(str(out),)),
    )
    wait_until(lambda: node.pipelines[0].latest is not None and node.pipelines[0].latest.detections)
    node.set_score_min("cells", 1.0)
    wait_until(lambda: not node.pipelines[0].latest.detections)


@pytest.mark.parametrize("command", ["pause", "resume", "snapshot"])
def test_an_unknown_pipeline_is_refused_with_the_nearest(started, command):
    node = started(pipeline("door"))
    with pytest.raises(UsageError, match="did you mean 'door'"):
        getattr(node, command)("dor")


def test_a_reload_begins_anew_only_what_it_changes(started):
    file = Rereads(pipeline("a"), pipeline("b"), pipeline("c"))
    node = started(*file.config.pipeline, reread=file)
    a, b, c = node.pipelines
    file.config = Config(pipeline=(pipeline("d"), pipeline("b", score_min=0.5), pipeline("a")))
    node.reload()
    assert node.wait(60)
    assert set(node.apply_reload()) == {b, c}
    assert [each.name for each in node.pipelines] == ["d", "b", "a"]
    assert node.pipelines[2] is a
    assert a.state == "ok"
    assert (b.state, c.state) == ("stopped", "stopped")
    wait_until(lambda: published(node, "b") > 2 and published(node, "d") > 2)


def test_a_bad_configuration_is_refused_and_all_runs_on(started):
    file = Rereads(pipeline("a"))
    node = started(*file.config.pipeline, reread=file)
    file.error = ConfigError("edgeinfer.toml: pipeline[0].modle: unknown")
    with pytest.raises(ConfigError, match="modle"):
        node.reload()
    assert node.apply_reload() == ()
    assert node.pipelines[0].state == "ok"


def test_a_pipeline_that_cannot_be_opened_as_wanted_goes_on_as_it_was(started, caplog):
    file = Rereads(pipeline("a"))
    node = started(*file.config.pipeline, reread=file)
    file.config = Config(pipeline=(pipeline("a", source="no-such-file.mp4"),))
    node.reload()
    node.apply_reload()
    assert "no-such-file.mp4" in caplog.text
    wait_until(lambda: published(node, "a") > 2)
    # Asked again it is tried again, for what is wanted is not what runs.
    file.config = Config(pipeline=(pipeline("a", score_min=0.5),))
    node.reload()
    assert len(node.apply_reload()) == 1


def test_a_reload_ends_what_its_rules_had_begun_to_tell(started, tmp_path):
    out = tmp_path / "out.jsonl"
    rule = RuleConfig(name="some", kind="occupancy", for_s=0.0)
    seen = pipeline("a", model="blood-cells", device="auto", source="synthetic://blood-smear", output=(str(out),))
    file = Rereads(msgspec.structs.replace(seen, rule=(rule,)))
    node = started(*file.config.pipeline, reread=file)
    wait_until(lambda: out.exists() and b'"occupancy"' in out.read_bytes())
    file.config = Config(pipeline=(msgspec.structs.replace(seen, output=()),))
    node.reload()
    (ended,) = node.apply_reload()
    events = [each for each in map(json.loads, out.read_bytes().splitlines()) if "rule" in each]
    assert [each.get("end") for each in events] == [None, ended.latest.captured_at]
    assert len({each["id"] for each in events}) == 1


def test_without_a_file_there_is_nothing_to_reload(started):
    with pytest.raises(UsageError, match="--config"):
        started(pipeline("a")).reload()


def test_the_uplink_is_read_at_the_start_only(started):
    file = Rereads(pipeline("a"))
    node = started(*file.config.pipeline, reread=file)
    file.config = Config(pipeline=(pipeline("a"),), uplink=UplinkConfig(url="mqtt://localhost"))
    with pytest.raises(UsageError, match="at the start only"):
        node.reload()


class Hour:
    """A clock that a test moves; the wall clock stays."""

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns()
        self.clock = Clock(monotonic_ns=lambda: self.now_ns)

    def pass_by(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


@pytest.fixture
def patient():
    nodes: list[Node] = []

    def start(*pipelines: PipelineConfig, clock: Clock | None = None, reread=None) -> Node:
        nodes.append(Node(Config(pipeline=pipelines), patient=True, clock=clock, reread=reread))
        nodes[-1].start()
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


def test_a_patient_node_takes_a_missing_camera_for_a_lost_one(patient):
    node = patient(pipeline("a", source="/dev/video77"))
    wait_until(lambda: node.pipelines[0].state.startswith("degraded"))
    assert node.pipelines[0].state == "degraded: no source yet: camera '/dev/video77': there is no /dev/video77"
    assert node.troubles == {}
    assert node.pipelines[0].work() is None


def test_a_patient_node_opens_what_it_can_and_tries_the_rest_again(patient, tmp_path):
    late, hour = tmp_path / "late.ppm", Hour()
    node = patient(pipeline("a"), pipeline("b", source=str(late)), clock=hour.clock)
    assert [each.name for each in node.pipelines] == ["a"]
    assert "late.ppm" in node.troubles["b"]
    late.write_bytes(b"P6 2 2 255\n" + bytes(12))
    node.mend()
    assert "b" in node.troubles  # Not due yet.
    hour.pass_by(1)
    node.mend()
    assert node.troubles == {}
    wait_until(lambda: published(node, "b") == 1)


def test_what_ends_with_an_error_is_opened_again_after_a_while_that_grows(patient, caplog):
    hour = Hour()
    node = patient(pipeline("a", device="fake:fail_at=3"), pipeline("b"), clock=hour.clock)
    for delay_s in (0.6, 1.2, 2.4):
        dying = node.pipelines[0] if node.pipelines[0].name == "a" else node.pipelines[-1]
        assert dying.wait(60)
        node.mend()
        assert "fake failed at run 3" in node.troubles["a"]
        hour.pass_by(delay_s * 0.5)
        node.mend()
        assert "a" in node.troubles
        hour.pass_by(delay_s * 0.6)
        node.mend()
        assert node.troubles == {}
    assert sum("does not run" in line for line in caplog.messages) == 3


def test_of_a_patient_node_with_nothing_to_run_the_first_error_is_raised():
    with pytest.raises(SourceError, match="no-such-file"):
        Node(Config(pipeline=(pipeline("a", source="no-such-file.mp4"),)), patient=True)


def test_a_patient_node_keeps_trying_what_a_reload_wants_and_forgets_what_it_does_not(patient, tmp_path):
    file = Rereads(pipeline("a"), pipeline("b", source="no-such-file.mp4"))
    node = patient(*file.config.pipeline, reread=file)
    assert set(node.troubles) == {"b"}
    file.config = Config(pipeline=(pipeline("a"), pipeline("c", source="nor-this.mp4")))
    node.reload()
    node.apply_reload()
    assert set(node.troubles) == {"c"}
    assert node.pipelines[0].state == "ok"
