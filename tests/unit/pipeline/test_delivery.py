from __future__ import annotations

import threading

import numpy as np
import pytest

from edgeinfer.bell import Bell
from edgeinfer.clock import Clock
from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.metrics import Tally
from edgeinfer.pipeline.delivery import Delivery, Ready
from edgeinfer.scene.scene import Seen
from edgeinfer.sinks.memory import MemorySink

STANDING = Clock(monotonic_ns=lambda: 0)
FRAME = Frame(np.zeros((2, 2, 3), dtype=np.uint8), 0, 0, 0, "test:")


class GatedSink(MemorySink):
    """A sink that waits at its gate, and fails while it is told to."""

    wants_pixels = True

    def __init__(self):
        super().__init__("gated:", waiting_max=4)
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.error: OutputError | None = None
        self.frames = []
        self.is_closed = False

    def write(self, result, frame):
        self.entered.set()
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.frames.append(frame)
        super().write(result, frame)

    def close(self):
        self.is_closed = True
        super().close()


def delivery_to(sink, *, lossless, on_gone=lambda: None, max_age_ms=None, clock=STANDING):
    tally = Tally()
    delivery = Delivery(sink, tally, lossless=lossless, on_gone=on_gone, max_age_ms=max_age_ms, clock=clock)
    delivery.start()
    return delivery, tally


def test_a_slow_sink_of_a_live_source_loses_the_oldest_and_counts_them():
    sink = GatedSink()
    delivery, tally = delivery_to(sink, lossless=False)
    delivery.put(Ready(0), FRAME)
    sink.entered.wait(5)
    for number in range(1, 11):
        delivery.put(Ready(number), FRAME)
    sink.gate.set()
    delivery.finish()
    assert delivery.join(5)
    assert list(sink) == [0, 7, 8, 9, 10]
    assert tally["dropped.sink.gated:"] == 6
    assert tally["written.sink.gated:"] == 5


class EventSink(GatedSink):
    def __init__(self):
        super().__init__()
        self.events = []

    def write_events(self, events, result, frame):
        assert not self.is_closed
        self.events.append((result, events))


def test_no_event_is_lost_with_a_dropped_result():
    sink = EventSink()
    delivery, _ = delivery_to(sink, lossless=False)
    delivery.put(Seen(0, ("e0",)), FRAME)
    sink.entered.wait(5)
    for number in range(1, 11):
        delivery.put(Seen(number, (f"e{number}",) if number % 2 else ()), FRAME)
    sink.gate.set()
    delivery.finish()
    assert delivery.join(5)
    assert list(sink) == [0, 7, 8, 9, 10]
    assert sink.events == [(0, ("e0",)), (7, ("e1", "e3", "e5", "e7")), (9, ("e9",))]


def test_events_of_the_end_come_after_all_results_with_those_of_dropped_ones():
    sink = EventSink()
    now_ns = 0
    delivery, tally = delivery_to(sink, lossless=False, max_age_ms=10, clock=Clock(monotonic_ns=lambda: now_ns))
    delivery.put(Seen(0), FRAME)
    sink.entered.wait(5)
    delivery.put(Seen(1, ("e1",)), FRAME)
    now_ns = 20_000_000
    delivery.finish(Seen(2, ("end",)))
    sink.gate.set()
    assert delivery.join(5)
    assert tally["dropped.max_age.sink.gated:"] == 1
    assert sink.events == [(2, ("e1", "end"))]
    assert sink.is_closed


def test_a_sink_that_fails_at_the_last_events_says_so():
    class FullSink(EventSink):
        def write_events(self, events, result, frame):
            raise OutputError("disk full")

    sink = FullSink()
    sink.gate.set()
    delivery, _ = delivery_to(sink, lossless=True)
    delivery.finish(Seen(0, ("end",)))
    assert delivery.join(5)
    assert str(delivery.failure) == "disk full"
    assert sink.is_closed


