"""The power goes at any moment: what the spool has accepted is there afterwards. At length: scripts/power_cut."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from edgeinfer.uplink.message import Message
from edgeinfer.uplink.spool import Spool
from tests.disk import faulty_disk
from tests.disk.faulty_disk import Change, NoCompiler
from tests.disk.power_cut import FATES, Disk
from tests.disk.spool_cuts import cut_rounds

MAX_BYTES = 4_000_000
SETS_ASIDE = f"""
import sys
from pathlib import Path
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.spool import Spool
from tests.disk.faulty_disk import mark
spool = Spool.open(Path(sys.argv[1]), max_bytes={MAX_BYTES}, on_alarm=lambda _: None)
for number in range(3):
    spool.commit([Message("result", "new", number, "synced", b"new")])
    mark(f"accepted {{spool.epoch}} {{number + 1}}")
spool.close()
"""


def rounds(*arguments: int, **options: object):
    try:
        return cut_rounds(*arguments, **options)
    except NoCompiler as missing:
        pytest.skip(str(missing))


def test_nothing_that_was_accepted_is_lost_and_no_number_is_given_twice():
    tally = rounds(6, 400, 12)
    assert tally.wrong == []
    assert not tally.lost
    assert tally.rows > 2000
    assert tally.cuts == 72


def test_a_spool_that_did_not_sync_its_commits_would_be_found_out():
    assert len(rounds(1, 400, 12, synchronous="NORMAL").lost) > 10


@pytest.fixture
def damaged(tmp_path) -> Path:
    """A spool that a crash has left, with results in its log that are not in its file yet; and that is damaged."""
    live, left = tmp_path / "live" / "spool.db", tmp_path / "damaged"
    with_log = Spool.open(live, max_bytes=MAX_BYTES)
    for number in range(50):
        with_log.commit([Message("result", "old", number, "synced", b"old")])
    shutil.copytree(live.parent, left)
    with_log.close()
    with (left / "spool.db").open("r+b") as file:
        file.write(b"no longer a database")
    return left


def test_the_power_may_go_while_a_damaged_spool_is_set_aside(damaged, tmp_path):
    live, trace = tmp_path / "second", tmp_path / "trace"
    shutil.copytree(damaged, live)
    try:
        faulty_disk.run(["-c", SETS_ASIDE, str(live / "spool.db")], live, trace)
    except NoCompiler as missing:
        pytest.skip(str(missing))
    disk, accepted, rng = Disk(damaged), ("", 0), random.Random(0)
    for moment, record in enumerate(faulty_disk.records(trace)):
        left = tmp_path / f"left-{moment}"
        left.mkdir()
        disk.cut(rng.choice(FATES), rng, left)
        spool = Spool.open(left / "spool.db", max_bytes=MAX_BYTES, on_alarm=lambda _: None)
        found = spool.read(0, 100, 1 << 20)
        assert {each.message.pipeline for each in found} <= {"new"}  # Nothing of the old log.
        assert len(found) >= accepted[1]
        assert spool.epoch == accepted[0] or not accepted[1]
        spool.close()
        shutil.rmtree(left)
        disk.apply(record)
        if record.change is Change.MARK:
            _, epoch, count = record.text.split()
            accepted = epoch, int(count)
    assert accepted[1] == 3
