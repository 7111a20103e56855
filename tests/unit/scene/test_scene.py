"""What outputs get to see of a frame, and what of a result."""

from __future__ import annotations

import numpy as np
from sightings import result

from edgeinfer.config import RuleConfig
from edgeinfer.draw import annotate
from edgeinfer.frame import Frame
from edgeinfer.result import Anomaly, Detection, IdMaker, Value
from edgeinfer.scene.scene import Scene

BOX = (0.25, 0.25, 0.5, 0.75)


def frame(number):
    """Noise, in which everything blurred stands out."""
    pixels = np.random.default_rng(3).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return Frame(pixels, number, number * 100_000_000, 0, "memory:")


def scene(*rules, **words):
    return Scene(rules, track=True, new_id=IdMaker(lambda: 0), **words)


def look(scene, number, *scores):
    found = [Detection("person", 0, score, BOX) for score in scores]
    return scene.look(result(number, detections=found), frame(number), score_min=0.5)


def detail(pixels):
    """How much neighbours differ, inside the box and beside it."""
    steps = np.abs(np.diff(pixels.astype(int), axis=1)).mean(axis=2)
    return steps[66:174, 88:152].mean(), steps[66:174, 220:300].mean()


def test_what_scores_too_low_is_not_published():
    seen = look(scene(), 0, 0.9, 0.3)
    assert [found.score for found in seen.result().detections] == [0.9]


def test_a_class_is_blurred_also_where_it_scores_low_or_is_missed():
    blurring = scene(blur=["person"])
    for number, scores in enumerate([(0.9,), (0.9,), (0.2,), ()]):
        original = frame(number)
        shown = look(blurring, number, *scores).shown(original)
        inside, beside = detail(shown.pixels)
        assert inside < 8 < 60 < beside
        assert detail(original.pixels)[0] > 60  # The frame of the source is left as it was.
    # After the second that a lost object is waited for, there is nothing to hide.
    for number in range(4, 20):
        shown = look(blurring, number).shown(frame(number))
    assert detail(shown.pixels)[0] > 60


def test_zones_and_tracks_are_drawn():
    zone = ((0.6, 0.2), (0.9, 0.2), (0.9, 0.8), (0.6, 0.8))
    watched = scene(RuleConfig(name="door", kind="enter", zone=zone))
    look(watched, 0, 0.9)
    seen = look(watched, 1, 0.9)
    shown = seen.shown(frame(1))
    assert [(outline.name, outline.closed) for outline in shown.outlines] == [("door", True)]
    canvas = np.full((240, 320, 3), 128, dtype=np.uint8)
    annotate(canvas, seen.result(), shown.outlines)
    assert (canvas[120, 190:194] != 128).any()
    assert (canvas[120, 286:290] != 128).any()
    assert (canvas[100:140, 200:280] == 128).all()


def test_a_rule_is_silent_while_it_cools_down():
    rule = RuleConfig(name="in", kind="enter", cooldown_s=5.0)
    watched = scene(rule)
    events = []
    for number in range(200):
        # Somebody new every four seconds: there for one, and away for three.
        events += look(watched, number, *([0.9] if number % 40 < 10 else [])).events
    assert [event.seq for event in events] == [4, 84, 164]
    assert len({event.track for event in events}) == 3


def test_what_lasts_is_over_with_the_last_result_and_nobody_left_by_that():
    rules = [
        RuleConfig(name="stays", kind="dwell", for_s=0.5),
        RuleConfig(name="some", kind="occupancy"),
        RuleConfig(name="in", kind="enter"),
        RuleConfig(name="out", kind="leave"),
        RuleConfig(name="over", kind="cross", line=((0.9, 0.0), (0.9, 1.0))),
    ]
    watched = scene(*rules)
    assert watched.cut() is None
    events = [event for number in range(20) for event in look(watched, number, 0.9).events]
    begun = {event.rule: event for event in events}
    assert begun.keys() == {"stays", "some", "in"}
    over = watched.cut()
    assert over.result().seq == 19
    assert [event.rule for event in over.events] == ["stays", "some"]
    for event in over.events:
        assert (event.id, event.start) == (begun[event.rule].id, begun[event.rule].start)
        assert event.end == event.occurred_at == over.result().captured_at > event.start
        assert (event.result, event.seq) == (over.result().id, 19)
    assert (over.events[0].track, over.events[1].count) == (1, 1)
    assert watched.cut().events == ()


def test_what_was_over_is_not_told_again_at_the_end():
    watched = scene(RuleConfig(name="some", kind="occupancy"))
    told = [event for number in range(40) for event in look(watched, number, *([0.9] * (number < 20))).events]
    assert [event.end is None for event in told] == [True, False]
    assert watched.cut().events == ()


def test_what_happened_in_a_result_that_is_not_published_is_told_with_the_next():
    watched = scene(RuleConfig(name="some", kind="occupancy"))
    for number in range(10):
        seen = look(watched, number, 0.9)
        watched.take_back(seen)
    (begun,) = look(watched, 10, 0.9).events
    assert begun.seq < 10
    assert look(watched, 11, 0.9).events == ()
    for number in range(12, 40):
        watched.take_back(look(watched, number))
    (over,) = watched.cut().events
    assert (over.id, over.end is not None) == (begun.id, True)


def test_a_number_that_is_still_beyond_is_told_as_it_was_last():
    rules = [RuleConfig(name="hot", kind="value", value="celsius", above=50.0), RuleConfig(name="odd", kind="anomaly")]
    watched = Scene(rules, track=False, new_id=IdMaker(lambda: 0))
    for number, celsius in enumerate([20.0, 60.0, 70.0]):
        odd = Anomaly(celsius / 100, 0.5, is_anomaly=celsius > 50)
        measured = result(number, values=(Value("celsius", celsius),), anomaly=odd)
        watched.look(measured, frame(number), score_min=0.5)
    assert [(event.rule, event.value) for event in watched.cut().events] == [("hot", 70.0), ("odd", 0.7)]
