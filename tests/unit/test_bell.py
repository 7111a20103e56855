from __future__ import annotations

import threading

from edgeinfer.bell import Bell


def test_who_waits_is_woken():
    bell, heard = Bell(), []
    waiter = threading.Thread(target=lambda: heard.append(bell.wait(60)))
    waiter.start()
    bell.ring()
    waiter.join(60)
    assert heard == [True]


def test_rung_before_or_twice_it_is_heard_once():
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait()
    assert not bell.wait(0)


def test_many_may_ring_at_once():
    bell, errors = Bell(), []
    begin = threading.Barrier(4)

    def ring() -> None:
        begin.wait(60)
        try:
            for _ in range(20_000):
                bell.ring()
        except RuntimeError as error:
            errors.append(error)

    ringers = [threading.Thread(target=ring) for _ in range(4)]
    for each in ringers:
        each.start()
    while any(each.is_alive() for each in ringers):
        bell.wait(0.001)
    assert errors == []


def test_time_that_is_over_is_no_wait():
    assert not Bell().wait(-1.0)
