"""The owner of spool and connection, on a clock of the test's own and a broker in this process."""

from __future__ import annotations

import json
import logging
from random import Random

import pytest

from edgeinfer.clock import Clock
from edgeinfer.config import UplinkConfig
from edgeinfer.errors import SpoolError, SpoolLost
from edgeinfer.uplink.bodies import Ack
from edgeinfer.uplink.memory import MemoryBroker, MemoryLink, matches
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.messages import write_ack
from edgeinfer.uplink.publication import Publication
from edgeinfer.uplink.session import Sessions
from edgeinfer.uplink.spool import Spool
from edgeinfer.uplink.topics import Topics
from edgeinfer.uplink.uplink import Uplink

BYTES = 4_000_000
TOPICS = Topics("pi-7")
RESULTS = TOPICS.results("main")


class Disk:
    """Opens the spool; `fails` is what each use of it raises meanwhile, `unreadable` what reading raises."""

    def __init__(self, path, clock, max_bytes):
        self.path, self.clock, self.max_bytes = path, clock, max_bytes
        self.fails: SpoolError | None = None
        self.unreadable: SpoolError | None = None
        self.tried = 0

    def open(self) -> Spool:
        self.tried += 1
        if self.fails is not None:
            raise self.fails
        spool = _Spool.open(self.path, max_bytes=self.max_bytes, clock=self.clock)
        spool.disk = self
        return spool


class _Spool(Spool):
    """The spool itself, on a disk that can be made to fail."""

    disk: Disk

    def commit(self, messages):
        self.disk.tried += 1
        if self.disk.fails is not None:
            raise self.disk.fails
        return super().commit(messages)

    def read(self, after_seq, limit, max_bytes):
        if isinstance(self.disk.unreadable, SpoolLost):
            self.disk.unreadable = None
            raise self._file.lose("is damaged: by a test")
        if self.disk.unreadable is not None:
            raise self.disk.unreadable
        return super().read(after_seq, limit, max_bytes)

    def flush(self):
        if self.disk.fails is None:
            super().flush()


