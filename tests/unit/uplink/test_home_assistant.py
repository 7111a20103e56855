"""The discovery message against Home Assistant's rules, written down here from its documentation and not from our code.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import json
import re

import pytest
from msgspec.structs import replace
from sightings import composer, detection, meta, metrics, pipeline_info, result, spooled

from edgeinfer.result import Anomaly, Value
from edgeinfer.uplink.bodies import ValueInfo
from edgeinfer.uplink.home_assistant import LABELS_MAX, HomeAssistant, plain_id
from edgeinfer.uplink.publication import Received
from edgeinfer.uplink.selection import Selection, message_of_result
from edgeinfer.uplink.topics import Topics

# Abbreviations that the documentation lists, of those that are used.
FULL = {
    "avty": "availability",
    "cmps": "components",
    "dev": "device",
    "dev_cla": "device_class",
    "ent_cat": "entity_category",
    "json_attr_t": "json_attributes_topic",
    "json_attr_tpl": "json_attributes_template",
    "o": "origin",
    "p": "platform",
    "stat_cla": "state_class",
    "stat_t": "state_topic",
    "t": "topic",
    "uniq_id": "unique_id",
    "unit_of_meas": "unit_of_measurement",
    "val_tpl": "value_template",
}
FULL_OF_DEVICE = {"ids": "identifiers", "mf": "manufacturer", "mdl": "model", "sw": "sw_version"}
OF_A_DEVICE = {"identifiers", "name", "manufacturer", "model", "sw_version"}
OF_AN_ORIGIN = {"name", "sw_version", "support_url"}
# Platform -> what it must have and what it may have, beside platform, unique_id and name.
ENTITY = {"entity_category", "json_attributes_topic", "json_attributes_template", "icon"}
PLATFORMS = {
    "binary_sensor": ({"state_topic"}, {"value_template", "device_class", *ENTITY}),
    "sensor": ({"state_topic"}, {"value_template", "unit_of_measurement", "state_class", "device_class", *ENTITY}),
    "event": ({"state_topic", "event_types"}, {"value_template", "device_class", *ENTITY}),
    "camera": ({"topic"}, ENTITY),
}


def written_out(body: dict, names: dict = FULL) -> dict:
    return {names.get(key, key): value for key, value in body.items()}


def discovery(*pipelines, node: str = "pi-7", previous: bytes = b"") -> dict:
    sent = HomeAssistant(Topics(node)).announcement(meta(*pipelines), previous)
    body = written_out(json.loads(sent.payload))
    body["device"] = written_out(body["device"], FULL_OF_DEVICE)
    body["origin"] = written_out(body["origin"], FULL_OF_DEVICE)
    body["availability"] = [written_out(each) for each in body["availability"]]
    body["components"] = {key: written_out(each) for key, each in body["components"].items()}
    return body


MANY = (
    pipeline_info("door"),
    pipeline_info("ya_rd.2", labels=tuple(f"label {index}" for index in range(LABELS_MAX + 1))),
    pipeline_info("sorter", task="classify", send="changes", snapshot=None),
    pipeline_info("hall", task="audio", snapshot=None),
    pipeline_info("pump", task="anomaly", snapshot=None),
    pipeline_info("raw", task="vector", labels=(), snapshot=None),
    pipeline_info("load", task="vector", labels=(), snapshot=None, values=(ValueInfo("load", "%"), ValueInfo("rest"))),
    pipeline_info("gate", send="events"),
    pipeline_info("attic", send="none"),
)


def test_the_topic_is_one_that_home_assistant_takes_for_any_name_of_a_node():
    for node in ("pi-7", "pi.7", "Tür 7", "a/b", "a_b"):
        topic = HomeAssistant(Topics(node)).topic
        assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic), topic


def test_no_two_nodes_share_an_id():
    names = ["a.b", "a_b", "a__b", "a_2e_b", "a-b", "ab", "a b", "ä", "a", "_", "__", "."]
    assert len({plain_id(name) for name in names}) == len(names)


def test_device_and_origin_have_what_is_required_and_nothing_that_is_refused():
    body = discovery()
    assert body["device"].keys() <= OF_A_DEVICE
    assert body["device"]["identifiers"] == ["edgeinfer_pi-7"]
    assert body["device"]["name"] == "pi-7"
    assert body["origin"].keys() <= OF_AN_ORIGIN
    assert body["origin"]["name"] == "edgeinfer"
    assert body.keys() == {"device", "origin", "availability", "qos", "components"}


def test_each_component_has_what_its_platform_requires_and_nothing_that_it_does_not_know():
    for key, component in discovery(*MANY)["components"].items():
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", key)
        required, allowed = PLATFORMS[component["platform"]]
        fields = component.keys() - {"platform", "unique_id", "name"}
        assert required <= fields <= required | allowed, key
        assert component["unique_id"]
        assert component["name"]


def test_unique_ids_are_unique_over_pipelines_and_nodes():
    ids = [
        component["unique_id"]
        for node in ("pi-7", "pi_7", "pi.7")
        for component in discovery(*MANY, pipeline_info("ya_rd_2"), node=node)["components"].values()
    ]
    assert len(set(ids)) == len(ids)


def test_topics_are_those_on_which_the_node_sends():
    topics = Topics("pi-7")
    named = {
        component.get("state_topic") or component["topic"] for component in discovery(*MANY)["components"].values()
    }
    assert named == {
        topics.status,
        topics.metrics,
        *(topics.results(name) for name in ("door", "ya_rd.2", "sorter", "hall", "pump", "load")),
        *(topics.events(name) for name in ("door", "ya_rd.2", "sorter", "hall", "pump", "raw", "load", "gate")),
        *(topics.snapshots(name) for name in ("door", "ya_rd.2", "gate", "attic")),
    }


def test_few_labels_have_a_count_each_and_many_have_one_in_all():
    keys = discovery(*MANY)["components"].keys()
    assert {key for key in keys if "_count_" in key} == {"door_count_0", "door_count_1"}
    assert {key for key in keys if key.endswith("_objects")} == {"door_objects", "ya__rd_2e_2_objects"}


def test_each_value_that_a_model_names_is_a_number_in_its_unit():
    sensors = {key: each for key, each in discovery(MANY[6])["components"].items() if key.startswith("load_value_")}
    assert [(each["name"], each.get("unit_of_measurement"), each["state_class"]) for each in sensors.values()] == [
        ("load", "%", "measurement"),
        ("rest", None, "measurement"),
    ]


def test_one_pipeline_needs_no_name_before_its_entities():
    assert discovery(pipeline_info("door"))["components"]["door_objects"]["name"] == "Objects"
    assert discovery(*MANY)["components"]["door_objects"]["name"] == "door Objects"


def test_it_is_kept_by_the_broker_and_an_empty_one_takes_it_away():
    it = HomeAssistant(Topics("pi-7"), "ha")
    assert it.announcement(meta()).retain
    removal = it.removal()
    assert (removal.topic, removal.payload, removal.retain) == ("ha/device/edgeinfer_pi-7/config", b"", True)


def test_what_was_announced_and_is_no_more_is_taken_away():
    it = HomeAssistant(Topics("pi-7"))
    before = it.announcement(meta(pipeline_info("door"), pipeline_info("yard"))).payload
    components = discovery(pipeline_info("door"), previous=before)["components"]
    gone = {key: component for key, component in components.items() if key.startswith("yard_")}
    assert gone["yard_snapshot"] == {"platform": "camera"}
    assert gone["yard_objects"] == {"platform": "sensor"}
    assert components["door_objects"]["state_topic"]


@pytest.mark.parametrize("previous", [b"rubbish", b"\xff", b"[]", b'{"cmps":7}', b" " * (2 << 20), b"[" * 10_000])
def test_what_somebody_else_left_there_is_passed_over(previous):
    assert discovery(previous=previous) == discovery()


def test_its_birth_is_answered_within_five_seconds_and_nothing_else_is():
    it = HomeAssistant(Topics("pi-7"))
    assert it.birth_delay_s(Received("homeassistant/status", b"online"), lambda: 0.5) == 2.5
    for other in (
        Received("homeassistant/status", b"offline"),
        Received("homeassistant/status", b"online", retain=True),
        Received("edgeinfer/v1/pi-7/status", b"online"),
    ):
        assert it.birth_delay_s(other, lambda: 0.5) is None
    assert set(it.filters) == {"homeassistant/status", it.topic}


# The templates, on real bodies.

AWKWARD = ["person", 'it\'s "big"', "a\\b", "{{ 7 }} %}", "grün 😀", "line\nfeed"]


def event(*labels: str) -> bytes:
    selection = Selection("events")
    seen = [each for seq in range(8) for each in selection.take(result(seq, labels=labels))]
    return composer()(spooled(1, seen[0])).payload


def sent(found) -> bytes:
    return composer()(spooled(1, message_of_result(found))).payload


VALUES = tuple(Value(name, index + 0.5, "%") for index, name in enumerate(AWKWARD))
CASES = [
    ("door_objects", sent(result(1, labels=AWKWARD)), str(len(AWKWARD))),
    ("door_objects", sent(result(1)), "0"),
    *((f"door_count_{index}", sent(result(1, labels=[*AWKWARD, label])), "2") for index, label in enumerate(AWKWARD)),
    ("door_count_0", sent(result(1, detections=[detection("dog")])), "0"),
    ("sorter_class", sent(result(1, best="tabby")), "tabby"),
    ("sorter_class", sent(result(1, best="")), "nothing"),
    ("sorter_class", sent(result(1, best="x" * 300)), "x" * 255),
    ("pump_anomaly", sent(replace(result(1), anomaly=Anomaly(41.5, 30.0, True))), "ON"),
    ("pump_anomaly", sent(replace(result(1), anomaly=Anomaly(4.5, 30.0, False))), "OFF"),
    ("pump_score", sent(replace(result(1), anomaly=Anomaly(41.5, 30.0, True))), "41.5"),
    *((f"load_value_{index}", sent(replace(result(1), values=VALUES)), f"{index}.5") for index in range(len(AWKWARD))),
    ("load_value_0", sent(replace(result(1), values=VALUES[1:])), "None"),
    ("load_value_0", sent(replace(result(1), values=())), "None"),
    ("door_fps", composer().metrics(metrics()).payload, "20.0"),
    ("problem", composer().status("degraded", 0, "why").payload, "ON"),
    ("problem", composer().status("online", 0).payload, "OFF"),
    ("problem", composer().will(3).payload, "OFF"),
]


def components() -> dict:
    return discovery(
        pipeline_info("door", labels=tuple(AWKWARD)),
        pipeline_info("sorter", task="classify"),
        pipeline_info("pump", task="anomaly"),
        pipeline_info("load", task="vector", values=tuple(ValueInfo(name) for name in AWKWARD)),
    )["components"]


def rendered(template: str, payload: bytes) -> str:
    """As Home Assistant renders it: `value_json` is the message."""
    jinja2 = pytest.importorskip("jinja2", reason="jinja2, which renders these templates, is not installed")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    # Home Assistant's own tojson, which does not escape for HTML.
    environment.filters["tojson"] = json.dumps
    return environment.from_string(template).render(value_json=json.loads(payload))


@pytest.mark.parametrize(("key", "payload", "state"), CASES)
def test_a_template_gives_what_the_message_says(key, payload, state):
    assert rendered(components()[key]["value_template"], payload) == state


def test_an_event_is_rendered_as_home_assistant_wants_it():
    component = components()["door_event"]
    told = json.loads(rendered(component["value_template"], event('it\'s "big"')))
    assert told == {"event_type": "appeared", "label": 'it\'s "big"', "count": 1}
    selection = Selection("events")
    (changed,) = [each for seq in range(8) for each in selection.take(result(seq, best="tabby"))]
    told = json.loads(rendered(component["value_template"], composer()(spooled(1, changed)).payload))
    assert told == {"event_type": "class", "label": "tabby", "count": None}
    assert set(component["event_types"]) == {"appeared", "gone", "count", "class"}


def test_a_problem_tells_its_reason():
    template = components()["problem"]["json_attributes_template"]
    assert json.loads(rendered(template, composer().status("degraded", 0, 'it "is"').payload)) == {"reason": 'it "is"'}
    assert json.loads(rendered(template, composer().status("online", 0).payload)) == {"reason": ""}


@pytest.mark.parametrize(
    ("state", "available"),
    [("online", "online"), ("degraded", "online"), ("stopped", "offline"), ("offline", "offline")],
)
def test_a_node_is_available_while_it_is_online_or_degraded(state, available):
    (availability,) = discovery()["availability"]
    assert availability["topic"] == "edgeinfer/v1/pi-7/status"
    payload = composer().will(3).payload if state == "offline" else composer().status(state, 0, "why").payload
    assert rendered(availability["value_template"], payload) == available


def test_every_path_that_a_template_names_is_there_in_a_real_message():
    """Without Jinja: a rough check that needs nothing."""
    bodies = {
        Topics("pi-7").results("door"): sent(result(1, labels=["person"])),
        Topics("pi-7").results("sorter"): sent(result(1, best="tabby")),
        Topics("pi-7").events("door"): event("person"),
        Topics("pi-7").metrics: composer().metrics(metrics()).payload,
        Topics("pi-7").status: composer().status("degraded", 0, "why").payload,
    }
    checked = 0
    for component in components().values():
        payload = bodies.get(component.get("state_topic"))
        for path in re.findall(r"value_json((?:\.\w+)+)", component.get("value_template", "")) if payload else ():
            value = json.loads(payload)
            for name in path.strip(".").split("."):
                value = value[name]
            checked += 1
    assert checked > 10