def test_a_slow_sink_of_a_file_loses_nothing():
    sink = GatedSink()
    delivery, tally = delivery_to(sink, lossless=True)
    writer = threading.Thread(target=lambda: [delivery.put(Ready(number), FRAME) for number in range(50)])
    writer.start()
    sink.entered.wait(5)
    sink.gate.set()
    writer.join(5)
    delivery.finish()
    assert delivery.join(5)
    assert list(sink) == list(range(50))
    assert tally["dropped.sink.gated:"] == 0


def test_a_sink_that_wants_no_pixels_holds_no_frames():
    sink = GatedSink()
    sink.wants_pixels = False
    sink.gate.set()
    delivery, _ = delivery_to(sink, lossless=True)
    delivery.put(Ready(0), FRAME)
    delivery.finish()
    delivery.join(5)
    assert sink.frames == [None]


def test_a_sink_that_fails_is_said_once_and_tried_again(caplog):
    sink = GatedSink()
    sink.gate.set()
    sink.error = OutputError("disk full")
    delivery, tally = delivery_to(sink, lossless=True)
    for number in range(3):
        delivery.put(Ready(number), FRAME)
    while tally["failed.sink.gated:"] < 3:
        pass
    sink.error = None
    delivery.put(Ready(3), FRAME)
    delivery.finish()
    assert delivery.join(5)
    assert list(sink) == [3]
    assert [record.message for record in caplog.records] == [
        "disk full; its results are lost until it takes them again",
        "output gated: takes results again",
    ]
    assert str(delivery.error) == "disk full"


def test_a_reader_that_went_away_ends_the_output_without_an_error():
    sink = GatedSink()
    sink.gate.set()
    sink.error = OutputError("pipe", reader_is_gone=True)
    gone = threading.Event()
    delivery, tally = delivery_to(sink, lossless=True, on_gone=gone.set)
    delivery.put(Ready(0), FRAME)
    assert gone.wait(5)
    delivery.put(Ready(1), FRAME)
    delivery.finish()
    assert delivery.join(5)
    assert delivery.failure is None
    assert sink.is_closed
    assert tally["dropped.sink.gated:"] == 2
    assert tally["failed.sink.gated:"] == 0


def test_a_sink_that_blocks_for_ever_can_be_given_up(caplog):
    sink = GatedSink()
    delivery, tally = delivery_to(sink, lossless=False)
    for number in range(3):
        delivery.put(Ready(number), FRAME)
    sink.entered.wait(5)
    delivery.finish()
    assert not delivery.join(0.01)
    delivery.give_up()
    # The two that wait, and the one that the sink holds.
    assert tally["dropped.sink.gated:"] == 3
    assert str(delivery.failure) == "output gated: does not take results, 3 results lost; it was left behind"
    sink.gate.set()
    assert delivery.join(5)
    assert tally["written.sink.gated:"] == 0


def test_a_hurried_put_waits_for_no_room_and_its_result_is_written():
    sink = GatedSink()
    delivery, _ = delivery_to(sink, lossless=True)
    delivery.put(Ready(0), FRAME)
    sink.entered.wait(5)
    for number in range(1, 5):
        delivery.put(Ready(number), FRAME)
    waiting = threading.Thread(target=delivery.put, args=(Ready(5), FRAME))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    delivery.hurry()
    waiting.join(5)
    assert not waiting.is_alive()
    sink.gate.set()
    delivery.finish()
    assert delivery.join(5)
    assert list(sink) == [0, 1, 2, 3, 4, 5]


def test_a_bug_in_a_sink_ends_that_sink_only(caplog):
    sink = GatedSink()
    sink.gate.set()
    sink.error = ZeroDivisionError("oops")
    gone = threading.Event()
    delivery, tally = delivery_to(sink, lossless=True, on_gone=gone.set)
    delivery.put(Ready(0), FRAME)
    assert gone.wait(5)
    delivery.finish()
    assert delivery.join(5)
    assert str(delivery.failure) == "output gated: failed, 1 result lost"
    assert tally["dropped.sink.gated:"] == 1
    assert "Traceback" in caplog.text


