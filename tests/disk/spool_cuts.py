"""The power goes, again and again: what a spool says afterwards, held against what it had accepted before."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgeinfer.errors import SpoolError
from edgeinfer.uplink.message import Gap, Spooled
from edgeinfer.uplink.spool import Spool
from tests.disk import faulty_disk
from tests.disk.faulty_disk import Change, Record
from tests.disk.power_cut import FATES, Disk
from tests.disk.spool_writer import MAX_BYTES, message, overflows

NAME = "spool.db"
_REMEMBERED = 5000


@dataclass
class Ledger:
    """What was told so far. life_of: in which life each seq was offered that may be on disk; accepted: the highest that
    was; done: the highest that the spool was told of."""

    life_of: dict[int, int] = field(default_factory=dict)
    accepted: int = 0
    done: int = 0
    buried: set[int] = field(default_factory=set)
    may_overflow: bool = False
    epoch: str | None = None

    def note(self, life: int, text: str) -> None:
        what, *numbers = text.split()
        first, *second = map(int, numbers)
        if what == "offered":
            self.life_of.update(dict.fromkeys(range(first, first + second[0]), life))
            self.may_overflow |= overflows(life)
        elif what == "accepted":
            self.accepted = second[0]
        elif what == "done":
            self.done = max(self.done, first)
        else:
            self.buried.add(first)


@dataclass
class Tally:
    """rows: accepted over all lives; checked: accepted and looked for after some cut; lost: those not found, by seq."""

    rows: int = 0
    cuts: int = 0
    checked: int = 0
    lost: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.lost)} of {self.rows} accepted lost ({self.cuts} power cuts, after which {self.checked} "
            f"accepted messages were looked for; {len(self.wrong)} other faults)"
        )


def cut_rounds(rounds: int, rows: int, cuts: int, *, seed: int = 0, synchronous: str = "FULL") -> Tally:
    """So many lives of so many rows, each on what a cut of the life before has left; and so many cuts of each.

    Raises faulty_disk.NoCompiler.
    """
    tally, ledger = Tally(), Ledger()
    # In memory: what a disk does is in the trace.
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="power-cut-", dir=shm if shm.is_dir() else None) as scratch:
        before = Path(scratch) / "before"
        before.mkdir()
        for life in range(seed * rounds, (seed + 1) * rounds):
            before, ledger = _round(Path(scratch), before, ledger, life, rows, cuts, synchronous, tally)
    return tally


def _round(
    scratch: Path, before: Path, ledger: Ledger, life: int, rows: int, cuts: int, synchronous: str, tally: Tally
) -> tuple[Path, Ledger]:
    """Returns what the last of its cuts has left, and what was told up to then."""
    live, trace = _emptied(scratch / "live"), scratch / "trace"
    shutil.copytree(before, live, dirs_exist_ok=True)
    accepted_before = ledger.accepted
    words = ["-m", "tests.disk.spool_writer", str(live / NAME), str(life), str(rows), synchronous]
    faulty_disk.run(words, live, trace)
    records = list(faulty_disk.records(trace))
    rng = random.Random(life)
    # The last one near the end, so that most of a life counts.
    moments = sorted(
        [*(rng.randrange(len(records)) for _ in range(cuts - 1)), rng.randrange(len(records) * 9 // 10, len(records))]
    )
    disk, begin = Disk(before), 0
    left = scratch / f"left-{life % 2}"
    for moment in moments:
        _replay(disk, ledger, life, records[begin:moment])
        begin = moment
        fate = rng.choice(FATES)
        disk.cut(fate, random.Random(moment), _emptied(left))
        _look(left, ledger, tally, f"life {life}, change {moment} of {len(records)}, {fate}")
        disk.cut(fate, random.Random(moment), _emptied(left))  # As it was, without what the look has changed.
    tally.rows += ledger.accepted - accepted_before
    ledger.life_of = {seq: each for seq, each in ledger.life_of.items() if seq > ledger.done - _REMEMBERED}
    return left, ledger


def _replay(disk: Disk, ledger: Ledger, life: int, records: Sequence[Record]) -> None:
    for record in records:
        disk.apply(record)
        if record.change is Change.MARK:
            ledger.note(life, record.text)


def _look(folder: Path, ledger: Ledger, tally: Tally, where: str) -> None:
    """Open what is left, and compare it with the ledger."""
    tally.cuts += 1
    alarms: list[str] = []
    try:
        spool = Spool.open(folder / NAME, max_bytes=MAX_BYTES, on_alarm=alarms.append)
    except SpoolError as refused:
        tally.lost.update(range(ledger.done + 1, ledger.accepted + 1))
        tally.wrong.append(f"{where}: {refused}")
        return
    try:
        wrong = [*alarms, *_differences(spool, ledger, tally)]
    finally:
        spool.close()
    tally.wrong += [f"{where}: {each}" for each in wrong]


def _differences(spool: Spool, ledger: Ledger, tally: Tally) -> list[str]:
    wrong = []
    found, covered = _contents(spool)
    expected = range(ledger.done + 1, ledger.accepted + 1)
    lost = [seq for seq in expected if seq not in found and not _may_be_missing(seq, covered, ledger)]
    tally.checked += len(expected)
    tally.lost.update(lost)
    if lost:
        wrong.append(f"{len(lost)} lost, from {lost[0]} on")
    if ledger.epoch not in (None, spool.epoch):
        wrong.append("another epoch")
    ledger.epoch = spool.epoch if ledger.accepted else None
    if spool.last_seq < ledger.accepted:
        wrong.append(f"numbers from {spool.last_seq + 1} on would be given again")
    if spool.done_seq > ledger.done:
        wrong.append(f"{spool.done_seq} is called done, {ledger.done} was")
    changed = [seq for seq, each in found.items() if each.message != message(ledger.life_of.get(seq, -1), seq)]
    if changed:
        wrong.append(f"{len(changed)} with another content, from {changed[0]} on")
    following = spool.commit([message(0, 0)])
    if following[0] <= max(ledger.accepted, *found, 0):
        wrong.append(f"{following[0]} was given again")
    return wrong


def _contents(spool: Spool) -> tuple[dict[int, Spooled], dict[int, str]]:
    """The messages by seq, and the reason for each seq that a gap stands for. Fails where they are not in order."""
    found: dict[int, Spooled] = {}
    covered: dict[int, str] = {}
    after = spool.done_seq
    while batch := spool.read(after, 500, 1 << 20):
        for each in batch:
            if each.message.channel == "gap":
                gap = msgspec.json.decode(each.message.data, type=Gap)
                covered.update(dict.fromkeys(range(gap.first, gap.last + 1), gap.reason))
                assert gap.last == each.seq > after
            else:
                found[each.seq] = each
                assert each.seq == after + 1
            after = each.seq
    assert after == spool.last_seq
    return found, covered


def _may_be_missing(seq: int, covered: dict[int, str], ledger: Ledger) -> bool:
    reason = covered.get(seq)
    return (reason == "denied" and seq in ledger.buried) or (reason == "full" and ledger.may_overflow)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
