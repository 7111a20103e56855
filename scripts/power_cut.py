"""scripts/power_cut: what the spool of the uplink has lost after power cuts; ends with 1 where that is anything."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.disk.faulty_disk import NoCompiler
from tests.disk.spool_cuts import cut_rounds

_SHOWN_MAX = 20


def main() -> int:
    words = _parser().parse_args()
    seed = secrets.randbelow(1 << 16) if words.seed is None else words.seed
    try:
        tally = cut_rounds(words.rounds, words.rows, words.cuts, seed=seed, synchronous=words.synchronous)
    except NoCompiler as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    for line in tally.wrong[:_SHOWN_MAX]:
        print(line, file=sys.stderr)
    print(f"{tally}; --seed {seed}")
    return 1 if tally.lost or tally.wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/power_cut",
        description="Lets a spool accept messages, cuts the power at moments drawn by lot, and looks for them again.",
    )
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="lives, each on what a cut left (50)")
    parser.add_argument("--rows", type=int, default=2200, metavar="N", help="messages accepted in each (2200)")
    parser.add_argument("--cuts", type=int, default=20, metavar="N", help="in each, the last of which ends it (20)")
    parser.add_argument("--seed", type=int, metavar="N", help="to repeat a run")
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL", "OFF"), default="FULL", help="of SQLite")
    return parser


if __name__ == "__main__":
    sys.exit(main())
