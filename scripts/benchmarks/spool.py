"""What the spool of the uplink accepts, and what it writes to the disk for that.

    python -m scripts.benchmarks.spool ours|bare ROWS RESULTS PER_S      one contender, once

Results of 400 bytes, as detections are. Each is read, as for sending, when it was accepted, and is done a second later.
The bare spool is a SQLite table with a row for each result and the same durability, as queues on disk are made. What is
written is what the kernel counts for the thread (write_bytes of /proc/thread-self/io): the pages that go to the device,
without the journal of the file system, which has next to nothing to do where files do not grow.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from scripts.benchmarks.contest import BARE, OURS, Line, Row, cases, fresh, of, take_turns
from scripts.benchmarks.meter import tell
from scripts.benchmarks.setting import SETTING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.uplink.message import Message

TITLE = "The spool of the uplink: results of 400 bytes"

RATE_MIN, KB_MAX = 2000, 3.0
RESULT_BYTES = 400
SPOOL_BYTES = 64_000_000
PACED, PACED_ROWS, PACED_PER_S, PACED_S = "100 results/s, 10 a commit", 10, 100, 20
_FAST = {1: 2000, 10: 10_000, 50: 20_000}
_QUICK_PART = 10
_DONE_AFTER_S, _DONE_AFTER = 1, 500
_WARM_UP = 5  # A fifth of the results.


def measure(rounds: int) -> list[Row]:
    part = _QUICK_PART if SETTING.quick else 1
    todo = {f"{rows} a commit, as fast as may be": (rows, results // part, 0) for rows, results in _FAST.items()}
    todo[PACED] = (PACED_ROWS, PACED_PER_S * PACED_S // part, PACED_PER_S)
    taken: list[Row] = []
    for case, words in todo.items():
        contenders = {who: lambda who=who, words=words: fresh("spool", who, *words) for who in (BARE, OURS)}
        taken += take_turns(rounds, case, contenders)
    return taken


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for case in cases(rows):
        # 50 results make a commit by default, however fast they come.
        rate_min = RATE_MIN if case.startswith("50 ") else None
        if case != PACED:
            lines.append(_line(rows, case, "per_s", "accepted", "/s", at_least=rate_min))
        lines.append(_line(rows, case, "kb", "written per result", "kB", at_most=KB_MAX if case == PACED else None))
        lines.append(_line(rows, case, "p50_ms", "commit, median", "ms"))
        lines.append(_line(rows, case, "p99_ms", "commit, p99", "ms"))
    return lines


def _line(
    rows: Sequence[Row],
    case: str,
    figure: str,
    metric: str,
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Line:
    ours, bare = of(rows, case, OURS, figure), of(rows, case, BARE, figure)
    return Line(case, metric, ours, unit, median(ours), median(bare), at_least=at_least, at_most=at_most)


def run(who: str, rows: int, results: int, per_s: int) -> dict[str, float]:
    """per_s: as they come from a camera; 0: as fast as may be."""
    messages = [_message(number) for number in range(results)]
    delay = per_s * _DONE_AFTER_S or _DONE_AFTER
    # On a disk, and not where temporary files may lie in memory.
    folder = Path(tempfile.mkdtemp(prefix="spool-", dir=Path.cwd()))
    try:
        with (_ours if who == OURS else _bare)(folder / "spool.db", delay) as commit:
            return _measured(commit, messages, rows, per_s)
    finally:
        shutil.rmtree(folder)


def _measured(
    commit: Callable[[list[Message]], None], messages: list[Message], rows: int, per_s: int
) -> dict[str, float]:
    warm = len(messages) // _WARM_UP // rows * rows
    took_ms: list[float] = []
    begin_s, begin_bytes = time.perf_counter(), 0
    for at in range(0, len(messages), rows):
        if per_s:
            time.sleep(max(0.0, begin_s + (at - (warm if took_ms else 0)) / per_s - time.perf_counter()))
        if at == warm:
            begin_s, begin_bytes = time.perf_counter(), _written()
            took_ms.clear()
        before_s = time.perf_counter()
        commit(messages[at : at + rows])
        took_ms.append((time.perf_counter() - before_s) * 1e3)
    count = len(messages) - warm
    return {
        "per_s": count / (time.perf_counter() - begin_s),
        "kb": (_written() - begin_bytes) / count / 1000,
        "p50_ms": median(took_ms),
        "p99_ms": quantiles(took_ms, n=100)[98],
    }


@contextmanager
def _ours(path: Path, delay: int) -> Iterator[Callable[[list[Message]], None]]:
    from edgeinfer.uplink.spool import Spool

    with closing(Spool.open(path, max_bytes=SPOOL_BYTES)) as spool:

        def commit(messages: list[Message]) -> None:
            accepted = spool.commit(messages)
            spool.read(accepted[0] - 1, len(messages), 1 << 20)
            spool.done(max(0, spool.last_seq - delay))

        yield commit


@contextmanager
def _bare(path: Path, delay: int) -> Iterator[Callable[[list[Message]], None]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE messages (seq INTEGER PRIMARY KEY, pipeline, unix_ns, data)")

        def commit(messages: list[Message]) -> None:
            database.execute("BEGIN")
            rows = [(each.pipeline, each.unix_ns, each.data) for each in messages]
            database.executemany("INSERT INTO messages (pipeline, unix_ns, data) VALUES (?, ?, ?)", rows)
            (last,) = database.execute("SELECT max(seq) FROM messages").fetchone()
            database.execute("DELETE FROM messages WHERE seq <= ?", (last - delay,))
            database.execute("COMMIT")
            database.execute("SELECT * FROM messages WHERE seq > ?", (last - len(messages),)).fetchall()

        yield commit


def _message(number: int) -> Message:
    from edgeinfer.clock import rfc3339
    from edgeinfer.uplink.message import Message

    drawn = random.Random(number)
    unix_ns = 1_795_000_000_000_000_000 + number * 10_000_000 + drawn.randrange(1_000_000)
    box = ",".join(f"{drawn.random():.4f}" for _ in range(4))
    text = (
        f'{{"schema":"edgeinfer.result/1","id":"{drawn.getrandbits(130):026x}"[:26],"node":"pi-7","pipeline":"door",'
        f'"seq":{number},"captured_at":"{rfc3339(unix_ns)}","clock":"synced","monotonic_ns":{unix_ns // 7},'
        f'"source":{{"uri":"/dev/video0","width":768,"height":432}},"device":"litert:cpu","task":"detect",'
        f'"detections":[{{"label":"person","class_id":0,"score":{drawn.random():.2f},"box_xyxy":[{box}]}}],'
        f'"timing_ms":{{"infer":{drawn.uniform(5, 6):.2f}}}}}'
    )
    return Message("result", "door", unix_ns, "synced", text.encode().ljust(RESULT_BYTES)[:RESULT_BYTES])


def _written() -> int:
    text = Path("/proc/thread-self/io").read_text()
    return int(text.partition("\nwrite_bytes: ")[2].split()[0])


if __name__ == "__main__":
    _who, *_numbers = sys.argv[1:]
    tell(run(_who, *map(int, _numbers)))
