"""Names of topics, made and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.errors import UsageError
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.topics import Place, Topics, filters, level, may_be_answered_at, place_of


def message(channel: str) -> Message:
    return Message(channel, "door", 0, "synced", b"{}")


def test_a_message_goes_to_the_topic_of_its_channel_and_pipeline():
    topics = Topics("pi-7")
    assert topics.topic_of(message("result")) == "edgeinfer/v1/pi-7/results/door"
    assert topics.topic_of(message("event")) == "edgeinfer/v1/pi-7/events/door"
    assert topics.topic_of(message("gap")) == "edgeinfer/v1/pi-7/gaps"


def test_a_name_of_plain_letters_is_its_own_level():
    assert level("Pi-7.yard_2") == "Pi-7.yard_2"


@pytest.mark.parametrize("name", ["a/b", "+", "#", "$SYS", "tür", "a b", "\0", "%2F", "."])
def test_no_name_makes_a_wildcard_a_further_level_or_a_system_topic(name):
    written = level(name)
    assert not set(written) & set("/+#$\0 ")
    assert place_of(f"edgeinfer/v1/{written}/status") == Place(name, "status", "")


@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.text(min_size=1).filter(str.isprintable))
def test_two_names_never_share_a_topic(one, other):
    assert (level(one) == level(other)) == (one == other)


def test_an_empty_name_is_refused():
    with pytest.raises(UsageError, match="empty name"):
        Topics("")


@pytest.mark.parametrize("prefix", ["", "/a", "a/", "a//b", "a/+", "#", "$SYS/a", "a\0"])
def test_a_prefix_that_is_no_plain_topic_is_refused(prefix):
    with pytest.raises(UsageError, match="topic prefix"):
        Topics("pi-7", prefix)


@pytest.mark.parametrize(
    ("topic", "place"),
    [
        ("edgeinfer/v1/pi-7/status", Place("pi-7", "status", "")),
        ("edgeinfer/v1/pi-7/results/front%2Fdoor", Place("pi-7", "results", "front/door")),
        ("edgeinfer/v1/pi-7/cmd/pause", Place("pi-7", "cmd", "pause")),
        ("edgeinfer/v1/pi-7/cmd/pause/answer", Place("pi-7", "cmd", "pause", is_answer=True)),
        ("edgeinfer/v1/pi-7/status/door", None),
        ("edgeinfer/v1/pi-7/results", None),
        ("edgeinfer/v1/pi-7/results/", None),
        ("edgeinfer/v1/pi-7/cmd/pause/other", None),
        ("edgeinfer/v1/pi-7/results/door/answer", None),
        ("edgeinfer/v1/pi-7/else/door", None),
        ("edgeinfer/v1/pi-7", None),
        ("edgeinfer/v1//status", None),
        ("edgeinfer/v10/pi-7/status", None),
        ("else/pi-7/status", None),
    ],
)
def test_a_topic_says_node_kind_and_name_or_is_none_of_ours(topic, place):
    assert place_of(topic) == place


def test_filters_are_for_all_nodes_and_pipelines_unless_one_is_named():
    assert filters(["status", "results"]) == ("edgeinfer/v1/+/status", "edgeinfer/v1/+/results/+")
    assert filters(["events"], node="a b", name="door", prefix="x") == ("x/a%20b/events/door",)


def test_who_gives_a_command_cannot_have_the_node_speak_on_another_topic_of_ours():
    topics = Topics("pi-7")
    assert may_be_answered_at("my/own/answers", topics)
    assert may_be_answered_at(topics.answer("pause"), topics)
    for topic in (
        topics.status,
        topics.ack,
        "edgeinfer/v1/pi-8/status",
        "edgeinfer/v1/pi-7/cmd/pause",
        "edgeinfer/v1/x",
    ):
        assert not may_be_answered_at(topic, topics)
    for topic in ("", "a/+", "a/#", "$SYS/x", "a\0", "x" * 70_000):
        assert not may_be_answered_at(topic, topics)
