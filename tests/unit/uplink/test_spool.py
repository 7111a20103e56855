"""What the spool accepts comes out in order, numbered, until it is done; what does not come out is a numbered gap."""

from __future__ import annotations

import os
import random
import sqlite3

import msgspec
import pytest

from edgeinfer.errors import SpoolError
from edgeinfer.uplink.group import GROUP_BYTES_MAX, MESSAGE_BYTES_MAX
from edgeinfer.uplink.message import Gap, Message
from tests.unit.uplink.conftest import SMALL, everything


def gaps(spool):
    return [msgspec.json.decode(each.message.data, type=Gap) for each in everything(spool) if not each.message.pipeline]


def numbers(spool):
    """As (first, last) where a gap stands for several."""
    found = []
    for each in everything(spool):
        gap = msgspec.json.decode(each.message.data, type=Gap) if each.message.channel == "gap" else None
        found.append((gap.first, gap.last) if gap else each.seq)
    return found


def noise(number, size):
    """A message that does not become smaller by packing."""
    return Message("result", "door", number, "synced", b'"%s"' % os.urandom(size // 2).hex().encode())


def test_what_is_committed_comes_out_as_it_was_and_in_order(shelf):
    spool = shelf.open()
    offered = [
        Message("result", "door", 1_795_000_000_123_456_789, "synced", b'{"a":1}'),
        Message("event", "tür-✓", -1, "unsynced", '{"ä":"\u2028"}'.encode()),
        Message("result", "", 0, "unsynced", b""),
    ]
    assert spool.commit(offered[:2]) == range(1, 3)
    assert spool.commit(offered[2:]) == range(3, 4)
    assert [(each.seq, each.message) for each in everything(spool)] == list(enumerate(offered, 1))
    assert (spool.last_seq, spool.done_seq, spool.depth) == (3, 0, 3)


def test_it_is_all_there_after_closing_and_opening(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(70)))
    spool.done(20)
    before = everything(spool)
    spool.close()
    again = shelf.open()
    assert everything(again) == before
    assert (again.epoch, again.last_seq, again.done_seq, again.depth) == (spool.epoch, 70, 20, 50)
    assert shelf.alarms == []


def test_reading_stops_at_the_limits_and_gives_one_at_least(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(10)))
    size = len(shelf.message(0).data)
    assert [each.seq for each in spool.read(0, 3, 1 << 20)] == [1, 2, 3]
    assert [each.seq for each in spool.read(3, 100, 2 * size)] == [4, 5]
    assert [each.seq for each in spool.read(5, 100, 1)] == [6]
    assert [each.seq for each in spool.read(8, 100, 1 << 20)] == [9, 10]
    assert list(spool.read(10, 100, 1 << 20)) == []


def test_what_is_done_is_neither_read_nor_counted(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(10)))
    spool.done(4)
    spool.done(2)  # An older acknowledgement takes nothing back.
    assert numbers(spool) == [5, 6, 7, 8, 9, 10]
    assert spool.depth == 6
    spool.done(99)
    assert (spool.done_seq, spool.depth, spool.oldest_unix_ns) == (10, 0, None)


def test_a_number_is_never_given_twice_even_when_everything_is_done_and_deleted(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(600)))
    spool.done(600)
    spool.close()
    spool = shelf.open()
    assert (spool.last_seq, spool.depth) == (600, 0)
    assert spool.commit(shelf.messages(1)) == range(601, 602)
    spool.done(601)
    spool.flush()
    spool.close()
    assert shelf.open().commit(shelf.messages(1)) == range(602, 603)


def test_what_is_done_is_written_down_with_the_next_commit(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(10)))
    spool.done(7)
    spool.commit(shelf.messages(10))
    spool._file.close()  # As a crash: nothing is flushed.
    assert shelf.open().done_seq == 7


def test_what_is_done_is_deleted_and_its_room_used_again(shelf):
    spool = shelf.open()
    for _ in range(15):
        for _ in range(20):
            spool.commit([noise(0, 400) for _ in range(50)])
        spool.done(spool.last_seq)
    assert spool.dropped == {}
    assert spool.size_bytes < SMALL // 2


def test_a_large_backlog_is_deleted_in_steps_that_the_log_has_room_for(shelf):
    spool = shelf.open(max_bytes=16_000_000)
    while spool.size_bytes < 10_000_000:
        spool.commit([noise(0, 2000) for _ in range(100)])
    log = shelf.path.with_name("spool.db-wal")
    size = log.stat().st_size
    spool.done(spool.last_seq)
    for _ in range(12):
        spool.flush()
        spool.commit(shelf.messages(1))
        assert log.stat().st_size == size
        spool.done(spool.last_seq)
    assert spool.size_bytes < 1_000_000
    assert not spool.dropped


