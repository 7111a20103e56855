"""Each message once, acknowledged when dealt with and never beyond a hole; the node is imitated by its own words."""

from __future__ import annotations

import json
import random

import pytest
from sightings import EPOCH, composer, gap, result, spooled

from edgeinfer.uplink.bodies import Ack
from edgeinfer.uplink.message import Message, Spooled
from edgeinfer.uplink.messages import BadMessage, Numbered, read_ack
from edgeinfer.uplink.publication import Publication, Received
from edgeinfer.uplink.reception import ACK_AFTER_MESSAGES, ACK_AFTER_NS, EPOCHS_MAX, Missing, Reception
from edgeinfer.uplink.selection import message_of_result

OTHER = "fedcba9876543210"


class Subscriber:
    """A reception, and whoever deals with its messages: at once, unless `deals` is false."""

    def __init__(self, reception: Reception | None = None, *, deals: bool = True) -> None:
        self.reception = reception or Reception()
        self.now_ns = 0
        self.got: list[tuple[str, str, int]] = []
        self.missing: list[Missing] = []
        self.published: list[tuple[str, Ack]] = []
        self._deals = deals

    def hear(self, publication: Publication) -> None:
        for each in self.reception.feed(Received(publication.topic, publication.payload), self.now_ns):
            if isinstance(each, Numbered):
                self.got.append((each.node, each.epoch, each.seq))
                if self._deals:
                    self.reception.handled(each, self.now_ns)
            elif isinstance(each, Missing):
                self.missing.append(each)
            else:
                self._publish(each)

    def hear_all(self, *seqs: int, done: int = 0, epoch: str = EPOCH, node: str = "pi-7", again: bool = False) -> None:
        for seq in seqs:
            self.hear(composer(node, done=done, epoch=epoch)(spooled(seq), again))

    def acknowledge(self) -> list[tuple[str, Ack]]:
        before = len(self.published)
        for publication in self.reception.acknowledge():
            self._publish(publication)
        return self.published[before:]

    @property
    def seqs(self) -> list[int]:
        return [seq for _, _, seq in self.got]

    def _publish(self, publication: Publication) -> None:
        assert (publication.qos, publication.retain) == (1, False)
        self.published.append((publication.topic, read_ack(publication.payload)))


def ack(seq: int, *, epoch: str = EPOCH, node: str = "pi-7", resume: bool = False) -> tuple[str, Ack]:
    return f"edgeinfer/v1/{node}/ack", Ack(epoch, seq, resume)


def test_what_comes_twice_is_dealt_with_once():
    it = Subscriber()
    it.hear_all(1, 2, 2, 1, 3, 3)
    assert it.seqs == [1, 2, 3]
    assert it.reception.duplicates == 3


def test_all_that_was_dealt_with_is_acknowledged_as_one_number():
    it = Subscriber()
    it.hear_all(1, 2, 3)
    assert it.acknowledge() == [ack(3)]
    assert it.acknowledge() == []


def test_what_nobody_has_dealt_with_yet_is_not_acknowledged():
    it = Subscriber(deals=False)
    it.hear_all(1, 2, 3)
    assert it.acknowledge() == []


def test_it_is_due_after_half_a_second_or_a_hundred_messages():
    it = Subscriber()
    assert it.reception.wait_s(it.now_ns) is None
    it.hear_all(1)
    assert it.reception.wait_s(it.now_ns) == 0.5
    assert not it.reception.is_due(it.now_ns + ACK_AFTER_NS - 1)
    assert it.reception.is_due(it.now_ns + ACK_AFTER_NS)
    it.hear_all(*range(2, ACK_AFTER_MESSAGES))
    assert not it.reception.is_due(it.now_ns)
    it.hear_all(ACK_AFTER_MESSAGES)
    assert it.reception.is_due(it.now_ns)
    it.acknowledge()
    assert not it.reception.is_due(it.now_ns + 10 * ACK_AFTER_NS)


def test_beyond_a_hole_nothing_is_acknowledged_until_it_is_filled():
    it = Subscriber()
    it.hear_all(1, 2, 4, 5)
    assert it.acknowledge() == [ack(2)]
    it.hear_all(6)
    assert it.acknowledge() == [ack(2)]
    it.hear_all(3, again=True)
    assert it.seqs == [1, 2, 4, 5, 6, 3]
    assert it.acknowledge() == [ack(6)]


