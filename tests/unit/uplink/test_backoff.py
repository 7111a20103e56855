"""The delays before another attempt."""

from __future__ import annotations

from random import Random

from edgeinfer.uplink.backoff import Backoff


def test_the_delays_double_up_to_the_longest():
    backoff = Backoff(1, 60, lambda: 0.0)
    assert [backoff.next_s() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_success_begins_with_the_shortest_again():
    backoff = Backoff(1, 60, lambda: 0.0)
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 1


def test_each_delay_is_shortened_by_up_to_half():
    delays = [Backoff(10, 60, Random(seed).random).next_s() for seed in range(200)]
    assert 5 <= min(delays) < 5.5
    assert 9.5 < max(delays) <= 10


def test_the_same_seed_gives_the_same_delays_and_another_seed_others():
    def delays(seed: int) -> list[float]:
        backoff = Backoff(1, 60, Random(seed).random)
        return [backoff.next_s() for _ in range(5)]

    assert delays(1) == delays(1) != delays(2)
