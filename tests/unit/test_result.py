import json
import os

import msgspec
import pytest

from edgeinfer.clock import Clock, ClockWatch, rfc3339
from edgeinfer.result import Detection, IdMaker, ModelInfo, Result, SourceInfo, Timing, as_utf8

A_RESULT = Result(
    id="01J00000000000000000000000",
    node="pi-7",
    pipeline="door",
    seq=12,
    captured_at="2026-11-22T04:00:00.123456Z",
    clock="unsynced",
    monotonic_ns=1,
    source=SourceInfo(uri="/dev/video0", width=768, height=432),
    model=ModelInfo(name="ssd", version="3", sha256="ab"),
    device="litert:cpu",
    task="detect",
    detections=(Detection(label="person", class_id=0, score=0.91, box_xyxy=(0.1, 0.2, 0.3, 0.9)),),
    timing_ms=Timing(wait=0.1, preprocess=0.2, infer=5.1, decode=0.1, age=6.0),
)


def test_a_result_is_one_json_line_in_the_documented_form():
    line = A_RESULT.to_json()
    assert b"\n" not in line
    assert json.loads(line) == {
        "schema": "edgeinfer.result/1",
        "id": "01J00000000000000000000000",
        "node": "pi-7",
        "pipeline": "door",
        "seq": 12,
        "captured_at": "2026-11-22T04:00:00.123456Z",
        "clock": "unsynced",
        "monotonic_ns": 1,
        "source": {"uri": "/dev/video0", "width": 768, "height": 432},
        "model": {"name": "ssd", "version": "3", "sha256": "ab"},
        "device": "litert:cpu",
        "task": "detect",
        "detections": [{"label": "person", "class_id": 0, "score": 0.91, "box_xyxy": [0.1, 0.2, 0.3, 0.9]}],
        "timing_ms": {"wait": 0.1, "preprocess": 0.2, "infer": 5.1, "decode": 0.1, "age": 6.0},
    }


def test_a_result_reads_back_as_it_was():
    assert msgspec.json.decode(A_RESULT.to_json(), type=Result) == A_RESULT


def test_nothing_found_is_an_empty_list_and_not_a_missing_field():
    empty = msgspec.structs.replace(A_RESULT, detections=())
    assert json.loads(empty.to_json())["detections"] == []


def test_the_position_in_a_file_is_given_where_there_is_one():
    assert json.loads(msgspec.structs.replace(A_RESULT, position_s=1.5).to_json())["position_s"] == 1.5


def test_a_file_name_that_is_no_utf8_can_be_written():
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.jpg")
    assert as_utf8(name) == "caf\ufffd é.jpg"
    assert as_utf8("plain") == "plain"
    msgspec.structs.replace(A_RESULT, source=SourceInfo(as_utf8(name), 1, 1)).to_json()


def test_ids_are_unique_and_sorted_within_one_millisecond():
    new_id = IdMaker(lambda: 1_700_000_000_000_000_000)
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {26}


def test_ids_keep_increasing_when_the_wall_clock_goes_back():
    times = iter([2_000_000_000_000_000_000, 1_000_000_000_000_000_000, 2_000_000_001_000_000_000])
    new_id = IdMaker(lambda: next(times))
    first, second, third = new_id(), new_id(), new_id()
    assert first < second < third


def test_an_id_begins_with_its_time():
    # The timestamp part of the example in the ULID specification.
    assert IdMaker(lambda: 1_469_918_176_385_000_000)()[:10] == "01ARYZ6S41"


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_795_320_000_123_456_789, "2026-11-22T04:00:00.123456Z"),
    ],
)
def test_wall_time_is_written_in_utc_with_microseconds(unix_ns, text):
    assert rfc3339(unix_ns) == text


def test_the_kernel_is_asked_about_its_clock_at_most_once_a_minute(monkeypatch):
    seconds = iter(range(180))
    asked = []
    monkeypatch.setattr("edgeinfer.clock._kernel_clock_state", lambda: asked.append(1) or "synced")
    watch = ClockWatch(Clock(monotonic_ns=lambda: next(seconds) * 1_000_000_000))
    assert {watch.state() for _ in range(180)} == {"synced"}
    assert len(asked) == 3


def test_the_kernel_answers_about_its_clock():
    assert ClockWatch(Clock()).state() in ("synced", "unsynced")


def test_ids_increase_where_the_lower_part_of_the_random_number_is_full(monkeypatch):
    monkeypatch.setattr("edgeinfer.result.secrets.randbits", lambda bits: (5 << 30) + (1 << 30) - 2)
    new_id = IdMaker(lambda: 1_469_918_176_385_000_000)
    ids = [new_id() for _ in range(3)]
    assert [each[-16:] for each in ids] == ["0000000005ZZZZZZ", "0000000006000000", "0000000006000001"]
