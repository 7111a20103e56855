"""What waits to be accepted, in its order and within its bounds."""

from __future__ import annotations

import threading

from edgeinfer.metrics import Tally
from edgeinfer.uplink.inbox import DROPPED, Inbox
from edgeinfer.uplink.message import Message


def message(number: int, size: int = 10) -> Message:
    return Message("result", "main", number, "synced", b"x" * size)


def inbox(tally: Tally | None = None) -> Inbox:
    return Inbox(group_rows=50, tally=tally or Tally(), wake=lambda: None, now_s=lambda: 7.0)


def numbers(box: Inbox) -> list[int]:
    return [each.unix_ns for each in box.take()]


def test_what_is_given_back_comes_before_what_came_meanwhile():
    box = inbox()
    for number in range(3):
        box.put(message(number))
    taken = box.take()
    box.put(message(3))
    box.give_back(taken)
    assert box.first_s == 7.0
    assert numbers(box) == [0, 1, 2, 3]
    assert (box.count, box.first_s) == (0, None)


def test_of_what_is_given_back_the_oldest_is_dropped_where_there_is_no_room():
    tally = Tally()
    box = inbox(tally)
    for number in range(2000):
        box.put(message(number))
    taken = box.take()
    for number in range(2000, 2100):
        box.put(message(number))
    box.give_back(taken)
    assert numbers(box) == list(range(100, 2100))
    assert tally[DROPPED] == 100


def test_one_message_that_is_larger_than_all_may_be_waits_all_the_same():
    box = inbox()
    box.put(message(0, 5 << 20))
    assert numbers(box) == [0]
    box.put(message(1, 5 << 20))
    box.put(message(2))
    assert numbers(box) == [2]


def test_many_threads_may_give_at_once():
    box, tally = inbox(), Tally()
    threads = [threading.Thread(target=lambda: [box.put(message(0)) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert box.count == 1600
    assert tally[DROPPED] == 0