def test_a_gap_counts_for_all_that_it_stands_for():
    it = Subscriber()
    it.hear_all(1)
    it.hear(composer()(gap(2, 9)))
    it.hear_all(10)
    assert it.seqs == [1, 9, 10]
    assert it.acknowledge() == [ack(10)]


def test_a_gap_that_grew_is_told_again_by_its_new_number():
    it = Subscriber()
    it.hear(composer()(gap(1, 5)))
    it.hear(composer()(gap(1, 9)))
    assert it.seqs == [5, 9]
    assert it.acknowledge() == [ack(9)]


def test_a_gap_in_the_place_of_a_message_that_was_here_already_still_fills_what_is_before_it():
    it = Subscriber()
    it.hear_all(1, 5)
    assert it.acknowledge() == [ack(1)]
    it.hear(composer()(gap(2, 5)))
    it.hear(composer()(gap(2, 5), True))
    assert it.seqs == [1, 5, 5]
    assert it.acknowledge() == [ack(5)]


def test_who_comes_late_begins_at_what_the_node_holds_for_done():
    it = Subscriber()
    it.hear_all(57, done=40)
    assert it.missing == []
    assert it.acknowledge() == [ack(40)]
    it.hear_all(*range(41, 57), again=True, done=40)
    assert it.acknowledge() == [ack(57)]


def test_what_another_consumer_has_acknowledged_is_said_to_be_missing_and_not_waited_for():
    it = Subscriber()
    it.hear_all(1, 2)
    it.hear_all(8, done=6)
    assert it.missing == [Missing("pi-7", EPOCH, 3, 6)]
    it.hear_all(7, done=6)
    assert it.acknowledge() == [ack(8)]
    it.hear_all(4)  # The broker had it all the time.
    assert it.seqs == [1, 2, 8, 7, 4]


def test_a_duplicate_is_acknowledged_again_for_the_acknowledgement_may_be_lost():
    it = Subscriber()
    it.hear_all(1, 2)
    assert it.acknowledge() == [ack(2)]
    it.hear_all(1, 2, again=True)
    assert it.acknowledge() == [ack(2)]


def test_nodes_and_epochs_are_told_apart():
    it = Subscriber()
    it.hear_all(1, 2)
    it.hear_all(1, 2, node="pi-8")
    it.hear_all(1, epoch=OTHER)
    assert len(it.got) == 5
    acks = it.acknowledge()
    assert len(acks) == 3
    assert all(each in acks for each in (ack(2), ack(2, node="pi-8"), ack(1, epoch=OTHER)))


def test_a_message_of_an_old_spool_that_the_broker_held_back_is_still_known():
    it = Subscriber()
    it.hear_all(1, 2)
    it.hear_all(1, epoch=OTHER)
    it.hear_all(2, 3)
    assert [seq for _, epoch, seq in it.got if epoch == EPOCH] == [1, 2, 3]
    # The newer epoch stays the one to go on with.
    assert [read_ack(each.payload) for each in it.reception.connected()] == [Ack(OTHER, 1, resume=True)]


def test_of_a_node_the_last_epochs_are_known_and_no_more():
    it = Subscriber()
    for number in range(10):
        it.hear_all(1, epoch=f"{number:016x}")
    state = json.loads(it.reception.state())
    assert len(state["nodes"]["pi-7"]) == EPOCHS_MAX


def test_a_node_that_is_new_is_asked_for_all_it_has_and_only_once():
    it = Subscriber()
    it.hear(composer().status("online", 0))
    it.hear(composer().status("degraded", 0, "x"))
    it.hear_all(5)
    assert it.published == [ack(0, epoch="", resume=True)]


def test_without_a_status_the_first_message_makes_a_node_known():
    it = Subscriber()
    it.hear_all(5)
    it.hear_all(6)
    assert it.published == [ack(0, epoch="", resume=True)]


def test_on_each_connection_every_node_is_told_from_where_to_go_on():
    it = Subscriber()
    it.hear_all(1, 2, 4)
    it.hear(composer("pi-8").status("online", 0))
    told = [(each.topic, read_ack(each.payload)) for each in it.reception.connected()]
    assert told == [ack(2, resume=True), ack(0, epoch="", node="pi-8", resume=True)]


