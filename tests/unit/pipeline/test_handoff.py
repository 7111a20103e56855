import threading

import numpy as np
import pytest

from edgeinfer.bell import Bell
from edgeinfer.errors import SourceError
from edgeinfer.frame import Frame
from edgeinfer.pipeline.handoff import BoundedQueue, Finished, Mailbox

PIXELS = np.zeros((2, 2, 3), dtype=np.uint8)


def frame(seq: int) -> Frame:
    return Frame(PIXELS, seq, 0, 0, "test:")


def test_the_mailbox_keeps_the_newest_frame_and_counts_the_replaced():
    dropped = []
    mailbox = Mailbox(dropped.append)
    for seq in range(5):
        mailbox.put(frame(seq))
    assert mailbox.get().seq == 4
    assert dropped == ["superseded"] * 4


def test_the_mailbox_never_gives_a_frame_twice():
    mailbox = Mailbox(lambda reason: None)
    mailbox.put(frame(0))
    assert mailbox.get().seq == 0
    assert mailbox.get(timeout_s=0.01) is None


def test_the_queue_makes_the_writer_wait_and_keeps_every_frame_in_order():
    queue = BoundedQueue(size=2)
    put: list[int] = []

    def write() -> None:
        for seq in range(50):
            queue.put(frame(seq))
            put.append(seq)
        queue.finish()

    writer = threading.Thread(target=write)
    writer.start()
    for seq in range(50):
        assert queue.get(5).seq == seq
        assert len(put) <= seq + 3
    with pytest.raises(Finished):
        queue.get(5)
    writer.join()


def test_a_frame_is_prepared_only_while_another_one_waits():
    prepared: list[int] = []
    queue = BoundedQueue(prepare=lambda frame: prepared.append(frame.seq))
    queue.put(frame(0))
    assert prepared == [], "whoever waits for it shall not wait longer"
    queue.put(frame(1))
    assert prepared == [1]
    assert [queue.get().seq for _ in range(2)] == [0, 1]
    queue.put(frame(2))
    assert prepared == [1]


def test_what_was_put_before_an_error_comes_before_the_error():
    queue = BoundedQueue()
    queue.put(frame(0))
    queue.finish(SourceError("gone"))
    assert queue.get().seq == 0
    with pytest.raises(SourceError, match="gone"):
        queue.get()


def test_abandoning_wakes_a_writer_that_waits_for_room():
    queue = BoundedQueue(size=1)
    queue.put(frame(0))
    writer = threading.Thread(target=queue.put, args=(frame(1),))
    writer.start()
    queue.abandon()
    writer.join(5)
    assert not writer.is_alive()
    with pytest.raises(Finished):
        queue.get()


@pytest.mark.parametrize("what", ["a frame", "the end", "an error", "nobody to get it"])
def test_whoever_waits_at_the_mailbox_is_woken_by(what):
    mailbox = Mailbox(lambda reason: None)
    waits, got = threading.Event(), []

    class Watched(Bell):
        def wait(self, timeout_s=None):
            waits.set()
            return super().wait(timeout_s)

    def read() -> None:
        try:
            got.append(mailbox.get(3600).seq)
        except (Finished, SourceError) as end:
            got.append(type(end))

    mailbox._came = Watched()
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert waits.wait(10)
    wake, expected = {
        "a frame": (lambda: mailbox.put(frame(7)), 7),
        "the end": (mailbox.finish, Finished),
        "an error": (lambda: mailbox.finish(SourceError("gone")), SourceError),
        "nobody to get it": (mailbox.abandon, Finished),
    }[what]
    wake()
    reader.join(10)
    assert got == [expected]


def test_delayed_frames_wait_in_order_up_to_so_many_and_so_many_bytes():
    dropped = []
    mailbox = Mailbox(dropped.append)
    mailbox.delay(4, 100 * PIXELS.nbytes)
    for seq in range(6):
        mailbox.put(frame(seq))
    assert dropped == ["superseded"] * 2
    assert [mailbox.get().seq for _ in range(4)] == [2, 3, 4, 5]
    mailbox.delay(100, 3 * PIXELS.nbytes + 1)
    for seq in range(6):
        mailbox.put(frame(seq))
    assert [mailbox.get().seq for _ in range(3)] == [3, 4, 5]
    assert mailbox.get(0.0) is None


def test_a_lasting_delay_ends_with_the_next_one_only():
    dropped = []
    mailbox = Mailbox(dropped.append)
    mailbox.delay(3, 1 << 20, lasting=True)
    for seq in range(100):
        mailbox.put(frame(seq))
        assert mailbox.get().seq == seq
    for seq in range(3):
        mailbox.put(frame(seq))
    assert dropped == []
    mailbox.delay(3, 1 << 20)
    for seq in range(8):
        mailbox.get(0.0)
        mailbox.put(frame(seq))
    before = len(dropped)
    mailbox.put(frame(8))
    assert (len(dropped), mailbox.get(0.0).seq, mailbox.get(0.0)) == (before + 1, 8, None)


@pytest.mark.parametrize(("put", "lost"), [(3, 0), (4, 30)])
def test_after_a_delay_it_is_back_to_the_newest_and_who_is_quicker_loses_none(put, lost):
    """Four frames are taken for every three, or four, that come."""
    dropped, seq, got = [], 40, []
    mailbox = Mailbox(dropped.append)
    mailbox.delay(40, 1 << 20)
    for waiting in range(40):
        mailbox.put(frame(waiting))
    for _ in range(60):
        for turn in range(4):
            if (taken := mailbox.get(0.0)) is not None:
                got.append(taken.seq)
            if turn < put:
                mailbox.put(frame(seq))
                seq += 1
    assert got == sorted(got)
    assert (len(dropped) > lost) if lost else (dropped == [])
    mailbox.get(0.0)
    before = len(dropped)
    mailbox.put(frame(seq))
    mailbox.put(frame(seq + 1))
    assert len(dropped) == before + 1
