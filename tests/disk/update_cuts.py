"""The power goes while a store goes through updates: what it says afterwards, held against what it had said before."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from edgeinfer.updates.store import Store
from tests.disk import faulty_disk
from tests.disk.faulty_disk import Change
from tests.disk.power_cut import FATES, Disk
from tests.disk.update_lives import SLOT, Ledger, differences
from tests.releases import sha256, tiny_files, write_bundle

_UPDATES = 25


@dataclass
class Cuts:
    """cuts: of the control file; blobs: files under their content's name that were looked at after a cut of theirs."""

    cuts: int = 0
    blobs: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.cuts} power cuts ({self.blobs} blobs looked at): {len(self.wrong)} faults"


def cut_updates(cuts: int, *, seed: int = 0, synchronous: str = "EXTRA") -> Cuts:
    """Half of them while `control.db` is written, half while blobs are. Raises faulty_disk.NoCompiler."""
    tally = Cuts()
    shm = Path("/dev/shm")  # In memory: what a disk does is in the trace.
    with tempfile.TemporaryDirectory(prefix="update-cuts-", dir=shm if shm.is_dir() else None) as scratch:
        root = Path(scratch)
        before = root / "before"
        store = Store(before)
        store.add(write_bundle(root / "factory", tiny_files(0)), SLOT)
        store.close()
        _cut_control(root, before, cuts - cuts // 2, seed, synchronous, tally)
        _cut_blobs(root, before, cuts // 2, seed, tally)
    return tally


def _traced(root: Path, before: Path, below: str, seed: int, synchronous: str) -> tuple[Path, list[faulty_disk.Record]]:
    """The store as the writer has left it, and what it did to the files of that folder."""
    live, trace = root / "live", root / "trace"
    shutil.rmtree(live, ignore_errors=True)
    shutil.copytree(before, live)
    words = ["-m", "tests.disk.update_writer", str(live), str(seed), str(_UPDATES), synchronous]
    faulty_disk.run(words, live / below, trace)
    return live, list(faulty_disk.records(trace))


def _cut_control(root: Path, before: Path, cuts: int, seed: int, synchronous: str, tally: Cuts) -> None:
    """All blobs are there, as their own syncs see to; `control.db` and its journal are what the cut leaves of them."""
    live, records = _traced(root, before, "", seed, synchronous)
    dice, ledger, begin = random.Random(seed), Ledger(), 0
    flat = root / "flat"
    flat.mkdir(exist_ok=True)
    for each in before.iterdir():
        if each.is_file():
            shutil.copy(each, flat)
    disk = Disk(flat)
    for moment in sorted(dice.randrange(len(records)) for _ in range(cuts)):
        for record in records[begin:moment]:
            disk.apply(record)
            if record.change is Change.MARK:
                ledger.note(record.text)
        begin = moment
        fate = dice.choice(FATES)
        left = root / "left"
        shutil.rmtree(left, ignore_errors=True)
        left.mkdir()
        disk.cut(fate, random.Random(moment), left)
        (left / "blobs").symlink_to(live / "blobs")
        tally.cuts += 1
        tally.wrong += [f"change {moment} of {len(records)}, {fate}: {each}" for each in _told(left, ledger)]


def _told(left: Path, ledger: Ledger) -> list[str]:
    try:
        store = Store(left)
        try:
            return differences(store, ledger, goes_on=False)
        finally:
            store.close()
    except Exception as broken:  # noqa: BLE001 - whatever a damaged file leads to is told
        return [f"{type(broken).__name__}: {broken}"]


def _cut_blobs(root: Path, before: Path, cuts: int, seed: int, tally: Cuts) -> None:
    """What was said to be verified is there; what is not whole is seen to be so."""
    _, records = _traced(root, before, "blobs", seed, "EXTRA")
    dice, begin = random.Random(seed + 1), 0
    disk, verified = Disk(before / "blobs"), {sha256(each) for each in tiny_files(0).values()}
    left = root / "blobs-left"
    for moment in sorted(dice.randrange(len(records)) for _ in range(cuts)):
        for record in records[begin:moment]:
            disk.apply(record)
            if record.change is Change.MARK and record.text.startswith("begins verified"):
                verified |= {sha256(each) for each in tiny_files(int(record.text.split()[2])).values()}
        begin = moment
        shutil.rmtree(left, ignore_errors=True)
        left.mkdir()
        disk.cut(dice.choice(FATES), random.Random(moment), left)
        tally.cuts += 1
        for name in verified:
            tally.blobs += 1
            if not (left / name).is_file() or sha256((left / name).read_bytes()) != name:
                tally.wrong.append(f"change {moment} of {len(records)}: the blob {name[:12]}… is not whole")