class WorkingSink(MemorySink):
    """A sink whose write number n takes `took_ms(n)` of a clock of its own, while results go on coming.

    Where it is done before the next one, that one comes at once: nobody waits in this clock.
    """

    def __init__(self, took_ms, *, results, fps=30):
        super().__init__("working:")
        self.clock = Clock(monotonic_ns=lambda: self.now_ns)
        self.now_ns = 0
        self.ages_ms = []
        self.delivery = None
        self._took_ms = took_ms
        self._number = results
        self._period_ns = 10**9 // fps
        self._came_ns = []

    def let_come(self, *, at_once=False):
        """Put what has come by now."""
        while len(self._came_ns) < self._number:
            due_ns = self._came_ns[-1] + self._period_ns if self._came_ns else 0
            if due_ns > self.now_ns and not at_once:
                return
            at_once = False
            self._came_ns.append(min(due_ns, self.now_ns))
            self.delivery.put(Ready(len(self._came_ns) - 1), Frame(FRAME.pixels, 0, self._came_ns[-1], 0, "test:"))
        self.delivery.finish()

    def write(self, number, frame):
        self.ages_ms.append((self.now_ns - self._came_ns[number]) / 1e6)
        self.now_ns += round(self._took_ms(len(self.ages_ms)) * 1e6)
        super().write(number, frame)
        self.let_come(at_once=number == len(self._came_ns) - 1)


def work(took_ms, *, results=300, fps=30, max_age_ms=None):
    sink = WorkingSink(took_ms, results=results, fps=fps)
    sink.delivery, tally = delivery_to(sink, lossless=False, max_age_ms=max_age_ms, clock=sink.clock)
    sink.let_come()
    assert sink.delivery.join(10)
    return sink, list(sink), tally


def test_a_sink_that_is_always_slower_than_the_results_gets_new_ones():
    sink, written, tally = work(lambda number: 500)
    # After the two writes that show its pace, what it gets is as new as the last result: a period at most.
    assert max(sink.ages_ms[3:]) <= 34
    assert written[-1] == 299
    assert len(written) + tally["dropped.sink.working:"] == 300


def test_a_disk_that_stalls_once_loses_nothing():
    _, written, tally = work(lambda number: 5000 if number == 50 else 0.02)
    assert written == list(range(300))
    assert tally["dropped.sink.working:"] == 0


def test_a_sink_that_is_slow_every_other_time_gets_new_ones_too():
    sink, _, _ = work(lambda number: 1000 * (number % 2), results=1500)
    assert max(sink.ages_ms[8:]) <= 1034


def test_a_sink_a_little_slower_than_the_results_is_never_far_behind():
    sink, _, _ = work(lambda number: 40, results=3000)
    assert max(sink.ages_ms) <= 250


def test_nothing_waits_longer_than_some_seconds_while_newer_results_are_there():
    sink, written, tally = work(lambda number: 60_000 if number == 2 else 0.02, results=150, fps=2)
    assert written[:2] == [0, 1]
    assert 9_000 <= max(sink.ages_ms) <= 10_000
    assert written[2:] == list(range(written[2], 150))
    assert tally["dropped.sink.working:"] == written[2] - 2 > 0


def test_a_slow_sink_is_given_nothing_that_is_older_than_the_limit():
    sink, written, tally = work(lambda number: 500 if number < 9 else 20, max_age_ms=100)
    assert max(sink.ages_ms) <= 100
    assert tally["dropped.max_age.sink.working:"] > 0
    drops = tally["dropped.max_age.sink.working:"] + tally["dropped.sink.working:"]
    assert len(written) + drops == 300


def test_what_became_too_old_is_dropped_though_nothing_newer_came():
    sink = GatedSink()
    now_ns = [0]
    delivery, tally = delivery_to(sink, lossless=False, max_age_ms=100, clock=Clock(monotonic_ns=lambda: now_ns[0]))
    delivery.put(Ready(0), FRAME)
    sink.entered.wait(5)
    delivery.put(Ready(1), FRAME)
    now_ns[0] = 500_000_000
    sink.gate.set()
    delivery.finish()
    assert delivery.join(5)
    assert list(sink) == [0]
    assert tally["dropped.max_age.sink.gated:"] == 1


