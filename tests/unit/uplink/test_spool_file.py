"""The file of the spool: one owner, its whole room from the beginning, set aside where it is damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from edgeinfer.errors import SpoolError, SpoolLost
from edgeinfer.uplink import spoolfile
from edgeinfer.uplink.blank import PAGE_BYTES
from edgeinfer.uplink.spool import Spool
from tests.unit.uplink.conftest import SMALL, everything


def names(shelf):
    return sorted(each.name for each in shelf.path.parent.iterdir())


def filled(shelf, count=200):
    spool = shelf.open()
    for number in range(count):
        spool.commit(shelf.messages(number, size=2000))
    spool.close()
    return spool


def overwrite(path, content, *offsets):
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(content)


def test_the_room_is_taken_at_once_and_no_more_later(shelf):
    spool = shelf.open()
    size = {each.name: each.stat().st_size for each in shelf.path.parent.iterdir()}
    assert SMALL - PAGE_BYTES < sum(size.values()) <= SMALL
    blocks = shelf.path.stat().st_blocks
    assert blocks * 512 >= size["spool.db"]
    for number in range(200):
        spool.commit(shelf.messages(number, size=20_000))
    spool.close()
    assert {each.name: each.stat().st_size for each in shelf.path.parent.iterdir()} == size
    assert shelf.path.stat().st_blocks <= blocks + 64  # The file system's own list of where it lies.


def test_a_new_file_is_whole_and_sound(shelf):
    shelf.open(max_bytes=20_000_000).close()
    database = sqlite3.connect(shelf.path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    assert pages - free < 8
    database.close()


def test_nobody_else_may_read_it(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(1))
    spool.close()
    assert {each.stat().st_mode & 0o077 for each in shelf.path.parent.glob("spool.db*") if each.suffix != ".lock"} == {
        0
    }


def test_every_new_spool_has_an_epoch_of_its_own(shelf):
    first = shelf.open()
    first.close()
    shutil.rmtree(shelf.path.parent)
    second = shelf.open()
    assert len(first.epoch) == len(second.epoch) == 16
    int(first.epoch, 16)
    assert first.epoch != second.epoch


def test_a_second_process_is_told_in_one_line(shelf):
    shelf.open()
    program = f"""
        from pathlib import Path
        from edgeinfer.errors import SpoolError
        from edgeinfer.uplink.spool import Spool
        try:
            Spool.open(Path({str(shelf.path)!r}), max_bytes={SMALL})
        except SpoolError as refused:
            print(refused)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"the spool {shelf.path} is in use; is edgeinfer running already?\n"


def test_a_second_opening_in_this_process_is_refused_and_harms_nothing(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(1))
    with pytest.raises(SpoolError, match="is in use"):
        shelf.open()
    assert spool.commit(shelf.messages(2)) == range(2, 3)
    assert shelf.alarms == []


def test_another_program_that_holds_the_file_is_no_damage(shelf):
    filled(shelf, 3)
    database = sqlite3.connect(shelf.path, isolation_level=None)
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SpoolError, match="locked"):
        shelf.open()
    database.execute("ROLLBACK")
    database.close()
    assert shelf.open().depth == 3
    assert shelf.alarms == []


def test_too_small_a_limit_is_refused(shelf):
    with pytest.raises(SpoolError, match=r"a spool of 3999999 bytes is too small; give it 4000000 or more"):
        shelf.open(max_bytes=SMALL - 1)


