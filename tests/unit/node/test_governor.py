"""The governor on recorded and on simulated boards, with a clock of their own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from edgeinfer.board import Heat, Vitals
from edgeinfer.node.governor import CHANGE_NS, SHARES, Change, Governor

LOOK_S = 2.0
MINUTE_S = 60.0


def heat(now_c: float, limit_c: float = 80.0, kind: str = "cpu-thermal") -> Vitals:
    return Vitals(heats=(Heat(kind, now_c, limit_c),))


class Run:
    """A governor that looks every two seconds."""

    def __init__(self) -> None:
        self.governor = Governor()
        self.now_s = 1000.0
        self.changes: list[tuple[float, Change]] = []

    def look(self, vitals: Vitals) -> None:
        self.now_s += LOOK_S
        change = self.governor.look(round(self.now_s * 1e9), vitals)
        if change is not None:
            self.changes.append((self.now_s, change))

    def over(self, seconds: float, vitals_at: Callable[[float], Vitals]) -> Run:
        begun_s = self.now_s
        while self.now_s - begun_s < seconds:
            self.look(vitals_at(self.now_s - begun_s))
        return self

    @property
    def levels(self) -> list[int]:
        return [change.level for _, change in self.changes]


def distances_s(run: Run) -> Iterable[float]:
    times = [at_s for at_s, _ in run.changes]
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("minutes", [2, 5, 10, 30])
def test_on_a_ramp_from_60_to_85_it_acts_before_the_limit_and_at_most_once_a_minute(minutes):
    noise = random.Random(minutes)
    acted_at_c = []
    run = Run()

    def ramp(at_s: float) -> Vitals:
        now_c = 60 + 25 * at_s / (minutes * MINUTE_S)
        if run.changes and not acted_at_c:
            acted_at_c.append(now_c)
        return heat(now_c + noise.uniform(-0.5, 0.5))

    run.over(minutes * MINUTE_S, ramp)
    assert 68 < acted_at_c[0] < 79
    assert all(distance_s >= MINUTE_S for distance_s in distances_s(run))
    assert run.levels == sorted(set(run.levels))
    if minutes >= 5:
        # At the limit no less than half is left out.
        assert run.governor.share <= 0.5
    assert "cpu-thermal is at" in run.changes[0][1].reason
    assert "its limit is 80 °C" in run.changes[0][1].reason


def test_a_board_that_stays_cool_is_left_alone():
    assert Run().over(3600, lambda _: heat(62.0)).changes == []


def test_a_cold_start_that_warms_up_quickly_is_no_reason():
    assert Run().over(1800, lambda at_s: heat(68 - 38 * math.exp(-at_s / 60))).changes == []


def test_a_board_that_is_at_its_limit_at_the_start_is_slowed_at_once_and_by_more():
    run = Run()
    run.look(heat(80.0))
    assert run.levels == [2]


class Board:
    """Warms up with what is computed: a mass that gives its heat away to the air."""

    def __init__(self, full_c: float, *, time_s: float = 180.0) -> None:
        self.idle_c = 45.0
        self.full_c = full_c
        self.now_c = 45.0
        self.hottest_c = 45.0
        self._time_s = time_s
        self._noise = random.Random(1)

    def vitals(self, share: float) -> Vitals:
        goal_c = self.idle_c + (self.full_c - self.idle_c) * share
        self.now_c += (goal_c - self.now_c) * LOOK_S / self._time_s
        self.hottest_c = max(self.hottest_c, self.now_c)
        return heat(self.now_c + self._noise.uniform(-0.5, 0.5))


@pytest.mark.parametrize("full_c", [82, 90, 100, 120])
@pytest.mark.parametrize("time_s", [60, 180, 600])
def test_a_board_that_would_overheat_is_kept_below_its_limit_and_does_not_swing(full_c, time_s):
    board, run = Board(full_c, time_s=time_s), Run()
    run.over(3 * 3600, lambda _: board.vitals(run.governor.share))
    assert board.hottest_c < 80
    assert run.governor.share >= 0.25
    assert all(distance_s >= MINUTE_S for distance_s in distances_s(run))
    # It tries again, but ever more seldom.
    assert sum(at_s > 1000 + 2 * 3600 for at_s, _ in run.changes) <= 6


def test_when_the_day_cools_down_the_full_rate_comes_back():
    board, run = Board(100), Run()
    run.over(1800, lambda _: board.vitals(run.governor.share))
    assert run.governor.level > 0
    board.full_c, board.idle_c = 60, 30
    run.over(3 * 3600, lambda _: board.vitals(run.governor.share))
    assert run.governor.level == 0


def test_it_goes_back_one_level_at_a_time_after_two_calm_minutes():
    run = Run()
    run.look(heat(80.0))
    run.over(600, lambda _: heat(60.0))
    assert run.levels == [2, 1, 0]
    assert all(distance_s >= 2 * MINUTE_S for distance_s in distances_s(run))
    assert run.changes[-1][1].reason == "the board is calm again"


def test_between_calm_and_strained_nothing_changes():
    run = Run()
    run.look(heat(80.0))
    run.over(3600, lambda _: heat(72.0))
    assert run.levels == [2]


def test_who_has_to_go_down_again_soon_waits_longer_before_the_next_try():
    run = Run()
    waits_s = []
    for _ in range(4):
        run.over(MINUTE_S, lambda _: heat(76.0))
        slowed_s = run.now_s
        before = len(run.changes)
        while len(run.changes) == before:
            run.look(heat(60.0))
        waits_s.append(run.now_s - slowed_s)
    assert all(later > 1.8 * earlier for earlier, later in pairwise(waits_s))


def test_what_the_kernel_holds_back_already_is_a_reason_by_itself():
    run = Run()
    run.look(Vitals(throttled=("the kernel throttles (cpufreq-cpu0)",)))
    assert run.levels == [2]
    assert run.changes[0][1].reason == "the kernel throttles (cpufreq-cpu0)"
    run.over(600, lambda _: Vitals(throttled=("the kernel throttles (cpufreq-cpu0)",)))
    assert run.governor.share == SHARES[-1]
    assert all(distance_s * 1e9 >= CHANGE_NS for distance_s in distances_s(run))


@pytest.mark.parametrize(
    ("vitals", "reason"),
    [
        (Vitals(load=4.5), "the load is 4.5 per core"),
        (Vitals(memory_stalled=0.3), "programs wait for memory 30% of the time"),
        (Vitals(under_voltage=True), "the supply's voltage is too low"),
    ],
)
def test_what_is_no_heat_slows_to_half_and_no_further(vitals, reason):
    run = Run().over(1800, lambda _: vitals)
    assert run.levels == [1, 2]
    assert run.governor.share == 0.5
    assert run.changes[0][1].reason == reason
    run.over(1800, lambda _: Vitals(load=1.0, memory_stalled=0.0))
    assert run.governor.level == 0


def test_of_several_sensors_the_one_nearest_to_its_limit_counts():
    run = Run()
    cool = Heat("gpu-thermal", 90.0, 99.0)
    run.over(60, lambda _: Vitals(heats=(cool, Heat("cpu-thermal", 50.0, 80.0), Heat("cpu-thermal", 79.5, 80.0))))
    assert "cpu-thermal" in run.changes[0][1].reason


def test_a_board_that_tells_nothing_is_left_alone():
    assert Run().over(3600, lambda _: Vitals()).changes == []
