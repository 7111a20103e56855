"""`edgeinfer tune` and the run that goes by its plan, as a user types them."""

from __future__ import annotations

import json

import pytest

SECONDS = ("--seconds", "1", "--device", "litert:cpu")


@pytest.fixture
def environment(environment, tmp_path):
    """With a state folder of its own, so that no other test goes by these plans."""
    return {**environment, "EDGEINFER_STATE": str(tmp_path / "state")}


def test_tune_keeps_a_plan_and_run_goes_by_it(edgeinfer, tmp_path):
    tuned = edgeinfer("tune", "blood-cells", *SECONDS)
    assert tuned.code == 0, tuned.err
    assert tuned.err == ""
    assert "DEVICE" in tuned.out
    assert "litert:cpu, 1 thread" in tuned.out
    assert "Best by frames per second: litert:cpu" in tuned.out
    (plan,) = (tmp_path / "state" / "plans").iterdir()
    assert str(plan) in tuned.out
    assert json.loads(plan.read_text())["rows"][0]["device"] == "litert:cpu"
    ran = edgeinfer("run", "--model", "blood-cells", "--source", "synthetic://blood-smear?frames=2")
    assert ran.code == 0
    assert "edgeinfer: by the plan of 20" in ran.err
    assert len(ran.results) == 2
    stale = json.loads(plan.read_text())
    plan.write_text(json.dumps({**stale, "board": "another"}))
    ran = edgeinfer("run", "--model", "blood-cells", "--source", "synthetic://blood-smear?frames=2")
    assert ran.code == 0
    assert "is ignored: it was made on another; edgeinfer tune makes a new one" in ran.err


def test_tune_as_json(edgeinfer):
    ran = edgeinfer("tune", "blood-cells", *SECONDS, "--json", "--source", "synthetic://blood-smear?frames=20")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert facts["schema"] == "edgeinfer.tune/1"
    assert facts["source"] == "synthetic://blood-smear?frames=20"
    assert facts["plan"]["ranked_by"] == "fps"
    assert all(len(each["fps"]) == len(each["p90_ms"]) >= 1 for each in facts["rounds"])


def test_a_live_source_ranks_by_latency(edgeinfer):
    live = "synthetic://blood-smear?fps=60"
    ran = edgeinfer("tune", "blood-cells", *SECONDS, "--json", "--source", live)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["plan"]["ranked_by"] == "p90"
    ran = edgeinfer("tune", "blood-cells", *SECONDS, "--source", live, "--by", "fps")
    assert ran.code == 2
    said = f"--by fps: {live} sets the pace itself; use --by p90, or a file as source"
    assert ran.errors == [f"edgeinfer: error: {said}"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["tune"], 2, "the following arguments are required: M"),
        (["tune", "blood-cells", "--seconds", "0"], 2, "--seconds: 0 is not between 1 and 86400"),
        (["tune", "blood-cells", "--seconds", "nan"], 2, "--seconds: nan is not between"),
        (["tune", "blood-cells", "--device", "edgetpu"], 4, "not compiled for it"),
        (["tune", "blood-cells", "--source", "nothing.mp4"], 5, "nothing.mp4"),
        (["tune", "nothing.tflite"], 3, "nothing.tflite"),
    ],
)
def test_bad_input_is_one_line(edgeinfer, words, code, said):
    ran = edgeinfer(*words)
    assert ran.code == code, ran.err
    (error,) = ran.errors
    assert any(each in error for each in said.split("|"))