@pytest.mark.parametrize("place", ["header", "schema", "middle", "cut short", "text", "other database", "newer"])
def test_a_damaged_spool_is_set_aside_and_a_new_epoch_begins(shelf, place):
    before = filled(shelf)
    size = shelf.path.stat().st_size
    if place == "header":
        overwrite(shelf.path, b"\0" * 100, 0)
    elif place == "schema":
        overwrite(shelf.path, b"\xff" * 2000, 100)
    elif place == "middle":
        overwrite(shelf.path, b"\xa5" * PAGE_BYTES, *range(PAGE_BYTES, size // 4, PAGE_BYTES))
    elif place == "cut short":
        os.truncate(shelf.path, size // 1000)
    elif place == "text":
        shelf.path.write_text("results\n" * 1000)
    else:
        database = sqlite3.connect(shelf.path)
        database.execute("PRAGMA user_version = 9" if place == "newer" else "PRAGMA application_id = 1")
        database.close()
    damaged = shelf.path.read_bytes()
    spool = shelf.open()
    assert spool.epoch != before.epoch
    assert (spool.last_seq, spool.depth) == (0, 0)
    assert spool.commit(shelf.messages(1)) == range(1, 2)
    assert len(shelf.alarms) == 1
    assert "it was set aside as spool.db.corrupt-1" in shelf.alarms[0]
    assert shelf.path.with_name("spool.db.corrupt-1").read_bytes()[-1000:] == damaged[-1000:]


def test_an_empty_file_is_no_spool_either(shelf):
    shelf.path.parent.mkdir()
    shelf.path.touch()
    assert shelf.open().last_seq == 0


def test_the_newest_two_that_were_set_aside_are_kept(shelf):
    for _ in range(4):
        filled(shelf, 1)
        overwrite(shelf.path, b"\0" * 100, 0)
    shelf.open()
    assert [name for name in names(shelf) if "corrupt" in name and "wal" not in name] == [
        "spool.db.corrupt-3",
        "spool.db.corrupt-4",
    ]
    assert len(shelf.alarms) == 4


def test_the_log_of_a_file_that_is_gone_is_not_played_into_a_new_one(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(1, 2, 3))
    log = shelf.path.with_name("spool.db-wal").read_bytes()
    spool.close()
    shelf.path.unlink()
    shelf.path.with_name("spool.db-wal").write_bytes(log)
    again = shelf.open()
    assert again.epoch != spool.epoch
    assert (again.last_seq, everything(again)) == (0, [])


def test_a_hole_in_the_numbers_is_damage(shelf):
    before = filled(shelf, 5)
    database = sqlite3.connect(shelf.path)
    database.execute("DELETE FROM groups WHERE last = 3")
    database.commit()
    database.close()
    assert shelf.open().epoch != before.epoch
    assert "its numbers do not follow each other" in shelf.alarms[0]


def test_damage_that_shows_in_work_is_told_and_the_spool_can_be_opened_anew(shelf):
    spool = shelf.open()
    for number in range(200):
        spool.commit(shelf.messages(number, size=2000))
    spool._file.rows("PRAGMA wal_checkpoint")
    spool._file.rows("PRAGMA shrink_memory")
    overwrite(shelf.path, b"\xa5" * PAGE_BYTES, *range(PAGE_BYTES, shelf.path.stat().st_size // 2, PAGE_BYTES))
    with pytest.raises(SpoolLost, match="is damaged"):
        everything(spool)
    with pytest.raises(SpoolError, match="is closed"):
        spool.commit(shelf.messages(1))
    again = shelf.open()
    assert again.epoch != spool.epoch
    assert len(shelf.alarms) == 1


def test_a_folder_in_its_place_is_an_error(shelf):
    shelf.path.mkdir(parents=True)
    with pytest.raises(SpoolError, match="not a regular file"):
        shelf.open()
    assert shelf.path.is_dir()


@pytest.mark.parametrize(("before", "after"), [(SMALL, 12_000_000), (12_000_000, SMALL)])
def test_another_limit_resizes_the_file_once_nothing_waits(shelf, before, after):
    spool = shelf.open(max_bytes=before)
    spool.commit(shelf.messages(1, 2, 3))
    spool.bury(2, "denied")
    spool.close()
    size = shelf.path.stat().st_size
    spool = shelf.open(max_bytes=after)
    assert shelf.path.stat().st_size == size
    spool.done(3)
    spool.close()
    again = shelf.open(max_bytes=after)
    assert shelf.path.stat().st_size == spoolfile.pages_of(after) * PAGE_BYTES
    assert (again.epoch, again.last_seq, again.done_seq) == (spool.epoch, 3, 3)
    assert again._file.rows("SELECT seq, reason FROM dead_letters") == [(2, "denied")]
    assert again.commit(shelf.messages(4)) == range(4, 5)


def test_a_smaller_limit_is_reached_within_some_commits(shelf):
    spool = shelf.open(max_bytes=20_000_000)
    for _ in range(60):
        spool.commit([shelf.message(0, size=1)] * 10)
        spool.commit([type(shelf.message(0))("result", "", 0, "synced", os.urandom(100_000))])
    spool.close()
    before = spool.size_bytes
    spool = shelf.open(max_bytes=SMALL)
    for _ in range(10):
        spool.commit(shelf.messages(1))
    assert spool.size_bytes < SMALL < before
    assert spool.dropped["full"] > 0


def test_a_disk_with_little_room_gives_half_of_it(shelf, monkeypatch):
    disk = os.statvfs("/")
    small = os.statvfs_result((disk.f_bsize, 4096, 10_000, 5000, 4000, *tuple(disk)[5:]))
    monkeypatch.setattr(spoolfile.os, "statvfs", lambda _: small)
    shelf.open(max_bytes=64_000_000)
    size = sum(each.stat().st_size for each in shelf.path.parent.iterdir())
    assert 7_000_000 < size <= 4000 * 4096 // 2


def test_on_a_disk_that_others_have_filled_the_spool_keeps_its_size(shelf, monkeypatch):
    filled(shelf, 0)
    size = shelf.path.stat().st_size
    disk = os.statvfs("/")
    full = os.statvfs_result((disk.f_bsize, 4096, 10_000, 5000, 100, *tuple(disk)[5:]))
    monkeypatch.setattr(spoolfile.os, "statvfs", lambda _: full)
    for limit in (SMALL, 20_000_000):
        shelf.open(max_bytes=limit).close()
        assert shelf.path.stat().st_size == size


def test_a_disk_without_room_is_an_error_that_says_how_much_is_needed(shelf, monkeypatch):
    disk = os.statvfs("/")
    full = os.statvfs_result((disk.f_bsize, 4096, 10_000, 5000, 100, *tuple(disk)[5:]))
    monkeypatch.setattr(spoolfile.os, "statvfs", lambda _: full)
    with pytest.raises(SpoolError, match=r"no room for the spool .* 8000000 bytes free"):
        shelf.open()


def test_the_import_of_the_spool_is_what_loads_sqlite():
    code = "import sys, edgeinfer.uplink.message, edgeinfer.config; print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


def test_the_shipped_defaults_are_a_spool(tmp_path):
    Spool.open(tmp_path / "spool.db", max_bytes=64_000_000).close()
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 64_000_000
