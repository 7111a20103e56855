"""Models of slots: tried in running pipelines, kept or undone; the store, the pipelines and the files are real."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec
import pytest

from edgeinfer.board.busy import CoreTime
from edgeinfer.clock import Clock
from edgeinfer.config import Config, PipelineConfig
from edgeinfer.errors import ModelError
from edgeinfer.node import Node
from edgeinfer.paths import data_folders
from edgeinfer.pipeline.assemble import open_model_of
from edgeinfer.updates.store import Store

LIVE = "synthetic://test-card?fps=50&width=64&height=48"
FACTORY = next(each / "blood-cells" for each in data_folders("models") if (each / "blood-cells").is_dir())


class Now:
    """Monotonic time that runs on, and can be set forward."""

    def __init__(self) -> None:
        self.ahead_ns = 0
        self.clock = Clock(monotonic_ns=lambda: time.monotonic_ns() + self.ahead_ns)


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    store = Store()
    store.add(FACTORY, "cells")
    yield store
    store.close()


@pytest.fixture
def bundle(tmp_path):
    """Another version of the factory's model."""

    def make(version: str) -> Path:
        folder = tmp_path / f"cells-{version}"
        shutil.copytree(FACTORY, folder)
        manifest = folder / "model.toml"
        lines = [
            f'version = "{version}"' if line.startswith("version") else line
            for line in manifest.read_text().splitlines()
        ]
        manifest.write_text("\n".join(lines) + "\n")
        return folder

    return make


@pytest.fixture
def started():
    nodes: list[Node] = []

    def start(*, clock=None, patient=False, **more) -> Node:
        words = {"model": "slot:cells", "name": "door", "source": LIVE, "device": "fake", **more}
        node = Node(Config(pipeline=(PipelineConfig(**words),)), clock=clock, patient=patient)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.close()


@pytest.fixture
def opened_as(monkeypatch):
    """Lets releases by the sha256 of their manifests open on devices of their own."""
    devices: dict[str, str] = {}

    def open_model(self, pipeline, word):
        config = self.config_of(pipeline)
        device = devices.get(Path(word).name, config.device)
        return open_model_of(
            msgspec.structs.replace(config, device=device), word, live=True, clock=self._clock, devices=self._devices
        )

    monkeypatch.setattr(Node, "open_model", open_model)
    return devices


def wait_until(condition) -> None:
    while not condition():
        time.sleep(0.005)


def answers_of(node: Node, version: str, more: int = 1) -> None:
    """Until so many more results are from that version."""
    pipeline = node.pipelines[0]
    wait_until(lambda: pipeline.latest is not None and pipeline.latest.model.version == version)
    before = pipeline.tally["published"]
    wait_until(lambda: pipeline.tally["published"] >= before + more)


def look_until(node: Node, condition) -> None:
    """What its thread does every two seconds, as often as it takes."""
    while not condition():
        node._models.look()
        time.sleep(0.01)


def step(store: Store) -> str:
    return store.state("cells").step


def begin_trial(node: Node, store: Store, folder: Path, release: int = 1, **more) -> None:
    store.stage(folder, "cells", release, **more)
    look_until(node, lambda: step(store) == "trial")


def usual_version(node: Node) -> str:
    wait_until(lambda: node.pipelines[0].latest is not None)
    return node.pipelines[0].latest.model.version


def test_a_slot_is_a_model_like_any_other_and_says_what_it_holds(started):
    node = started()
    wait_until(lambda: node.pipelines[0].tally["published"] > 2)
    node._models.look()
    (state,) = node.models
    assert (state.slot, state.release, state.state, state.pipelines) == ("cells", 0, "committed", ("door",))
    assert state.model == node.pipelines[0].latest.model


def test_a_release_is_tried_between_two_frames_and_kept_after_its_time(started, store, bundle, now):
    node = started(clock=now.clock)
    begin_trial(node, store, bundle("7"), trial_s=600)
    assert store.state("cells").attempts == 2, "the attempt is counted before anything is loaded"
    answers_of(node, "7", 30)
    node._models.look()
    assert step(store) == "trial", "not before its time is over"
    now.ahead_ns += 601_000_000_000
    answers_of(node, "7", 30)
    look_until(node, lambda: step(store) == "committed")
    assert (store.active("cells").release, store.previous("cells").release, store.state("cells").floor) == (1, 0, 1)
    assert [entry.what for entry in store.history("cells")] == ["factory", "staged", "trial", "committed"]


