from __future__ import annotations

import threading

import numpy as np

from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.metrics import Tally
from edgeinfer.pipeline.delivery import Delivery
from edgeinfer.sinks.memory import MemorySink

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


def delivery_to(sink, *, lossless, on_gone=lambda: None):
    tally = Tally()
    delivery = Delivery(sink, tally, lossless=lossless, on_gone=on_gone)
    delivery.start()
    return delivery, tally


def test_a_slow_sink_of_a_live_source_loses_the_oldest_and_counts_them():
    sink = GatedSink()
    delivery, tally = delivery_to(sink, lossless=False)
    delivery.put(0, FRAME)
    sink.entered.wait(5)
    for number in range(1, 11):
        delivery.put(number, FRAME)
    sink.gate.set()
    delivery.finish()
    assert delivery.join(5)
    assert list(sink) == [0, 7, 8, 9, 10]
    assert tally["dropped.sink.gated:"] == 6
    assert tally["written.sink.gated:"] == 5


def test_a_slow_sink_of_a_file_loses_nothing():
    sink = GatedSink()
    delivery, tally = delivery_to(sink, lossless=True)
    writer = threading.Thread(target=lambda: [delivery.put(number, FRAME) for number in range(50)])
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
    delivery.put(0, FRAME)
    delivery.finish()
    delivery.join(5)
    assert sink.frames == [None]


def test_a_sink_that_fails_is_said_once_and_tried_again(caplog):
    sink = GatedSink()
    sink.gate.set()
    sink.error = OutputError("disk full")
    delivery, tally = delivery_to(sink, lossless=True)
    for number in range(3):
        delivery.put(number, FRAME)
    while tally["failed.sink.gated:"] < 3:
        pass
    sink.error = None
    delivery.put(3, FRAME)
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
    delivery.put(0, FRAME)
    assert gone.wait(5)
    delivery.put(1, FRAME)
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
        delivery.put(number, FRAME)
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
    delivery.put(0, FRAME)
    sink.entered.wait(5)
    for number in range(1, 5):
        delivery.put(number, FRAME)
    waiting = threading.Thread(target=delivery.put, args=(5, FRAME))
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
    delivery.put(0, FRAME)
    assert gone.wait(5)
    delivery.finish()
    assert delivery.join(5)
    assert str(delivery.failure) == "output gated: failed, 1 result lost"
    assert tally["dropped.sink.gated:"] == 1
    assert "Traceback" in caplog.text
