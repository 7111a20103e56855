"""A life of a spool on the faulty disk: commits, acknowledgements, dead letters, restarts.

    python -m tests.disk.spool_writer PATH LIFE ROWS [SYNCHRONOUS]

Into the trace go `offered FIRST COUNT` before a commit, `accepted FIRST LAST` after it, `done SEQ` and `buried SEQ`
before the spool hears of it. LIFE is a number: what it does and what the messages are follows from it.
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

from edgeinfer.uplink.message import Message
from edgeinfer.uplink.spool import Spool
from tests.disk.faulty_disk import mark

MAX_BYTES = 4_000_000
_OVERFLOWS_EVERY = 5
_COMMITS_A_STEP = 4


def message(life: int, seq: int) -> Message:
    """What life `life` offers as number `seq`: as large as a result, or in a life that overflows larger."""
    size = 8000 if overflows(life) else 300
    noise = hashlib.shake_128(f"{life} {seq}".encode()).hexdigest(size // 2)
    return Message("result", f"door-{seq % 3}", seq, "synced", f'{{"seq":{seq},"noise":"{noise}"}}'.encode())


def overflows(life: int) -> bool:
    """Whether nothing is acknowledged in that life, so that the oldest messages are dropped."""
    return life % _OVERFLOWS_EVERY == _OVERFLOWS_EVERY - 1


def live(path: Path, life: int, rows: int, synchronous: str) -> None:
    rng = random.Random(life)
    spool = _open(path, synchronous)
    end = spool.last_seq + rows
    while spool.last_seq < end:
        for _ in range(_COMMITS_A_STEP):
            _commit(spool, life, min(rng.choice((1, 10, 50)), max(1, end - spool.last_seq)))
        if not overflows(life):
            _acknowledge(spool, rng)
        if rng.random() < 0.05:
            spool.flush()
        if rng.random() < 0.03:
            spool.close()
            spool = _open(path, synchronous)
    spool.close()


def _open(path: Path, synchronous: str) -> Spool:
    spool = Spool.open(path, max_bytes=MAX_BYTES, on_alarm=lambda text: print(text, file=sys.stderr))
    if synchronous != "FULL":
        spool._file.rows(f"PRAGMA synchronous={synchronous}")
    return spool


def _commit(spool: Spool, life: int, count: int) -> None:
    first = spool.last_seq + 1
    mark(f"offered {first} {count}")
    accepted = spool.commit([message(life, seq) for seq in range(first, first + count)])
    mark(f"accepted {accepted[0]} {accepted[-1]}")


def _acknowledge(spool: Spool, rng: random.Random) -> None:
    if spool.depth and rng.random() < 0.1:
        seq = rng.randint(spool.done_seq + 1, spool.last_seq)
        mark(f"buried {seq}")
        spool.bury(seq, "denied")
    done = rng.randint(max(spool.done_seq, spool.last_seq - 400), spool.last_seq)
    mark(f"done {done}")
    spool.done(done)


if __name__ == "__main__":
    live(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "FULL")
