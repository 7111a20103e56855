"""Rounds in which each contender has a fresh process, and what is made of their figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scripts.benchmarks.setting import ROOT, scratch

Row = dict[str, Any]
"""One contender in one round: `case`, `round`, `who`, and its figures."""

BARE, OURS = "bare", "ours"
MAY_TAKE_S = 1800


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a figure, and the limit that it is held against.

    values: what is judged, one for each round; the median counts. ours, bare: medians, where two are compared.
    at_least, at_most: the limit, of which one or none is given.
    """

    case: str
    metric: str
    values: Sequence[float]
    unit: str = ""
    ours: float | None = None
    bare: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def holds(self) -> bool | None:
        """Whether the limit is kept; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None


def environment() -> dict[str, str]:
    """For child processes: this checkout, a state folder of this run's own, and bytecode, as an installation has it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONPYCACHEPREFIX": str(scratch() / "bytecode"),
        "EDGEINFER_STATE": str(scratch() / "state"),
    }
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | own


def command_for(module: str, *words: object) -> list[str]:
    """What runs a module of this package as a program."""
    return [sys.executable, "-m", f"scripts.benchmarks.{module}", *map(str, words)]


def fresh(module: str, *words: object) -> Row:
    """The figures that a module of this package, run as a program in a process of its own, prints as its last line."""
    command = command_for(module, *words)
    done = subprocess.run(
        command,
        cwd=scratch(),
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MAY_TAKE_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])} failed:\n{done.stderr.strip()}")
    figures: Row = json.loads(done.stdout.splitlines()[-1])
    return figures


def take_turns(rounds: int, case: str, contenders: Mapping[str, Callable[[], Row]]) -> Iterator[Row]:
    """Every contender once a round, in turned order every other round."""
    for number in range(rounds):
        order = list(contenders.items())
        for who, run in order if number % 2 == 0 else order[::-1]:
            yield {"case": case, "round": number, "who": who, **run()}


def of(rows: Sequence[Row], case: str, who: str, figure: str) -> list[float]:
    """A figure of one contender, by round."""
    chosen = (row for row in rows if (row["case"], row["who"]) == (case, who))
    return [row[figure] for row in sorted(chosen, key=lambda row: row["round"])]


def cases(rows: Sequence[Row]) -> list[str]:
    """In the order in which they were measured."""
    return list(dict.fromkeys(row["case"] for row in rows))


def ratio(
    rows: Sequence[Row],
    case: str,
    figure: str,
    metric: str,
    *,
    unit: str = "",
    to: str = BARE,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Line:
    """Ours to another's, round by round, so that what slows down a whole round cancels out."""
    ours, bare = of(rows, case, OURS, figure), of(rows, case, to, figure)
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    return Line(
        case, metric, ratios, unit=unit, ours=median(ours), bare=median(bare), at_least=at_least, at_most=at_most
    )
