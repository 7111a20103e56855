"""The search for the fastest way, on a machine whose speeds and clock the tests make up."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from tiny_models import onnx_model, tflite_model

from edgeinfer.board import recognise_board
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates.ladder import Rung
from edgeinfer.delegates.plan import Goal
from edgeinfer.delegates.trial import Refused
from edgeinfer.delegates.tune import Progress, Round, Trial, thread_counts, tune, ways
from edgeinfer.errors import DeviceNotFound


def rung(name: str, threads: int | None = 1, *, sleeps: bool = False) -> Rung:
    return Rung(name, "litert", "cpu", threads=threads, sleeps=sleeps)


@dataclass
class Machine:
    """Runs each way at its speed, noise on top; a round takes the time that it was given, and half a second."""

    fps: Mapping[str, float]
    noise: float = 0.0
    refuses: frozenset[str] = frozenset()
    now_s: float = 0.0
    order: list[str] = field(default_factory=list)
    seen: list[Progress] = field(default_factory=list)
    random: random.Random = field(default_factory=lambda: random.Random(1))

    def measure(self, way: Rung, seconds: float) -> Round:
        self.order.append(way.describe())
        self.now_s += seconds + 0.5
        if way.describe() in self.refuses:
            raise Refused(f"{way.word} computes something else", "device")
        fps = self.fps[way.describe()] * (1 + self.noise * self.random.uniform(-1, 1))
        return Round(fps, 1000 / fps)

    def tuned(self, *rungs: Rung, goal: Goal = "fps", budget_s: float = 60.0) -> list[Trial]:
        return tune(
            rungs,
            self.measure,
            goal=goal,
            budget_s=budget_s,
            monotonic_s=lambda: self.now_s,
            report=self.seen.append,
        )


ONE, TWO, FOUR = (rung("litert:cpu", threads) for threads in (1, 2, 4))
SPEEDS = {"litert:cpu, 1 thread": 50.0, "litert:cpu, 2 threads": 90.0, "litert:cpu, 4 threads": 70.0}


def test_the_fastest_comes_first():
    found = Machine(SPEEDS).tuned(ONE, TWO, FOUR)
    assert [trial.rung for trial in found] == [TWO, FOUR, ONE]
    assert found[0].fps == 90.0


def test_the_rounds_are_interleaved_and_begin_with_another_way_each():
    machine = Machine(SPEEDS)
    machine.tuned(ONE, TWO, FOUR)
    first, second = machine.order[:3], machine.order[3:6]
    assert sorted(first) == sorted(second)
    assert first[0] != second[0]


def test_the_hopeless_are_not_measured_for_ever():
    found = Machine({**SPEEDS, "litert:cpu, 1 thread": 10.0}).tuned(ONE, TWO, FOUR)
    rounds = {trial.rung: len(trial.rounds) for trial in found}
    assert rounds[ONE] == 1
    assert rounds[FOUR] == 2
    assert rounds[TWO] >= 3


@pytest.mark.parametrize("seed", range(20))
def test_under_noise_the_plan_is_within_five_percent_of_the_best(seed):
    names = {f"litert:cpu, {threads} threads": 100.0 - 3 * threads for threads in range(2, 8)}
    machine = Machine(names, noise=0.08, random=random.Random(seed))
    best = machine.tuned(*(rung("litert:cpu", threads) for threads in range(2, 8)))[0]
    assert names[best.rung.describe()] >= 0.95 * max(names.values())


def test_of_equally_fast_ways_the_one_with_fewer_threads_awake_wins():
    sleeping = rung("litert:cpu", 2, sleeps=True)
    speeds = {**SPEEDS, "litert:cpu, 4 threads": 90.5, "litert:cpu, 2 threads, sleeping": 89.5}
    found = Machine(speeds).tuned(FOUR, TWO, sleeping)
    assert [trial.rung for trial in found] == [sleeping, TWO, FOUR]


def test_latency_may_be_what_counts():
    def measure(way: Rung, seconds: float) -> Round:
        clock[0] += seconds
        return {ONE: Round(100.0, 30.0), TWO: Round(90.0, 10.0)}[way]

    clock = [0.0]
    found = tune(
        [ONE, TWO], measure, goal="p90", budget_s=10, monotonic_s=lambda: clock[0], report=lambda progress: None
    )
    assert found[0].rung == TWO


def test_who_is_refused_is_out_with_the_reason_and_comes_last():
    found = Machine(SPEEDS, refuses=frozenset({"litert:cpu, 2 threads"})).tuned(ONE, TWO, FOUR)
    assert [trial.rung for trial in found] == [FOUR, ONE, TWO]
    assert found[2].refused == "litert:cpu computes something else"


def test_a_device_that_dies_later_is_out_as_well():
    machine = Machine(SPEEDS)
    lasting = machine.measure

    def measure(way: Rung, seconds: float) -> Round:
        if way == TWO and len(machine.order) > 4:
            raise Refused("died", "device")
        return lasting(way, seconds)

    machine.measure = measure
    found = machine.tuned(ONE, TWO, FOUR)
    assert found[0].rung == FOUR
    assert found[-1].refused == "died"


def test_when_all_are_refused_the_search_ends():
    found = Machine(SPEEDS, refuses=frozenset(SPEEDS)).tuned(ONE, TWO, FOUR)
    assert all(trial.refused for trial in found)


def test_the_budget_is_kept_but_for_three_rounds():
    machine = Machine(dict.fromkeys(SPEEDS, 50.0))
    machine.tuned(ONE, TWO, FOUR, budget_s=30)
    assert 30 <= machine.now_s <= 36
    short = Machine(dict.fromkeys(SPEEDS, 50.0))
    assert all(len(trial.rounds) == 3 for trial in short.tuned(ONE, TWO, FOUR, budget_s=1))


def test_the_progress_says_what_is_tried():
    machine = Machine(SPEEDS)
    machine.tuned(ONE, TWO)
    assert machine.seen[0].round == 1
    assert {progress.doing for progress in machine.seen} == {"litert:cpu, 1 thread", "litert:cpu, 2 threads"}
    assert machine.seen[-1].spent_s > machine.seen[0].spent_s


def cluster(count: int, *, big: bool) -> SimpleNamespace:
    return SimpleNamespace(cpus=tuple(range(count)), big=big)


@pytest.mark.parametrize(
    ("clusters", "allowed", "expected"),
    [
        ([cluster(1, big=True)], 1, (1,)),
        ([cluster(2, big=True)], 2, (1, 2)),
        ([cluster(4, big=True)], 4, (1, 2, 3, 4)),
        ([cluster(4, big=False), cluster(4, big=True)], 8, (1, 2, 4, 7, 8)),
        ([cluster(6, big=True), cluster(2, big=False)], 8, (1, 2, 4, 6, 7, 8)),
        ([cluster(8, big=True)], 2, (1, 2)),
    ],
)
def test_the_thread_counts_are_those_that_may_be_best(monkeypatch, clusters, allowed, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(allowed)))
    cores = sum(len(each.cpus) for each in clusters)
    assert thread_counts(SimpleNamespace(cores=cores, clusters=clusters)) == expected


@pytest.fixture
def here(tmp_path, monkeypatch) -> Callable[[bytes, str], set[str]]:
    """The ways to run a model on this machine."""
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})

    def describe(content: bytes, name: str, word: str = "auto") -> set[str]:
        (tmp_path / name).write_bytes(content)
        board = SimpleNamespace(
            **{slot: getattr(real, slot) for slot in real.__slots__} | {"cores": 2, "clusters": (cluster(2, big=True),)}
        )
        return {way.describe() for way in ways(read_model_file(tmp_path / name), board, word)}

    real = recognise_board()
    return describe


def test_a_tflite_model_is_tried_with_and_without_xnnpack(here):
    found = here(tflite_model(), "tiny.tflite")
    assert {
        "litert:cpu, 1 thread",
        "litert:cpu, 2 threads",
        "litert:cpu:plain, 1 thread",
        "litert:cpu:plain, 2 threads",
    } <= found
    assert not any(way.startswith(("onnx", "fake")) for way in found)


def test_an_onnx_model_is_tried_with_spinning_and_sleeping_threads(here):
    found = here(onnx_model(), "tiny.onnx")
    assert {"onnx:cpu, 1 thread", "onnx:cpu, 2 threads", "onnx:cpu, 2 threads, sleeping"} <= found
    assert not any(way.startswith("litert") for way in found)


def test_only_what_a_word_means_is_tried(here):
    assert here(tflite_model(), "tiny.tflite", "litert:cpu") == {"litert:cpu, 1 thread", "litert:cpu, 2 threads"}
    with pytest.raises(DeviceNotFound, match="no edgetpu can run"):
        here(onnx_model(), "tiny.onnx", "edgetpu")


def test_a_model_for_the_edge_tpu_is_tried_nowhere_else(here):
    assert here(tflite_model(op="edgetpu-custom-op"), "tpu.tflite") <= {"litert:edgetpu:usb", "litert:edgetpu:pci"}
