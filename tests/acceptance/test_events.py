"""What happens in a film, told by rules, against what somebody saw in it who looked at its pictures."""

from __future__ import annotations

import json
import time

import jsonschema
import paho.mqtt.client as paho
from brokers import mosquitto
from sightings import SCHEMAS

# Seconds, by eye, of six people who come one after the other from below, stand at the table and leave to the right:
# the first picture with some of them in it, and the last.
IN_SIGHT = [(6, 20), (23, 45), (50, 70), (74, 87), (92, 120), (123, 136)]

CONFIG = """
[[pipeline]]
model = "{model}"
source = "{video}"
output = ["out.jsonl"]
threads = 1
rate = 5

[[pipeline.rule]]
name = "out"
kind = "cross"
line = [[0.8, 0], [0.8, 1]]
classes = ["person"]

[[pipeline.rule]]
name = "at the table"
kind = "dwell"
zone = [[0.4, 0], [0.8, 0], [0.8, 1], [0.4, 1]]
classes = ["person"]
for_s = 3

[[pipeline.rule]]
name = "somebody"
kind = "occupancy"
classes = ["person"]
"""


def within(position_s, spans, slack_s=2.0):
    return sum(begin - slack_s <= position_s <= end + slack_s for begin, end in spans) == 1


def until(is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_six_people_cross_each_with_one_id(edgeinfer, test_data, tmp_path):
    video, model = test_data / "media/video/one-by-one-person-detection.mp4", "models/ssd_mobilenet_v1_coco.tflite"
    text = CONFIG.format(video=video, model=test_data / model).replace("at the table", "at-the-table")
    (tmp_path / "events.toml").write_text(text)
    ran = edgeinfer("run", "--config", tmp_path / "events.toml")
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    events = [line for line in lines if line["schema"] == "edgeinfer.event/1"]
    schema = json.loads((SCHEMAS / "event.json").read_text())
    for event in events:
        jsonschema.validate(event, schema)

    crossings = [event for event in events if event["rule"] == "out"]
    assert [event["direction"] for event in crossings] == ["right-to-left"] * 6  # Seen from the top of the line.
    assert all(within(event["position_s"], [span]) for event, span in zip(crossings, IN_SIGHT, strict=True))
    # Whoever crosses is the one who stood there, and nobody is two.
    stood = [event for event in events if event["rule"] == "at-the-table"]
    tracks = [event["track"] for event in crossings]
    assert len(set(tracks)) == 6
    assert [event["track"] for event in stood] == [track for track in tracks for _ in ("begins", "ends")]
    assert [event["id"] for event in stood[::2]] == [event["id"] for event in stood[1::2]]
    assert ["end" in event for event in stood] == [False, True] * 6
    occupied = [event for event in events if event["rule"] == "somebody"]
    assert [event["count"] for event in occupied] == [1, 0] * 6
    # In the results, too: six people in all, and never two in one picture that bear an id.
    people = [
        {found["track_id"] for found in line["detections"] if found["label"] == "person" and "track_id" in found}
        for line in lines
        if line["schema"] == "edgeinfer.result/1"
    ]
    assert set().union(*people) == set(tracks)
    assert max(map(len, people)) == 1


def test_what_lasts_is_over_at_the_last_result_of_a_run(edgeinfer, test_data, tmp_path):
    video, model = test_data / "media/video/one-by-one-person-detection.mp4", "models/ssd_mobilenet_v1_coco.tflite"
    text = CONFIG.format(video=video, model=test_data / model).replace("at the table", "at-the-table")
    (tmp_path / "broker").mkdir()
    with mosquitto(tmp_path / "broker") as broker:
        # The run ends while the first of them still stands there.
        (tmp_path / "events.toml").write_text(
            text.replace("rate = 5", "rate = 5\nframes = 80") + f'\n[uplink]\nurl = "{broker.url}"\n'
        )
        heard = []
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_message = lambda *it: heard.append(json.loads(it[-1].payload)["data"])
        client.connect("localhost", broker.port)
        client.subscribe("edgeinfer/v1/+/events/#", 1)
        client.loop_start()
        ran = edgeinfer("run", "--config", tmp_path / "events.toml")
        assert ran.code == 0, ran.err
        until(lambda: sum("end" in event for event in heard if "rule" in event) == 2)
        client.loop_stop()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    last = max((line for line in lines if line["schema"] == "edgeinfer.result/1"), key=lambda line: line["seq"])
    events = [line for line in lines if line["schema"] == "edgeinfer.event/1"]
    assert {event["rule"] for event in events} == {"at-the-table", "somebody"}
    begun, over = events[:2], lines[-2:]
    assert not any("end" in event for event in begun)
    assert {(event["id"], event["start"], event["rule"]) for event in begun} == {
        (event["id"], event["start"], event["rule"]) for event in over
    }
    for event in over:
        assert (event["end"], event["position_s"], event["result"]) == (
            last["captured_at"],
            last["position_s"],
            last["id"],
        )
    assert [event for event in heard if "rule" in event] == begun + over


def test_a_rule_for_a_class_that_the_model_does_not_know_is_refused(edgeinfer, test_data, tmp_path):
    video, model = test_data / "media/video/one-by-one-person-detection.mp4", "models/ssd_mobilenet_v1_coco.tflite"
    text = CONFIG.format(video=video, model=test_data / model).replace("at the table", "t")
    (tmp_path / "events.toml").write_text(text.replace('"person"', '"persn"', 1))
    ran = edgeinfer("run", "--config", tmp_path / "events.toml")
    assert ran.code == 6
    assert "rule[0].classes: unknown class 'persn': did you mean 'person'?" in ran.err
