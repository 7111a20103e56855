"""scripts/benchmarks: how figures become verdicts, tables and files. What they are is no test's business."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from inspect import signature

import pytest

from scripts.benchmarks import __main__ as program
from scripts.benchmarks import report, slices
from scripts.benchmarks.__main__ import SCENARIOS
from scripts.benchmarks.contest import BARE, OURS, Line, cases, of, ratio, take_turns

ON = {"cpu": "a cpu", "cores": 2, "memory_mib": 1, "architecture": "x", "kernel": "6", "load_before": 0.0}


def rows(ours, bare):
    return [
        {"case": "a", "round": number, "who": who, "fps": fps}
        for who, figures in ((OURS, ours), (BARE, bare))
        for number, fps in enumerate(figures)
    ]


def test_contenders_take_turns_and_begin_every_other_round():
    order = []
    contenders = {who: lambda who=who: order.append(who) or {"fps": 1.0} for who in (BARE, OURS)}
    taken = list(take_turns(3, "a", contenders))
    assert order == [BARE, OURS, OURS, BARE, BARE, OURS]
    assert [row["round"] for row in taken] == [0, 0, 1, 1, 2, 2]
    assert cases(taken) == ["a"]


def test_a_ratio_is_taken_within_each_round():
    # The second round was slow for both: the medians alone would say 0.5.
    line = ratio(rows([98, 49, 97], [100, 50, 200]), "a", "fps", "throughput", at_least=0.97)
    assert line.values == [0.98, 0.98, 0.485]
    assert (line.value, line.holds) == (0.98, True)
    assert (line.ours, line.bare) == (97, 100)


def test_rounds_are_matched_whatever_their_order():
    shuffled = rows([1, 2], [3, 4])[::-1]
    assert of(shuffled, "a", OURS, "fps") == [1, 2]


@pytest.mark.parametrize(
    ("limit", "holds"), [({"at_least": 2.0}, True), ({"at_least": 2.1}, False), ({"at_most": 1.9}, False), ({}, None)]
)
def test_the_median_is_judged(limit, holds):
    assert Line("a", "b", [1.0, 2.0, 9.0], **limit).holds is holds


def test_figures_without_a_limit_are_shown_by_their_words():
    taken = [
        {"case": "echo", "round": number, "where": where, "p50_us": value}
        for number in range(3)
        for where, value in (("here", 1.0 + number), ("worker", 11.0 + number))
    ]
    assert [(line.case, line.metric, line.value) for line in report.lines_of(taken)] == [
        ("echo, here", "p50_us", 2.0),
        ("echo, worker", "p50_us", 12.0),
    ]


def test_markdown_goes_between_the_marks_and_may_be_written_again(tmp_path):
    path = tmp_path / "benchmarks.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    scenario = report.Scenario("x", "A title", [], [Line("a", "b", [0.96], at_least=0.97, note="why")])
    for _ in range(2):
        report.write_markdown(path, report.markdown([scenario], ON, 5))
    text = path.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\nMeasured on 20")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert text.count("### A title") == 1
    assert "| a | b (why) |  |  | 0.960 |  | ≥ 0.97 | **missed** |" in text


def test_json_keeps_every_round():
    taken = rows([1.0], [2.0])
    lines = [ratio(taken, "a", "fps", "throughput", at_least=0.97)]
    facts = report.as_json([report.Scenario("x", "A title", taken, lines)], ON, 1)
    assert facts["schema"] == "edgeinfer.benchmarks/1"
    assert facts["machine"] == ON
    assert facts["versions"]["numpy"]
    assert facts["scenarios"]["x"]["rows"] == taken
    assert facts["scenarios"]["x"]["lines"][0]["holds"] is False


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_is_measured_in_rounds(name):
    module = import_module(f"scripts.benchmarks.{name}")
    assert list(signature(module.measure).parameters) == ["rounds"]


def test_a_scenario_that_fails_leaves_the_others_their_figures(monkeypatch, capsys, tmp_path):
    def measure(name, rounds):
        if name == "live":
            raise SystemExit("the loop ended")
        return report.Scenario(name, name, rows([1.0], [1.0]), [])

    monkeypatch.setattr(program, "_measure", measure)
    monkeypatch.setattr(sys, "argv", ["bench", "throughput", "live", "start", "--json", str(tmp_path / "bench.json")])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 1
    assert "live failed" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "bench.json").read_text())["scenarios"]) == ["throughput", "start"]


# Ten frames for each time that it is looked at, until `last`. It tells the states of the processes that came before it.
COUNTING = """
import json, os, sys
from pathlib import Path
last, pids = int(sys.argv[1]), Path(sys.argv[2])
others = [Path("/proc", path.name, "stat") for path in pids.iterdir()]
(pids / str(os.getpid())).touch()
frames = 0
for _ in sys.stdin:
    frames += 10
    if frames > last:
        print(json.dumps({"fps": 1.0}), flush=True)
        break
    states = [stat.read_text().rpartition(") ")[2][0] for stat in others if stat.exists()]
    print(json.dumps({"at_s": frames / 100, "frames": frames, "states": states, "folder": os.getcwd()}), flush=True)