def test_who_only_listens_acknowledges_nothing():
    it = Subscriber(Reception(acknowledges=False))
    it.hear(composer().status("online", 0))
    it.hear_all(1, 2, 2)
    assert (it.seqs, it.published, it.acknowledge(), list(it.reception.connected())) == ([1, 2], [], [], [])


def test_its_state_brings_it_back_to_where_it_was():
    it = Subscriber()
    it.hear_all(1, 2, 4)
    it.hear_all(7, done=6, epoch=OTHER)
    again = Subscriber()
    again.reception.restore(it.reception.state())
    again.hear_all(1, 2, 3, 4, 5)
    again.hear_all(7, done=6, epoch=OTHER)
    assert again.seqs == [3, 5]
    assert ack(5) in again.acknowledge()


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema":"other","nodes":{}}',
        b'{"schema":"edgeinfer.consumer/1","nodes":{"a":[["x",1,[]]]}}',
    ],
)
def test_a_state_that_is_none_is_refused(state):
    with pytest.raises(BadMessage, match="not the state of a consumer"):
        Reception().restore(state)


def test_a_message_that_nobody_can_read_is_left_out_said_once_and_holds_nothing_up(caplog):
    it = Subscriber()
    it.hear_all(1)
    for seq in (2, 3):
        it.hear(composer()(Spooled(seq, Message("result", "door", 0, "synced", b'{"schema":7}'))))
    it.hear_all(4)
    assert (it.seqs, it.reception.unreadable) == ([1, 4], 2)
    assert it.acknowledge() == [ack(4)]
    assert caplog.text.count("a message is left out") == 1


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"{}", b"[" * 10_000])
def test_rubbish_on_our_topics_is_left(payload):
    it = Subscriber()
    it.hear(Publication("edgeinfer/v1/pi-7/results/door", payload))
    assert (it.got, it.published, it.reception.unreadable) == ([], [], 1)


@pytest.mark.parametrize("topic", ["else", "edgeinfer/v1/pi-7/snapshots/door", "edgeinfer/v1/pi-7/metrics"])
def test_other_topics_are_none_of_its_business(topic):
    it = Subscriber()
    it.hear(Publication(topic, b"{}"))
    assert (it.got, it.published, it.reception.unreadable) == ([], [], 0)


def test_a_node_that_claims_more_done_than_it_sends_does_not_lose_what_it_sends():
    it = Subscriber()
    it.hear_all(1)
    it.hear_all(2, done=10**18)
    it.hear_all(3)
    assert (it.seqs, it.missing) == ([1, 2, 3], [])


@pytest.mark.parametrize("seed", range(5))
def test_a_lossy_doubling_shuffling_broker_and_a_node_that_sends_again_lose_nothing(seed):
    """The node sends what is not done, again and again; the broker loses a third, doubles and shuffles the rest, and
    loses acknowledgements, too. The consumer dies now and then, and goes on from its state."""
    chance = random.Random(seed)
    it, dealt_with, done, last = Subscriber(), [], 0, 400
    for _ in range(200):
        if done == last:
            break
        batch = [seq for seq in range(done + 1, min(done + 50, last) + 1) if chance.random() > 0.3]
        batch += [seq for seq in batch if chance.random() < 0.2]
        chance.shuffle(batch)
        it.hear_all(*batch, done=done)
        dealt_with += it.seqs
        it.got.clear()
        state, acks = it.reception.state(), it.acknowledge()
        assert all(each.seq <= done + 50 for _, each in acks)
        if acks and chance.random() > 0.3:
            done = max(done, acks[-1][1].seq)
        if chance.random() < 0.2:
            it = Subscriber()
            it.reception.restore(state)
    assert done == last
    assert sorted(dealt_with) == list(range(1, last + 1))


def test_a_message_of_a_pipeline_bears_its_name_and_a_gap_bears_none():
    reception = Reception()
    yard = composer()(spooled(1, message_of_result(result(1, pipeline="ya/rd"))))
    (_, got) = reception.feed(Received(yard.topic, yard.payload), 0)
    assert (got.node, got.pipeline, got.data.pipeline) == ("pi-7", "ya/rd", "ya/rd")
    hole = composer()(gap(2, 3))
    (lost,) = reception.feed(Received(hole.topic, hole.payload), 0)
    assert (lost.channel, lost.pipeline) == ("gap", "")
