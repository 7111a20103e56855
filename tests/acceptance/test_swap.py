"""Slots as a user has them: 24 swaps under a camera, and a process that is killed in a trial, with a real broker.

How late frames are meanwhile, `scripts/bench swap` says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from brokers import mosquitto

from edgeinfer.updates.store import Store
from scripts.benchmarks import swap

BUNDLE = Path(__file__).parents[2] / "models" / "blood-cells"
ROOT = "edgeinfer/v1/pi-7/"
CONFIG = """
node = "pi-7"
[uplink]
url = "{url}"
[[pipeline]]
name = "door"
model = "slot:cells"
source = "synthetic://test-card?fps=50&width=64&height=48"
device = "fake"
output = ["{output}"]
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))


@pytest.mark.timeout(300)
def test_24_swaps_drop_no_frame():
    row = swap.run(24, idle_s=0.5)
    assert row["versions"][1:] == [f"swap-{release}" for release in range(1, 25)]
    assert row["dropped"] == 0, (row["each_dropped"], row["each_longest_ms"])


@pytest.fixture
def broker(tmp_path):
    (tmp_path / "broker").mkdir()
    with mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def told(broker):
    """What came on the topics of slots and of events: topic -> data; `told.wait` until something of it is so."""
    told = Told()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _, __, message: told.take(message)
    client.connect("localhost", broker.port)
    client.subscribe([(f"{ROOT}model/+", 1), (f"{ROOT}events/+", 1)])
    client.loop_start()
    yield told
    client.disconnect()
    client.loop_stop()


class Told:
    def __init__(self) -> None:
        self.models: list[dict] = []
        self.events: list[dict] = []
        self._came = threading.Condition()

    def take(self, message) -> None:
        kind = message.topic.removeprefix(ROOT)
        with self._came:
            data = json.loads(message.payload)["data"]
            {"model/cells": self.models, "events/door": self.events}[kind].append(data)
            self._came.notify_all()

    def wait(self, state: str, attempts: int | None = None) -> None:
        with self._came:
            wanted = (state, attempts)
            assert self._came.wait_for(
                lambda: wanted in [(each["state"], each.get("attempts")) for each in self.models], 60
            ), self.models


def test_a_process_that_is_killed_in_a_trial_has_used_an_attempt(tmp_path, broker, told):
    output = tmp_path / "results.jsonl"
    config = tmp_path / "door.toml"
    config.write_text(CONFIG.format(url=broker.url, output=output))
    begin = [sys.executable, "-m", "edgeinfer", "run", "--config", str(config), "--quiet"]

    with closing(Store()) as store:
        store.add(BUNDLE, "cells")
        process = subprocess.Popen(begin)
        try:
            told.wait("committed")
            store.stage(BUNDLE, "cells", 1, attempts=1)
            told.wait("trial", 0)
        finally:
            process.kill()
            process.wait()
        assert (store.active("cells").release, store.state("cells").attempts) == (0, 0)
        process = subprocess.Popen(begin)
        try:
            told.wait("rolled_back")
        finally:
            process.terminate()
            assert process.wait(30) == 130
        assert [event["step"] for event in told.events] == ["staged", "trial", "rolled_back"]
        assert {(event["kind"], event["label"], event["release"]) for event in told.events} == {("model", "cells", 1)}
        assert "each attempt" in told.events[-1]["reason"]
        assert store.active("cells").release == 0