def test_a_file_has_no_age_and_a_slow_sink_gets_all_of_it():
    sink = WorkingSink(lambda number: 500, results=20)
    sink.delivery, tally = delivery_to(sink, lossless=True, max_age_ms=1, clock=sink.clock)
    sink.let_come()
    assert sink.delivery.join(10)
    assert list(sink) == list(range(20))
    assert tally["dropped.max_age.sink.working:"] == 0


class Ledger:
    """A sink that takes several results at once, and remembers how they came."""

    uri = "ledger:"
    wants_pixels = False

    def __init__(self):
        self.written = []

    def write(self, result, frame):
        self.written.append([result])

    def write_many(self, results):
        self.written.append(results)

    def close(self):
        pass


@pytest.mark.parametrize("lossless", [True, False])
def test_results_of_a_file_come_together_and_those_of_a_camera_one_by_one(lossless):
    ledger, tally = Ledger(), Tally()
    delivery = Delivery(ledger, tally, lossless=lossless, on_gone=lambda: None, clock=STANDING)
    for number in range(5):
        delivery.put(Ready(number), FRAME)
    delivery.finish()
    delivery.start()
    assert delivery.join(10)
    assert ledger.written == ([[0, 1, 2, 3, 4]] if lossless else [[0], [1], [2], [3], [4]])
    assert tally["written.sink.ledger:"] == 5


def test_of_many_results_of_a_file_so_many_come_together():
    """Python's lock is let go in between, for the threads that read and infer."""
    delivery = Delivery(Ledger(), Tally(), lossless=True, on_gone=lambda: None, clock=STANDING)
    for number in range(40):
        delivery.put(Ready(number), FRAME)
    delivery.finish()
    delivery.start()
    assert delivery.join(10)
    first, second, last = delivery.sink.written
    assert (len(first), len(second)) == (16, 16)
    assert [*first, *second, *last] == list(range(40))


def test_a_sink_that_takes_results_one_by_one_of_a_file_gets_each_at_once():
    """The page, for one: its pictures would come in bursts."""
    sink = MemorySink()
    delivery, _ = delivery_to(sink, lossless=True)
    naps = []
    delivery._nap = lambda: naps.append(1)
    for number in range(5):
        delivery.put(Ready(number), FRAME)
    delivery.finish()
    assert delivery.join(5)
    assert list(sink) == list(range(5))
    assert naps == []


def test_a_nap_is_not_cut_short_by_what_came_before_it():
    delivery = Delivery(Ledger(), Tally(), lossless=True, on_gone=lambda: None, clock=STANDING)
    waits = []

    class Heard(Bell):
        def wait(self, timeout_s=None):
            waits.append((timeout_s, super().wait(timeout_s)))
            return waits[-1][1]

    delivery._came = Heard()
    delivery.put(Ready(0), FRAME)
    assert [item.pending.result() for item in delivery._next()] == [0]
    delivery._nap()
    assert waits[-1] == (0.1, False)


def test_results_of_a_file_that_cannot_be_written_together_are_all_counted():
    class Full(Ledger):
        def write_many(self, results):
            raise OutputError("cannot write ledger: no space left on device")

    tally = Tally()
    delivery = Delivery(Full(), tally, lossless=True, on_gone=lambda: None, clock=STANDING)
    for number in range(5):
        delivery.put(Ready(number), FRAME)
    delivery.finish()
    delivery.start()
    assert delivery.join(10)
    assert tally["failed.sink.ledger:"] == 5
    assert str(delivery.failure) == "cannot write ledger: no space left on device, 5 results lost"


def test_a_sink_may_want_a_frame_now_and_then():
    sink = GatedSink()
    sink.wants_pixels = False
    wishes = iter([False, True, False])
    sink.wants_this = lambda: next(wishes)
    sink.gate.set()
    delivery, _ = delivery_to(sink, lossless=True)
    for number in range(3):
        delivery.put(Ready(number), FRAME)
    delivery.finish()
    assert delivery.join(5)
    assert sink.frames == [None, FRAME, None]
