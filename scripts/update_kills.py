"""scripts/update_kills: whether a valid model is always active after kill -9 and power cuts; ends with 1 where not."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.disk.faulty_disk import NoCompiler
from tests.disk.update_cuts import cut_updates
from tests.disk.update_lives import kill_rounds

_SHOWN_MAX = 20


def main() -> int:
    words = _parser().parse_args()
    seed = secrets.randbelow(1 << 16) if words.seed is None else words.seed
    killed = kill_rounds(words.rounds, seed=seed)
    print(f"{killed}; --seed {seed}", flush=True)
    wrong = killed.wrong
    if words.cuts:
        try:
            cut = cut_updates(words.cuts, seed=seed, synchronous=words.synchronous)
        except NoCompiler as missing:
            print(f"error: {missing}", file=sys.stderr)
            return 2
        print(f"{cut}; --seed {seed}")
        wrong = [*wrong, *cut.wrong]
    for line in wrong[:_SHOWN_MAX]:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/update_kills",
        description="Lets a store go through updates, ends it by kill -9 and power cuts, and looks what it holds.",
    )
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="kills in each state (20)")
    parser.add_argument("--cuts", type=int, default=1000, metavar="N", help="power cuts, 0 for none (1000)")
    parser.add_argument("--seed", type=int, metavar="N", help="to repeat a run")
    parser.add_argument("--synchronous", choices=("EXTRA", "FULL", "OFF"), default="EXTRA", help="of SQLite")
    return parser


if __name__ == "__main__":
    sys.exit(main())
