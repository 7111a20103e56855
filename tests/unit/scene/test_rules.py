"""Rules on scenes that are drawn, each object a track of its own."""

from __future__ import annotations

import pytest
from sightings import result

from edgeinfer.config import PipelineConfig, RuleConfig
from edgeinfer.errors import ConfigError
from edgeinfer.geometry import is_inside, wrong_polygon
from edgeinfer.result import Anomaly, Classification, Value
from edgeinfer.scene.rules import View, make_rule
from edgeinfer.scene.tracker import Track
from edgeinfer.tomlfile import convert

SQUARE = ((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6))


def track(x, y, *, at_s, label="person", track_id=1, score=0.9):
    return Track(track_id, label, 0, score, (x - 0.05, y - 0.2, x + 0.05, y), round(at_s * 1e9), score)


def told(config, places, *, step_s=0.1, **words):
    """places: for each picture a list of foot points, or of tracks. What is told, with its picture's number."""
    rule = make_rule(config)
    findings = []
    for number, points in enumerate(places):
        at_s = number * step_s
        tracks = [track(*point, at_s=at_s, track_id=index + 1, **words) for index, point in enumerate(points)]
        view = View(result(), tracks, round(at_s * 1e9), 0.5)
        findings += [(number, finding) for finding in rule.look(view)]
    return findings


def walk(begin, end, steps=20):
    return [
        [(begin[0] + (end[0] - begin[0]) * k / steps, begin[1] + (end[1] - begin[1]) * k / steps)]
        for k in range(steps + 1)
    ]


def test_entering_and_leaving_are_told_once_each():
    through = walk((0.1, 0.5), (0.9, 0.5))
    entered = told(RuleConfig(name="in", kind="enter", zone=SQUARE), through)
    left = told(RuleConfig(name="out", kind="leave", zone=SQUARE), through)
    assert [(finding.phase, finding.track) for _, finding in entered + left] == [("once", 1), ("once", 1)]
    # Inside from picture 8 on and outside from 13 on, and 0.3 s make sure of it.
    assert (entered[0][0], left[0][0]) == (11, 16)


def test_who_trembles_at_the_edge_of_a_zone_has_not_entered():
    edge = [[(0.399 + 0.002 * (number % 2), 0.5)] for number in range(50)]
    assert told(RuleConfig(name="in", kind="enter", zone=SQUARE), edge) == []


def test_who_vanishes_in_a_zone_has_left_it():
    places = [[(0.5, 0.5)]] * 10 + [[]]
    assert [number for number, _ in told(RuleConfig(name="out", kind="leave", zone=SQUARE), places)] == [10]


def test_dwelling_begins_after_its_time_and_ends():
    places = [[(0.5, 0.5)]] * 40 + [[(0.1, 0.5)]] * 10
    findings = told(RuleConfig(name="d", kind="dwell", zone=SQUARE, for_s=2.0), places)
    assert [(number, finding.phase) for number, finding in findings] == [(20, "begin"), (43, "end")]


@pytest.mark.parametrize(
    ("begin", "end", "direction"),
    [((0.1, 0.5), (0.9, 0.5), "right-to-left"), ((0.9, 0.5), (0.1, 0.5), "left-to-right")],
)
def test_a_line_is_crossed_one_way_or_the_other(begin, end, direction):
    # From the top down: what is at the left in the picture is at the right of who goes along it.
    down = ((0.5, 0.0), (0.5, 1.0))
    both = told(RuleConfig(name="c", kind="cross", line=down), walk(begin, end))
    assert [finding.direction for _, finding in both] == [direction]
    one_way = RuleConfig(name="c", kind="cross", line=down, direction="left-to-right")
    assert len(told(one_way, walk(begin, end))) == (direction == "left-to-right")


def test_beside_a_line_and_trembling_on_it_is_no_crossing():
    short = RuleConfig(name="c", kind="cross", line=((0.5, 0.8), (0.5, 1.0)))
    assert told(short, walk((0.1, 0.5), (0.9, 0.5))) == []
    trembling = [[(0.5 + 0.008 * (-1) ** number, 0.9)] for number in range(20)]
    assert told(short, trembling) == []


