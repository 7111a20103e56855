"""What is too old is dropped, whatever the wall clock does: it may start in 1970, and jump by days."""

from __future__ import annotations

import pytest

from tests.unit.uplink.conftest import everything

HOUR, DAY = 3600.0, 86_400.0


def left(spool):
    return [each.seq for each in everything(spool)]


def live(shelf, spool, seconds, *, every=600.0, clock="synced"):
    """Time goes on, with a message now and then."""
    end = shelf.now.monotonic_s + seconds
    while shelf.now.monotonic_s < end:
        shelf.now.pass_(every)
        spool.commit(shelf.messages(0, clock=clock))


def settled(shelf, **options):
    """A spool that has been open for some minutes, with a clock that goes steadily, and that holds message 1."""
    spool = shelf.open(**options)
    shelf.now.pass_(400)
    spool.commit(shelf.messages(0))
    return spool


def test_what_is_older_than_the_limit_is_dropped_and_leaves_a_gap(shelf):
    spool = settled(shelf, max_age_s=DAY)
    live(shelf, spool, 20 * HOUR, every=HOUR)
    assert left(spool)[0] == 1
    live(shelf, spool, 10 * HOUR, every=HOUR)
    first, *rest = everything(spool)
    assert b'"reason":"age"' in first.message.data
    assert (first.seq, rest[0].seq, rest[-1].seq) == (7, 8, 31)
    assert spool.dropped == {"age": 7}
    shelf.now.pass_(3 * HOUR)
    spool.flush()  # Nothing more comes, and yet it ages.
    assert left(spool)[0] == 10
    assert spool.dropped == {"age": 10}


def test_without_a_limit_nothing_is_too_old(shelf):
    spool = settled(shelf)
    shelf.now.pass_(1000 * DAY)
    spool.commit(shelf.messages(0))
    assert left(spool) == [1, 2]


@pytest.mark.parametrize("jump", [DAY, -DAY, -50 * 365 * DAY, 365 * DAY])
@pytest.mark.parametrize("clock", ["synced", "unsynced"])
def test_a_jump_of_the_wall_clock_drops_nothing(shelf, jump, clock):
    spool = settled(shelf, max_age_s=HOUR)
    shelf.now.jump(jump)
    live(shelf, spool, 0.5 * HOUR, every=60, clock=clock)
    shelf.now.jump(-jump)
    live(shelf, spool, 0.4 * HOUR, every=60, clock=clock)
    assert left(spool)[0] == 1
    assert not spool.dropped


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_after_a_jump_what_is_too_old_is_still_dropped(shelf, jump):
    spool = settled(shelf, max_age_s=HOUR)
    shelf.now.jump(jump)
    live(shelf, spool, 2 * HOUR, every=600)
    assert spool.dropped["age"] == 7


def reopened(shelf, spool, *, closed_s, wall_is=None, max_age_s):
    """A reboot: the monotonic clock begins anew."""
    spool.close()
    shelf.now.unix_s += closed_s
    if wall_is is not None:
        shelf.now.unix_s = wall_is
    shelf.now.monotonic_s = 5.0
    return shelf.open(max_age_s=max_age_s)


def test_the_time_off_counts_where_the_clock_was_right_before_and_after(shelf):
    spool = settled(shelf, max_age_s=DAY)
    spool = reopened(shelf, spool, closed_s=2 * DAY, max_age_s=DAY)
    live(shelf, spool, 0.2 * HOUR, every=60)
    assert spool.dropped == {"age": 1}
    # What came since is a few minutes old, and not two days.
    live(shelf, spool, 23 * HOUR)
    assert spool.dropped == {"age": 1}
    live(shelf, spool, 2 * HOUR)
    assert spool.dropped["age"] > 1


def test_the_time_off_does_not_count_while_the_clock_is_in_1970(shelf):
    spool = settled(shelf, max_age_s=DAY)
    spool = reopened(shelf, spool, closed_s=0, wall_is=10.0, max_age_s=DAY)
    live(shelf, spool, 0.5 * HOUR, every=60, clock="unsynced")
    assert left(spool)[0] == 1
    shelf.now.unix_s = 1_795_000_000.0 + HOUR  # The network is there: it was off for an hour.
    live(shelf, spool, 0.3 * HOUR, every=60)
    assert left(spool)[0] == 1
    live(shelf, spool, DAY)
    assert spool.dropped["age"] >= 1


@pytest.mark.parametrize("jump", [-50 * 365 * DAY, 2 * DAY])
def test_a_clock_that_was_wrong_for_a_moment_before_the_power_went_or_after_is_not_believed(shelf, jump):
    spool = settled(shelf, max_age_s=DAY)
    shelf.now.jump(min(jump, 0))
    live(shelf, spool, 120, every=60)  # The kernel calls it synchronised still.
    spool = reopened(shelf, spool, closed_s=max(jump, 0) + HOUR, max_age_s=DAY)
    live(shelf, spool, 120, every=60)
    shelf.now.unix_s = 1_795_000_000.0 + HOUR
    live(shelf, spool, HOUR, every=60)
    assert left(spool)[0] == 1


def test_messages_of_1970_do_not_go_when_the_clock_is_set(shelf):
    shelf.now.unix_s = 10.0
    spool = shelf.open(max_age_s=DAY)
    live(shelf, spool, HOUR, every=60, clock="unsynced")
    shelf.now.unix_s = 1_795_000_000.0
    live(shelf, spool, HOUR, every=60)
    spool = reopened(shelf, spool, closed_s=HOUR, max_age_s=DAY)
    live(shelf, spool, HOUR, every=60)
    assert left(spool)[0] == 1


def test_a_clock_that_went_back_while_off_makes_nothing_younger_or_older(shelf):
    spool = settled(shelf, max_age_s=DAY)
    live(shelf, spool, 20 * HOUR, every=HOUR)
    spool = reopened(shelf, spool, closed_s=-5 * DAY, max_age_s=DAY)
    live(shelf, spool, 3 * HOUR, every=600)
    assert left(spool)[0] == 1
    live(shelf, spool, 2 * HOUR, every=600)
    assert spool.dropped["age"] >= 1


def test_where_the_clock_is_never_set_only_the_time_open_counts(shelf):
    spool = shelf.open(max_age_s=DAY)
    live(shelf, spool, 20 * HOUR, every=HOUR, clock="unsynced")
    spool = reopened(shelf, spool, closed_s=5 * DAY, max_age_s=DAY)
    live(shelf, spool, 3 * HOUR, every=HOUR, clock="unsynced")
    assert left(spool)[0] == 1
    live(shelf, spool, 5 * HOUR, every=HOUR, clock="unsynced")
    assert spool.dropped["age"] >= 1


def test_when_all_is_too_old_one_gap_is_left_and_numbers_go_on(shelf):
    spool = settled(shelf, max_age_s=HOUR)
    live(shelf, spool, 0.3 * HOUR, every=60)
    last = spool.last_seq
    for _ in range(3):
        shelf.now.pass_(2 * HOUR)
        spool.flush()
        assert left(spool) == [last]
    assert spool.dropped == {"age": last}
    assert spool.commit(shelf.messages(0)) == range(last + 1, last + 2)
    assert spool.depth == 2