def test_oldest_tells_of_the_first_that_is_not_done(shelf):
    spool = shelf.open()
    times = []
    for number in range(3):
        spool.commit(shelf.messages(number, number))
        times.append(round(shelf.now.unix_s * 1e9))
        shelf.now.pass_(60)
    assert spool.oldest_unix_ns == times[0]
    spool.done(3)
    assert spool.oldest_unix_ns == times[1]


def test_a_full_spool_drops_the_oldest_and_says_which(shelf):
    spool = shelf.open()
    for number in range(220):
        spool.commit([noise(number, 20_000)])
    first, *rest = numbers(spool)
    assert first == (1, rest[0] - 1)
    assert rest == list(range(rest[0], 221))
    assert len(rest) > 100
    assert spool.dropped == {"full": first[1]}
    assert spool.depth == len(rest) + 1
    assert gaps(spool)[0].reason == "full"
    assert len(shelf.alarms) == 1
    assert "is full" in shelf.alarms[0]


@pytest.mark.parametrize("size", [20_000, 250_000])
def test_a_full_spool_stays_within_its_limit_on_disk(shelf, size):
    spool = shelf.open()
    for _ in range(4_000_000 // size):
        spool.commit([Message("result", "door", 0, "synced", os.urandom(size)) for _ in range(2)])
        assert sum(each.stat().st_size for each in shelf.path.parent.iterdir()) <= SMALL
    assert spool.size_bytes <= SMALL


def test_a_full_spool_is_the_same_after_opening_it_again(shelf):
    spool = shelf.open()
    for number in range(220):
        spool.commit([noise(number, 20_000)])
    before = numbers(spool), spool.depth, spool.done_seq
    spool.close()
    again = shelf.open()
    assert (numbers(again), again.depth, again.done_seq) == before


def test_a_gap_begins_after_what_is_done(shelf):
    spool = shelf.open()
    for number in range(100):
        spool.commit([noise(number, 20_000)])
    spool.done(50)
    for number in range(200):
        spool.commit([noise(number, 20_000)])
    assert numbers(spool)[0][0] == 51
    assert spool.dropped["full"] == numbers(spool)[0][1] - 50


def test_acknowledging_a_gap_makes_it_go_away(shelf):
    spool = shelf.open()
    for number in range(220):
        spool.commit([noise(number, 20_000)])
    _, last = numbers(spool)[0]
    spool.done(last)
    assert numbers(spool)[0] == last + 1
    assert spool.depth == 220 - last


def test_a_full_spool_can_still_bury(shelf):
    spool = shelf.open()
    for number in range(220):
        spool.commit([noise(number, 20_000)])
    begin = numbers(spool)[1]
    for seq in range(begin, begin + 100, 2):
        spool.bury(seq, "denied")
    assert len(gaps(spool)) == 51


def test_a_dead_letter_leaves_a_gap_and_nothing_behind_it_waits(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(5)))
    kept = everything(spool)
    spool.bury(3, "too large for the broker")
    assert numbers(spool) == [1, 2, (3, 3), 4, 5]
    assert gaps(spool) == [Gap(3, 3, "too large for the broker")]
    assert [each for each in everything(spool) if each.message.channel != "gap"] == [*kept[:2], *kept[3:]]
    assert (spool.depth, spool.dropped) == (5, {"too large for the broker": 1})
    spool.close()
    again = shelf.open()
    assert numbers(again) == [1, 2, (3, 3), 4, 5]
    assert again.depth == 5


def test_dead_letters_in_a_row_are_one_gap(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(6)))
    for seq in (2, 3, 4):
        spool.bury(seq, "denied")
    spool.bury(5, "too large")
    assert numbers(spool) == [1, (2, 4), (5, 5), 6]
    assert [each.reason for each in gaps(spool)] == ["denied", "too large"]
    assert spool.depth == 4
    spool.close()
    assert shelf.open().depth == 4


def test_every_message_of_a_group_may_be_buried(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(4)))
    for seq in (4, 1, 2, 3):
        spool.bury(seq, "denied")
    assert numbers(spool) in ([(1, 3), (4, 4)], [(1, 4)])
    assert spool.commit(shelf.messages(9)) == range(5, 6)


def test_burying_what_is_done_or_unknown_or_a_gap_changes_nothing(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(5)))
    spool.bury(3, "denied")
    spool.done(1)
    before = numbers(spool)
    for seq in (1, 3, 6, 99):
        spool.bury(seq, "denied")
    assert numbers(spool) == before


def test_dead_letters_are_kept_but_not_without_end(shelf):
    spool = shelf.open()
    spool.commit(shelf.messages(*range(150), size=1))
    for seq in range(1, 151):
        spool.bury(seq, "denied")
    kept = spool._file.rows("SELECT seq, reason FROM dead_letters ORDER BY seq")
    assert kept == [(seq, "denied") for seq in range(51, 151)]


