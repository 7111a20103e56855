"""Updates of a store on the faulty disk, every step marked in the trace: `begins STEP RELEASE`, `did STEP RELEASE`.

python -m tests.disk.update_writer FOLDER SEED UPDATES SYNCHRONOUS
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgeinfer.updates.store import Store
from tests.disk.faulty_disk import mark
from tests.disk.update_lives import live


class _Over(Exception):
    """So many updates were made."""


def write(folder: Path, seed: int, updates: int, synchronous: str) -> None:
    begun = 0

    def say(line: str) -> None:
        nonlocal begun
        begun += line.startswith("begins fetching")
        if begun > updates:
            raise _Over
        mark(line)

    def open_store() -> Store:
        store = Store(folder)
        if synchronous != "EXTRA":
            store._control._db.execute(f"PRAGMA synchronous={synchronous}")
        return store

    try:
        live(open_store, seed, say)
    except _Over:
        return


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
