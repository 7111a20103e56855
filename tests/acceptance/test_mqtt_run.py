"""`edgeinfer run … --mqtt URL` as a user types it, with a real broker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from brokers import Broker, free_port, mosquitto
from tiny_models import onnx_model

import edgeinfer as api

SOURCE = "synthetic://test-card?frames=40&width=64&height=48"
LIVE = "synthetic://test-card?fps=20&width=64&height=48"


@pytest.fixture
def broker(tmp_path):
    (tmp_path / "broker").mkdir()
    with mosquitto(tmp_path / "broker") as broker:
        yield broker


class Listener:
    """Another program that hears everything."""

    def __init__(self, broker: Broker, topics: str = "#") -> None:
        self.messages: list[tuple[str, bytes]] = []
        self._came = threading.Condition()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._take
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("localhost", broker.port)
        self._client.subscribe(topics, 1)
        self._client.loop_start()
        assert subscribed.wait(30)

    def _take(self, client, data, message) -> None:
        with self._came:
            self.messages.append((message.topic, message.payload))
            self._came.notify_all()

    def bodies(self, begin: str) -> list[dict]:
        return [json.loads(payload) for topic, payload in list(self.messages) if topic.startswith(begin)]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._came:
            assert self._came.wait_for(condition, 60), [topic for topic, _ in self.messages]

    def publish(self, topic: str, payload: str) -> None:
        self._client.publish(topic, payload, 1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def listener(broker):
    listener = Listener(broker)
    yield listener
    listener.close()


LOAD_TOML = """schema = "edgeinfer.model/1"
name = "load"
version = "1"
task = "vector"
[weights]
onnx = "load.onnx"
[window]
rate_hz = 10
[[values]]
name = "load"
unit = "%"
[[values]]
name = "rest"
"""


def write_config(path, broker_url: str, **words: str) -> None:
    pipeline = {"model": "blood-cells", "source": LIVE, "device": "fake", "name": "door", **words}
    lines = [f'{name} = "{value}"' for name, value in pipeline.items()]
    path.write_text(
        f'node = "pi-7"\n[uplink]\nurl = "{broker_url}"\nhome_assistant = true\n'
        'commands = ["pause", "resume", "snapshot", "threshold", "reload"]\n[[pipeline]]\n' + "\n".join(lines) + "\n"
    )


@pytest.fixture
def running(environment, tmp_path):
    """`edgeinfer …` beside the test, interrupted at its end."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edgeinfer", *map(str, words)]
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize("way", ["--mqtt", "--output"])
def test_every_result_of_a_file_reaches_the_broker(edgeinfer, broker, listener, way):
    ran = edgeinfer("run", "--model", "blood-cells", "--source", SOURCE, "--device", "fake", way, broker.url)
    assert ran.code == 0, ran.err
    assert ran.out == "", "with a broker nothing is printed unasked"
    listener.wait_for(lambda: len(listener.bodies("edgeinfer/v1/")) > 40)
    node = listener.messages[0][0].split("/")[2]
    results = listener.bodies(f"edgeinfer/v1/{node}/results/main")
    assert [each["data"]["seq"] for each in results] == list(range(40))
    numbers = [int(each["id"].partition("-")[2]) for each in results]
    assert numbers == sorted(set(numbers))
    states = [each["data"]["state"] for each in listener.bodies(f"edgeinfer/v1/{node}/status")]
    assert states[0] == "online"
    assert states[-1] == "stopped"


def test_values_are_told_to_home_assistant_by_the_names_of_model_toml(broker, listener, running, tmp_path):
    (tmp_path / "load").mkdir()
    (tmp_path / "load/load.onnx").write_bytes(onnx_model(shape=(1, 2)))
    (tmp_path / "load/model.toml").write_text(LOAD_TOML)
    (tmp_path / "log.csv").write_text("time,a\n" + "".join(f"{second},41.5\n{second}.1,1\n" for second in range(9)))
    source = "log.csv?follow=1&from=start"
    write_config(tmp_path / "edge.toml", broker.url, model="load", source=source, device="onnx:cpu", name="pump")
    running("run", "--config", "edge.toml", "--quiet")
    listener.wait_for(lambda: all(map(listener.bodies, ("edgeinfer/v1/pi-7/results/", "homeassistant/"))))
    result = listener.bodies("edgeinfer/v1/pi-7/results/pump")[0]
    assert result["data"]["values"] == [{"name": "load", "value": 41.5, "unit": "%"}, {"name": "rest", "value": 1.0}]
    sensors = listener.bodies("homeassistant/")[0]["cmps"]
    told = {key: (each["name"], each.get("unit_of_meas")) for key, each in sensors.items() if "value" in key}
    assert told == {"pump_value_0": ("load", "%"), "pump_value_1": ("rest", None)}


