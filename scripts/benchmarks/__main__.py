"""scripts/bench: measure, show, keep. It fails where a scenario cannot be measured, never by a figure."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from scripts.benchmarks import report, setting

SCENARIOS = (
    "throughput",
    "live",
    "start",
    "postprocess",
    "tracking",
    "scale",
    "paced",
    "isolation",
    "failover",
    "swap",
    "service",
    "search",
    "gate",
    "spool",
    "uplink",
    "blackhole",
    "updates",
)
ROUNDS, QUICK_ROUNDS = 5, 2


def main() -> None:
    words = _parser().parse_args()
    setting.SETTING.quick, setting.SETTING.minutes = words.quick, words.minutes
    rounds = words.rounds or (QUICK_ROUNDS if words.quick else ROUNDS)
    on = report.machine()
    if on["load_before"] > report.BUSY:
        print(f"this machine is busy ({on['load_before']} runnable per core): the figures will say so", file=sys.stderr)
    scenarios, failed = [], []
    try:
        for name in words.scenario or _there():
            try:
                scenarios.append(_measure(name, rounds))
            except (Exception, SystemExit) as failure:  # noqa: BLE001 - an hour of other figures must not go with it
                print(f"{name} failed: {failure!r}", file=sys.stderr)
                failed.append(name)
    finally:
        setting.tidy()
    if words.json:
        words.json.write_text(json.dumps(report.as_json(scenarios, on, rounds), indent=2) + "\n")
    if words.markdown:
        report.write_markdown(words.markdown, report.markdown(scenarios, on, rounds))
    if failed:
        sys.exit(1)


def _measure(name: str, rounds: int) -> report.Scenario:
    """A scenario is a module with `measure(rounds)`; with `judge(rows)` too it has limits."""
    print(f"measuring {name}", file=sys.stderr)
    module = import_module(f"scripts.benchmarks.{name}")
    rows = module.measure(rounds)
    lines = module.judge(rows) if hasattr(module, "judge") else report.lines_of(rows)
    scenario = report.Scenario(name, getattr(module, "TITLE", name.capitalize()), rows, lines)
    report.print_table(scenario)
    return scenario


def _there() -> list[str]:
    return [name for name in SCENARIOS if (Path(__file__).parent / f"{name}.py").exists()]


def _scenario(word: str) -> str:
    if word not in _there():
        raise argparse.ArgumentTypeError(f"unknown scenario {word!r}; known: {', '.join(_there())}")
    return word


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="What edgeinfer costs, beside the least that the same work can cost."
    )
    parser.add_argument(
        "scenario", nargs="*", type=_scenario, metavar="SCENARIO", help=f"of {', '.join(_there())}; default: all"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument("--minutes", type=float, default=1.0, metavar="T", help="of the live scenario; the promise: 10")
    parser.add_argument("--json", type=Path, metavar="FILE", help="machine, versions and every round")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, as docs/benchmarks.md has them")
    parser.add_argument("--quick", action="store_true", help="few frames: to see that it works, not what it costs")
    return parser


if __name__ == "__main__":
    main()
