"""docs/schemas against what is really sent and taken: every body fits, and nothing is in it that they do not name."""

from __future__ import annotations

import json
from functools import cache

import jsonschema
import msgspec
import pytest
from referencing import Registry, Resource
from sightings import (
    EPOCH,
    SCHEMAS,
    composer,
    detection,
    gap,
    meta,
    metrics,
    pipeline_info,
    result,
    slot_model,
    spooled,
)

from edgeinfer import run
from edgeinfer.event import Happening
from edgeinfer.result import Inner, ModelInfo, RunLengths, Segment
from edgeinfer.uplink.bodies import Ack, Answer, Command, SlotModel, ThresholdCommand, ValueInfo
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.messages import write_ack
from edgeinfer.uplink.selection import Selection, message_of_result

NAMES = sorted(path.stem for path in SCHEMAS.glob("*.json"))


@cache
def schemas() -> dict[str, dict]:
    return {name: json.loads((SCHEMAS / f"{name}.json").read_text()) for name in NAMES}


def closed(schema):
    """The schema such that a property which it does not name is an error."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        inner.setdefault("additionalProperties", False)
    return inner


@cache
def validator(name: str, *, strict: bool = False) -> jsonschema.Draft202012Validator:
    all_of_them = {key: closed(each) if strict else each for key, each in schemas().items()}
    # Nothing is fetched: the schemas name one another, and lie side by side.
    registry = Registry().with_resources((each["$id"], Resource.from_contents(each)) for each in all_of_them.values())
    return jsonschema.Draft202012Validator(all_of_them[name], registry=registry)


def faults(name: str, body: object, *, strict: bool = False) -> list[str]:
    return [
        f"{'/'.join(map(str, error.path))}: {error.message}"
        for error in validator(name, strict=strict).iter_errors(body)
    ]


def event_bodies(*results) -> list[dict]:
    selection = Selection("events")
    return [json.loads(message.data) for each in results for message in selection.take(each)]


SEGMENTER = ModelInfo("deeplab", "1", "cd" * 32), "litert:cpu"
PARTS = {
    "segments": (
        Segment("person", 15, 0.04, mask=RunLengths(2, 2, (1, 3))),
        Segment("coat", 1, 0.01, score=0.5, box_xyxy=(0.25, 0.25, 0.5, 0.5)),
    ),
    "crop_xyxy": (0.25, 0.25, 0.75, 0.75),
}
RESULTS = {
    "objects": result(1, labels=["person", "dog"]),
    "nothing": result(2),
    "tracks": result(3, detections=[detection("person", track_id=4)]),
    "a class": result(4, best="tabby"),
    "no class": result(5, best=""),
    "reused": result(6, labels=["dog"], reused=True, inferred_seq=3, inferred_age_ms=300.0),
    "of a file": result(7, labels=["dog"], position_s=0.28),
    "a stage": result(
        8, detections=[msgspec.structs.replace(detection("person"), inner=(Inner("parts", *SEGMENTER, **PARTS),))]
    ),
}
COUNTED = event_bodies(
    *(result(seq, labels=labels) for seq, labels in enumerate([["dog"]] * 8 + [["dog"] * 2] * 8 + [[]] * 8))
)
STEP = Happening(
    node="pi-7",
    pipeline="door",
    occurred_at="2026-11-18T11:06:40.000000Z",
    kind="model",
    label="detector",
    step="rolled_back",
    release=5,
    who="node",
    reason="pipeline door: its p95 is 30.0 ms, at most 7.5 ms are allowed",
)
STEPPED = msgspec.to_builtins(STEP)
CLASSED = event_bodies(*(result(seq, best=best) for seq, best in enumerate(["cat"] * 8 + [""] * 8)))


@pytest.mark.parametrize("name", NAMES)
def test_each_schema_is_one_of_2020_12_and_bears_its_name(name):
    schema = schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:edgeinfer:{name}:1"
    assert schema["title"]


@pytest.mark.parametrize("what", RESULTS)
@pytest.mark.parametrize("strict", [False, True])
def test_a_result_of_any_form_fits_alone_and_in_its_envelope(what, strict):
    line = RESULTS[what].to_json()
    assert faults("result", json.loads(line), strict=strict) == []
    event = json.loads(composer()(spooled(41, message_of_result(RESULTS[what])), True).payload)
    assert faults("cloudevent", event, strict=strict) == []


def test_results_of_a_real_model_fit():
    seen = list(run("blood-cells", "synthetic://blood-smear?frames=3", device="cpu"))
    assert sum(len(each.detections) for each in seen) > 10
    for each in seen:
        event = json.loads(composer(each.node)(spooled(1, message_of_result(each))).payload)
        assert faults("cloudevent", event, strict=True) == []


def test_events_of_each_kind_fit():
    assert [each["kind"] for each in COUNTED] == ["appeared", "count", "gone"]
    assert [each["kind"] for each in CLASSED] == ["class", "class"]
    for body in [*COUNTED, *CLASSED, STEPPED]:
        assert faults("event", body, strict=True) == []


def test_all_that_a_node_says_of_itself_fits():
    compose = composer()
    told = [
        compose.will(4),
        compose.status("online", 0),
        compose.status("degraded", 0, "door: down"),
        compose.status("stopped", 0),
        composer(epoch="").status("degraded", 0, "the spool cannot be opened"),
        compose.meta(
            meta(
                pipeline_info(),
                pipeline_info("yard", send="none", labels=(), snapshot=None, send_rate=2.0),
                pipeline_info("load", labels=(), values=(ValueInfo("load", "%"), ValueInfo("rest"))),
            )
        ),
        compose.metrics(metrics()),
        compose.model(slot_model()),
        compose.model(SlotModel(slot="detector", state="idle", floor=0, pipelines=())),
        compose(gap(5, 9), True),
        compose(spooled(7, Message("event", "door", 0, "synced", msgspec.json.encode(STEP)))),
    ]
    for publication in told:
        assert faults("cloudevent", json.loads(publication.payload), strict=True) == [], publication.topic


def test_what_goes_to_a_node_fits_and_so_does_its_answer():
    bodies = [
        ("ack", json.loads(write_ack(Ack(EPOCH, 7)))),
        ("ack", json.loads(write_ack(Ack("", 0, resume=True)))),
        ("command", msgspec.to_builtins(Command(id="a1"))),
        ("command", msgspec.to_builtins(Command(id="a1", pipeline="door"))),
        ("threshold", msgspec.to_builtins(ThresholdCommand(id="a1", pipeline="door", score_min=0.4))),
        ("answer", msgspec.to_builtins(Answer(id="a1", ok=True))),
        ("answer", msgspec.to_builtins(Answer(id="", ok=False, error="no"))),
    ]
    for name, body in bodies:
        assert faults(name, body, strict=True) == []


EVENT = json.loads(composer()(spooled(41)).payload)
STATUS = json.loads(composer().status("online", 0).payload)
RESULT = json.loads(RESULTS["objects"].to_json())
METRICS = msgspec.to_builtins(metrics())
SLOT = msgspec.to_builtins(slot_model())


def without(body: dict, *names: str) -> dict:
    return {name: value for name, value in body.items() if name not in names}


def with_box(*box: float) -> dict:
    return RESULT | {"detections": [RESULT["detections"][0] | {"box_xyxy": list(box)}]}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("result", RESULT | {"schema": "edgeinfer.result/2"}),
        ("result", without(RESULT, "device")),
        ("result", without(RESULT, "detections")),
        ("result", with_box(0.1, 0.2, 0.3)),
        ("result", with_box(0.1, 0.2, 0.3, 1.5)),
        ("result", RESULT | {"reused": True}),
        ("result", RESULT | {"captured_at": "yesterday"}),
        ("result", RESULT | {"model": RESULT["model"] | {"sha256": "short"}}),
        ("cloudevent", EVENT | {"specversion": "1.1"}),
        ("cloudevent", EVENT | {"id": "41"}),
        ("cloudevent", EVENT | {"type": "edgeinfer.result.v9"}),
        ("cloudevent", EVENT | {"replay": False}),
        ("cloudevent", EVENT | {"Done_Seq": "1"}),
        ("cloudevent", without(EVENT, "time")),
        ("cloudevent", without(EVENT, "done")),
        ("cloudevent", EVENT | {"data": without(RESULT, "node")}),
        ("cloudevent", EVENT | {"dataschema": "urn:edgeinfer:event:1"}),
        ("cloudevent", STATUS | {"id": f"{EPOCH}-4"}),
        ("cloudevent", STATUS | {"data": STATUS["data"] | {"state": "fine"}}),
        ("status", without(STATUS["data"], "since")),
        ("status", STATUS["data"] | {"state": "degraded"}),
        ("status", STATUS["data"] | {"state": "offline"}),
        ("event", COUNTED[0] | {"count": 0}),
        ("event", COUNTED[2] | {"count": 2}),
        ("event", COUNTED[1] | {"kind": "appeared"}),
        ("event", without(CLASSED[0], "previous")),
        ("event", CLASSED[0] | {"count": 1}),
        ("event", without(STEPPED, "step")),
        ("event", STEPPED | {"count": 1}),
        ("event", STEPPED | {"label": "Detector"}),
        ("event", COUNTED[0] | {"step": "trial"}),
        ("event", without(COUNTED[0], "seq")),
        ("model", SLOT | {"state": "fine"}),
        ("model", SLOT | {"slot": "a/b"}),
        ("model", SLOT | {"release": -1}),
        ("model", SLOT | {"shadow": SLOT["shadow"] | {"agreement": 1.5}}),
        ("gap", {"first": 0, "last": 3, "reason": "full"}),
        ("gap", {"first": 1, "last": 3, "reason": ""}),
        ("meta", without(msgspec.to_builtins(meta()), "board")),
        ("metrics", METRICS | {"temperatures_c": {"cpu": "hot"}}),
        ("metrics", METRICS | {"pipelines": {"door": {"frames": -1, "fps": 1.0, "dropped": {}}}}),
        ("ack", {"epoch": "x", "seq": 1}),
        ("ack", {"epoch": EPOCH, "seq": 1, "more": 1}),
        ("command", {"id": ""}),
        ("command", {"id": "a b"}),
        ("threshold", {"id": "a1", "pipeline": "door", "score_min": 1.5}),
        ("answer", {"id": "a1", "ok": False}),
        ("answer", {"id": "a1", "ok": True, "error": "no"}),
    ],
)
def test_what_is_wrong_is_found(name, wrong):
    assert faults(name, wrong)


def test_a_field_of_a_later_version_is_no_fault():
    assert faults("cloudevent", EVENT | {"traceparent": "00-x", "data": RESULT | {"segments": []}}) == []