@pytest.mark.parametrize(
    ("device", "why"),
    [
        pytest.param("fake:latency_ms=15", "p95", id="slower"),
        pytest.param("fake:fail_at=30", "failed", id="fails in use"),
        pytest.param("fake:fail_at=2", "asked", id="fails when warmed"),
        pytest.param("fake:latency_ms=60", "dropped", id="too slow for the camera"),
    ],
)
def test_what_does_worse_is_undone_and_denied(started, store, bundle, opened_as, now, device, why):
    node = started(patient=True, clock=now.clock)
    usual = usual_version(node)
    folder = bundle("7")
    opened_as[store.stage(folder, "cells", 1).sha256] = device
    look_until(node, lambda: node.mend() or step(store) != "staged")
    look_until(
        node, lambda: node.mend() or step(store) != "trial" or any(node._models._trials["cells"].strikes.values())
    )
    now.ahead_ns += 9_000_000_000
    look_until(node, lambda: node.mend() or step(store) in ("rolled_back", "rejected"))
    assert why in store.state("cells").reason
    look_until(node, lambda: node.mend() or (node.pipelines and node.pipelines[0].state == "ok"))
    answers_of(node, usual, 3)
    assert store.active("cells").release == 0
    with pytest.raises(ModelError, match="refused before"):
        store.stage(folder, "cells", 1)


class Others:
    """Programs beside us that take such a share of the cores."""

    def __init__(self) -> None:
        self.share = 0.1
        self._now = CoreTime(0, 0)

    def core_time(self) -> CoreTime:
        self._now = CoreTime(self._now.total + 1000, self._now.others + round(1000 * self.share))
        return self._now


@pytest.fixture(autouse=True)
def others(monkeypatch) -> Others:
    """Whatever else this machine does."""
    others = Others()
    monkeypatch.setattr("edgeinfer.node.judge.core_time", others.core_time)
    return others


def test_while_others_take_the_cores_a_slower_model_is_neither_undone_nor_kept(
    started, store, bundle, opened_as, now, others
):
    node = started(clock=now.clock)
    usual_version(node)
    opened_as[store.stage(bundle("7"), "cells", 1, trial_s=60).sha256] = "fake:latency_ms=15"
    look_until(node, lambda: step(store) == "trial")
    others.share = 0.9
    for _ in range(8):
        answers_of(node, "7", 30)
        now.ahead_ns += 9_000_000_000
        node._models.look()
        assert step(store) == "trial"
    others.share = 0.1
    look_until(node, lambda: any(node._models._trials["cells"].strikes.values()))
    now.ahead_ns += 9_000_000_000
    look_until(node, lambda: step(store) == "rolled_back")
    assert "p95" in store.state("cells").reason


def test_while_others_take_the_cores_one_that_does_well_is_kept_and_one_that_fails_undone(
    started, store, bundle, opened_as, now, others
):
    node = started(clock=now.clock, patient=True)
    usual_version(node)
    others.share = 0.9
    begin_trial(node, store, bundle("7"), trial_s=60)
    now.ahead_ns += 61_000_000_000
    answers_of(node, "7", 30)
    look_until(node, lambda: step(store) == "committed")
    opened_as[store.stage(bundle("8"), "cells", 2).sha256] = "fake:fail_at=30"
    look_until(node, lambda: step(store) == "rolled_back")
    assert "failed" in store.state("cells").reason


def test_a_process_that_ends_in_each_attempt_leaves_the_former(started, store, bundle):
    store.stage(bundle("7"), "cells", 1, attempts=2)
    for _ in range(2):
        assert store.begin_trial("cells").release == 1  # And there the power goes.
    node = started()
    look_until(node, lambda: step(store) == "rolled_back")
    assert "each attempt" in store.state("cells").reason
    assert node.pipelines[0].latest.model.version != "7"


