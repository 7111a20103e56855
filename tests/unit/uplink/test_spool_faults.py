"""A disk that is full, that can only be read, that fails to sync: nothing accepted is lost, and the spool goes on.

Each test runs a program whose spool lies on the faulty disk (tests/disk); what it asserts, it asserts there.
"""

from __future__ import annotations

import textwrap

import pytest

from tests.disk import faulty_disk

BEGIN = """
import errno, os, re, sys
from pathlib import Path
from edgeinfer.errors import SpoolError
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.spool import Spool
from tests.disk.faulty_disk import Fault, fail

path, alarms = Path(sys.argv[1]) / "spool.db", []

def opened():
    return Spool.open(path, max_bytes=4_000_000, on_alarm=alarms.append)

def message(number, size=100):
    return Message("result", "door", number, "synced", b'"%d%s"' % (number, os.urandom(size // 2).hex().encode()))

def everything(spool):
    return spool.read(0, 10_000, 1 << 30)

def refused(call, words):
    try:
        call()
    except SpoolError as error:
        assert re.search(words, str(error)), error
    else:
        raise AssertionError("was not refused")
"""


@pytest.fixture
def on_faulty_disk(tmp_path):
    """Runs a program there; skips where no compiler is."""

    def run(program: str) -> None:
        try:
            faulty_disk.run(["-c", BEGIN + textwrap.dedent(program), str(tmp_path)], tmp_path)
        except faulty_disk.NoCompiler as missing:
            pytest.skip(str(missing))

    return run


def test_on_a_full_disk_the_spool_fills_up_drops_the_oldest_and_drains(on_faulty_disk):
    on_faulty_disk("""
        spool = opened()
        fail(Fault.GROW, errno.ENOSPC)
        for number in range(220):
            spool.commit([message(number, 20_000)])
        assert spool.dropped["full"] > 50 and spool.depth > 100
        spool.done(spool.last_seq)
        spool.flush()
        assert spool.depth == 0
        for number in range(220):
            assert spool.commit([message(number, 20_000)])[0] == 221 + number
        spool.close()
        spool = opened()  # The disk is still full.
        assert spool.last_seq == 440 and everything(spool)[-1].seq == 440
        spool.commit([message(1)])
        spool.close()
        assert len(alarms) == 2 and all("is full" in each for each in alarms)  # Filled twice.
    """)


def test_a_full_disk_when_the_spool_is_begun_is_an_error_until_there_is_room(on_faulty_disk):
    on_faulty_disk("""
        fail(Fault.GROW, errno.ENOSPC)
        refused(opened, "No space left|unable to open|full")
        refused(opened, "No space left|unable to open|full")
        fail(Fault.GROW, 0)
        spool = opened()
        assert spool.commit([message(1)]) == range(1, 2)
        spool.close()
        assert sorted(each.name for each in path.parent.iterdir()) == ["spool.db", "spool.db-wal", "spool.db.lock"]
        assert alarms == []
    """)


@pytest.mark.parametrize("fault", ["SYNC", "WRITE"])
@pytest.mark.parametrize("error", ["EIO", "EROFS", "ENOSPC"])
def test_what_could_not_be_made_durable_is_not_accepted_and_may_be_offered_again(on_faulty_disk, fault, error):
    on_faulty_disk(f"""
        spool = opened()
        first, second = [message(1), message(2)], [message(3)]
        spool.commit(first)
        fail(Fault.{fault}, errno.{error})
        for _ in range(3):
            refused(lambda: spool.commit(second), "cannot use the spool")
        assert spool.last_seq == 2 and spool.depth == 2
        assert [each.message for each in everything(spool)] == first  # Reading goes on.
        spool.done(1)
        refused(spool.flush, "cannot use the spool")
        refused(lambda: spool.bury(2, "denied"), "cannot use the spool")
        fail(Fault.{fault}, 0)
        assert spool.commit(second) == range(3, 4)
        spool.close()
        spool = opened()
        assert [each.message for each in everything(spool)] == [*first[1:], *second]
        spool.close()
        assert alarms == []
    """)


