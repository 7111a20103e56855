"""Distributions and the last minutes: bounded, and right whatever the gaps."""

from __future__ import annotations

from edgeinfer.web.histogram import BOUNDS_S, Histogram
from edgeinfer.web.history import SECONDS_KEPT, History, Second


def test_a_distribution_counts_up_to_each_bound_and_all():
    histogram = Histogram()
    for seconds in (0.0005, 0.001, 0.02, 99.0):
        histogram.add(seconds)
    found = histogram.distribution()
    by_bound = dict(zip([*BOUNDS_S, None], found.cumulative, strict=True))
    assert (by_bound[0.001], by_bound[0.02], by_bound[10.0], by_bound[None]) == (2, 3, 3, 4)
    assert found.total_s == 0.0005 + 0.001 + 0.02 + 99.0


def history_after_first_second(now) -> History:
    history = History(now.clock.monotonic_ns)
    now.s += 1
    return history


def test_a_second_is_told_once_it_is_over_with_its_median_and_its_longest(now):
    history = history_after_first_second(now)
    for age_ms in (30.0, 10.0, 20.0):
        history.add(age_ms, 4.0)
    assert history.after(0) == []
    now.s += 1
    assert history.after(0) == [Second(1001, 3, 20.0, 30.0, 4.0)]
    assert history.after(1001) == []


def test_seconds_without_results_are_there_as_such(now):
    history = history_after_first_second(now)
    history.add(10.0, 4.0)
    now.s += 3
    assert [(each.at, each.results) for each in history.after(0)] == [(1001, 1), (1002, 0), (1003, 0)]


def test_the_first_second_which_was_not_a_whole_one_is_left_out(now):
    now.s += 0.9
    history = History(now.clock.monotonic_ns)
    history.add(10.0, 4.0)
    now.s += 0.2
    assert history.after(0) == []


def test_after_a_long_silence_no_more_than_five_minutes_are_kept(now):
    history = history_after_first_second(now)
    history.add(10.0, 4.0)
    now.s += 100_000
    kept = history.after(0)
    assert len(kept) == SECONDS_KEPT
    assert {each.results for each in kept} == {0}


def test_the_rate_is_of_the_last_five_seconds(now):
    history = history_after_first_second(now)
    for results in (100, 10, 10, 10, 10, 5):
        for _ in range(results):
            history.add(1.0, 1.0)
        now.s += 1
    assert history.fps() == 9.0
    assert history.last().results == 5


def test_what_was_long_ago_is_not_the_last(now):
    history = history_after_first_second(now)
    history.add(1.0, 1.0)
    now.s += 10
    assert history.fps() == 0.0
    assert history.last() is None