def test_occupancy_counts_those_of_its_classes():
    rule = RuleConfig(name="o", kind="occupancy", zone=SQUARE, at_least=2, for_s=0.5)
    places = [[(0.5, 0.5)]] * 5 + [[(0.5, 0.5), (0.45, 0.55)]] * 10 + [[(0.5, 0.5)]] * 10
    assert [(number, finding.phase, finding.count) for number, finding in told(rule, places)] == [
        (10, "begin", 2),
        (20, "end", 1),
    ]
    cars = RuleConfig(name="o", kind="occupancy", zone=SQUARE, classes=("car",))
    assert told(cars, places) == []


@pytest.mark.parametrize(
    ("config", "outcome"),
    [
        (
            RuleConfig(name="k", kind="label", classes=("yes",), score_min=0.6, clear=0.3, for_s=0.2),
            lambda level: {"classes": (Classification("yes", 1, level), Classification("no", 0, 1 - level))},
        ),
        (
            RuleConfig(name="a", kind="anomaly", above=0.6, clear=0.3, for_s=0.2),
            lambda level: {"anomaly": Anomaly(level, 0.9, is_anomaly=False)},
        ),
        (
            RuleConfig(name="v", kind="value", value="rpm", below=-0.6, clear=-0.3, for_s=0.2),
            lambda level: {"values": (Value("rpm", -level),)},
        ),
    ],
)
def test_a_threshold_has_hysteresis_and_patience(config, outcome):
    rule = make_rule(config)
    #          a blip          steady           between the two  over
    levels = [0.1, 0.9, 0.1] + [0.7, 0.7, 0.7] + [0.4] * 5 + [0.2, 0.2, 0.2]
    phases = []
    for number, level in enumerate(levels):
        view = View(result(detections=None, **outcome(level)), (), number * 100_000_000, 0.5)
        phases += [(number, finding.phase) for finding in rule.look(view)]
    assert phases == [(5, "begin"), (13, "end")]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"kind": "enter", "zone": [[0.1, 0.1], [0.9, 0.9]]}, "rule[0].zone: must have at least 3 entries"),
        ({"kind": "enter", "zone": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "it crosses itself: side 1 meets side 3"),
        ({"kind": "enter", "zone": [[0, 0], [0.5, 0.5], [1, 1]]}, "its points lie on one line"),
        ({"kind": "enter", "zone": [[0, 0], [1.5, 0], [1, 1]]}, "rule[0].zone[1][0]: must be at most 1"),
        ({"kind": "cross"}, "line is missing"),
        ({"kind": "cross", "line": [[0, 0]]}, "rule[0].line: must have at least 2 entries"),
        ({"kind": "dwell"}, "for_s is missing"),
        ({"kind": "enter", "line": [[0, 0], [1, 1]]}, "line is not for a rule of kind 'enter'"),
        ({"kind": "entr"}, "rule[0].kind: did you mean 'enter'?"),
        ({"kind": "value", "value": "rpm"}, "give value, and one of above and below"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_its_key(rule, reason):
    words = {"model": "m", "source": "s", "rule": [{"name": "door", **rule}]}
    with pytest.raises(ConfigError) as refused:
        convert(words, PipelineConfig, ConfigError)
    assert reason in str(refused.value)
    assert "rule[0]" in str(refused.value)


def test_two_rules_of_one_name_are_refused():
    words = {"model": "m", "source": "s", "rule": [{"name": "door", "kind": "enter"}] * 2}
    with pytest.raises(ConfigError, match="two rules are named 'door'"):
        convert(words, PipelineConfig, ConfigError)


def test_a_hollow_polygon_holds_what_is_in_it():
    letter_u = ((0.1, 0.1), (0.3, 0.1), (0.3, 0.7), (0.7, 0.7), (0.7, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))
    assert wrong_polygon(letter_u) is None
    assert [is_inside(point, letter_u) for point in ((0.2, 0.5), (0.5, 0.5), (0.8, 0.2), (0.5, 0.8))] == [
        True,
        False,
        True,
        True,
    ]
