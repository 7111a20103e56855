"""Uneven samples become even windows; a reference works out each number by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeinfer.bundle.facts import WindowInput
from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.sources.account import Account
from edgeinfer.sources.grid import Filling, Grid
from edgeinfer.sources.readings import Readings
from edgeinfer.sources.timeline import Timeline
from edgeinfer.sources.windows import Evenness, Windows

START_S = 1_700_000_000.0


class Scripted:
    """A source that gives what the test says, (time in seconds, numbers...) a piece."""

    def __init__(self, pieces, *, live=False, rate_hz=None, channels=("a", "b"), can_be_late=True, came_s=None) -> None:
        self.uri = "scripted"
        self.live = live
        self.rate_hz = rate_hz
        self.channels = channels
        self.can_be_late = can_be_late
        self._pieces = iter(pieces)
        self._came_s = iter(came_s) if came_s else None

    def begin(self, channels, account) -> None:
        pass

    def read(self):
        piece = next(self._pieces, None)
        if piece is None:
            return None
        came_ns = 0 if self._came_s is None else round(next(self._came_s) * 1e9)
        values = np.array([row[1:] if self.rate_hz is None else row for row in piece], float)
        at_ns = None if self.rate_hz else np.array([round((START_S + row[0]) * 1e9) for row in piece], np.int64)
        return Readings(values, at_ns, came_ns, 0)

    def close(self) -> None:
        pass


def window(*, rate_hz=10.0, length=5, stride=5, missing="linear", missing_s=0.5, channels=()) -> WindowInput:
    return WindowInput(0, rate_hz, length, stride, channels, (0.0,), (1.0,), missing, missing_s)


def windows_of(pieces, wanted=None, *, evenness=None, **source):
    opened = Windows(
        Scripted(pieces, **source), wanted or window(), evenness=evenness, clock=Clock(lambda: 0, lambda: 0)
    )
    return list(iter(opened.read, None)), opened


def reference(at_s: np.ndarray, values: np.ndarray, place_s: float, missing: str, limit_s: float, period_s: float):
    """The number at a place, and whether it was made up; None in a gap."""
    before, after = max(at_s[at_s <= place_s]), min(at_s[at_s >= place_s], default=math.inf)
    value = dict(zip(at_s.tolist(), values.tolist(), strict=True))
    if before == place_s:
        return value[before], False
    apart = after - before
    made_up = apart > 1.5 * period_s and min(place_s - before, after - place_s) > 0.25 * period_s
    limit_s = max(1.5 * period_s, 0.0 if missing == "nan-refuse" else limit_s)
    if missing == "hold":
        if after - place_s <= period_s / 2 and after - place_s < place_s - before:
            return value[after], made_up
        return (value[before], made_up) if place_s - before <= limit_s else None
    if apart > limit_s:
        return None
    share = (place_s - before) / apart
    return value[before] * (1 - share) + value[after] * share, made_up


@pytest.mark.parametrize("missing", ["hold", "linear", "nan-refuse"])
@pytest.mark.parametrize("seed", range(4))
def test_rows_are_what_a_reference_works_out(missing: str, seed: int) -> None:
    # On a raster of 1/1024 s, so that the reference's floats are exact, and times in ns nearly.
    draw = np.random.default_rng(seed)
    at_s = np.cumsum(
        draw.choice([0.0625, 0.125, 0.1328125, 0.25, 0.375, 1.25], 400, p=[0.3, 0.3, 0.24, 0.06, 0.08, 0.02])
    )
    values = draw.normal(size=400)
    grid = Grid(8.0, [Filling(missing, 0.5)])
    at_ns = np.round(at_s * 1e9).astype(np.int64)
    pieces = []
    for begin in range(0, 400, 7):
        end = min(begin + 7, 400)
        grid.add(at_ns[begin:end], values[begin:end, None])
        pieces += grid.rows(int(at_ns[end - 1]))
    assert sum(piece.anew for piece in pieces) > 3
    seen = made_up = 0
    for piece in pieces:
        for row, (number, made) in enumerate(zip(piece.values[:, 0], piece.made_up, strict=True)):
            expected = reference(at_s, values, piece.first_ns / 1e9 + row / 8, missing, 0.5, 1 / 8)
            assert expected is not None, (piece.first_ns, row)
            assert number == pytest.approx(expected[0], abs=1e-6)
            assert made == expected[1]
            made_up += made
            seen += 1
    # No place is left out but in gaps.
    lines = [piece for piece in pieces if piece.anew]
    assert seen > 200
    assert len(lines) < 200
    assert (made_up > 0) == (missing != "nan-refuse")


def even(begin: int, end: int, *, without=()):
    return [(index / 10, index, -index) for index in range(begin, end) if index not in without]


def test_even_samples_pass_as_they_are() -> None:
    made, opened = windows_of([even(0, 23)], window(length=10, stride=5))
    assert [each.values[0, 0] for each in made] == [0, 5, 10]
    assert all(np.array_equal(each.values[:, 0], -each.values[:, 1]) for each in made)
    assert [each.seq for each in made] == [0, 1, 2]
    assert [each.follows for each in made] == [False, True, True]
    assert [each.position_s for each in made] == [0.0, 0.5, 1.0]
    assert [each.filled for each in made] == [0.0, 0.0, 0.0]
    assert made[0].captured_unix_ns == round((START_S + 0.9) * 1e9)
    assert made[0].values.dtype == np.float32
    assert opened.account.fates() == {"used": 23}


def test_a_hole_is_filled_and_said_and_a_gap_is_not_windowed_over() -> None:
    made, opened = windows_of([even(0, 10, without=(3,)), even(20, 30)])
    assert [each.values[0, 0] for each in made] == [0, 5, 20, 25]
    assert made[0].values[3].tolist() == pytest.approx([3, -3])
    assert [each.filled for each in made] == [2 / 10, 0, 0, 0]
    assert [each.follows for each in made] == [False, True, False, True]
    assert opened.account.notes() == {"gaps": 1}


def test_each_channel_has_its_own_rule() -> None:
    rows = [(index / 10, index, math.nan if index == 3 else index) for index in range(10)]
    rule = Evenness(missing={"b": "hold"}, missing_s={"b": 0.3})
    made, opened = windows_of([rows], window(missing="nan-refuse"), evenness=rule)
    assert made[0].values[3].tolist() == [3, 2]
    assert made[0].filled == pytest.approx(1 / 10)
    assert opened.account.notes() == {"missing numbers": 1}
    made, _ = windows_of([rows], window(missing="hold"), evenness=Evenness(missing={"b": "nan-refuse"}))
    assert [each.values[0, 0] for each in made] == [4]
    with pytest.raises(SourceError, match="unknown channel 'bb'"):
        windows_of([rows], evenness=Evenness(missing={"bb": "hold"}))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e39])
def test_what_is_no_number_is_missing(number: float) -> None:
    rows = even(0, 20)
    rows[4] = (0.4, number, number)
    made, opened = windows_of([rows])
    assert all(np.isfinite(each.values).all() for each in made)
    assert made[0].values[4].tolist() == pytest.approx([4, -4])
    assert opened.account.fates() == {"used": 19, "no number": 1}


def test_disorder_is_mended_and_counted() -> None:
    rows = even(0, 30)
    swapped = [*rows[:8], rows[9], rows[8], *rows[10:14], rows[13], *rows[14:25], rows[2], *rows[25:]]
    made, opened = windows_of([[row] for row in swapped])
    assert np.concatenate([each.values[:, 0] for each in made]).tolist() == list(range(30))
    assert opened.account.fates() == {"used": 30, "duplicate": 2}
    assert opened.account.notes() == {"out of order": 1}
    late = [*rows[:20], (1.25, 0, 0), *rows[20:]]
    _, opened = windows_of([[row] for row in late])
    assert opened.account.fates() == {"used": 30, "late": 1}


def test_one_wrong_time_is_a_stray_and_not_a_new_line() -> None:
    rows = even(0, 30)
    rows[7:7] = [(5e8, 1, 1)]
    rows[20:20] = [(-5e8, 1, 1)]
    made, opened = windows_of([[row] for row in rows])
    assert np.concatenate([each.values[:, 0] for each in made]).tolist() == list(range(30))
    assert opened.account.fates() == {"used": 30, "stray": 2}


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0, 2.0e8])
def test_a_clock_that_is_set_begins_a_new_line(jump_s: float) -> None:
    rows = even(0, 10) + [(row[0] + jump_s, *row[1:]) for row in even(10, 20)]
    came_s = [index / 10 for index in range(20)]
    made, opened = windows_of([[row] for row in rows], came_s=came_s, live=True)
    # The newest two wait for what may be late.
    assert [each.values[0, 0] for each in made] == [0, 5, 10]
    assert [each.follows for each in made] == [False, True, False]
    assert opened.account.fates() == {"used": 20}
    assert opened.account.notes() == {"clock jumps": 1, "gaps": 1}


def test_a_sensor_that_was_silent_has_a_gap_and_no_clock_that_jumped() -> None:
    rows = even(0, 10) + even(3000, 3010)
    made, opened = windows_of([[row] for row in rows], came_s=[row[0] for row in rows], live=True)
    assert [each.values[0, 0] for each in made] == [0, 5, 3000]
    assert opened.account.notes() == {"gaps": 1}


def test_one_sample_a_minute_is_neither_stray_nor_a_jump() -> None:
    with pytest.raises(SourceError, match="no whole window"):
        windows_of([[(60 * index, 1, 1)] for index in range(20)])
    source = Scripted([[(60.0 * index, 1, 1)] for index in range(20)], live=True, came_s=[60.0 * n for n in range(20)])
    opened = Windows(source, window())
    assert opened.read() is None
    assert opened.account.fates() == {"used": 20}


def test_channels_that_come_one_by_one_are_put_together() -> None:
    rows = [row for index in range(10) for row in ((index / 10, index, math.nan), (index / 10, math.nan, -index))]
    made, opened = windows_of([[row] for row in rows])
    assert made[1].values[2].tolist() == [7, -7]
    assert sum(opened.account.fates().values()) == len(rows)
    assert opened.account.fates() == {"used": 20}


def test_a_stride_over_the_length_leaves_time_out() -> None:
    made, _ = windows_of([even(0, 40)], window(length=5, stride=12))
    assert [each.values[0, 0] for each in made] == [0, 12, 24]
    assert [each.follows for each in made] == [False, False, False]


def test_counts_go_on_with_a_source_that_follows() -> None:
    account = Account()
    for _ in range(2):
        opened = Windows(Scripted([even(0, 10)]), window(), account=account)
        assert [each.follows for each in iter(opened.read, None)] == [False, True]
    assert account.fates() == {"used": 20}


def test_sound_shorter_than_a_window_is_padded_and_says_so() -> None:
    made, _ = windows_of([[(0.5,)] * 30], window(rate_hz=100, length=50, stride=50), rate_hz=100.0, channels=("sound",))
    assert len(made) == 1
    assert made[0].values[:, 0].tolist() == [0.5] * 30 + [0.0] * 20
    assert made[0].filled == 0.4


def test_the_timeline_knows_what_became_of_every_sample() -> None:
    draw = np.random.default_rng(9)
    account = Account()
    line = Timeline(late_ns=300, jump_ns=10_000, account=account)
    times = np.arange(0, 500_000, 100) + draw.integers(-400, 400, 5000)
    times[draw.integers(0, 5000, 40)] += draw.integers(-(10**7), 10**7, 40)
    given = []
    for time in times.tolist():
        line.add(time, [1.0], 0)
        for stretch in line.settle(None):
            given.append(stretch)
    given += line.finish()
    assert sum(account.fates().values()) == 5000
    assert sum(stretch.at_ns.size for stretch in given) == account.fates()["used"]
    last = -math.inf
    for stretch in given:
        last = -math.inf if stretch.anew else last
        assert stretch.at_ns[0] > last
        assert (np.diff(stretch.at_ns) > 0).all()
        last = stretch.at_ns[-1]
