"""scripts/drills: the service in a virtual machine, one line per drill; ends with 1 where any of them failed."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from edgeinfer.words import unknown
from tests.vm.machine import CHECK_LINE, Machine, NoMachine
from tests.vm.power_cuts import cut_rounds
from tests.vm.service_drills import CHECKS, run_checks

POWER_CUTS = "the_power_goes_while_it_runs"
DRILLS = (*CHECKS, POWER_CUTS)


def main() -> int:
    words = _parser().parse_args()
    for name in words.names:
        if name not in DRILLS:
            print(f"error: {unknown('drill', name, DRILLS)}", file=sys.stderr)
            return 2
    if words.list:
        print("\n".join(DRILLS))
        return 0
    chosen = words.names or DRILLS
    with tempfile.TemporaryDirectory(prefix="edgeinfer-drills-") as folder:
        try:
            machine = Machine(Path(folder))
            failed = _run_checks(machine, words)
            if POWER_CUTS in chosen:
                failed += _cut_power(machine, words)
        except NoMachine as missing:
            print(f"error: {missing}", file=sys.stderr)
            return 2
    return 1 if failed else 0


def _run_checks(machine: Machine, words: argparse.Namespace) -> int:
    """How many failed."""
    wanted = [name for name in words.names if name != POWER_CUTS]
    if words.names and not wanted:
        return 0
    results: dict[str, str] = {}

    def show(line: str) -> None:
        if found := CHECK_LINE.match(line):
            results[found[1]] = found[3]
            _show(found[1], found[3], float(found[2]))
        elif words.verbose or line.startswith("NOTE"):
            print(f"      {line}", flush=True)

    ran = run_checks(machine, *wanted, on_line=show)
    missing = [name for name in wanted or CHECKS if name not in results]
    for name in missing:
        _show(name, "FAIL did not run", 0.0)
    if missing:
        print(f"the machine ended with {ran.code}:\n{ran.output[-1000:]}", file=sys.stderr)
    return len(missing) + sum(result.startswith("FAIL") for result in results.values())


def _cut_power(machine: Machine, words: argparse.Namespace) -> int:
    """1 where something was lost, or is broken."""
    seed = secrets.randbelow(1 << 16) if words.seed is None else words.seed
    begun_s = time.monotonic()
    tally = cut_rounds(machine, words.cuts, seed=seed, on_line=_show_more if words.verbose else lambda line: None)
    for each in tally.wrong:
        _show_more(each)
    _show_more(f"{tally}; --seed {seed}")
    _show(POWER_CUTS, "FAIL" if tally.wrong else "PASS", time.monotonic() - begun_s)
    return 1 if tally.wrong else 0


def _show(name: str, result: str, seconds: float) -> None:
    verdict, _, reason = result.partition(" ")
    print(f"{verdict} {seconds:6.1f} s  {name}{f': {reason}' if reason else ''}", flush=True)


def _show_more(line: str) -> None:
    print(f"      {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/drills", description="What the weeks do to a service, done to it in a virtual machine."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="drills to run, besides the first few; default: all")
    parser.add_argument("--list", action="store_true", help="print the names of all drills")
    parser.add_argument("--cuts", type=int, default=20, metavar="N", help="how often the power goes (20)")
    parser.add_argument("--seed", type=int, metavar="S", help="of when it goes; to repeat a run")
    parser.add_argument("--verbose", action="store_true", help="print all that is said in the machine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
