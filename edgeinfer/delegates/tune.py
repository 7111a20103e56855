"""The fastest way to run a model here, found by trying: every usable device, with every sensible number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from edgeinfer.board import Board, Roots
from edgeinfer.bundle import ModelFile
from edgeinfer.delegates.ladder import READS, Rung, is_for_edgetpu, rung_of_ladder, rungs_for
from edgeinfer.delegates.plan import Goal, PlanRow
from edgeinfer.delegates.probe import probe
from edgeinfer.delegates.trial import Refused

_ROUNDS_MIN = 3
_ROUND_S_MIN, _ROUND_S_MAX = 0.3, 2.0
_ROUNDS_PLANNED = 9

# One whose best round is so far behind the leader is not measured again: after one round, and after more of them.
_HOPELESS_AT_ONCE = 0.5
_HOPELESS = 0.85
# Closer than this two ways are equally fast, and the one that keeps fewer threads awake is the better.
_ALIKE = 0.98


@dataclass(frozen=True, slots=True)
class Round:
    """One stretch of frames. p90_ms: of preprocessing, inference and decoding together."""

    fps: float
    p90_ms: float


Measure = Callable[[Rung, float], Round]
"""(a way to run the model, about how many seconds) -> how it did. Raises Refused."""


@dataclass
class Trial:
    """A way to run the model, and how it did so far. refused: why it is out."""

    rung: Rung
    rounds: list[Round] = field(default_factory=list)
    refused: str | None = None

    @property
    def fps(self) -> float:
        return median(each.fps for each in self.rounds)

    @property
    def p90_ms(self) -> float:
        return median(each.p90_ms for each in self.rounds)

    def row(self) -> PlanRow:
        rung = self.rung
        return PlanRow(rung.word, rung.threads, rung.sleeps, round(self.fps, 2), round(self.p90_ms, 3))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a tuning is. spent_s of budget_s; doing: what is tried now."""

    spent_s: float
    budget_s: float
    round: int
    doing: str


def ways(file: ModelFile, board: Board, word: str = "auto", roots: Roots | None = None) -> tuple[Rung, ...]:
    """Every device that is usable here and reads the model, with every number of threads that may be the best.

    word: `auto` for all of them, else only those that it means; raises DeviceNotFound where it means none. On a CPU
    also without XNNPACK, and with idle threads that sleep where a runtime would let them spin.
    """
    counts = thread_counts(board)
    meant = rungs_for(word, file, board)
    words = _words(file, board, roots) if word == "auto" else [rung.word for rung in meant]
    return tuple(
        replace(rung_of_ladder(word), threads=threads, sleeps=sleeps)
        for word in words
        for threads in (counts if _is_cpu(word) else (None,))
        for sleeps in ((False, True) if word.startswith("onnx:cpu") and threads != 1 else (False,))
    )


def thread_counts(board: Board) -> tuple[int, ...]:
    """1, 2, 4, … up to all cores that we may use, all but one (for the decoding beside it), and all big cores."""
    cores = min(board.cores, len(os.sched_getaffinity(0))) or 1
    big = sum(len(cluster.cpus) for cluster in board.clusters if cluster.big)
    counts = {cores, cores - 1, big, *(1 << power for power in range(cores.bit_length()))}
    return tuple(sorted(count for count in counts if 1 <= count <= cores))


def tune(
    rungs: Sequence[Rung],
    measure: Measure,
    *,
    goal: Goal,
    budget_s: float,
    monotonic_s: Callable[[], float],
    report: Callable[[Progress], None],
) -> list[Trial]:
    """Measure every way in rounds, one after the other in each, until the time is used; the best first, refused last.

    Whoever falls far behind is left out of later rounds, so that the time goes to those that may be the best. Each of
    these gets three rounds, also where that takes longer than the budget.
    """
    trials = [Trial(rung) for rung in rungs]
    started_s = monotonic_s()
    number = 0
    while True:
        contenders = _contenders(trials, goal)
        spent_s = monotonic_s() - started_s
        if _is_over(contenders, number, spent_s, budget_s):
            return _ranked(trials, goal)
        seconds = _round_s(len(contenders), number, budget_s - spent_s)
        number += 1
        # Each round begins with another one, so that a machine that warms up favours nobody.
        for trial in (*contenders[number % len(contenders) :], *contenders[: number % len(contenders)]):
            report(Progress(monotonic_s() - started_s, budget_s, number, trial.rung.describe()))
            try:
                trial.rounds.append(measure(trial.rung, seconds))
            except Refused as refused:
                trial.refused = str(refused)


def _words(file: ModelFile, board: Board, roots: Roots | None) -> Iterator[str]:
    for row in probe(board, roots):
        runtime, _, unit = row.word.partition(":")
        if not row.usable or file.format not in READS.get(runtime, ()):
            continue
        # What was compiled for the Edge TPU runs on nothing else, and nothing else runs on it.
        if unit.startswith("edgetpu") != is_for_edgetpu(file):
            continue
        yield row.word
        if row.word in ("litert:cpu", "tflite:cpu"):
            yield f"{row.word}:plain"


def _is_cpu(word: str) -> bool:
    return word.partition(":")[2].startswith("cpu")


def _contenders(trials: Sequence[Trial], goal: Goal) -> list[Trial]:
    """Those that may still be the best."""
    able = [trial for trial in trials if trial.refused is None]
    if not able or not all(trial.rounds for trial in able):
        return able
    leader = max(_merit(trial, goal) for trial in able)
    return [trial for trial in able if _best_merit(trial, goal) >= _least_share(trial) * leader]


def _least_share(trial: Trial) -> float:
    return _HOPELESS_AT_ONCE if len(trial.rounds) == 1 else _HOPELESS


def _is_over(contenders: Sequence[Trial], number: int, spent_s: float, budget_s: float) -> bool:
    if not contenders:
        return True
    if number < _ROUNDS_MIN:
        return False
    return spent_s >= budget_s or len(contenders) == 1


def _round_s(contenders: int, number: int, left_s: float) -> float:
    rounds = max(_ROUNDS_PLANNED - number, 1)
    return min(max(left_s / (contenders * rounds), _ROUND_S_MIN), _ROUND_S_MAX)


def _merit(trial: Trial, goal: Goal) -> float:
    return median(_merit_of(each, goal) for each in trial.rounds)


def _best_merit(trial: Trial, goal: Goal) -> float:
    return max(_merit_of(each, goal) for each in trial.rounds)


def _merit_of(one: Round, goal: Goal) -> float:
    """More is better."""
    return one.fps if goal == "fps" else 1.0 / max(one.p90_ms, 1e-6)


def _ranked(trials: Sequence[Trial], goal: Goal) -> list[Trial]:
    """The best first. Those as good as the best go by how many threads they keep awake."""
    measured = sorted(
        (trial for trial in trials if trial.refused is None and trial.rounds),
        key=lambda trial: _merit(trial, goal),
        reverse=True,
    )
    if measured:
        least = _ALIKE * _merit(measured[0], goal)
        alike = [trial for trial in measured if _merit(trial, goal) >= least]
        alike.sort(key=lambda trial: (trial.rung.threads or 0, not trial.rung.sleeps))
        measured[: len(alike)] = alike
    return [*measured, *(trial for trial in trials if trial.refused is not None)]
