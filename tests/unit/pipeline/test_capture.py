"""The capture thread against a source that follows a script; time passes only when the script says so."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.frame import Frame
from edgeinfer.metrics import Tally
from edgeinfer.pipeline.capture import Capture
from edgeinfer.pipeline.handoff import BoundedQueue, Finished

PIXELS = np.zeros((2, 2, 3), dtype=np.uint8)


class ScriptedSource:
    """Gives what its script says: "frame", "end", or an error to raise; waits for ever at "hang"."""

    uri = "scripted:"
    fps = None

    def __init__(self, *script, live=True):
        self.live = live
        self.skipped = {}
        self.closed = threading.Event()
        self.released = threading.Event()
        self._script = iter(script)
        self._seq = 0

    def read(self):
        step = next(self._script)
        if isinstance(step, Exception):
            raise step
        if step == "hang":
            self.released.wait()
            step = "end"
        if step == "end":
            return None
        self._seq += 1
        return Frame(PIXELS, self._seq - 1, 0, 0, self.uri)

    def close(self):
        self.closed.set()


class Tape:
    """Remembers the waits it was asked for, and waits none of them."""

    def __init__(self):
        self.waits_s = []

    def __call__(self, seconds):
        self.waits_s.append(seconds)
        return False


def drain(handoff, fact="seq"):
    facts = []
    while True:
        try:
            frame = handoff.get(5)
        except Finished:
            return facts
        assert frame is not None, "the capture thread is stuck"
        facts.append(getattr(frame, fact))


def capture_of(first, *later, handoff=None):
    handoff = handoff or BoundedQueue(size=100)
    tally, tape = Tally(), Tape()
    remaining = iter(later)

    def reopen():
        source = next(remaining)
        if isinstance(source, Exception):
            raise source
        return source

    return Capture(first, reopen, handoff, tally, wait=tape), handoff, tally, tape


def test_a_file_is_read_to_its_end_and_closed():
    source = ScriptedSource("frame", "frame", "end", live=False)
    capture, handoff, tally, _ = capture_of(source)
    capture.start()
    assert drain(handoff) == [0, 1]
    assert source.closed.wait(5)
    assert tally["captured"] == 2


def test_a_lost_camera_is_opened_again_and_the_count_goes_on(caplog):
    second = ScriptedSource("frame", "end")
    capture, handoff, tally, tape = capture_of(
        ScriptedSource("frame", "frame", SourceLost("unplugged")),
        SourceError("still away"),
        SourceError("still away"),
        second,
    )
    capture.start()
    assert drain(handoff) == [0, 1, 2]
    assert (tally["source.lost"], tally["source.reopened"]) == (1, 1)
    # Three tries, each waited for longer than the one before, give or take a fifth.
    for waited, expected in zip(tape.waits_s, (0.5, 1.0, 2.0), strict=True):
        assert expected * 0.8 <= waited <= expected * 1.2
    assert [record.message.split(",")[0] for record in caplog.records] == ["lost scripted:", "scripted: is back"]


def test_pictures_after_a_return_are_another_stretch():
    capture, handoff, *_ = capture_of(
        ScriptedSource("frame", "frame", SourceLost("unplugged")),
        SourceError("still away"),
        ScriptedSource("frame", "frame", SourceLost("unplugged")),
        ScriptedSource("frame", "end"),
    )
    capture.start()
    assert drain(handoff, "stretch") == [0, 0, 1, 1, 2]


def test_the_delay_between_tries_stops_growing_at_half_a_minute():
    tries = [SourceError("still away")] * 20
    capture, handoff, _, tape = capture_of(
        ScriptedSource("frame", SourceLost("unplugged")), *tries, ScriptedSource("frame", "end")
    )
    capture.start()
    drain(handoff)
    assert max(tape.waits_s) <= 36.0
    assert min(tape.waits_s[8:]) >= 24.0


def test_a_live_source_that_fails_before_its_first_frame_is_a_wrong_source():
    capture, handoff, _, tape = capture_of(ScriptedSource(SourceLost("no signal")))
    capture.start()
    with pytest.raises(SourceError, match="no signal"):
        handoff.get(5)
    assert tape.waits_s == []


def test_a_damaged_file_gives_its_frames_and_then_its_error():
    capture, handoff, _, _ = capture_of(ScriptedSource("frame", SourceError("cut off"), live=False))
    capture.start()
    assert handoff.get(5).seq == 0
    with pytest.raises(SourceError, match="cut off"):
        handoff.get(5)


def test_a_bug_in_a_driver_ends_the_source_and_not_the_process(caplog):
    capture, handoff, _, _ = capture_of(ScriptedSource(ZeroDivisionError("oops")))
    capture.start()
    with pytest.raises(Exception, match="oops"):
        handoff.get(5)
    assert "Traceback" in caplog.text


def test_a_hung_read_is_left_behind_and_the_source_opened_afresh():
    hung = ScriptedSource("frame", "hang")
    capture, handoff, tally, _ = capture_of(hung, ScriptedSource("frame", "end"))
    capture.start()
    assert handoff.get(5).seq == 0
    capture.replace_hung_read()
    following = handoff.get(5)
    assert (following.seq, following.stretch) == (1, 1)
    assert drain(handoff) == []
    hung.released.set()
    assert tally["source.hung"] == 1


def test_a_hung_source_is_told_to_let_go_of_its_device():
    hung = ScriptedSource("frame", "hang")
    capture, handoff, _, _ = capture_of(hung, ScriptedSource("frame", "end"))
    capture.start()
    handoff.get(5)
    capture.replace_hung_read()
    assert hung.closed.is_set()
    hung.released.set()


def test_a_stop_wakes_a_read_that_waits():
    source = ScriptedSource("frame", "hang")
    capture, handoff, _, _ = capture_of(source)
    capture.start()
    handoff.get(5)
    capture.stop()
    capture.join(0.01)
    assert source.closed.is_set()
    source.released.set()


def test_a_source_is_closed_whatever_ends_it(caplog):
    source = ScriptedSource("frame", ZeroDivisionError("oops"))
    capture, handoff, _, _ = capture_of(source)
    capture.start()
    handoff.get(5)
    assert source.closed.wait(5)


def test_a_source_that_hangs_time_and_again_is_given_up():
    sources = [ScriptedSource("hang") for _ in range(5)]
    capture, handoff, _, _ = capture_of(ScriptedSource("frame", "hang"), *sources)
    capture.start()
    assert handoff.get(5).seq == 0
    for _ in range(5):
        capture.replace_hung_read()
    with pytest.raises(SourceError, match="hangs"):
        handoff.get(5)


def test_stopping_closes_the_source():
    source = ScriptedSource(*["frame"] * 10_000)
    capture, handoff, _, _ = capture_of(source, handoff=BoundedQueue(size=2))
    capture.start()
    handoff.get(5)
    capture.stop()
    assert source.closed.wait(5)


def test_a_patient_one_takes_a_source_without_a_first_frame_for_one_that_is_lost():
    absent, later = ScriptedSource(SourceLost("no such camera")), ScriptedSource("frame", "end")
    handoff, tally, tape = BoundedQueue(size=100), Tally(), Tape()
    troubles = []

    def reopen():
        troubles.append(capture.trouble)
        return later

    capture = Capture(absent, reopen, handoff, tally, patient=True, wait=tape)
    capture.start()
    assert drain(handoff) == [0]
    assert troubles == ["no source yet: no such camera"]
    assert capture.trouble is None
    assert absent.closed.is_set()
    assert tally["source.lost"] == 1


def test_a_patient_one_still_ends_with_a_file_that_is_damaged():
    source = ScriptedSource(SourceError("cut off"), live=False)
    handoff = BoundedQueue()
    Capture(source, lambda: source, handoff, Tally(), patient=True).start()
    with pytest.raises(SourceError, match="cut off"):
        handoff.get(5)


def test_since_when_a_source_is_being_opened_is_seen():
    begun, go_on = threading.Event(), threading.Event()

    def reopen():
        begun.set()
        assert go_on.wait(60)
        return ScriptedSource("frame", "end")

    handoff = BoundedQueue()
    capture = Capture(
        ScriptedSource("frame", SourceLost("unplugged")),
        reopen,
        handoff,
        Tally(),
        wait=Tape(),
        clock=Clock(monotonic_ns=lambda: 7),
    )
    capture.start()
    assert begun.wait(60)
    assert capture.opening_since_ns == 7
    go_on.set()
    assert drain(handoff) == [0, 1]
    assert capture.opening_since_ns is None
