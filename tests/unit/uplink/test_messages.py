"""CloudEvents around what the spool holds, and read again."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone

import pytest
from sightings import BEGAN_UNIX_NS, EPOCH, composer, gap, meta, metrics, result, spooled

from edgeinfer.clock import rfc3339, unix_ns_of
from edgeinfer.uplink.bodies import Ack
from edgeinfer.uplink.message import Gap, Message
from edgeinfer.uplink.messages import (
    PAYLOAD_BYTES_MAX,
    BadMessage,
    read_ack,
    read_envelope,
    read_meta,
    read_metrics,
    read_numbered,
    read_status,
    write_ack,
)
from edgeinfer.uplink.selection import message_of_result


def body(publication):
    return json.loads(publication.payload)


def numbered(payload: bytes, pipeline: str = "door"):
    return read_numbered(read_envelope(payload), "pi-7", pipeline)


def test_a_result_is_a_cloudevent_with_its_line_as_data():
    seen = result(12, labels=["person"])
    publication = composer(done=40)(spooled(41, message_of_result(seen)))
    assert publication.topic == "edgeinfer/v1/pi-7/results/door"
    assert publication.content_type.startswith("application/cloudevents+json")
    assert (publication.qos, publication.retain) == (1, False)
    assert body(publication) == {
        "specversion": "1.0",
        "type": "edgeinfer.result.v1",
        "source": "/edgeinfer/pi-7/door",
        "id": f"{EPOCH}-41",
        "time": seen.captured_at,
        "datacontenttype": "application/json",
        "dataschema": "urn:edgeinfer:result:1",
        "clock": "synced",
        "done": "40",
        "data": json.loads(seen.to_json()),
    }


def test_the_line_is_put_in_as_it_is():
    line = b'{"a" : 1.50, "b":[ ]}'
    payload = composer()(spooled(1, Message("result", "door", 0, "unsynced", line))).payload
    assert payload.endswith(b',"data":' + line + b"}")
    assert json.loads(payload)["clock"] == "unsynced"


def test_what_was_sent_before_or_accepted_before_this_connection_is_a_replay():
    compose = composer()
    assert "replay" not in body(compose(spooled(7)))
    assert body(compose(spooled(7), True))["replay"] is True
    compose.connected(session=4, last_seq=7)
    assert body(compose(spooled(7)))["replay"] is True
    assert "replay" not in body(compose(spooled(8)))


def test_names_that_need_it_are_escaped_in_the_source_too():
    odd = composer('no"de/ü')(spooled(1, Message("result", "a b\\", 0, "synced", b"{}")))
    assert body(odd)["source"] == "/edgeinfer/no%22de%2F%C3%BC/a%20b%5C"


def test_as_many_pipelines_as_there_may_be_keep_their_topics_apart():
    compose = composer()
    for _ in range(2):
        for name in range(600):
            publication = compose(spooled(1, Message("event", f"p{name}", 0, "synced", b"{}")))
            assert publication.topic.endswith(f"/events/p{name}")
            assert body(publication)["source"].endswith(f"/p{name}")


def test_what_is_composed_reads_back_as_it_was():
    seen = result(12, labels=["person", "dog"])
    got = numbered(composer(done=3)(spooled(41, message_of_result(seen)), True).payload)
    assert (got.channel, got.node, got.pipeline) == ("result", "pi-7", "door")
    assert (got.epoch, got.seq, got.done, got.replay, got.clock) == (EPOCH, 41, 3, True, "synced")
    assert got.data == seen
    assert got.body == seen.to_json()
    assert numbered(composer()(gap(5, 9)).payload).data == Gap(5, 9, "full")


def test_a_will_says_offline_and_no_time_since_nobody_knows_it_yet():
    will = composer().will(8)
    assert will.topic == "edgeinfer/v1/pi-7/status"
    assert will.retain
    assert "time" not in body(will)
    assert body(will)["data"] == {"state": "offline", "session": 8, "epoch": EPOCH}


def test_a_status_is_kept_and_bears_session_and_reason():
    compose = composer(session=8)
    told = compose.status("degraded", BEGAN_UNIX_NS, "door: litert:edgetpu does not answer")
    assert told.retain
    status = read_status(told.payload)
    assert (status.state, status.session, status.reason) == ("degraded", 8, "door: litert:edgetpu does not answer")
    assert status.since == rfc3339(BEGAN_UNIX_NS)


def test_meta_is_kept_and_metrics_are_not():
    compose = composer()
    assert compose.meta(meta()).retain
    assert not compose.metrics(metrics()).retain
    assert read_meta(compose.meta(meta()).payload) == meta()
    assert read_metrics(compose.metrics(metrics()).payload) == metrics()


def test_no_two_messages_of_a_node_bear_the_same_id():
    compose = composer()
    told = [
        compose.will(3),
        compose.will(4),
        compose.status("online", 0),
        compose.meta(meta()),
        compose.metrics(metrics()),
    ]
    told += [compose.status("degraded", 0, "why"), compose.meta(meta()), compose.metrics(metrics())]
    compose.connected(session=4, last_seq=0)
    told += [compose.status("online", 0), compose(spooled(1)), compose(gap(2, 3))]
    assert len({(body(each)["source"], body(each)["id"]) for each in told}) == len(told)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it | {"specversion": "0.3"}, "specversion"),
        (lambda it: it | {"id": "41"}, "EPOCH-SEQ"),
        (lambda it: it | {"id": f"{EPOCH}-0"}, "EPOCH-SEQ"),
        (lambda it: it | {"id": f"{EPOCH}-041"}, "EPOCH-SEQ"),
        (lambda it: it | {"id": f"{EPOCH}-{10**30}"}, "EPOCH-SEQ"),
        (lambda it: it | {"id": f"{EPOCH.upper()}-4"}, "EPOCH-SEQ"),
        (lambda it: it | {"type": "edgeinfer.result.v2"}, "not known to this version"),
        (lambda it: it | {"done": "-1"}, "done"),
        (lambda it: it | {"done": 3}, "done"),
        (lambda it: it | {"clock": "wound"}, "clock"),
        (lambda it: it | {"replay": "yes"}, "replay"),
        (lambda it: it | {"data": []}, "edgeinfer.result.v1"),
        (lambda it: it | {"data": it["data"] | {"seq": "12"}}, "seq"),
        (lambda it: {name: value for name, value in it.items() if name != "data"}, "data"),
    ],
)
def test_a_message_that_is_not_ours_is_refused_in_one_line(change, said):
    whole = body(composer()(spooled(41)))
    with pytest.raises(BadMessage, match=re.escape(said)) as refused:
        numbered(json.dumps(change(whole)).encode())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 100_000, b"null", b'{"id":"' + b"\xed\xa0\x80" + b'"}'])
def test_rubbish_is_refused(payload):
    with pytest.raises(BadMessage):
        read_envelope(payload)


def test_a_payload_beyond_bounds_is_not_even_parsed():
    with pytest.raises(BadMessage, match="too many"):
        read_envelope(b" " * (PAYLOAD_BYTES_MAX + 1))


def test_attributes_and_fields_of_a_later_version_are_left():
    whole = body(composer()(spooled(41)))
    later = whole | {"traceparent": "00-x", "data": whole["data"] | {"segments": []}}
    assert numbered(json.dumps(later).encode()).seq == 41


@pytest.mark.parametrize("wrong", [{"first": 9, "last": 5}, {"first": 0, "last": 9}, {"first": 5, "last": 8}])
def test_a_gap_that_does_not_end_at_its_number_is_refused(wrong):
    whole = body(composer()(gap(5, 9)))
    with pytest.raises(BadMessage, match="does not end at its own number"):
        numbered(json.dumps(whole | {"data": wrong | {"reason": "full"}}).encode())


def test_a_status_is_not_taken_for_a_meta():
    with pytest.raises(BadMessage, match=r"edgeinfer\.status\.v1"):
        read_meta(composer().status("online", 0).payload)


def test_an_acknowledgement_reads_back_and_a_wrong_one_is_refused():
    assert read_ack(write_ack(Ack(EPOCH, 7))) == Ack(EPOCH, 7)
    assert read_ack(b'{"epoch":"","seq":0,"resume":true}') == Ack("", 0, resume=True)
    for wrong in (b'{"epoch":"x","seq":1}', b'{"epoch":"","seq":-1}', b'{"epoch":"","seq":1e3}', b"{}", b" " * 600):
        with pytest.raises(BadMessage):
            read_ack(wrong)


@pytest.mark.parametrize("unix_ns", [0, 1_000, BEGAN_UNIX_NS + 123_456_000, 4_102_444_800_000_000_000])
def test_a_time_reads_back_to_the_microsecond(unix_ns):
    assert unix_ns_of(rfc3339(unix_ns)) == unix_ns
    assert datetime.fromtimestamp(unix_ns // 10**9, tz=timezone.utc).isoformat()[:19] == rfc3339(unix_ns)[:19]


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        unix_ns_of("2026-11-22T04:00:00")
