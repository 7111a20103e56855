"""At most so many frames a second: on a grid of due times, without drift and without bursts."""

from __future__ import annotations

import threading
from itertools import pairwise

import cv2
import numpy as np
import pytest

from edgeinfer.frame import Frame
from edgeinfer.pipeline import Limits, Pipeline
from edgeinfer.pipeline.handoff import Finished, Mailbox
from edgeinfer.pipeline.rate import Rate
from edgeinfer.sinks.memory import MemorySink
from edgeinfer.sources import open_source

PIXELS = np.zeros((2, 2, 3), np.uint8)


def frame(seq):
    return Frame(PIXELS, seq, 0, 0, "test:")


def taken_of(rate, times_s):
    """Which of the frames that come at these times are taken, where one waits for the next due time."""
    taken, now_ns = [], 0
    for at_s in times_s:
        if round(at_s * 1e9) < now_ns + round(rate.wait_s(now_ns) * 1e9):
            continue
        now_ns = round(at_s * 1e9)
        rate.take(now_ns)
        taken.append(at_s)
    return taken


@pytest.mark.parametrize(("camera_fps", "rate_fps"), [(30, 10), (30, 7), (25, 10), (30, 29), (29.97, 0.5)])
def test_the_mean_rate_is_kept_to_the_frame(camera_fps, rate_fps):
    taken = taken_of(Rate(rate_fps), (index / camera_fps for index in range(round(camera_fps * 100))))
    assert len(taken) == pytest.approx(100 * rate_fps, abs=1)
    assert min(after - before for before, after in pairwise(taken)) > 1 / rate_fps - 1 / camera_fps


def test_a_source_slower_than_the_rate_is_taken_whole():
    times_s = [index / 5 for index in range(50)]
    assert taken_of(Rate(10), times_s) == times_s


def test_after_a_pause_nothing_is_made_up_for():
    rate = Rate(10)
    taken_of(rate, [0.0, 0.1, 0.2])
    rate.take(9_050_000_000)
    assert rate.wait_s(9_060_000_000) == pytest.approx(0.09)


@pytest.mark.parametrize(("file_fps", "rate_fps", "taken"), [(30, 10, 10), (29.97, 10, 10), (30, 1, 1), (10, 30, 10)])
def test_a_file_is_thinned_out_by_its_own_time(file_fps, rate_fps, taken):
    rate = Rate(rate_fps)
    kept = [index for index in range(round(file_fps * 20)) if not rate.passes_over(index / file_fps)]
    assert len(kept) == pytest.approx(20 * taken, abs=1)
    assert kept[0] == 0


def test_what_has_no_time_of_its_own_is_taken_whole():
    rate = Rate(1)
    assert not any(rate.passes_over(None) for _ in range(5))
    # A header of 0 fps, or time that goes back.
    assert not any(rate.passes_over(position_s) for position_s in (0.0, 0.0, 0.0, -1.0, -2.0))
    assert rate.passes_over(-1.5)


def test_a_held_mailbox_wakes_nobody_for_a_frame_and_counts_what_it_passes_over():
    reasons = []
    mailbox = Mailbox(reasons.append)
    holder = threading.Thread(target=mailbox.hold, args=(3600,), daemon=True)
    holder.start()
    while not mailbox._is_held:
        pass
    for seq in range(5):
        mailbox.put(frame(seq))
    assert holder.is_alive()
    assert reasons == ["rate"] * 4
    mailbox.finish()
    holder.join(5)
    assert not holder.is_alive()
    # The last was not due when the source ended.
    assert reasons == ["rate"] * 5
    with pytest.raises(Finished):
        mailbox.get()


def test_stopping_wakes_a_held_mailbox():
    mailbox = Mailbox(lambda reason: None)
    holder = threading.Thread(target=mailbox.hold, args=(3600,), daemon=True)
    holder.start()
    while not mailbox._is_held:
        pass
    mailbox.abandon()
    holder.join(5)
    assert not holder.is_alive()


def test_a_live_frame_that_is_due_later_is_neither_inferred_nor_lost_from_the_count(make_model):
    model, runtime = make_model()
    source = open_source("synthetic://noise?frames=200&live=1&fps=1000&width=64&height=64")
    sink = MemorySink()
    report = Pipeline(model, source, [sink], limits=Limits(rate_fps=0.001)).run()
    assert report.error is None
    assert report.frames == runtime.runs == len(list(sink)) == 1
    counts = report.counts
    assert counts["captured"] == 200 == 1 + counts["dropped.rate"] + counts.get("dropped.superseded", 0)


def test_a_stop_does_not_wait_for_the_next_due_time(make_model):
    model, _ = make_model()
    pipeline = Pipeline(model, open_source("synthetic://noise?width=64&height=64"), [], limits=Limits(rate_fps=0.001))
    pipeline.start()
    while pipeline.tally["inferred"] < 1:
        pass
    pipeline.stop()
    assert pipeline.wait(5)


def test_of_a_file_the_frames_between_are_counted(make_model):
    model, runtime = make_model()
    source = open_source("synthetic://noise?frames=90&fps=30&width=64&height=64")
    sink = MemorySink()
    report = Pipeline(model, source, [sink], limits=Limits(rate_fps=10)).run()
    assert [result.seq for result in sink] == list(range(0, 90, 3))
    assert (report.frames, runtime.runs, dict(report.dropped)) == (30, 30, {"rate": 60})


def test_pictures_without_a_time_are_all_taken_and_that_is_said_once(make_model, tmp_path, caplog):
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((40, 40, 3), np.uint8))
    report = Pipeline(make_model()[0], open_source(str(tmp_path)), [], limits=Limits(rate_fps=0.5)).run()
    assert report.frames == 3
    assert [record.message for record in caplog.records] == [
        f"{tmp_path} has no time: all its frames are taken, whatever the rate"
    ]