def test_a_broker_that_is_down_costs_no_frame_and_gets_everything_later(edgeinfer, tmp_path):
    (tmp_path / "broker").mkdir()
    words = ("run", "--model", "blood-cells", "--source", SOURCE, "--device", "fake", "--mqtt-prefix", "later")
    ran = edgeinfer(*words, "--mqtt", f"mqtt://localhost:{free_port()}", "--output", "out.jsonl")
    assert ran.code == 0, ran.err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 40
    assert "no broker, results wait" in ran.err
    with mosquitto(tmp_path / "broker") as broker:
        listener = Listener(broker, "later/+/results/#")
        again = edgeinfer(*words, "--mqtt", broker.url, "--frames", "3")
        assert again.code == 0, again.err
        listener.wait_for(lambda: len(listener.messages) >= 43)
        listener.close()
    bodies = listener.bodies("later/")
    assert [each["data"]["seq"] for each in bodies] == [*range(40), 0, 1, 2]
    assert all(each.get("replay") for each in bodies[:40])


def test_what_a_node_is_and_does_can_be_read_and_commanded(broker, listener, running, tmp_path):
    write_config(tmp_path / "edge.toml", broker.url)
    running("run", "--config", "edge.toml", "--quiet")
    root = "edgeinfer/v1/pi-7"
    listener.wait_for(lambda: bool(listener.bodies(f"{root}/metrics")))
    (meta,) = [each["data"] for each in listener.bodies(f"{root}/meta")]
    assert [(each["name"], each["device"]) for each in meta["pipelines"]] == [("door", "fake")]
    assert listener.bodies(f"{root}/metrics")[0]["data"]["pipelines"]["door"]["frames"] > 0
    listener.wait_for(lambda: bool(listener.bodies("homeassistant/")))
    assert "door_objects" in listener.bodies("homeassistant/")[0]["cmps"]

    def command(name: str, body: dict) -> dict:
        before = len(listener.bodies(f"{root}/cmd/{name}/answer"))
        listener.publish(f"{root}/cmd/{name}", json.dumps(body))
        listener.wait_for(lambda: len(listener.bodies(f"{root}/cmd/{name}/answer")) > before)
        return listener.bodies(f"{root}/cmd/{name}/answer")[-1]

    assert command("snapshot", {"id": "1"}) == {"id": "1", "ok": True}
    listener.wait_for(lambda: any(topic == f"{root}/snapshots/door" for topic, _ in list(listener.messages)))
    picture = next(payload for topic, payload in listener.messages if topic == f"{root}/snapshots/door")
    assert picture.startswith(b"\xff\xd8")
    assert command("threshold", {"id": "2", "pipeline": "dor", "score_min": 0.5})["error"].endswith("'door'?")
    assert command("pause", {"id": "3", "pipeline": "door"})["ok"]
    assert command("resume", {"id": "4"})["ok"]
    write_config(tmp_path / "edge.toml", broker.url, name="gate")
    assert command("reload", {"id": "5"})["ok"]
    listener.wait_for(lambda: bool(listener.bodies(f"{root}/results/gate")))
    listener.wait_for(lambda: listener.bodies(f"{root}/meta")[-1]["data"]["pipelines"][0]["name"] == "gate")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--mqtt", "mqtt://user:secret@host"), 2, "password"),
        (("--mqtt", "http://host"), 2, "mqtt://"),
        (("--mqtt-ca", "ca.pem"), 2, "--mqtt mqtt://host"),
        (("--mqtt", "mqtts://host", "--mqtt-ca", "no-such.pem"), 6, "no-such.pem"),
        (("--mqtt", "mqtt://a", "--output", "mqtt://b"), 6, "one broker"),
        (("--mqtt", "mqtt://a", "--send", "some"), 2, "--send"),
    ],
)
def test_a_broker_that_makes_no_sense_is_refused_in_one_line(edgeinfer, words, code, said):
    ran = edgeinfer("run", "--model", "blood-cells", "--source", SOURCE, "--device", "fake", *words)
    assert ran.code == code, ran.err
    assert len(ran.errors) == 1
    assert said in ran.errors[0]
    assert "secret" not in ran.err


def test_a_program_sends_what_it_gets(broker, listener, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    got = list(api.run("blood-cells", SOURCE, device="fake", outputs=broker.url))
    assert len(got) == 40
    listener.wait_for(lambda: len([topic for topic, _ in list(listener.messages) if "/results/" in topic]) >= 40)
    sent = [json.loads(payload)["data"]["id"] for topic, payload in listener.messages if "/results/" in topic]
    assert sent == [each.id for each in got]