def test_a_commit_takes_what_fits_from_the_front_and_leaves_the_rest(shelf):
    spool = shelf.open()
    offered = [noise(number, 200_000) for number in range(6)]
    taken = spool.commit(offered)
    assert taken == range(1, 3)
    assert 2 * 200_000 < GROUP_BYTES_MAX < 3 * 200_000
    assert spool.commit(offered[len(taken) :]) == range(3, 5)
    assert [each.message for each in everything(spool)] == offered[:4]


def test_a_message_that_is_too_large_gets_a_number_and_a_gap(shelf):
    spool = shelf.open()
    huge = Message("result", "door", 0, "synced", b"x" * (MESSAGE_BYTES_MAX + 1))
    small = shelf.message(1)
    assert spool.commit([small, huge, small, huge]) == range(1, 5)
    assert numbers(spool) == [1, (2, 2), 3, (4, 4)]
    assert [each.reason for each in gaps(spool)] == ["too large"] * 2
    assert spool.dropped == {"too large": 2}


def test_what_was_written_is_counted(shelf):
    spool = shelf.open()
    assert spool.written_bytes == 0
    spool.commit(shelf.messages(1))
    assert spool.written_bytes >= 0  # In memory, nothing is written to a device.


def test_a_closed_spool_says_so_and_may_be_closed_again(shelf):
    spool = shelf.open()
    spool.close()
    spool.close()
    with pytest.raises(SpoolError, match="is closed"):
        spool.commit(shelf.messages(1))


def test_the_file_is_sound_in_the_eyes_of_sqlite(shelf):
    spool = shelf.open()
    for number in range(220):
        spool.commit([noise(number, 20_000)])
    spool.close()
    database = sqlite3.connect(shelf.path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


def test_flushing_writes_nothing_where_nothing_has_changed(shelf):
    spool = shelf.open(max_age_s=1e6)
    spool.commit(shelf.messages(1, 2))
    spool.done(1)
    spool.flush()
    log = shelf.path.with_name("spool.db-wal").read_bytes()
    for _ in range(3):
        shelf.now.pass_(100)
        spool.flush()
    assert shelf.path.with_name("spool.db-wal").read_bytes() == log


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_done_to_it_every_number_is_a_message_a_gap_or_done(shelf, seed):
    drawn = random.Random(seed)
    spool = shelf.open()
    offered, buried = {}, set()
    for _ in range(60):
        match drawn.choice(("commit", "commit", "commit", "done", "bury", "flush", "open")):
            case "commit":
                messages = [noise(0, drawn.choice((100, 100, 60_000))) for _ in range(drawn.choice((1, 3, 40)))]
                offered.update(zip(spool.commit(messages), messages, strict=False))
            case "done":
                spool.done(drawn.randint(0, max(0, spool.last_seq - 100)))
            case "bury":
                seq = drawn.randint(1, spool.last_seq + 1)
                spool.bury(seq, "denied")
                buried.add(seq)
            case "flush":
                spool.flush()
            case "open":
                before = (spool.epoch, spool.last_seq, spool.done_seq, spool.depth, everything(spool))
                spool.close()
                spool = shelf.open()
                assert (spool.epoch, spool.last_seq, spool.done_seq, spool.depth, everything(spool)) == before
        after = spool.done_seq
        found = everything(spool)
        assert len(found) == spool.depth
        for each in found:
            if each.message.channel == "gap":
                gap = msgspec.json.decode(each.message.data, type=Gap)
                assert gap.first <= after + 1
                assert gap.last == each.seq
                assert gap.reason == "full" or {*range(gap.first, gap.last + 1)} <= buried
            else:
                assert (each.seq, each.message) == (after + 1, offered[each.seq])
            after = each.seq
        assert after == spool.last_seq
    assert spool.last_seq == max(offered)


def test_a_damaged_group_becomes_a_gap_and_the_rest_is_delivered(shelf):
    spool = shelf.open()
    for number in range(3):
        spool.commit(shelf.messages(number, number))
    spool.close()
    database = sqlite3.connect(shelf.path)
    (body,) = database.execute("SELECT body FROM groups WHERE last = 4").fetchone()
    database.execute("UPDATE groups SET body = ? WHERE last = 4", (body[:-1] + bytes([body[-1] ^ 1]),))
    database.commit()
    database.close()
    again = shelf.open()
    assert numbers(again) == [1, 2, (3, 4), 5, 6]
    assert [each.reason for each in gaps(again)] == ["damaged"]
    assert again.dropped == {"damaged": 2}
    assert "3 to 4" in shelf.alarms[0]
