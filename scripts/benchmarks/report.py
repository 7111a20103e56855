"""The table for people, the JSON for programs, and the table of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeinfer.packages import installed_version
from scripts.benchmarks.contest import Line, Row
from scripts.benchmarks.setting import describe_videos

SCHEMA = "edgeinfer.benchmarks/1"
BUSY = 0.3
"""Runnable processes per core, from which on figures are worth little."""

BEGIN, END = "<!-- scripts/bench writes from here -->", "<!-- to here -->"

_PIPE_COLUMNS = 130
_NO_FIGURES = frozenset({"round", "frames"})
_PACKAGES = ("edgeinfer", "ai-edge-litert", "onnxruntime", "opencv-python-headless", "numpy", "msgspec")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one scenario gave: every round, and what was made of them."""

    name: str
    title: str
    rows: Sequence[Row]
    lines: Sequence[Line]


def machine() -> dict[str, Any]:
    """What the figures were measured on. load_before: runnable processes per core in the last minute."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
    }


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: installed_version(name) or "not installed" for name in _PACKAGES},
    }


def as_json(scenarios: Sequence[Scenario], on: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Machine, versions, and every round."""
    return {
        "schema": SCHEMA,
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": dict(on),
        "versions": versions(),
        "videos": describe_videos(),
        "rounds": rounds,
        "scenarios": {
            each.name: {"title": each.title, "lines": [_plain(line) for line in each.lines], "rows": list(each.rows)}
            for each in scenarios
        },
    }


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """The medians of figures that no limit is set for: of rows that agree in all their words."""
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in rows:
        words = tuple(value for value in row.values() if isinstance(value, str))
        figures = groups.setdefault(words, {})
        for name, value in row.items():
            if name not in _NO_FIGURES and isinstance(value, (int, float)):
                figures.setdefault(name, []).append(value)
    return [Line(", ".join(words), name, values) for words, each in groups.items() for name, values in each.items()]


def print_table(scenario: Scenario) -> None:
    """On the terminal, in colour where it has some."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=scenario.title, title_justify="left", title_style="bold")
    table.add_column("case")
    table.add_column("what")
    for heading in ("ours", "bare", "median", "min … max", "limit", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    previous = ""
    for line in scenario.lines:
        case, *rest = _cells(line)
        shown, previous = ("" if case == previous else case), case
        table.add_row(shown, *rest, {True: "[green]holds", False: "[red]missed", None: ""}[line.holds])
    console = Console()
    # A pipe has no width; the table has.
    (console if console.is_terminal else Console(width=_PIPE_COLUMNS)).print(table)


def markdown(scenarios: Sequence[Scenario], on: Mapping[str, Any], rounds: int) -> str:
    """What docs/benchmarks.md holds."""
    return "\n".join(_markdown(scenarios, on, rounds)) + "\n"


def write_markdown(path: Path, text: str) -> None:
    """Between the two marks of a file that has them, else the whole file."""
    old = path.read_text() if path.exists() else ""
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}" if begin and end else text)


def _markdown(scenarios: Sequence[Scenario], on: Mapping[str, Any], rounds: int) -> Iterator[str]:
    yield (
        f"Measured on {datetime.now(timezone.utc):%Y-%m-%d}: {on['cpu']}, {on['cores']} cores, {on['memory_mib']} MiB, "
        f"{on['architecture']}, Linux {on['kernel']}; {on['load_before']} runnable processes per core before it began; "
        f"{rounds} rounds."
    )
    if on["load_before"] > BUSY:
        yield ""
        yield "**That machine was busy with something else: these figures only show the form of the table.**"
    yield ""
    yield "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()) + "."
    yield ""
    yield f"Videos: {describe_videos()}."
    for scenario in scenarios:
        yield f"\n### {scenario.title}\n"
        yield "| case | what | ours | bare | median | min … max | limit | |"
        yield "|---|---|--:|--:|--:|--:|--:|---|"
        for line in scenario.lines:
            verdict = {True: "holds", False: "**missed**", None: ""}[line.holds]
            note = f" ({line.note})" if line.note else ""
            case, what, *rest = _cells(line)
            yield f"| {' | '.join((case, what + note, *rest, verdict))} |"


def _cells(line: Line) -> tuple[str, ...]:
    is_ratio = line.ours is not None
    unit = "" if is_ratio and line.metric != "time above bare" else line.unit
    limit = f"≥ {line.at_least:g}" if line.at_least is not None else ""
    limit = f"≤ {line.at_most:g}" if line.at_most is not None else limit
    if line.at_most is not None and not float(line.at_most).is_integer():
        limit = f"≤ {_short(line.at_most)}"
    spread = f"{_short(min(line.values))} … {_short(max(line.values))}" if len(line.values) > 1 else ""
    return (
        line.case,
        line.metric,
        _with_unit(line.ours, line.unit),
        _with_unit(line.bare, line.unit),
        _with_unit(line.value, unit),
        spread,
        limit,
    )


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{_short(value)} {unit}".rstrip()


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:#.3g}".rstrip(".")


def _plain(line: Line) -> dict[str, Any]:
    return {
        "case": line.case,
        "metric": line.metric,
        "unit": line.unit,
        "median": line.value,
        "values": list(line.values),
        "ours": line.ours,
        "bare": line.bare,
        "at_least": line.at_least,
        "at_most": line.at_most,
        "holds": line.holds,
        "note": line.note,
    }


def _cpu() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = text.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()
