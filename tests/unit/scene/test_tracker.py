"""Drawn scenes in which it is known who is who."""

from __future__ import annotations

import pytest

from edgeinfer.result import Detection
from edgeinfer.scene.tracker import Tracker

FRAME_S = 1 / 30


def found(x, *, y=0.5, score=0.9, label="person", class_id=0, width=0.1, height=0.3):
    return Detection(label, class_id, score, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def follow(frames, *, step_s=FRAME_S, tracker=None):
    """frames: lists of detections. The ids of each."""
    tracker = tracker or Tracker()
    return [
        tracker.update(each, round(number * step_s * 1e9), score_min=0.5, aspect=16 / 9)
        for number, each in enumerate(frames)
    ]


def test_two_who_walk_through_each_other_keep_their_ids():
    times = [number / 30 for number in range(60)]
    ids = follow([[found(0.1 + 0.4 * time, y=0.45), found(0.9 - 0.4 * time, y=0.55)] for time in times])
    assert ids[0] == [None, None]  # Seen once, it may be nothing.
    assert ids[1:] == [[1, 2]] * 59


@pytest.mark.parametrize("every", [1, 2, 5, 9])
def test_dropped_frames_do_not_break_a_track(every):
    # In 9 dropped frames it moves by more than its width: only a velocity finds it again.
    tracker = Tracker()
    seen = set()
    for number in [*range(12), *range(12, 120, every)]:
        time_s = number * FRAME_S
        seen |= {*tracker.update([found(0.05 + 0.22 * time_s)], round(time_s * 1e9), score_min=0.5, aspect=16 / 9)}
    assert seen == {None, 1}


def test_low_scores_keep_a_track_alive_and_never_begin_one():
    frames = [[found(0.3)]] * 5 + [[found(0.3, score=0.2)]] * 60 + [[found(0.3)]] * 5
    ids = follow(frames)
    assert ids[1:] == [[1]] * 69
    assert follow([[found(0.3, score=0.2)]] * 10) == [[None]] * 10


def test_one_that_scores_low_beside_one_that_scores_high_stays_who_it_is():
    frames = [[found(0.2, score=0.9 if number < 6 else 0.3), found(0.6)] for number in range(40)]
    assert follow(frames)[1:] == [[1, 2]] * 39


def test_what_scores_nothing_is_not_there():
    tracker = Tracker()
    ids = [
        tracker.update([found(0.3, score=0.9 if number < 5 else 0.0)], number * 33_333_333, score_min=0.0, aspect=1.0)
        for number in range(20)
    ]
    assert ids[1:] == [[1]] * 4 + [[None]] * 15


def test_who_comes_back_within_a_second_is_the_same_and_later_another():
    present, away = [[found(0.3)]] * 5, [[]]
    assert follow(present + away * 20 + present)[-1] == [1]
    assert follow(present + away * 40 + present)[-1] == [2]


def test_another_class_in_the_same_place_is_another_object():
    assert follow([[found(0.3)]] * 3 + [[found(0.3, label="dog", class_id=1)]] * 3)[-1] == [2]


def test_a_second_box_on_an_object_gets_no_id():
    both = [found(0.3), found(0.3, y=0.58, height=0.14, score=0.7)]
    assert follow([both] * 5)[1:] == [[1, None]] * 4


def test_while_a_gate_says_that_nothing_moves_the_objects_are_held():
    tracker = Tracker()
    follow([[found(0.3)]] * 3, tracker=tracker)
    for second in range(1, 20):
        tracker.hold(second * 1_000_000_000)
    assert tracker.update([found(0.3)], 20_000_000_000, score_min=0.5, aspect=16 / 9) == [1]


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_clock_that_jumps_ends_no_more_than_the_tracks(jump_s):
    tracker = Tracker()
    follow([[found(0.3)]] * 3, tracker=tracker)
    base_ns = round(jump_s * 1e9)
    ids = [tracker.update([found(0.3)], base_ns + step * 10**8, score_min=0.5, aspect=1.0) for step in range(4)]
    assert ids[-1] in ([1], [2])