def test_a_sync_that_fails_now_and_then_loses_nothing(on_faulty_disk):
    on_faulty_disk("""
        spool = opened()
        accepted = []
        for number in range(400):
            if number % 3 == 0:
                fail(Fault.SYNC, errno.EIO, after=number % 5, times=1)
            offered = [message(number, 3000)]
            try:
                spool.commit(offered)
            except SpoolError:
                continue
            accepted += offered
        fail(Fault.SYNC, 0)
        assert 200 < len(accepted) < 400
        spool.close()
        spool = opened()
        assert [each.message for each in everything(spool)] == accepted
        spool.close()
        assert alarms == []
    """)


def test_a_process_that_dies_after_a_failed_sync_gives_no_number_twice(on_faulty_disk):
    on_faulty_disk("""
        first, offered = [message(1)], [message(2)]
        if os.fork() == 0:
            spool = opened()
            spool.commit(first)
            fail(Fault.SYNC, errno.EIO)
            refused(lambda: spool.commit(offered), "disk I/O error")
            os._exit(0)  # As kill -9: what is in the log stays there.
        assert os.wait()[1] == 0
        spool = opened()
        found = [each.message for each in everything(spool)]
        assert found in (first, first + offered)
        assert spool.commit([message(3)])[0] == len(found) + 1
        spool.close()
        assert alarms == []
    """)


def test_without_room_for_the_log_what_was_accepted_can_still_be_read(on_faulty_disk):
    on_faulty_disk("""
        spool = opened()
        accepted = [message(number) for number in range(3)]
        spool.commit(accepted)
        spool.close()
        path.with_name("spool.db-wal").unlink()  # And somebody else takes that room at once.
        fail(Fault.GROW, errno.ENOSPC)
        spool = opened()
        assert [each.message for each in everything(spool)] == accepted
        refused(lambda: spool.commit([message(4)]), "full")
        spool.done(2)
        refused(spool.flush, "full")
        fail(Fault.GROW, 0)
        assert spool.commit([message(4)]) == range(4, 5)
        assert (spool.done_seq, spool.depth) == (2, 2)
        spool.close()
        assert alarms == []
    """)


def test_closing_on_a_disk_that_fails_says_so_and_loses_nothing(on_faulty_disk):
    on_faulty_disk("""
        spool = opened()
        spool.commit([message(1), message(2)])
        spool.done(1)
        fail(Fault.SYNC, errno.EIO)
        refused(spool.close, "cannot use the spool")
        spool.close()
        fail(Fault.SYNC, 0)
        spool = opened()
        assert everything(spool)[-1].seq == 2
        spool.close()
        assert alarms == []
    """)


def test_a_read_only_disk_is_an_error_at_opening(on_faulty_disk):
    on_faulty_disk("""
        fail(Fault.NAME, errno.EROFS)
        refused(opened, "Read-only file system")
        fail(Fault.NAME, 0)
        opened().close()
        assert alarms == []
    """)


def test_one_read_that_fails_is_no_damage(on_faulty_disk):
    on_faulty_disk("""
        spool = opened()
        spool.commit([message(1)])
        spool.close()
        fail(Fault.READ, errno.EIO, times=1)
        again = opened()
        assert again.epoch == spool.epoch and again.depth == 1
        again.close()
        assert alarms == []
    """)


def test_a_file_that_cannot_be_read_is_set_aside(on_faulty_disk):
    on_faulty_disk("""
        spool = opened()
        spool.commit([message(1)])
        spool.close()
        real = Path.rename

        def rename(self, target):  # What is bad about the disk are the sectors of that file.
            fail(Fault.READ, 0)
            return real(self, target)

        Path.rename = rename
        fail(Fault.READ, errno.EIO)
        again = opened()
        assert again.epoch != spool.epoch and again.depth == 0
        again.close()
        assert len(alarms) == 1 and "cannot be read" in alarms[0]
    """)
