"""When a file is worth more than one decoding thread, by virtual clocks."""

from __future__ import annotations

import os

import pytest

from edgeinfer.board.busy import IdleTime
from edgeinfer.sources.decoding import DecoderPace

MS = 1_000_000


class Reading:
    """Reads of a file on a machine of that many cores, of which we and others take some."""

    def __init__(self, *, cores: int = 4, ours: float = 1.0, others: float = 0.0, allowed: int | None = None) -> None:
        self.now_ns = 0
        self._cores, self._ours, self._others = cores, ours, others
        self.looks = 0
        self.pace = DecoderPace(
            idle=self._idle, cpu_ns=lambda: int(self.now_ns * ours), cores=cores if allowed is None else allowed
        )

    def _idle(self) -> IdleTime:
        self.looks += 1
        ticks = self.now_ns // MS
        return IdleTime(self._cores, self._cores * ticks, round((self._cores - self._ours - self._others) * ticks))

    def read(self, decode_ms: int = 8, convert_ms: int = 2, pause_ms: int = 0) -> bool:
        begun_ns = self.now_ns
        self.now_ns += (decode_ms + convert_ms) * MS
        wants_more = self.pace.wants_more(begun_ns, begun_ns + decode_ms * MS, self.now_ns)
        self.now_ns += pause_ms * MS
        return wants_more

    def wanted_at(self, reads: int = 400, **read: int) -> list[int]:
        """After which reads, from 1, it is said that more threads may help."""
        return [number for number in range(1, reads + 1) if self.read(**read)]


def test_a_run_that_waits_for_the_decoder_while_a_core_is_idle_wants_more() -> None:
    assert Reading(ours=1.5).wanted_at()[0] == 11, "after a tenth of a second of reading behind the first"
    assert Reading(ours=1.5).wanted_at(decode_ms=17, convert_ms=2, pause_ms=1)
    assert Reading(cores=2, ours=1.4).wanted_at()


@pytest.mark.parametrize(
    ("machine", "pause_ms"),
    [
        ({"ours": 1.5}, 2),
        ({"cores": 2, "ours": 1.6}, 0),
        ({"ours": 3.6}, 0),
        ({"ours": 1.0, "others": 2.6}, 0),
        ({"ours": 1.6, "allowed": 2}, 0),
        ({"ours": 0.1, "allowed": 1}, 0),
    ],
    ids=[
        "the model is the slower one",
        "no core of two is idle",
        "nor of four",
        "others have them",
        "we may not run on the idle ones",
        "there is one core for us",
    ],
)
def test_otherwise_it_does_not(machine: dict[str, float], pause_ms: int) -> None:
    assert Reading(**machine).wanted_at(pause_ms=pause_ms) == []


def test_where_the_kernel_says_nothing_of_idle_cores_it_does_not() -> None:
    pace = DecoderPace(idle=lambda: None, cpu_ns=lambda: 0, cores=4)
    assert not any(pace.wants_more(at * MS, (at + 5) * MS, (at + 10) * MS) for at in range(0, 2000, 10))


def test_it_looks_at_the_first_second_of_reading_only() -> None:
    reading = Reading()
    assert reading.wanted_at(reads=1000) == list(range(11, 102, 10))
    assert reading.pace.is_settled
    looks = reading.looks
    reading.wanted_at(reads=100)
    assert reading.looks == looks, "nor is anything asked of the kernel"


def test_a_model_that_begins_slowly_does_not_keep_it_from_being_seen_later() -> None:
    reading = Reading()
    reading.wanted_at(reads=4)
    reading.now_ns += 5000 * MS
    assert reading.wanted_at(reads=60)[0] == 17, "the look after the one with the pause in it"


@pytest.mark.parametrize(("decode_ms", "is_worth"), [(5.5, True), (5.6, False), (8.0, False)])
def test_another_decoder_has_to_be_a_quarter_quicker_for_a_read_as_a_whole(decode_ms: float, is_worth: bool) -> None:
    reading = Reading()
    assert reading.wanted_at(reads=11) == [11]
    assert reading.pace.is_worth(decode_ms * MS) is is_worth


def test_by_itself_it_asks_the_kernel() -> None:
    pace = DecoderPace()
    assert pace.is_settled is (len(os.sched_getaffinity(0)) == 1)
    for at in range(3):
        pace.wants_more(at * 100 * MS, at * 100 * MS + 50 * MS, (at + 1) * 100 * MS)
    idle = pace._idle()
    assert idle is not None
    assert 0 < idle.idle <= idle.total
    assert idle.cores >= len(os.sched_getaffinity(0))