"""


@pytest.fixture
def counting(tmp_path):
    """last -> the command of a contender that has so many frames."""
    return lambda last=10_000: [sys.executable, "-c", COUNTING, str(last), str(tmp_path)]


def as_told(spans):
    return {
        "frames": [span.of("frames") for span in spans],
        "folder": spans[-1].last["folder"],
        "states": {state for span in spans for state in span.last["states"]},
    }


def test_contenders_compute_by_turns_within_a_round(counting):
    contenders = {BARE: counting(), OURS: counting()}
    taken = list(slices.alternate(2, "a", contenders, as_told, slice_s=0.02, warm_up=30))
    assert [(row["case"], row["round"], row["who"]) for row in taken] == [
        ("a", number, who) for number in range(2) for who in (BARE, OURS)
    ]
    assert all(row["frames"] == [10.0] * slices.SLICES for row in taken)
    assert len({row["folder"] for row in taken}) == 4, "one of them would write over another's results"
    assert [row["states"] for row in taken if row["who"] == OURS] == [{"T"}] * 2, "while one computes the other stops"


def test_a_round_is_over_where_one_contender_has_no_more_to_do(counting):
    contenders = {BARE: counting(), OURS: counting(last=100)}
    bare, ours = slices.alternate(1, "a", contenders, as_told, slice_s=0.0, warm_up=30)
    # Three looks until it is warm, and two for each of three slices: what is whole for both counts.
    assert bare["frames"] == ours["frames"] == [10.0] * 3


@pytest.mark.parametrize(
    ("last", "said"),
    [(20, "ended before it was warm"), (40, "a: ours had no more to do before its first slice was over")],
)
def test_a_contender_with_too_little_to_do_is_said(counting, last, said):
    contenders = {BARE: counting(), OURS: counting(last=last)}
    with pytest.raises(SystemExit, match=said):
        list(slices.alternate(1, "a", contenders, as_told, slice_s=0.0, warm_up=30))


def test_why_a_contender_did_not_begin_is_said(counting):
    contenders = {OURS: [sys.executable, "-c", "raise SystemExit('no such model')"]}
    with pytest.raises(SystemExit, match="ended before it was warm:\nno such model"):
        list(slices.alternate(1, "a", contenders, as_told, slice_s=0.0, warm_up=30))


def test_a_contender_that_hangs_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(slices, "MAY_TAKE_S", 0.2)
    contenders = {OURS: [sys.executable, "-c", "import time; time.sleep(600)"]}
    with pytest.raises(SystemExit, match="ended before it was warm"):
        list(slices.alternate(1, "a", contenders, as_told, slice_s=0.0, warm_up=30))