class Site:
    """A node with an uplink and its broker, and the time that both have."""

    def __init__(self, tmp_path, broker=None, *, max_bytes=BYTES, **words):
        self.now_ns = 5_000 * 10**9
        self.unix_ns = 1_790_000_000 * 10**9
        clock = Clock(lambda: self.now_ns, lambda: self.unix_ns + self.now_ns)
        self.broker = broker or MemoryBroker()
        self.link = MemoryLink(self.broker, clock)
        self.disk = Disk(tmp_path / "spool", clock, max_bytes)
        self.commands: list = []
        self.answer: Publication | None = None
        self.uplink = Uplink(
            UplinkConfig(url="mqtt://memory", **words),
            TOPICS,
            self.disk.open,
            self.link,
            sessions=Sessions(tmp_path / "session", clock),
            filters=[TOPICS.commands],
            on_command=self.command,
            random=lambda: 0.0,
            clock=clock,
        )
        self.random = Random(1)
        self.is_over = False
        self.accepted = 0
        self._is_begun = False

    def command(self, received):
        self.commands.append(received)
        return self.answer

    def run(self, seconds: float = 0.0) -> None:
        """Let that much time go by, and all happen that happens in it."""
        if not self._is_begun:
            self._is_begun = True
            self.uplink.open()
            self.uplink.step(())
        until_ns = self.now_ns + round(seconds * 1e9)
        while not self.is_over:
            wait_s = self.uplink.step(self.link.turn(0))
            self.is_over = wait_s is None
            if self.link.has_news or self.is_over:
                continue
            due_s = min(wait_s, (self.link.due_s or 1e12) - self.now_ns / 1e9)
            if self.now_ns + due_s * 1e9 > until_ns:
                self.now_ns = until_ns
                return
            self.now_ns += max(1, round(due_s * 1e9))

    def accept(self, count=1, *, size=0, pipeline="main") -> None:
        for _ in range(count):
            self.accepted += 1
            data = json.dumps({"number": self.accepted, "rest": self.random.randbytes(size // 2).hex()}).encode()
            self.uplink.accept(Message("result", pipeline, self.unix_ns + self.now_ns, "synced", data))

    def close(self, timeout_s=5.0) -> None:
        self.uplink.end(timeout_s)
        self.run(timeout_s + 1)
        assert self.is_over
        self.uplink.let_go()

    def taken(self, topic=None) -> list[dict]:
        return [json.loads(each.payload) for each in self.broker.taken if matches(each.topic, topic or RESULTS)]

    def numbers(self) -> list[int]:
        return [each["data"]["number"] for each in self.taken()]

    def statuses(self) -> list[tuple[str, str | None]]:
        return [(each["data"]["state"], each["data"].get("reason")) for each in self.taken(TOPICS.status)]

    @property
    def epoch(self) -> str:
        return self.uplink._keeper.spool.epoch

    def acknowledge(self, seq: int, *, epoch=None, resume=False) -> None:
        ack = Ack(self.epoch if epoch is None else epoch, seq, resume)
        self.broker.publish(Publication(TOPICS.ack, write_ack(ack)))


@pytest.fixture
def site(tmp_path):
    made = []

    def make(*words, **options) -> Site:
        made.append(Site(tmp_path, *words, **options))
        return made[-1]

    yield make
    for each in made:
        each.disk.fails = each.disk.unreadable = None
        each.uplink.let_go()


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# From the inbox to the broker.


def test_results_are_accepted_together_after_the_commit_interval(site):
    node = site(commit_ms=100)
    node.run()
    node.accept(3)
    node.run(0.09)
    assert node.uplink.counters().accepted == 0
    node.run(0.02)
    assert node.uplink.counters().accepted == 3
    assert node.numbers() == [1, 2, 3]


def test_a_whole_group_is_accepted_at_once(site):
    node = site(commit_ms=60_000, commit_rows=50)
    node.run()
    node.accept(50)
    node.run()
    assert node.numbers() == list(range(1, 51))


def test_the_owner_is_woken_for_the_first_of_a_group_and_for_a_whole_one(site):
    node = site(commit_rows=50)
    node.run()
    before = node.link.wakes
    node.accept(49)
    assert node.link.wakes - before == 1
    node.accept(1)
    assert node.link.wakes - before == 2
    node.accept(100)
    assert node.link.wakes - before == 2


def test_a_message_is_a_cloud_event_with_epoch_and_number(site):
    node = site()
    node.run()
    node.accept(2)
    node.run(1)
    first, second = node.taken()
    assert (first["id"], second["id"]) == (f"{node.epoch}-1", f"{node.epoch}-2")
    assert "replay" not in first
    assert node.uplink.state == "ok"
    counters = node.uplink.counters()
    assert (counters.accepted, counters.delivered, counters.depth, counters.protocol) == (2, 2, 0, "5")


def test_what_is_done_is_not_sent_again_after_a_restart(site, tmp_path):
    node = site()
    node.run()
    node.accept(5)
    node.run(10)
    node.uplink.let_go()
    again = Site(tmp_path, node.broker)
    again.accepted = 5
    again.accept(1)
    again.run(10)
    assert node.numbers() == [1, 2, 3, 4, 5, 6]
    again.uplink.let_go()


def test_no_more_is_in_flight_than_receive_maximum_with_all_that_is_told(site):
    node = site(MemoryBroker(receive_max=2))
    node.uplink.tell(Publication(TOPICS.meta, b"{}", retain=True))
    node.accept(100)
    node.run(5)
    assert node.numbers() == list(range(1, 101))
    assert node.broker.most_in_flight == 2


# Without a broker.


def test_all_is_delivered_in_order_after_a_broker_was_down_from_the_start_for_hours(site, caplog):
    node = site(commit_ms=10_000)
    node.broker.down = "host broker.local not found"
    for _ in range(5 * 60):
        node.accept()
        node.run(60)
    assert node.uplink.state == "degraded: host broker.local not found"
    assert node.uplink.counters().depth == 300
    assert said(caplog) == ["no broker, results wait: host broker.local not found"]
    node.broker.down = None
    node.run(60)
    assert node.numbers() == list(range(1, 301))
    assert node.uplink.state == "ok"
    assert said(caplog)[1:] == ["connected to the broker again"]
    assert all(each["replay"] for each in node.taken())


def test_a_broker_that_is_a_black_hole_for_an_hour_costs_no_memory_and_loses_only_what_the_spool_cannot_hold(site):
    node = site(max_bytes=BYTES, commit_ms=10_000, commit_rows=200)
    node.run()
    node.broker.is_mute = True
    for _ in range(360):
        node.accept(60, size=400)
        node.run(10)
        assert node.uplink.counters().bytes <= BYTES
        assert node.uplink._inbox.count <= 200
        assert node.uplink._sender.window.outstanding <= 200
        assert len(node.uplink._sender._ahead) <= 200
        assert len(node.link._handed) <= 210
    node.broker.is_mute = False
    node.run(60)
    numbers = list(dict.fromkeys(node.numbers()))
    (*_, gap) = [each["data"] for each in node.taken(TOPICS.gaps)]
    assert (gap["first"], gap["reason"]) == (1, "full")
    assert node.uplink.counters().dropped["full"] >= gap["last"]  # Some that flew when they were dropped came through.
    assert numbers == sorted(numbers)
    assert {*numbers, *range(1, gap["last"] + 1)} == set(range(1, 21_601))
    assert len(numbers) > 5000
    assert node.uplink.counters().depth == 0


def test_what_was_in_flight_when_the_connection_broke_comes_again_and_says_so(site):
    node = site()
    node.run()
    node.broker.is_mute = True
    node.accept(3)
    node.run(1)
    node.broker.cut("reset")
    node.broker.is_mute = False
    node.accept(1)
    node.run(5)
    assert node.numbers() == [1, 2, 3, 4]
    assert [each.get("replay", False) for each in node.taken()] == [True] * 4
    assert node.uplink.counters().reconnects == 1


def test_a_connection_on_which_nothing_is_acknowledged_is_given_up(site, caplog):
    node = site()
    node.run()
    node.broker.is_mute = True
    node.accept(1)
    node.run(30)
    assert node.link.is_connected
    node.run(0.2)
    assert not node.link.is_connected
    assert "acknowledges nothing" in node.uplink.state
    node.broker.is_mute = False
    node.run(5)
    assert node.numbers() == [1]


def test_the_same_reason_is_said_once_and_another_one_again(site, caplog):
    node = site()
    node.broker.down = "refused"
    node.run(100)
    node.broker.down = "timed out"
    node.run(100)
    assert said(caplog) == ["no broker, results wait: refused", "no broker, results wait: timed out"]


@pytest.mark.parametrize("jump_s", [86_400, -86_400, -1_790_000_000])
def test_a_jump_of_the_wall_clock_changes_no_interval_and_no_order(site, jump_s):
    node = site()
    node.run()
    node.accept(1)
    node.run(1)
    node.unix_ns += jump_s * 10**9
    node.accept(1)
    node.run(0.2)
    assert node.numbers() == [1, 2]
    node.broker.cut("reset")
    node.accept(1)
    node.run(2)
    assert node.numbers() == [1, 2, 3]
    assert node.uplink.state == "ok"
    years = [each["time"][:4] for each in node.taken()]
    assert years == (["2026", "1970", "1970"] if jump_s == -1_790_000_000 else ["2026"] * 3)


# Status, and what else is told.


def test_each_connection_begins_with_a_status_and_ends_with_a_will_of_the_same_session(site):
    node = site()
    node.run()
    node.broker.cut("reset")
    node.run(2)
    sessions = [(each["data"]["state"], each["data"]["session"]) for each in node.taken(TOPICS.status)]
    first, second = sessions[0][1], sessions[2][1]
    assert sessions == [("online", first), ("offline", first), ("online", second)]
    assert second > first
    assert all(each.retain and each.qos == 1 for each in node.broker.taken if each.topic == TOPICS.status)


def test_sessions_rise_from_one_run_to_the_next_even_where_the_clock_begins_in_1970(site, tmp_path):
    node = site()
    node.run()
    clock = Clock(unix_ns=lambda: 0)
    before = node.taken(TOPICS.status)[-1]["data"]["session"]
    assert Sessions(tmp_path / "session", clock).next() > before
    assert Sessions(None, clock).next() < before


def test_a_will_that_comes_after_the_new_birth_is_put_right(site):
    node = site()
    node.run()
    will = node.link._will
    node.broker.cut("half-open")
    node.run(2)
    node.broker.publish(will)  # Of the connection before.
    assert json.loads(node.broker.retained[TOPICS.status].payload)["data"]["state"] == "offline"
    node.run()
    assert json.loads(node.broker.retained[TOPICS.status].payload)["data"]["state"] == "online"


def test_ones_own_status_is_not_answered(site):
    node = site()
    node.run(100)
    assert node.statuses() == [("online", None)]


def test_two_nodes_of_one_name_do_not_shout_at_each_other_all_the_time(site, caplog):
    node = site()
    node.run()
    other = Publication(
        TOPICS.status,
        node.broker.retained[TOPICS.status].payload.replace(b'"session":1', b'"session":2'),
        retain=True,
    )
    for _ in range(60):
        node.broker.publish(other)
        node.run(1)
    sessions = [each["data"]["session"] for each in node.taken(TOPICS.status)]
    assert sessions.count(sessions[0]) <= 1 + 1 + 60 / 5
    assert [line for line in said(caplog) if "another node publishes" in line] == [
        f"another node publishes as {TOPICS.root}: give each a name of its own"
    ]


def test_rubbish_on_the_status_topic_is_put_right(site):
    node = site()
    node.run()
    node.broker.publish(Publication(TOPICS.status, b"\xff", retain=True))
    node.run()
    assert json.loads(node.broker.retained[TOPICS.status].payload)["data"]["state"] == "online"


def test_a_retained_status_with_a_higher_session_is_outbid(site):
    node = site()
    before = node.uplink._sender._composer.will(1 << 52)  # Whoever saw it would take a lower number for old news.
    node.broker.retained[TOPICS.status] = before
    node.run(5)
    status = json.loads(node.broker.retained[TOPICS.status].payload)["data"]
    assert status["state"] == "online"
    assert status["session"] > 1 << 52
    assert node.uplink.counters().reconnects == 1


def test_why_a_node_is_degraded_is_in_its_status_and_said_when_it_changes(site):
    node = site()
    node.run()
    node.uplink.set_condition("door: no camera")
    node.run(10)
    node.uplink.set_condition("door: no camera")
    node.run(10)
    node.uplink.set_condition(None)
    node.run(10)
    assert node.statuses() == [("online", None), ("degraded", "door: no camera"), ("online", None)]


def test_what_is_retained_is_told_on_each_connection_and_only_its_newest(site):
    node = site()
    for number in range(3):
        node.uplink.tell(Publication(TOPICS.meta, b"%d" % number, retain=True))
    node.run()
    node.broker.cut("reset")
    node.run(2)
    assert [each.payload for each in node.broker.taken if each.topic == TOPICS.meta] == [b"2", b"2"]


def test_what_is_not_retained_is_told_now_or_never(site):
    node = site()
    node.uplink.tell(Publication(TOPICS.metrics, b"old", qos=0))
    node.run()
    node.uplink.tell(Publication(TOPICS.metrics, b"older than the next", qos=0))
    node.uplink.tell(Publication(TOPICS.metrics, b"new", qos=0))
    node.run()
    node.broker.down = "refused"
    node.broker.cut("reset")
    node.run()
    node.uplink.tell(Publication(TOPICS.metrics, b"nobody is there", qos=0))
    node.broker.down = None
    node.run(5)
    assert [each.payload for each in node.broker.taken if each.topic == TOPICS.metrics] == [b"new"]


def test_a_command_is_handed_on_and_its_answer_published(site):
    node = site()
    node.run()
    node.answer = Publication("my/answers", b"done")
    node.broker.publish(Publication(TOPICS.command("pause"), b"{}", response_topic="my/answers", correlation=b"7"))
    node.run()
    (command,) = node.commands
    assert (command.topic, command.correlation) == (TOPICS.command("pause"), b"7")
    assert [each.payload for each in node.broker.taken if each.topic == "my/answers"] == [b"done"]


# Consumers.


def test_in_mode_consumer_only_its_word_makes_done(site):
    node = site(mode="consumer")
    node.run()
    node.accept(5)
    node.run(1)
    assert node.uplink.counters().delivered == 0
    node.acknowledge(3)
    node.run()
    assert (node.uplink.counters().delivered, node.uplink.counters().depth) == (3, 2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"nonsense",
        b'{"epoch":"0123456789abcdef","seq":5}',
        b'{"epoch":"","seq":5}',
        b'{"epoch":"x","seq":1}',
    ],
)
def test_words_that_are_none_or_of_another_epoch_change_nothing(site, payload):
    node = site(mode="consumer")
    node.run()
    node.accept(5)
    node.run(1)
    node.broker.publish(Publication(TOPICS.ack, payload))
    node.run()
    assert node.uplink.counters().depth == 5


def test_a_word_for_what_was_never_accepted_changes_nothing(site):
    node = site(mode="consumer")
    node.run()
    node.accept(5)
    node.run(1)
    node.acknowledge(6)
    node.run()
    assert node.uplink.counters().depth == 5


def test_a_consumer_that_resumes_gets_all_again_after_what_it_has(site):
    node = site(mode="consumer")
    node.run()
    node.accept(5)
    node.run(1)
    node.acknowledge(2, resume=True)
    node.run()
    assert node.numbers() == [1, 2, 3, 4, 5, 3, 4, 5]
    assert [each.get("replay", False) for each in node.taken()] == [False] * 5 + [True] * 3
    node.acknowledge(0, epoch="", resume=True)  # One that knows of nothing.
    node.run()
    assert node.numbers()[8:] == [3, 4, 5]


def test_messages_that_a_broker_lost_after_it_took_them_come_again(site):
    node = site(mode="consumer")
    node.run()
    node.accept(5)
    node.run(1)
    node.broker.taken.clear()  # kill -9, without persistence.
    node.broker.cut("reset")
    node.accept(1)
    node.run(3)
    assert node.numbers() == [6]
    node.run(10)
    assert node.numbers() == [6, 1, 2, 3, 4, 5, 6][: len(node.numbers())]
    assert set(node.numbers()) == {1, 2, 3, 4, 5, 6}


# What a broker does not take.


def test_what_is_denied_leaves_a_gap_and_holds_nothing_up(site, caplog):
    node = site()
    node.broker.denied.add(TOPICS.results("secret"))
    node.run()
    node.accept(2)
    node.accept(2, pipeline="secret")
    node.accept(2)
    node.run(1)
    assert node.numbers() == [1, 2, 5, 6]
    gaps = [each["data"] for each in node.taken(TOPICS.gaps)]
    assert {number for gap in gaps for number in range(gap["first"], gap["last"] + 1)} == {3, 4}
    assert node.uplink.counters().dropped == {"denied": 2}
    assert node.uplink.counters().depth == 0
    assert node.uplink.state == "degraded: the broker refuses messages of this node: denied"
    assert node.statuses()[-1] == ("degraded", "the broker refuses messages of this node: denied")
    assert len([line for line in said(caplog) if "left out" in line]) == 1


def test_a_gap_that_is_denied_too_holds_nothing_up(site):
    node = site()
    node.broker.denied |= {TOPICS.results("secret"), TOPICS.gaps}
    node.run()
    node.accept(2, pipeline="secret")
    node.accept(1)
    node.run(1)
    assert node.numbers() == [3]
    assert node.uplink.counters().depth == 0


def test_what_is_too_large_for_the_broker_is_not_sent_and_leaves_a_gap(site):
    node = site(MemoryBroker(packet_max=2000))
    node.run()
    node.accept(1)
    node.accept(1, size=3000)
    node.accept(1)
    node.run(1)
    assert node.numbers() == [1, 3]
    (gap,) = [each["data"] for each in node.taken(TOPICS.gaps)]
    assert (gap["first"], gap["last"], gap["reason"]) == (2, 2, "too large")
    assert max(len(each.payload) for each in node.broker.taken) < 2000


def test_a_subscription_that_is_refused_is_in_the_state(site):
    node = site(mode="consumer")
    node.broker.denied.add(TOPICS.ack)
    node.run()
    assert node.uplink.state == f"degraded: the broker refuses the subscription to {TOPICS.ack}"


# Disks.


def test_while_the_disk_is_full_results_wait_and_it_is_said_once(site, caplog):
    node = site()
    node.run()
    node.disk.fails = SpoolError("no space left on device")
    node.accept(100)
    node.run(300)
    assert node.uplink.state == "degraded: no space left on device"
    assert node.statuses()[-1] == ("degraded", "no space left on device")
    assert node.disk.tried < 20
    node.disk.fails = None
    node.run(60)
    assert node.numbers() == list(range(1, 101))
    assert node.uplink.state == "ok"
    assert said(caplog) == ["results wait in memory: no space left on device", "the spool takes results again"]


def test_what_does_not_fit_into_memory_either_is_dropped_the_oldest_first_and_counted(site):
    node = site()
    node.run()
    node.disk.fails = SpoolError("input/output error")
    for _ in range(50):
        node.accept(50)
        node.run(1)
    node.disk.fails = None
    node.run(60)
    assert node.numbers() == list(range(501, 2501))
    assert node.uplink.counters().dropped == {"pending": 500}


def test_memory_for_what_waits_is_bounded_in_bytes_too(site):
    node = site()
    node.accept(100, size=100_000)
    assert node.uplink._inbox.count == 41
    assert node.uplink.counters().dropped == {"pending": 59}


def test_a_spool_that_cannot_be_opened_is_opened_when_it_can(site):
    node = site()
    node.disk.fails = SpoolError("read-only file system")
    node.accept(3)
    node.run(10)
    assert node.statuses() == [("degraded", "read-only file system")]
    node.disk.fails = None
    node.run(60)
    assert node.numbers() == [1, 2, 3]
    assert node.taken(TOPICS.status)[-1]["data"]["epoch"] == node.epoch
    assert node.statuses()[-1] == ("online", None)


def test_a_spool_that_cannot_be_read_is_tried_again_and_takes_results_meanwhile(site, caplog):
    node = site()
    node.run()
    node.disk.unreadable = SpoolError("input/output error")
    node.accept(3)
    node.run(100)
    assert node.uplink.counters().accepted == 3
    assert node.uplink.state == "degraded: input/output error"
    node.disk.unreadable = None
    node.run(60)
    assert node.numbers() == [1, 2, 3]
    assert said(caplog) == [
        "what waits in the spool cannot be read: input/output error",
        "the spool can be read again",
    ]


def test_a_spool_that_is_lost_is_begun_anew_with_another_epoch(site):
    node = site()
    node.run()
    node.accept(3)
    node.run(1)
    epoch = node.epoch
    node.disk.unreadable = SpoolLost("by a test")
    node.accept(2)  # Accepted, and lost.
    node.run(10)
    node.accept(2)
    node.run(10)
    assert node.epoch != epoch
    assert node.taken()[-1]["id"] == f"{node.epoch}-2"
    assert node.numbers() == [1, 2, 3, 6, 7]
    assert node.taken(TOPICS.status)[-1]["data"]["epoch"] == node.epoch


# The end.


def test_at_the_end_all_that_waits_is_sent_and_the_node_says_that_it_stopped(site):
    node = site(commit_ms=60_000)
    node.run()
    node.accept(30)
    node.close()
    assert node.numbers() == list(range(1, 31))
    assert node.statuses() == [("online", None), ("stopped", None)]


def test_the_word_that_it_stopped_is_the_last_one(site):
    node = site(MemoryBroker(receive_max=2))
    node.run()
    node.accept(30)
    node.close()
    assert node.numbers() == list(range(1, 31))
    assert json.loads(node.broker.taken[-1].payload)["data"]["state"] == "stopped"


def test_an_end_before_the_first_connection_waits_for_it(site):
    node = site()
    node.accept(30)
    node.close()
    assert node.numbers() == list(range(1, 31))
    assert node.statuses()[-1] == ("stopped", None)


def test_an_end_without_a_broker_waits_for_none_and_loses_nothing(site, tmp_path):
    node = site(commit_ms=60_000)
    node.broker.down = "refused"
    node.run(10)
    node.accept(30)
    before_ns = node.now_ns
    node.close()
    assert node.now_ns == before_ns
    node.broker.down = None
    again = Site(tmp_path, node.broker)
    again.run(5)
    assert node.numbers() == list(range(1, 31))
    again.uplink.let_go()


def test_an_end_with_a_broker_that_says_nothing_takes_no_longer_than_it_may(site):
    node = site()
    node.run()
    node.broker.is_mute = True
    node.accept(30)
    before_ns = node.now_ns
    node.close(2.0)
    assert node.now_ns - before_ns == 2 * 10**9


def test_at_the_end_a_consumer_need_not_have_answered(site):
    node = site(mode="consumer")
    node.run()
    node.accept(30)
    before_ns = node.now_ns
    node.close()
    assert node.now_ns == before_ns
    assert node.statuses()[-1] == ("stopped", None)
