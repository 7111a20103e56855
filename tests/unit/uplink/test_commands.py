"""Commands over MQTT: allowed, bounded, once, answered."""

from __future__ import annotations

import json

import pytest

from edgeinfer.clock import Clock
from edgeinfer.errors import UsageError
from edgeinfer.uplink.commands import COMMAND_BYTES_MAX, Commands
from edgeinfer.uplink.publication import Received
from edgeinfer.uplink.topics import Topics

TOPICS = Topics("pi-7")
ALL = ("pause", "resume", "snapshot", "threshold", "reload")


class Pipelines:
    """Two pipelines, and what was done to them."""

    def __init__(self) -> None:
        self.done: list[tuple] = []

    def pause(self, pipeline):
        self._do("pause", pipeline)

    def resume(self, pipeline):
        self._do("resume", pipeline)

    def snapshot(self, pipeline):
        self._do("snapshot", pipeline)

    def set_score_min(self, pipeline, score_min):
        self._do("threshold", pipeline, score_min)

    def reload(self):
        self._do("reload")

    def _do(self, *what):
        if len(what) > 1 and what[1] not in (None, "door", "yard"):
            raise UsageError(f"no pipeline {what[1]!r}", hint="there are door, yard")
        self.done.append(what)


class Desk:
    """Commands at a clock that stands still unless moved."""

    def __init__(self, *, allowed=ALL, controls=None) -> None:
        self.now_ns = 0
        self.pipelines = controls or Pipelines()
        self.commands = Commands(TOPICS, self.pipelines, allowed, clock=Clock(monotonic_ns=lambda: self.now_ns))

    def give(self, name: str, body: object, **more):
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.commands.handle(Received(TOPICS.command(name), payload, **more))

    def answer(self, name: str, body: object, **more) -> dict:
        return json.loads(self.give(name, body, **more).payload)


@pytest.mark.parametrize(
    ("name", "body", "done"),
    [
        ("pause", {"id": "1"}, ("pause", None)),
        ("resume", {"id": "1", "pipeline": "door"}, ("resume", "door")),
        ("snapshot", {"id": "1", "pipeline": "yard"}, ("snapshot", "yard")),
        ("threshold", {"id": "1", "pipeline": "door", "score_min": 0.4}, ("threshold", "door", 0.4)),
        ("reload", {"id": "1"}, ("reload",)),
    ],
)
def test_an_allowed_command_is_carried_out_and_answered_with_its_id(name, body, done):
    desk = Desk()
    assert desk.answer(name, body) == {"id": "1", "ok": True}
    assert desk.pipelines.done == [done]


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_allowed_unless_it_is_said(name):
    desk = Desk(allowed=())
    body = {"id": "1", "pipeline": "door", **({"score_min": 0.5} if name == "threshold" else {})}
    answer = desk.answer(name, body)
    assert (answer["ok"], answer["id"]) == (False, "1")
    assert "not allowed" in answer["error"]
    assert desk.pipelines.done == []
    assert desk.commands.filters == ()


def test_what_is_asked_twice_is_done_once_and_answered_twice():
    desk = Desk()
    assert desk.answer("pause", {"id": "x"}) == desk.answer("pause", {"id": "x"})
    assert desk.pipelines.done == [("pause", None)]
    desk.answer("resume", {"id": "x"})
    desk.answer("pause", {"id": "y"})
    assert desk.pipelines.done == [("pause", None), ("resume", None), ("pause", None)]


def test_the_last_256_ids_are_remembered_and_no_more():
    desk = Desk()
    for number in range(300):
        desk.now_ns += 10**9
        desk.answer("pause", {"id": f"n{number}"})
    desk.now_ns += 10**9
    desk.answer("pause", {"id": "n299"})
    assert len(desk.pipelines.done) == 300
    desk.answer("pause", {"id": "n0"})
    assert len(desk.pipelines.done) == 301


