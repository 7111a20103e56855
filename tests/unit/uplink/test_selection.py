"""Which results are sent, and what becomes an event; time is that of the results."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from sightings import BEGAN_UNIX_NS, detection, result

from edgeinfer.event import Happening
from edgeinfer.result import Anomaly, Result
from edgeinfer.uplink.selection import Selection, state_of

RATES = [0.5, 2.0, 7.0, 30.0]


def seqs(messages) -> list[int]:
    return [msgspec.json.decode(each.data, type=Result).seq for each in messages if each.channel == "result"]


def sent(selection: Selection, results) -> list[int]:
    return seqs(message for each in results for message in selection.take(each))


def happenings(results) -> list[tuple]:
    selection = Selection("events")
    events = [msgspec.json.decode(each.data, type=Happening) for r in results for each in selection.take(r)]
    return [(each.kind, each.label, each.before, each.count, each.seq) for each in events]


def frames(*labels: str, begin: int = 0) -> list[Result]:
    """A frame for each word; each of its letters is an object."""
    return [result(begin + index, labels=list(word)) for index, word in enumerate(labels)]


def test_all_sends_every_result_as_it_is():
    seen = result(3, labels=["person"])
    (message,) = Selection("all").take(seen)
    assert message.data == seen.to_json()
    assert (message.channel, message.pipeline, message.clock) == ("result", "door", "synced")
    assert message.unix_ns == BEGAN_UNIX_NS + 300_000_000


def test_none_sends_nothing_and_events_no_result():
    results = frames(*"aaaaaaaaaa")
    assert [message for each in results for message in Selection("none").take(each)] == []
    selection = Selection("events")
    assert {message.channel for each in results for message in selection.take(each)} == {"event"}


def test_changes_sends_the_first_and_then_what_differs_from_the_last_sent():
    assert sent(Selection("changes"), frames("a", "a", "ab", "ba", "b", "", "", "b")) == [0, 2, 4, 5, 7]


def test_a_place_or_a_score_is_no_change_and_a_track_is():
    here, there = detection("dog", score=0.5, left=0.1), detection("dog", score=0.9, left=0.4)
    assert state_of(result(detections=[here])) == state_of(result(detections=[there]))
    one, other = (detection("dog", track_id=number) for number in (1, 2))
    assert state_of(result(detections=[one])) != state_of(result(detections=[other]))
    assert state_of(result(detections=[one, other])) == state_of(result(detections=[other, one]))


def test_of_classes_the_best_counts():
    results = [result(seq, best=best) for seq, best in enumerate(["cat", "cat", "dog", "", "", "dog"])]
    assert sent(Selection("changes"), results) == [0, 2, 3, 5]


def test_an_anomaly_that_comes_or_goes_is_a_change_and_its_score_is_none():
    scores = [0.1, 0.2, 0.9, 0.8, 0.3]
    results = [
        result(number, anomaly=Anomaly(score, 0.5, is_anomaly=score > 0.5)) for number, score in enumerate(scores)
    ]
    assert sent(Selection("changes"), results) == [0, 2, 4]


def test_changes_sends_an_unchanged_result_each_minute_to_show_that_it_lives():
    results = [result(seq, at_s=seq * 10.0, labels=["a"]) for seq in range(20)]
    assert sent(Selection("changes"), results) == [0, 6, 12, 18]


def test_a_reused_result_changes_nothing():
    seen = frames("a", "a")
    again = result(2, labels=["a"], reused=True, inferred_seq=1, inferred_age_ms=100.0)
    assert sent(Selection("changes"), [*seen, again]) == [0]


@pytest.mark.parametrize("rate", RATES)
def test_no_more_than_the_rate_is_sent_and_not_much_less(rate):
    results = [result(seq, at_s=seq / 25) for seq in range(2500)]
    selection = Selection("all", rate)
    due = [(seq, each.monotonic_ns) for each in results for seq in seqs(selection.take(each))]
    assert len(due) == pytest.approx(min(25, rate) * 100, rel=0.02, abs=1)
    # Of any second on end: none holds more than the rate, but for the one that may begin early.
    times = [time_ns for _, time_ns in due]
    for begin in times:
        assert sum(1 for time_ns in times if begin <= time_ns < begin + 10_000_000_000) <= rate * 10 + 1


def test_what_a_silence_left_unsent_is_not_made_up_for_in_a_burst():
    selection = Selection("all", 2.0)
    assert sent(selection, [result(0, at_s=0.0)]) == [0]
    assert sent(selection, [result(seq, at_s=60 + seq / 10) for seq in range(1, 12)]) == [1, 6, 11]


def test_the_newest_of_those_held_back_is_sent_when_its_time_comes():
    selection = Selection("all", 1.0)
    assert sent(selection, [result(seq, at_s=seq / 10) for seq in range(5)]) == [0]
    now_ns = result(5, at_s=0.5).monotonic_ns
    assert selection.wait_s(now_ns) == pytest.approx(0.5)
    assert selection.due(now_ns) == []
    assert seqs(selection.due(now_ns + 500_000_000)) == [4]
    assert selection.due(now_ns + 5_000_000_000) == []
    assert selection.wait_s(now_ns) is None


def test_the_last_state_is_told_at_the_end():
    selection = Selection("all", 1.0)
    assert sent(selection, [result(seq, at_s=seq / 10) for seq in range(5)]) == [0]
    assert seqs(selection.finish()) == [4]
    assert selection.finish() == []


def test_a_change_that_was_undone_before_its_time_is_not_sent():
    selection = Selection("changes", 1.0)
    assert sent(selection, frames("a", "ab", "a")) == [0]
    assert selection.due(result(100).monotonic_ns) == []


def test_the_last_of_several_changes_is_sent_when_its_time_comes():
    selection = Selection("changes", 1.0)
    assert sent(selection, frames("a", "b", "c", "c")) == [0]
    assert seqs(selection.due(result(10).monotonic_ns)) == [3]
    assert sent(selection, frames("c", begin=11)) == []


def test_the_same_results_give_the_same_messages():
    words = ["a", "ab", "", "b", "ba", "a", "a"] * 20
    one, other = ([each for r in frames(*words) for each in Selection("changes", 3.0).take(r)] for _ in range(2))
    assert one == other


def test_an_object_that_stands_for_half_a_second_has_appeared_when_it_was_first_seen():
    assert happenings(frames("", "a", "a", "a", "a", "a")) == []
    assert happenings(frames("", "a", "a", "a", "a", "a", "a")) == [("appeared", "a", 0, 1, 1)]


def test_more_fewer_and_gone_are_events_too():
    words = ["a"] * 8 + ["aa"] * 8 + ["a"] * 8 + [""] * 8
    assert happenings(frames(*words)) == [
        ("appeared", "a", 0, 1, 0),
        ("count", "a", 1, 2, 8),
        ("count", "a", 2, 1, 16),
        ("gone", "a", 1, 0, 24),
    ]


def test_what_flickers_is_no_event():
    assert happenings(frames(*["a", ""] * 50)) == []
    assert happenings(frames(*["a"] * 8, *["", "a"] * 50)) == [("appeared", "a", 0, 1, 0)]


def test_labels_do_not_disturb_one_another():
    words = [f"a{'b' * (index % 2)}" for index in range(20)]
    assert happenings(frames(*words)) == [("appeared", "a", 0, 1, 0)]


def test_one_result_alone_is_no_event_however_long_the_next_takes():
    slow = [result(seq, at_s=seq * 10.0, labels=labels) for seq, labels in enumerate([["a"], [], []])]
    assert happenings(slow) == []
    slow = [result(seq, at_s=seq * 10.0, labels=["a"]) for seq in range(2)]
    assert happenings(slow) == [("appeared", "a", 0, 1, 0)]


def test_a_reused_result_says_nothing_new():
    fresh = result(0, labels=["a"])
    reused = [
        result(seq, labels=["a"], reused=True, inferred_seq=0, inferred_age_ms=seq * 100.0) for seq in range(1, 20)
    ]
    assert happenings([fresh, *reused]) == []


def test_another_best_class_is_an_event_and_so_is_none():
    results = [result(seq, best=best) for seq, best in enumerate(["cat"] * 8 + ["dog"] * 8 + [""] * 8)]
    selection = Selection("events")
    events = [msgspec.json.decode(each.data, type=Happening) for r in results for each in selection.take(r)]
    assert [(each.kind, each.previous, each.label, each.seq) for each in events] == [
        ("class", "", "cat", 0),
        ("class", "cat", "dog", 8),
        ("class", "dog", "", 16),
    ]


def test_what_was_told_of_labels_that_are_gone_takes_no_memory():
    selection = Selection("events")
    for seq, index in enumerate(itertools.chain.from_iterable([index] * 8 for index in range(100))):
        selection.take(result(seq, labels=[f"label {index}"]))
    for seq in range(10):
        selection.take(result(10_000 + seq))
    events = selection._events
    assert (events._counts, events._candidates) == ({}, {})
