"""The flash budget over virtual days: later before fewer, and never more than a day may have."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest

from edgeinfer.clock import Clock
from edgeinfer.uplink.budget import LONGEST_COMMIT_MS, ROWS_MAX, FlashBudget
from edgeinfer.uplink.message import Message

DAY_S = 86_400
RESULT = Message("result", "door", 0, "synced", b"{}")
EVENT = Message("event", "door", 0, "synced", b"{}")

# As measured: a commit costs some pages, and packed results a quarter of themselves.
COMMIT_BYTES, RESULT_BYTES = 10_000, 120


@dataclass
class Node:
    """Commits as an uplink does, on a clock of its own."""

    per_day: int | None
    commit_ms: float = 100.0
    commit_rows: int = 50
    now_s: float = 0.0
    written: int = 0
    offered: int = 0
    taken: int = 0
    writes: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self):
        clock = Clock(monotonic_ns=lambda: round(self.now_s * 1e9))
        self.budget = FlashBudget(self.per_day, commit_ms=self.commit_ms, commit_rows=self.commit_rows, clock=clock)

    def live(self, seconds, per_s):
        end = self.now_s + seconds
        while self.now_s < end:
            wait_s = max(min(self.budget.commit_ms / 1000, self.budget.commit_rows / per_s), 1 / per_s)
            self.now_s += wait_s
            rows = round(wait_s * per_s)
            taken = sum(self.budget.takes(RESULT) for _ in range(rows))
            self.offered, self.taken = self.offered + rows, self.taken + taken
            if taken:
                size = COMMIT_BYTES + taken * RESULT_BYTES
                self.budget.wrote(size)
                self.written += size
                self.writes.append((self.now_s, size))

    def most_in(self, seconds):
        """The most that was written in any such time."""
        most = within = begin = 0
        for end_s, size in self.writes:
            within += size
            while self.writes[begin][0] <= end_s - seconds:
                within -= self.writes[begin][1]
                begin += 1
            most = max(most, within)
        return most


def test_without_a_limit_everything_is_as_configured():
    node = Node(None)
    node.live(3600, per_s=10)
    assert (node.budget.commit_ms, node.budget.commit_rows, node.budget.reason) == (100.0, 50, None)
    assert node.taken == node.offered


def test_with_plenty_commits_come_as_configured():
    node = Node(2_000_000_000)
    node.live(6 * 3600, per_s=1)
    assert (node.budget.commit_ms, node.budget.commit_rows, node.budget.reason) == (100.0, 50, None)


def test_commits_come_later_before_any_result_is_left_out():
    node = Node(100_000_000)
    node.live(12 * 3600, per_s=1)  # 875 MB a day with a commit for each.
    assert node.taken == node.offered
    assert 100 < node.budget.commit_ms <= LONGEST_COMMIT_MS
    assert node.budget.reason == "writes to flash are limited to 100 MB a day: results are accepted later"


def test_where_later_is_not_enough_results_are_left_out_evenly():
    node = Node(50_000_000)
    node.live(2 * 3600, per_s=20)  # 207 MB a day, whatever the interval.
    assert node.budget.commit_ms == LONGEST_COMMIT_MS
    assert 0.05 < node.taken / node.offered < 0.5
    assert node.budget.reason == "writes to flash are limited to 50 MB a day: results are left out"
    kept = [node.budget.takes(RESULT) for _ in range(1000)]
    runs = "".join("x" if each else "." for each in kept).split("x")[1:-1]
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


@pytest.mark.parametrize(("per_day", "per_s"), [(50_000_000, 0.2), (10_000_000, 2)])
def test_no_day_sees_more_than_the_limit_and_what_may_be_written_is(per_day, per_s):
    node = Node(per_day)
    node.live(1.5 * DAY_S, per_s)
    assert 0.8 * per_day < node.most_in(DAY_S) <= per_day + COMMIT_BYTES + ROWS_MAX * RESULT_BYTES


def test_events_are_never_left_out():
    node = Node(1_000_000)
    node.budget.wrote(10_000_000)
    assert not node.budget.takes(RESULT)
    assert all(node.budget.takes(EVENT) for _ in range(100))


def test_after_a_quiet_time_all_is_as_before():
    node = Node(50_000_000)
    node.live(3600, per_s=20)
    assert node.budget.reason is not None
    node.now_s += 2 * 3600
    node.live(10, per_s=1)
    assert (node.budget.commit_ms, node.budget.reason) == (100.0, None)


def test_each_change_is_told_once(caplog):
    with caplog.at_level(logging.WARNING):
        node = Node(50_000_000)
        node.live(3600, per_s=20)
        node.now_s += 2 * 3600
        node.live(10, per_s=1)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "results are accepted later",
        "results are left out",
        "enough may be written to flash",
    ]


def test_a_longer_interval_than_the_longest_is_kept_where_it_is_configured():
    node = Node(50_000_000, commit_ms=60_000.0)
    node.budget.wrote(50_000_000)
    assert node.budget.commit_ms == 60_000.0


def test_more_messages_make_a_commit_when_it_comes_later():
    node = Node(50_000_000)
    node.budget.wrote(50_000_000)
    assert node.budget.commit_rows == ROWS_MAX
