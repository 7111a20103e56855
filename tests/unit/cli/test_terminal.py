from __future__ import annotations

import logging
import os
import pty

import pytest

from edgeinfer.cli.terminal import LiveLine, closing_line, configure_logging, cut, plain, profile_table
from edgeinfer.pipeline import Report
from edgeinfer.pipeline.profile import StageTime


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("chat noir é 猫", "chat noir é 猫"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("a\u202eb", "a\\u202eb"),
        ("a\udcffb", "a\\udcffb"),
        ("a\x9bb", "a\\x9bb"),
    ],
)
def test_a_label_cannot_steer_the_terminal(text, shown):
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abcdef", 3, "abc"),
        ("abc", 3, "abc"),
        ("猫猫猫", 5, "猫猫"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
        ("abc", 0, ""),
    ],
)
def test_a_line_is_cut_to_the_columns_that_it_takes(text, columns, shown):
    assert cut(text, columns) == shown


@pytest.fixture
def log():
    logger = logging.getLogger("edgeinfer")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logging.getLogger("edgeinfer.test")
    logger.handlers[:], logger.level, logger.propagate = before


def test_a_log_message_is_one_plain_line_and_a_traceback_keeps_its_lines(log, capsys):
    configure_logging(quiet=False, debug=False)
    log.info("two\nlines \x1b[31m")
    log.warning("edgeinfer: odd")
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        log.exception("bad")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "edgeinfer: two lines \\x1b[31m",
        "edgeinfer: warning: edgeinfer: odd",
        "edgeinfer: error: bad",
    ]
    assert lines[-1] == "ZeroDivisionError: oops"


class Nobody:
    """A pipeline of which only the name is long."""

    name = "a"
    state = "degraded: " + "source lost, " * 50
    latest = None
    counted_in = "frames"
    tally = {"inferred": 0, "gated": 0}  # noqa: RUF012


def test_the_live_line_fits_the_terminal_that_it_is_on(monkeypatch):
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr(
            "os.get_terminal_size", lambda handle: os.terminal_size((20, 5)) if handle == theirs else None
        )
        line = LiveLine(lambda: [Nobody()], quiet=False)
        line.draw()
    assert len(os.read(ours, 1000).decode()) - len("\r\x1b[K") == 19
    os.close(ours)


@pytest.mark.parametrize("state", ["degraded: source lost", "down: litert:cpu failed"])
def test_the_live_line_says_what_is_wrong(monkeypatch, state):
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr("sys.stderr", terminal)
        pipeline = Nobody()
        pipeline.state = state
        LiveLine(lambda: [pipeline], quiet=False).draw()
    assert state in os.read(ours, 1000).decode()
    os.close(ours)


@pytest.mark.parametrize(
    ("counted_in", "said"),
    [
        (["frames"], "7 frames | 0.0 fps"),
        (["windows", "windows"], "14 windows | 0.0 a second"),
        (["frames", "windows"], "7 frames, 7 windows | 0.0 a second"),
    ],
)
def test_the_live_line_counts_windows_as_windows(monkeypatch, counted_in, said):
    ours, theirs = pty.openpty()
    pipelines = [Nobody() for _ in counted_in]
    for pipeline, name in zip(pipelines, counted_in, strict=True):
        pipeline.counted_in, pipeline.tally = name, {"inferred": 5, "gated": 2}
    with open(theirs, "w") as terminal:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr("sys.stderr", terminal)
        LiveLine(lambda: pipelines, quiet=False).draw()
    assert said in os.read(ours, 1000).decode()
    os.close(ours)


def test_a_terminal_that_was_closed_does_not_end_a_run(monkeypatch):
    ours, theirs = pty.openpty()
    terminal = open(theirs, "w")  # noqa: PTH123, SIM115 - a descriptor, whose closing fails
    monkeypatch.setattr("sys.stderr", terminal)
    line = LiveLine(lambda: [Nobody()], quiet=False)
    os.close(ours)
    line.draw()
    line.clear()
    with pytest.raises(OSError, match="Input/output error"):
        terminal.close()


def test_the_closing_line_says_what_the_gate_saved():
    report = Report(
        frames=30,
        results=300,
        elapsed_s=10.0,
        counts={"inferred": 30, "gated": 270},
        stage_ms={"infer": 5.0},
        skipped={},
        error=None,
    )
    assert closing_line("door", "fake", "frames", report) == (
        "door: 300 frames in 10.0 s, 30.0 fps on fake (ms: infer 5.00); "
        "30 inferred, 270 reused: the gate saved 90.0 % of the inferences"
    )


def test_the_profile_is_a_table_with_the_drops_below_it():
    report = Report(
        frames=2,
        results=2,
        elapsed_s=1.0,
        counts={"dropped.rate": 3, "dropped.superseded": 1},
        stage_ms={},
        skipped={},
        error=None,
        profile=(
            StageTime("source", 6, 1.5, 1.4, 2.0, 2.1, bytes_each=6_220_800),
            StageTime("write out\x1b.jsonl", 2, 0.01, 0.01, 0.02, 0.02),
        ),
    )
    assert profile_table("door", report).splitlines() == [
        "door (ms)             count      mean       p50       p99       max  kB written",
        "source                    6     1.500     1.400     2.000     2.100      6220.8",
        "write out\\x1b.jsonl       2     0.010     0.010     0.020     0.020",
        "dropped: 3 rate, 1 superseded",
    ]


def test_the_closing_line_says_what_was_dropped_and_skipped():
    report = Report(
        frames=10,
        results=9,
        elapsed_s=2.0,
        counts={"inferred": 10, "dropped.superseded": 3, "dropped.max_age": 1},
        stage_ms={"infer": 5.0},
        skipped={f"{name}.jpg": "empty" for name in "abcd"},
        error=None,
    )
    assert closing_line("door", "fake", "frames", report) == (
        "door: 10 frames in 2.0 s, 5.0 fps on fake (ms: infer 5.00); dropped: 1 max_age, 3 superseded; "
        "skipped 4: a.jpg (empty), b.jpg (empty), c.jpg (empty), …"
    )