def test_an_end_in_good_order_costs_no_attempt(started, store, bundle):
    node = started()
    begin_trial(node, store, bundle("7"))
    answers_of(node, "7", 3)
    node.close()
    assert (step(store), store.state("cells").attempts) == ("staged", 3)
    assert store.active("cells").release == 0


def test_a_damaged_model_gives_way_to_the_previous_and_then_to_the_factorys(started, store, bundle, caplog):
    for release, version in ((1, "7"), (2, "8")):
        store.stage(bundle(version), "cells", release)
        store.begin_trial("cells")
        store.commit("cells")
    flip_a_bit(store, store.active("cells").files["model.toml"])
    node = started()
    assert node.pipelines[0].facts.model.version == "7"
    node.close()
    flip_a_bit(store, store.active("cells").files["model.toml"])
    node = started()
    assert store.active("cells").release == 0
    assert node.pipelines[0].facts.model.version not in ("7", "8")
    assert sum("damaged" in record.message and record.levelname == "ERROR" for record in caplog.records) == 2
    node.close()
    flip_a_bit(store, store.active("cells").files["model.toml"])
    with pytest.raises(ModelError, match="no model that can be used"):
        started()


def flip_a_bit(store: Store, sha256: str) -> None:
    blob = store.folder / "blobs" / sha256
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(content)


def test_a_slot_without_a_model_takes_what_waits_for_its_trial(started, store, bundle):
    with pytest.raises(ModelError, match="no model that can be used"):
        started(model="slot:other")
    store.stage(bundle("7"), "other", 1, trial_s=0)
    node = started(model="slot:other")
    answers_of(node, "7", 30)
    look_until(node, lambda: store.state("other").step == "committed")


def test_a_shadow_is_compared_and_reported_before_anything_is_switched(started, store, bundle, monkeypatch):
    monkeypatch.setattr("edgeinfer.node.shadow.ENOUGH_PICTURES", 20)
    node = started(device="cpu", source="synthetic://blood-smear?fps=30", shadow="50%")
    usual = usual_version(node)
    store.stage(bundle("7"), "cells", 1)
    look_until(node, lambda: node.models and node.models[0].state == "shadow")
    assert node.pipelines[0].latest.model.version == usual
    look_until(node, lambda: any(entry.what == "shadow" for entry in store.history("cells")))
    answers_of(node, "7", 3)
    node._models.look()
    report = node.models[0].shadow
    assert (report.agreement, report.frames >= 20, report.share) == (1.0, True, 0.5)
    assert set(report.by_class.values()) == {1.0}
    assert report.p95_ms > 0


@pytest.mark.parametrize("is_good", [True, False])
def test_on_a_device_that_only_one_can_have_frames_wait_in_order(
    started, store, bundle, opened_as, monkeypatch, is_good
):
    word = "fake:exclusive=1"
    seen: list[int] = []
    node = started(device=word, source=LIVE.replace("fps=50", "fps=12"))
    usual = usual_version(node)
    deliver = node.pipelines[0]._deliver
    monkeypatch.setattr(
        node.pipelines[0], "_deliver", lambda answer, frame: (seen.append(frame.seq), deliver(answer, frame))
    )
    new = store.stage(bundle("7"), "cells", 1)
    open_model = Node.open_model

    def slowly(self, pipeline, word):
        time.sleep(0.8)  # Ten frames come meanwhile.
        return open_model(self, pipeline, word)

    monkeypatch.setattr(Node, "open_model", slowly)
    opened_as[new.sha256] = word if is_good else f"{word},fail_at=0"
    look_until(node, lambda: step(store) == ("trial" if is_good else "rejected"))
    answers_of(node, "7" if is_good else usual, 40)
    assert node.pipelines[0].report().dropped == {}
    assert seen == list(range(seen[0], seen[0] + len(seen)))


def test_what_is_taken_back_by_hand_answers_no_more(started, store, bundle):
    node = started()
    usual = usual_version(node)
    begin_trial(node, store, bundle("7"))
    answers_of(node, "7")
    store.go_back("cells", "it looks wrong")
    node._models.look()
    answers_of(node, usual)
    store.add(bundle("8"), "cells")
    node._models.look()
    answers_of(node, "8")
    store.go_back("cells", "that, too")
    node._models.look()
    answers_of(node, usual)
