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


def test_somebody_else_may_ring_it_in_the_same_moment():
    class JustRung:
        def locked(self) -> bool:
            return True

        def release(self) -> None:
            raise RuntimeError("release unlocked lock")

    bell = Bell()
    bell._silence = JustRung()
    bell.ring()


def test_time_that_is_over_is_no_wait():
    assert not Bell().wait(-1.0)
