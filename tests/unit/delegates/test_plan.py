from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tiny_models import tflite_model

from edgeinfer.board import recognise_board
from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import open_device
from edgeinfer.delegates.installed import runtime_versions
from edgeinfer.delegates.ladder import rungs_for
from edgeinfer.delegates.plan import Plan, PlanRow, board_key, by_plan, fitting_plan, write_plan


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def file(tmp_path) -> ModelFile:
    (tmp_path / "tiny.tflite").write_bytes(tflite_model())
    return read_model_file(tmp_path / "tiny.tflite")


def row(device: str, threads: int | None = None, *, sleeps: bool = False, fps: float = 10.0) -> PlanRow:
    return PlanRow(device, threads, sleeps, fps, 1000 / fps)


def plan_for(file: ModelFile, *rows: PlanRow, **other: object) -> Plan:
    facts = {
        "sha256": file.sha256,
        "board": board_key(recognise_board()),
        "versions": runtime_versions(),
        "ranked_by": "fps",
        "made_at": "2026-11-25T10:00:00.000000Z",
        "rows": rows,
    }
    return Plan(**{**facts, **other})


def test_a_plan_is_kept_and_found_again(file, state):
    plan = plan_for(file, row("litert:cpu", 2))
    path = write_plan(plan)
    assert path.parent == state / "plans"
    assert fitting_plan(file, recognise_board()) == plan


def test_without_a_plan_there_is_none(file):
    assert fitting_plan(file, recognise_board()) is None


def test_a_plan_of_other_versions_is_said_and_ignored(file, caplog):
    write_plan(plan_for(file, row("litert:cpu", 2), versions={**runtime_versions(), "litert": "ai-edge-litert 1.0"}))
    assert fitting_plan(file, recognise_board()) is None
    assert "it was made with ai-edge-litert 1.0, here is ai-edge-litert" in caplog.text
    assert "edgeinfer tune makes a new one" in caplog.text


def test_a_runtime_that_came_later_makes_a_plan_stale(file, caplog):
    versions = runtime_versions()
    versions.pop("onnx")
    write_plan(plan_for(file, row("litert:cpu"), versions=versions))
    assert fitting_plan(file, recognise_board()) is None
    assert "it was made with no onnx, here is onnxruntime" in caplog.text


def test_a_plan_of_another_board_is_said_and_ignored(file, caplog):
    write_plan(plan_for(file, row("litert:cpu"), board="raspberry-pi-5: Raspberry Pi 5"))
    assert fitting_plan(file, recognise_board()) is None
    assert "it was made on raspberry-pi-5" in caplog.text


def test_a_plan_of_another_model_under_this_name_is_not_taken(file):
    path = write_plan(plan_for(file, row("litert:cpu")))
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({**plan, "sha256": "0" * 64}))
    assert fitting_plan(file, recognise_board()) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema":"edgeinfer.plan/1"}', b"\xff" * 600_000])
def test_a_damaged_plan_is_said_and_ignored(file, state, caplog, content):
    path = write_plan(plan_for(file, row("litert:cpu")))
    path.write_bytes(content)
    assert fitting_plan(file, recognise_board()) is None
    assert "is damaged and ignored" in caplog.text


def test_a_plan_orders_the_rungs_and_sets_their_threads(file):
    rungs = rungs_for("cpu", file)
    planned = by_plan(rungs, plan_for(file, row("litert:cpu:plain", 3), row("litert:cpu", 1)), word="cpu", threads=None)
    assert [(rung.word, rung.threads) for rung in planned] == [
        ("litert:cpu:plain", 3),
        ("litert:cpu", 1),
        ("tflite:cpu", None),
    ]


def test_only_auto_takes_what_was_measured_beyond_the_ladder(file):
    rungs = rungs_for("cpu", file)
    plan = plan_for(file, row("openvino:cpu", 2), row("litert:cpu", 1))
    assert by_plan(rungs, plan, word="auto", threads=None)[0].word == "openvino:cpu"
    assert by_plan(rungs, plan, word="cpu", threads=None)[0].word == "litert:cpu"


@pytest.mark.parametrize("word", ["fake", "fake:latency_ms=1", "nobody:knows", "litert"])
def test_a_plan_never_brings_a_device_that_auto_would_not_take(file, word):
    rungs = rungs_for("auto", file)
    assert by_plan(rungs, plan_for(file, row(word)), word="auto", threads=None) == rungs


def test_threads_that_the_user_names_go_over_the_plan(file):
    rungs = rungs_for("cpu", file)
    plan = plan_for(file, row("litert:cpu", 2), row("litert:cpu:plain", 1))
    assert by_plan(rungs, plan, word="cpu", threads=1)[0].word == "litert:cpu:plain"
    assert by_plan(rungs, plan, word="cpu", threads=4) == rungs
    assert rungs[0].candidate(4, paced=False).options.threads == 4
    assert replace(rungs[0], threads=2).candidate(None, paced=False).options.threads == 2


def test_sleeping_threads_of_a_plan_are_asked_for(file):
    (rung, *_) = rungs_for("cpu", file)
    assert not rung.candidate(None, paced=False).options.paced
    assert replace(rung, sleeps=True).candidate(None, paced=False).options.paced
    assert rung.candidate(None, paced=True).options.paced


def test_run_goes_by_the_plan_and_says_so(file, caplog):
    caplog.set_level(logging.INFO)
    write_plan(plan_for(file, row("litert:cpu:plain", 2), row("litert:cpu", 1)))
    runtime = open_device(file, "auto")
    assert runtime.device == "litert:cpu:plain"
    runtime.close()
    assert "by the plan of 2026-11-25" in caplog.text
    assert "litert:cpu:plain, 2 threads first" in caplog.text


def test_an_exact_device_keeps_its_word_and_takes_the_threads_of_the_plan(file, caplog):
    caplog.set_level(logging.INFO)
    write_plan(plan_for(file, row("litert:cpu:plain", 2), row("litert:cpu", 3)))
    runtime = open_device(file, "litert:cpu")
    assert runtime.device == "litert:cpu"
    runtime.close()
    assert "litert:cpu, 3 threads first" in caplog.text


def test_fake_asks_no_plan(file, caplog):
    caplog.set_level(logging.INFO)
    write_plan(plan_for(file, row("litert:cpu", 2)))
    open_device(file, "fake").close()
    assert "plan" not in caplog.text


def test_a_plan_is_plain_json(file):
    path = write_plan(plan_for(file, row("litert:cpu", 2, fps=12.5)))
    assert msgspec.json.decode(path.read_bytes())["rows"] == [
        {"device": "litert:cpu", "threads": 2, "sleeps": False, "fps": 12.5, "p90_ms": 80.0}
    ]