def test_a_retained_command_is_ignored(caplog):
    desk = Desk()
    assert desk.give("pause", {"id": "1"}, retain=True) is None
    assert desk.pipelines.done == []
    assert "retained command" in caplog.text


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("pause", b"", "pause"),
        ("pause", b"\xff", "pause"),
        ("pause", b"[" * 4000, "pause"),
        ("pause", {}, "id"),
        ("pause", {"id": ""}, "id"),
        ("pause", {"id": "x" * 65}, "id"),
        ("pause", {"id": "a\nb"}, "id"),
        ("pause", {"id": 1}, "id"),
        ("pause", {"id": "1", "now": True}, "now"),
        ("pause", {"id": "1", "pipeline": ""}, "pipeline"),
        ("threshold", {"id": "1", "score_min": 0.5}, "pipeline"),
        ("threshold", {"id": "1", "pipeline": "door", "score_min": 1.01}, "score_min"),
        ("threshold", {"id": "1", "pipeline": "door", "score_min": "0.5"}, "score_min"),
        ("threshold", b'{"id":"1","pipeline":"door","score_min":NaN}', "threshold"),
        ("pauze", {"id": "1"}, "no command 'pauze'"),
        ("pause", b" " * (COMMAND_BYTES_MAX + 1), "too many"),
    ],
)
def test_what_makes_no_sense_is_answered_with_one_line_and_not_done(name, body, said):
    desk = Desk()
    answer = desk.answer(name, body)
    assert (answer["ok"], answer["id"]) == (False, "")
    assert said in answer["error"]
    assert "\n" not in answer["error"]
    assert desk.pipelines.done == []


def test_what_cannot_be_done_is_answered_with_the_reason():
    answer = Desk().answer("pause", {"id": "1", "pipeline": "attic"})
    assert answer == {"id": "1", "ok": False, "error": "no pipeline 'attic'; there are door, yard"}


def test_a_bug_behind_a_command_is_answered_too_and_stops_nothing(caplog):
    class Broken(Pipelines):
        def reload(self):
            raise ZeroDivisionError("oh")

    desk = Desk(controls=Broken())
    answer = desk.answer("reload", {"id": "1"})
    assert answer["error"] == "a bug in edgeinfer: ZeroDivisionError"
    assert "Traceback" in caplog.text
    assert desk.answer("pause", {"id": "2"})["ok"]


def test_ten_at_once_and_five_a_second_are_taken_and_the_rest_is_counted(caplog):
    desk = Desk()
    taken = sum(desk.give("pause", {"id": f"a{number}"}) is not None for number in range(50))
    assert (taken, desk.commands.ignored) == (10, 40)
    desk.now_ns += 10**9
    assert sum(desk.give("pause", {"id": f"b{number}"}) is not None for number in range(50)) == 5
    assert len(desk.pipelines.done) == 15
    assert caplog.text.count("the rest is ignored") == 1


def test_an_answer_goes_to_the_topic_beside_the_command():
    answer = Desk().give("pause", {"id": "1"})
    assert (answer.topic, answer.retain, answer.correlation) == ("edgeinfer/v1/pi-7/cmd/pause/answer", False, None)


def test_a_response_topic_and_its_correlation_are_honoured():
    answer = Desk().give("pause", {"id": "1"}, response_topic="my/answers", correlation=b"\x01\x02")
    assert (answer.topic, answer.correlation) == ("my/answers", b"\x01\x02")


def test_a_response_topic_that_would_speak_for_the_node_is_not():
    answer = Desk().give("pause", {"id": "1"}, response_topic="edgeinfer/v1/pi-7/status", correlation=b"c")
    assert (answer.topic, answer.correlation) == ("edgeinfer/v1/pi-7/cmd/pause/answer", b"c")


@pytest.mark.parametrize(
    "topic", ["edgeinfer/v1/pi-8/cmd/pause", "edgeinfer/v1/pi-7/cmd/pause/answer", "edgeinfer/v1/pi-7/ack", "else"]
)
def test_what_is_no_command_to_this_node_is_left(topic):
    desk = Desk()
    assert desk.commands.handle(Received(topic, b'{"id":"1"}')) is None
    assert desk.pipelines.done == []


def test_only_commands_are_subscribed_to_and_not_their_answers():
    assert Desk().commands.filters == ("edgeinfer/v1/pi-7/cmd/+",)
