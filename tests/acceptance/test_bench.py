"""`edgeinfer bench` as a user types it."""

from __future__ import annotations

import json
import re

import pytest

SHORT = ("--seconds", "0.2", "--device", "litert:cpu")
STREAM = {
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "p90_early_stopping_ms",
    "queries",
    "mlperf_minimum_met",
    "offline_per_s",
    "latency_ms",
}


def test_the_table_says_what_was_measured_on_what(edgeinfer):
    ran = edgeinfer("bench", "blood-cells", *SHORT)
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 100
    assert "Device   litert:cpu, threads: left to the runtime" in ran.out
    assert "Source   a 1280 x 720 JPEG picture, decoded anew for each frame" in ran.out
    rows = re.findall(r"^(model alone|end to end) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+) +([\d.]+)$", ran.out, re.M)
    assert [row[0] for row in rows] == ["model alone", "end to end"]
    for _, p50, p90, p99, queries, _ in rows:
        assert 0 < float(p50) <= float(p90) <= float(p99)
        assert int(queries) >= 3
    assert "shorter than its minimum of 1024 queries and 60 s" in ran.out


def test_json_holds_every_latency(edgeinfer):
    source = "synthetic://blood-smear?frames=20"
    ran = edgeinfer("bench", "blood-cells", *SHORT, "--json", "--source", source, "--threads", 1)
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert (facts["schema"], facts["device"], facts["threads"]) == ("edgeinfer.bench/1", "litert:cpu", 1)
    assert facts["source"] == f"{source}, 640 x 480"
    for name in ("alone", "end_to_end"):
        assert set(facts[name]) == STREAM
        assert len(facts[name]["latency_ms"]) == facts[name]["queries"]
        assert facts[name]["mlperf_minimum_met"] is False
    assert list(facts["stage_ms"]) == ["read", "preprocess", "infer", "decode", "result"]
    assert facts["loadgen"] is None


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<svg "), ("a.png", b"\x89PNG")])
def test_a_plot_is_drawn(edgeinfer, tmp_path, name, begins):
    ran = edgeinfer("bench", "blood-cells", *SHORT, "--plot", name)
    assert ran.code == 0, ran.err
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--seconds", "0"], 2, "--seconds: 0 is not above 0 and at most 86400"),
        (["--plot", "a.gif"], 2, "--plot a.gif: its ending says no format; end it in .svg or .png"),
        (["--source", "synthetic://noise"], 2, "synthetic://noise sets the pace itself; measure with a file, or"),
        (["--source", "no-such.mp4"], 5, "no-such.mp4"),
        (["--device", "litert:npu"], 4, "litert has no unit 'npu'"),
        (["--threads", "0"], 2, "--threads: must be at least 1 (it is 0)"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(edgeinfer, words, code, said):
    ran = edgeinfer("bench", "blood-cells", *words)
    assert ran.code == code
    assert ran.out == ""
    assert len(ran.errors) == 1
    assert said in ran.errors[0]
