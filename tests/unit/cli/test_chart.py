"""The picture of latencies and stages: well-formed, inside its frame, and where the numbers say."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from edgeinfer.cli.chart import HEIGHT, WIDTH, Chart, as_png, as_svg, check_chart, write_chart
from edgeinfer.errors import OutputError
from edgeinfer.pipeline.bench import SingleStream

SVG = "{http://www.w3.org/2000/svg}"
FAST, SLOW = "#0969da", "#bc4c00"


def chart(fast=(1.0, 1.5, 2.0, 4.0) * 30, slow=(5.0, 6.0, 8.0, 400.0) * 30, title="ssd <1> & co on litert:cpu"):
    return Chart(
        title=title,
        subtitle="a machine",
        curves={"model alone": SingleStream(tuple(fast)), "end to end": SingleStream(tuple(slow))},
        stage_ms={"read": 3.0, "preprocess": 0.5, "infer": 1.0, "decode": 0.4, "result": 0.1},
    )


def elements(svg, kind):
    return list(ElementTree.fromstring(svg).iter(SVG + kind))


def curve(svg, colour):
    (line,) = (each for each in elements(svg, "polyline") if each.get("stroke") == colour)
    return np.array([[float(number) for number in place.split(",")] for place in line.get("points").split()])


def test_it_is_well_formed_and_says_what_was_measured():
    texts = [each.text for each in elements(as_svg(chart()), "text")]
    assert texts[:2] == ["ssd <1> & co on litert:cpu", "a machine"]
    for said in ("model alone (120 queries)", "latency of a query, ms (logarithmic)", "infer 1 ms", "p90 4", "p50 2"):
        assert said in texts
    assert "stages of a frame end to end, medians: 5 ms together" in texts


def test_a_curve_rises_to_the_right_and_stays_in_the_frame():
    for colour in (FAST, SLOW):
        points = curve(as_svg(chart()), colour)
        assert (np.diff(points[:, 0]) >= 0).all()
        assert (np.diff(points[:, 1]) <= 0).all()
        assert ((points > 0) & (points < (WIDTH, HEIGHT))).all()


def test_equal_ratios_of_latency_are_equal_widths():
    dots = [float(each.get("cx")) for each in elements(as_svg(chart((1.0, 2.0, 4.0) * 40, (4.0, 8.0) * 40)), "circle")]
    fast_p50, fast_p90, _, slow_p50, *_ = dots
    assert slow_p50 - fast_p90 == pytest.approx(fast_p90 - fast_p50, abs=0.2)


def test_the_stages_fill_the_bar_by_their_share():
    bars = [each for each in elements(as_svg(chart()), "rect") if each.get("height") == "26.0"]
    widths = [float(each.get("width")) for each in bars]
    assert sum(widths) == pytest.approx(WIDTH - 76 - 36, abs=0.5)
    assert widths[0] / sum(widths) == pytest.approx(3 / 5, abs=0.01)
    for left, right in pairwise(bars):
        assert float(left.get("x")) + float(left.get("width")) == pytest.approx(float(right.get("x")), abs=0.11)


@pytest.mark.parametrize("latencies", [(2.0,), (0.0, 0.0, 0.0), (1.0,) * 5000])
def test_any_run_can_be_drawn(latencies):
    svg = as_svg(chart(latencies, latencies))
    assert "nan" not in svg
    assert len(curve(svg, FAST)) < 500


def test_a_name_cannot_break_the_file():
    assert "a\x00" not in as_svg(chart(title="a\x00b\x1b"))
    assert elements(as_svg(chart(title="a\x00b\x1b")), "text")[0].text == "a?b?"


def test_the_png_shows_the_same_at_twice_the_size():
    pixels = cv2.imdecode(np.frombuffer(as_png(chart()), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (HEIGHT * 2, WIDTH * 2, 3)
    blue, orange = ((np.abs(pixels.astype(int) - colour).max(axis=2) < 10) for colour in ((218, 105, 9), (0, 76, 188)))
    assert blue.sum() > 500
    assert orange.sum() > 500
    x, y = curve(as_svg(chart()), SLOW)[3] * 2
    assert orange[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5].any()


@pytest.mark.parametrize("name", ["a.gif", "a", "svg"])
def test_a_format_that_is_not_known_is_refused(tmp_path, name):
    with pytest.raises(OutputError, match=re.escape(r"its ending says no format; end it in .svg or .png")):
        check_chart(tmp_path / name)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="there is no such folder"):
        check_chart(tmp_path / "none" / "a.svg")


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(OutputError, match=r"a\.svg: Is a directory"):
        write_chart(chart(), tmp_path / "a.svg")
