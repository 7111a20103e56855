from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time

import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.config import RuleConfig
from edgeinfer.delegates import Failover
from edgeinfer.errors import DeviceNotFound, OutputError, RuntimeFailed, SourceError, SourceLost, UsageError
from edgeinfer.frame import Frame
from edgeinfer.model import Identity, Model
from edgeinfer.pipeline import Limits, Pipeline
from edgeinfer.pipeline.motion import MotionGate
from edgeinfer.result import IdMaker
from edgeinfer.runtimes.fake import FakeRuntime, Faults
from edgeinfer.scene.scene import Scene
from edgeinfer.sinks.memory import MemorySink
from edgeinfer.sources import open_source


class StepSource:
    """A live source that gives a frame whenever the test says so."""

    uri = "step:"
    live = True
    fps = None
    skipped: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, clock: Clock | None = None) -> None:
        self._steps = threading.Semaphore(0)
        self._clock = clock or Clock()
        self._seq = 0
        self.closed = False
        self.error: Exception | None = None

    def step(self, count=1):
        self._steps.release(count)

    def read(self):
        self._steps.acquire()
        if self.closed:
            return None
        if self.error is not None:
            raise self.error
        self._seq += 1
        pixels = np.full((16, 16, 3), self._seq % 256, dtype=np.uint8)
        return Frame(pixels, self._seq - 1, self._clock.monotonic_ns(), self._clock.unix_ns(), self.uri)

    def close(self):
        self.closed = True
        self._steps.release()


class EventSink(MemorySink):
    def __init__(self):
        super().__init__()
        self.events = []

    def write_events(self, events, result, frame):
        self.events += events


class BrokenSink(MemorySink):
    def write(self, result, frame):
        raise OutputError("no room")


def test_every_frame_of_a_file_is_inferred_once_and_in_order(make_model):
    model, runtime = make_model()
    sink = MemorySink()
    pipeline = Pipeline(model, open_source("synthetic://noise?frames=50&width=64&height=64"), [sink])
    report = pipeline.run()
    results = list(sink)
    assert [result.seq for result in results] == list(range(50))
    assert len(set(runtime.seen)) == runtime.runs == 50
    assert (report.frames, report.results, report.error, dict(report.dropped)) == (50, 50, None, {})
    assert len({result.id for result in results}) == 50
    best = results[0].classes[0]
    assert (best.label, best.class_id, best.score) == ("b", 1, pytest.approx(200 / 256, abs=1e-4))
    assert (results[0].node, results[0].pipeline, results[0].device) == ("node", "pipe", "fake")


class Counting:
    """A file's frames, and how many were read."""

    live = False

    def __init__(self, frames: int) -> None:
        self._source = open_source(f"synthetic://noise?frames={frames}&width=64&height=48")
        self.count = 0
        self.is_there = threading.Condition()

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self):
        frame = self._source.read()
        with self.is_there:
            self.count += 1
            self.is_there.notify_all()
        return frame

    def wait_for(self, count):
        with self.is_there:
            assert self.is_there.wait_for(lambda: self.count >= count, 10)


def preparations(model):
    """Which frames a model prepares, by their numbers, as it goes on."""
    seen = []
    prepare = model.prepare

    def watched(frame):
        seen.append(frame.seq)
        return prepare(frame)

    model.prepare = watched
    return seen


def spoilt_preparations(model):
    """What is prepared is spoilt: a run that makes use of it has other inputs."""
    prepare = model.prepare

    def spoilt(frame):
        prepared = prepare(frame)
        prepared.laid_out.ordered[:] = 7
        return prepared

    model.prepare = spoilt


def held_up(runtime, source):
    """Makes each run wait until the source is two frames ahead, so that the capture finds one waiting."""
    make_outputs, runs = runtime._make_outputs, iter(range(1000))

    def slow(inputs):
        source.wait_for(min(next(runs) + 3, 12))
        return make_outputs(inputs)

    runtime._make_outputs = slow


def test_frames_of_a_file_that_wait_are_prepared_meanwhile_with_the_same_results(make_model):
    plain, ahead = make_model(), make_model()
    source = Counting(12)
    seen = preparations(ahead[0])
    held_up(ahead[1], source)
    sinks = MemorySink(), MemorySink()
    Pipeline(plain[0], open_source("synthetic://noise?frames=12&width=64&height=48"), [sinks[0]]).run()
    pipeline = Pipeline(ahead[0], source, [sinks[1]])
    report = pipeline.run()
    assert seen
    assert set(seen) < set(range(12)), "the first one finds nobody waiting"
    assert ahead[1].seen == plain[1].seen, "the inputs, bit for bit"
    assert (report.frames, report.error) == (12, None)
    assert pipeline._prepared == {}, "nothing is kept of what is done"
    assert report.stage_ms["preprocess"] == pytest.approx(
        sum(result.timing_ms.preprocess for result in sinks[1]) / 12, abs=0.002
    )
    for result in sinks[1]:
        timing = result.timing_ms
        assert timing.age == pytest.approx(timing.wait + timing.preprocess + timing.infer + timing.decode, abs=0.01)


def asked_whether_it_comes_back(model, look=lambda: None):
    """What the pipeline says to that, frame by frame: None where it never does."""
    said = []
    answer = model.answer

    def watched(frame, *, prepared=None, comes_back=None):
        look()
        said.append(None if comes_back is None else comes_back())
        return answer(frame, prepared=prepared, comes_back=comes_back)

    model.answer = watched
    return said


@pytest.mark.parametrize("is_slowed", [False, True])
def test_a_file_keeps_a_shared_device_while_its_next_frame_is_there_and_it_goes_on(make_model, is_slowed):
    model, _ = make_model()
    source = Counting(12)
    said = asked_whether_it_comes_back(model, lambda: source.wait_for(min(len(said) + 3, 12)))
    pipeline = Pipeline(model, source, [MemorySink()])
    if is_slowed:
        pipeline.set_rate(1000, "it is hot")
    pipeline.run()
    assert said[0] is (not is_slowed)
    assert not (is_slowed and any(said))


@pytest.mark.parametrize("held_up_by", [{"gate": MotionGate()}, {"limits": Limits(rate_fps=1000)}])
def test_nobody_comes_back_at_once_behind_a_gate_or_a_rate(make_model, held_up_by):
    model, _ = make_model()
    said = asked_whether_it_comes_back(model)
    Pipeline(model, Counting(12), [MemorySink()], **held_up_by).run()
    assert set(said) == {None}


def test_a_camera_never_comes_back_at_once(make_model):
    model, _ = make_model()
    said = asked_whether_it_comes_back(model)
    Pipeline(model, open_source("synthetic://noise?fps=100&live=1"), [MemorySink()], limits=Limits(frames=3)).run()
    assert said == [None] * 3


def test_what_was_prepared_is_what_the_model_computes_on(make_model):
    plain, spoilt = make_model(), make_model()
    source = Counting(12)
    spoilt_preparations(spoilt[0])
    held_up(spoilt[1], source)
    Pipeline(plain[0], open_source("synthetic://noise?frames=12&width=64&height=48"), [MemorySink()]).run()
    Pipeline(spoilt[0], source, [MemorySink()]).run()
    others = [seen for seen, other in zip(spoilt[1].seen, plain[1].seen, strict=True) if seen != other]
    assert len(others) > 1
    assert len(set(others)) == 1


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_source_gives_way_where_the_device_is_shared(make_model, monkeypatch, is_shared):
    model, runtime = make_model()
    monkeypatch.setattr(Model, "is_shared", is_shared)
    before, after = os.getpriority(os.PRIO_PROCESS, 0), []
    source = Counting(12)
    held_up(runtime, source)
    prepare = model.prepare
    model.prepare = lambda frame: (
        after.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())),
        prepare(frame),
    )[1]
    assert Pipeline(model, source, [MemorySink()]).run().error is None
    assert set(after) == {min(before + 5, 19) if is_shared else before}, "once, and not a step more with each frame"


def test_a_frame_that_cannot_be_prepared_is_fitted_in_its_turn(make_model):
    model, runtime = make_model()
    source = Counting(12)
    held_up(runtime, source)

    def broken(frame):
        raise ValueError("cannot")

    model.prepare = broken
    report = Pipeline(model, source, [MemorySink()]).run()
    assert (report.frames, report.error) == (12, None)


def test_what_one_model_has_prepared_is_not_shown_to_another(make_model):
    first, second = make_model(), make_model()
    prepared = first[0].prepare(frame := open_source("synthetic://noise?frames=1&width=64&height=48").read())
    prepared.laid_out.ordered[:] = 0
    second[0].answer(frame, prepared=prepared)
    second[0].answer(frame)
    assert second[1].seen[0] == second[1].seen[1]
    first[0].answer(frame, prepared=prepared)
    assert first[1].seen[0] != second[1].seen[0]


def test_the_time_of_preparing_is_told_as_such_and_not_as_waiting(make_model):
    ticks = itertools.count(10)
    clock = Clock(monotonic_ns=lambda: next(ticks) * 1_000_000)
    model, _ = make_model(clock=clock)
    frame = Frame(np.zeros((48, 64, 3), dtype=np.uint8), 0, 9_000_000, 0, "test:")
    prepared = model.prepare(frame)  # At 10 and 11 ms.
    timing = model.answer(frame, prepared=prepared).result().timing_ms  # At 12 to 15 ms.
    assert (timing.wait, timing.preprocess, timing.infer, timing.decode, timing.age) == (2.0, 2.0, 1.0, 1.0, 6.0)


@pytest.mark.parametrize("spared", [{"gate": MotionGate()}, {"limits": Limits(rate_fps=1000)}])
def test_nothing_is_prepared_that_a_gate_or_a_rate_may_pass_over(make_model, spared):
    model, runtime = make_model()
    source = Counting(12)
    seen = preparations(model)
    held_up(runtime, source)
    assert Pipeline(model, source, [MemorySink()], **spared).run().error is None
    assert seen == []


def test_a_live_source_gives_its_newest_frame_and_counts_the_others(make_model):
    model, runtime = make_model()
    source = StepSource()
    entered, gate = threading.Event(), threading.Event()
    make_outputs = runtime._make_outputs

    def slow(inputs):
        entered.set()
        gate.wait()
        return make_outputs(inputs)

    runtime._make_outputs = slow
    sink = MemorySink()
    pipeline = Pipeline(model, source, [sink], limits=Limits(frames=2))
    pipeline.start()
    source.step()
    entered.wait(5)
    source.step(5)
    while pipeline.tally["captured"] < 6:
        pass
    gate.set()
    assert pipeline.wait(5)
    assert [result.seq for result in sink] == [0, 5]
    assert pipeline.report().dropped == {"superseded": 4}
    assert len(set(runtime.seen)) == 2
    source.close()


def test_a_stalled_camera_gives_no_old_frame_again(make_model):
    model, runtime = make_model()
    source = StepSource()
    pipeline = Pipeline(model, source, [MemorySink()])
    pipeline.start()
    source.step()
    while runtime.runs < 1:
        pass
    assert not pipeline.wait(1.2)
    assert runtime.runs == 1
    pipeline.stop()
    source.close()
    assert pipeline.wait(5)


def test_a_live_result_that_is_too_old_is_counted_and_not_published(make_model):
    now_ns = [0]
    clock = Clock(monotonic_ns=lambda: now_ns[0])
    model, runtime = make_model(clock=clock)
    make_outputs = runtime._make_outputs

    def slow(inputs):
        now_ns[0] += 300_000_000
        return make_outputs(inputs)

    runtime._make_outputs = slow
    source = StepSource(clock)
    sink = MemorySink()
    pipeline = Pipeline(model, source, [sink], limits=Limits(frames=1, max_age_ms=200), clock=clock)
    pipeline.start()
    source.step()
    assert pipeline.wait(5)
    source.close()
    assert list(sink) == []
    assert pipeline.report().dropped == {"max_age": 1}


def test_what_happened_in_a_result_that_is_too_old_is_told_with_the_next(make_model):
    now_ns = [0]
    clock = Clock(monotonic_ns=lambda: now_ns[0])
    model, runtime = make_model(clock=clock)
    make_outputs = runtime._make_outputs

    def slow_at_first(inputs):
        now_ns[0] += 300_000_000 if pipeline.tally["captured"] < 2 else 1_000_000
        return make_outputs(inputs)

    runtime._make_outputs = slow_at_first
    source, told = StepSource(clock), EventSink()
    scene = Scene(
        [RuleConfig(name="called", kind="label", classes=("b",), for_s=0.0)], track=False, new_id=IdMaker(lambda: 0)
    )
    limits = Limits(frames=2, max_age_ms=200)
    pipeline = Pipeline(model, source, [told], limits=limits, scene=scene, clock=clock)
    pipeline.start()
    source.step()
    while pipeline.tally["dropped.max_age"] < 1:
        pass
    source.step()
    assert pipeline.wait(5)
    source.close()
    assert [result.seq for result in told] == [1]
    assert [(event.seq, event.end is None) for event in told.events] == [(0, True), (1, False)]


def test_a_file_is_never_too_old(make_model):
    model, _ = make_model(latency_ms=2)
    sink = MemorySink()
    source = open_source("synthetic://noise?frames=5&width=64&height=64")
    Pipeline(model, source, [sink], limits=Limits(max_age_ms=0.001)).run()
    assert len(list(sink)) == 5


def test_a_device_that_fails_ends_the_run_with_the_results_that_there_were(make_model):
    model, _ = make_model(fail_at=4)
    sink = MemorySink()
    report = Pipeline(model, open_source("synthetic://noise?frames=9&width=64&height=64"), [sink]).run()
    assert isinstance(report.error, RuntimeFailed)
    assert [result.seq for result in sink] == [0, 1, 2]


def test_one_broken_output_does_not_touch_the_other_and_its_losses_are_the_error(make_model):
    model, _ = make_model()
    whole, broken = MemorySink(), BrokenSink("broken:")
    report = Pipeline(model, open_source("synthetic://noise?frames=7&width=64&height=64"), [whole, broken]).run()
    assert len(list(whole)) == 7
    assert str(report.error) == "no room, 7 results lost"
    assert report.counts["failed.sink.broken:"] == 7


def test_a_source_that_never_delivers_is_an_error_and_not_a_hang(make_model):
    model, _ = make_model()
    source = StepSource()
    report = Pipeline(model, source, [MemorySink()], limits=Limits(first_frame_s=0.1)).run()
    source.close()
    assert isinstance(report.error, SourceError)
    assert str(report.error) == "step: delivered nothing within 0.1 s"


def test_a_lost_camera_makes_the_pipeline_degraded_and_its_return_makes_it_ok(make_model):
    model, _ = make_model()
    first, second = StepSource(), StepSource()
    sink = MemorySink()
    pipeline = Pipeline(model, first, [sink], reopen=lambda: second)
    pipeline._capture._wait = lambda seconds: False
    results = iter(sink)
    pipeline.start()
    first.step()
    assert next(results).seq == 0
    assert pipeline.state == "ok"
    first.error = SourceLost("unplugged")
    first.step()
    while pipeline.state == "ok":
        pass
    assert pipeline.state == "degraded: source lost"
    second.step()
    assert next(results).seq == 1
    assert pipeline.state == "ok"
    pipeline.stop()
    second.close()
    assert pipeline.wait(5)
    assert pipeline.state == "stopped"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ((), "degraded: source lost; best fake failed at run 1, as asked"),
        (("other",), "down: best fake failed at run 1, as asked; other is gone"),
    ],
)
def test_lost_devices_are_counted_and_seen_beside_a_lost_camera(bundle, missing, said):
    """A frame that no device computes is dropped and counted; what is worst is what is said."""
    outputs = (np.array([[10, 200, 30, 16]], dtype=np.uint8),)

    def open_rung(index: int, *, afresh: bool) -> FakeRuntime:
        if afresh or missing:
            raise DeviceNotFound("other is gone")
        return FakeRuntime(bundle.file, outputs=lambda _: outputs)

    best = FakeRuntime(bundle.file, Faults(fail_at=1))
    model = Model(bundle, Failover(("best", "other"), 0, best, open_rung), identity=Identity("node"))
    source = StepSource()
    pipeline = Pipeline(model, source, [MemorySink()])
    pipeline._capture._wait = lambda seconds: pipeline._capture._stopped.wait(0.01)
    pipeline.start()
    source.step()
    while not pipeline.state.startswith(("degraded", "down")):
        pass
    source.error = SourceLost("unplugged")
    source.step()
    # Both are lost in threads of their own, and a device before it is known whether another one is there.
    until_s = time.monotonic() + 30
    while pipeline.state != said and time.monotonic() < until_s:
        time.sleep(0.01)
    found = pipeline.state
    pipeline.stop()
    source.close()
    assert found == said
    assert pipeline.wait(5)
    counts = pipeline.report().counts
    assert (counts["device.lost"], counts.get("device.back", 0)) == (1, 0)
    assert (counts.get("published", 0), counts.get("dropped.device", 0)) == ((0, 1) if missing else (1, 0))


def test_a_hung_read_is_replaced(make_model):
    model, _ = make_model()
    first, second = StepSource(), StepSource()
    sink = MemorySink()
    pipeline = Pipeline(model, first, [sink], reopen=lambda: second, limits=Limits(silence_s=0.3))
    pipeline._capture._wait = lambda seconds: False
    results = iter(sink)
    pipeline.start()
    first.step()
    assert next(results).seq == 0
    second.step()
    assert next(results).seq == 1
    assert pipeline.tally["source.hung"] == 1
    pipeline.stop()
    first.close()
    second.close()
    assert pipeline.wait(5)


def test_stopping_writes_every_finished_result(make_model):
    model, runtime = make_model()
    sink = MemorySink()
    pipeline = Pipeline(model, open_source("synthetic://noise?frames=100000&width=64&height=64"), [sink])
    pipeline.start()
    while runtime.runs < 20:
        pass
    pipeline.stop()
    assert pipeline.wait(5)
    results = list(sink)
    assert [result.seq for result in results] == list(range(len(results)))
    assert len(results) == pipeline.report().results == runtime.runs


def test_a_sink_that_blocks_for_ever_does_not_keep_a_stopped_run(make_model, caplog):
    model, _ = make_model()
    sink = MemorySink(capacity=1)
    source = open_source("synthetic://noise?frames=1000&width=64&height=64")
    pipeline = Pipeline(model, source, [sink], limits=Limits(sinks_s=0.1))
    pipeline.start()
    while pipeline.tally["published"] < 3:
        pass
    pipeline.stop()
    assert pipeline.wait(10)
    assert "does not take results" in str(pipeline.report().error)
    sink.close()


def test_a_full_sink_that_blocks_does_not_keep_a_stopped_run_nor_the_other_sink(make_model):
    model, _ = make_model()
    blocked, other = MemorySink(capacity=1), MemorySink()
    source = open_source("synthetic://noise?frames=100000&width=64&height=64")
    pipeline = Pipeline(model, source, [blocked, other], limits=Limits(sinks_s=0.1))
    pipeline.start()
    # One taken, one in its hands, 256 in the queue, and one for which there is no room.
    while pipeline.tally["published"] < 259:
        pass
    pipeline.stop()
    assert pipeline.wait(5)
    assert "does not take results" in str(pipeline.report().error)
    assert len(list(other)) == pipeline.report().results
    blocked.close()


def test_two_broken_outputs_are_both_named(make_model):
    model, _ = make_model()
    sinks = [BrokenSink("one:"), BrokenSink("two:")]
    report = Pipeline(model, open_source("synthetic://noise?frames=1&width=64&height=64"), sinks).run()
    assert str(report.error) == "no room, 1 result lost; no room, 1 result lost"


def test_a_slow_loop_over_a_camera_is_given_new_results(make_model):
    model, _ = make_model()
    source, sink = StepSource(), MemorySink(capacity=1, waiting_max=1)
    pipeline = Pipeline(model, source, [sink])
    pipeline.start()
    for count in range(1, 51):
        source.step()
        while pipeline.tally["published"] < count:
            pass
    pipeline.stop()
    source.close()
    seqs = [result.seq for result in sink]
    assert pipeline.wait(5)
    assert len(seqs) == 3
    assert seqs[-1] == 49


class LeavingSink(MemorySink):
    def write(self, result, frame):
        raise OutputError("gone", reader_is_gone=True)


def test_a_reader_that_leaves_ends_the_run_only_where_nobody_else_listens(make_model):
    source = "synthetic://noise?frames=300&width=64&height=64"
    other = MemorySink()
    report = Pipeline(make_model()[0], open_source(source), [LeavingSink("left:"), other]).run()
    assert (report.frames, len(list(other)), report.error) == (300, 300, None)
    alone = Pipeline(make_model()[0], open_source("synthetic://noise?width=64&height=64"), [LeavingSink("left:")])
    alone.start()
    assert alone.wait(5)
    assert alone.report().error is None


def test_a_pipeline_that_was_never_started_is_closed_whatever_a_part_says(make_model):
    class StubbornSink(MemorySink):
        def close(self):
            super().close()
            raise OutputError("cannot finish")

    model, runtime = make_model()
    source, last = StepSource(), MemorySink()
    pipeline = Pipeline(model, source, [StubbornSink(), last])
    with pytest.raises(OutputError, match="cannot finish"):
        pipeline.close()
    assert source.closed
    assert runtime._closed.is_set()
    assert last._is_closed
    assert pipeline.report().elapsed_s == 0


def test_a_start_that_was_cut_short_leaves_no_thread_behind(make_model, monkeypatch):
    model, _ = make_model()
    sink = MemorySink()
    pipeline = Pipeline(model, StepSource(), [sink])
    before = threading.active_count()

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline._capture, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.start()
    pipeline.close()
    pipeline._deliveries[0].join(5)
    assert threading.active_count() == before


def test_a_model_that_fails_to_close_does_not_keep_who_waits(make_model, caplog):
    model, runtime = make_model()

    def broken():
        raise ZeroDivisionError("oops")

    runtime.close = broken
    pipeline = Pipeline(model, open_source("synthetic://noise?frames=1&width=64&height=64"), [MemorySink()])
    pipeline.start()
    assert pipeline.wait(5)
    assert "closing pipeline main failed" in str(pipeline.report().error)


def test_a_file_that_hangs_is_an_error_and_not_begun_anew(make_model):
    model, _ = make_model()
    source, sink = StepSource(), MemorySink()
    source.live = False
    opened = []
    pipeline = Pipeline(model, source, [sink], reopen=lambda: opened.append(1), limits=Limits(silence_s=0.1))
    pipeline.start()
    source.step()
    assert pipeline.wait(5)
    assert str(pipeline.report().error) == "step: gave nothing for 0.1 s, and no end"
    assert (opened, len(list(sink))) == ([], 1)


def test_every_captured_frame_is_published_or_dropped_for_a_reason(make_model):
    model, _ = make_model(latency_ms=2)
    source = open_source("synthetic://noise?frames=60&live=1&fps=1000&width=64&height=64")
    counts = Pipeline(model, source, [MemorySink()], limits=Limits(max_age_ms=2.5)).run().counts
    dropped = counts["dropped.superseded"] + counts.get("dropped.max_age", 0)
    assert counts["captured"] == 60 == counts.get("published", 0) + dropped


def test_frames_limits_what_is_inferred(make_model):
    model, runtime = make_model()
    source = open_source("synthetic://noise?frames=100&width=64&height=64")
    report = Pipeline(model, source, [MemorySink()], limits=Limits(frames=3)).run()
    assert report.frames == runtime.runs == 3


def test_a_model_is_called_with_a_picture(make_model):
    model, runtime = make_model()
    with model:
        result = model(np.zeros((20, 30, 3), dtype=np.uint8))
        assert (result.source.width, result.source.height) == (30, 20)
        assert result.classes[0].label == "b"
        assert model(np.zeros((20, 30), dtype=np.uint8)).seq == 1
    assert runtime.runs == 2


def test_a_closed_model_says_so_and_closing_twice_is_allowed(make_model):
    model, _ = make_model()
    model.close()
    model.close()
    with pytest.raises(UsageError, match="the model tiny is closed"):
        model(np.zeros((20, 30, 3), dtype=np.uint8))


def test_a_frame_of_a_file_whose_name_is_no_utf8_has_a_result_that_can_be_written(make_model):
    model, _ = make_model()
    result = model.infer(Frame(np.zeros((8, 8, 3), dtype=np.uint8), 0, 0, 0, "pictures/a\udcff.bmp"))
    assert b"pictures/a\xef\xbf\xbd.bmp" in result.to_json()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("cat.jpg", "a numpy array, not str"),
        (np.zeros((4, 4, 3)), "dtype uint8, not float64"),
        (np.zeros((4, 4, 4), dtype=np.uint8), r"not \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"not \(0, 4, 3\)"),
    ],
)
def test_what_is_no_picture_is_refused(make_model, image, said):
    model, _ = make_model()
    with pytest.raises(Exception, match=said):
        model(image)


def test_a_sink_that_blocks_for_ever_makes_a_live_pipeline_neither_wait_nor_grow(make_model):
    model, _ = make_model()
    blocked, other = MemorySink("blocked:", capacity=1), MemorySink()
    source = StepSource()
    pipeline = Pipeline(model, source, [blocked, other], limits=Limits(sinks_s=0.1))
    pipeline.start()
    for count in range(1, 601):
        source.step()
        while pipeline.tally["published"] < count:
            pass
    assert len(pipeline._deliveries[0]._waiting) == 256
    # One was taken, one is in its hands.
    assert pipeline.tally["dropped.sink.blocked:"] == 600 - 256 - 2
    pipeline.stop()
    source.close()
    assert pipeline.wait(10)
    assert [result.seq for result in other] == list(range(600))
    blocked.close()


def test_a_run_whose_results_are_all_too_old_ends_and_says_why(make_model, caplog):
    now_ns = [0]

    def later():
        now_ns[0] += 1_000_000
        return now_ns[0]

    clock = Clock(monotonic_ns=later)
    source = open_source("synthetic://noise?fps=1000&width=64&height=64", clock=clock)
    limits = Limits(frames=40, max_age_ms=0.5)
    sink = MemorySink()
    report = Pipeline(make_model(clock=clock)[0], source, [sink], limits=limits, clock=clock).run()
    assert (list(sink), report.error, report.counts["dropped.max_age"]) == ([], None, 40)
    assert [record.message for record in caplog.records] == [
        "pipeline main: 30 results in a row were older than 0.5 ms, and none is published; is max_age too short?"
    ]


@pytest.mark.parametrize(
    "limits", [Limits(), Limits(max_age_ms=500), Limits(rate_fps=100), Limits(max_age_ms=500, rate_fps=100)]
)
@pytest.mark.parametrize("gated", [False, True])
def test_capture_times_that_go_back_stop_nothing(make_model, limits, gated):
    class Backwards(StepSource):
        def read(self):
            frame = super().read()
            if frame is None:
                return None
            back_ns = frame.seq * 1_000_000
            return dataclasses.replace(frame, captured_ns=frame.captured_ns - back_ns, captured_unix_ns=-back_ns)

    source, sink = Backwards(), MemorySink()
    gate = MotionGate() if gated else None
    pipeline = Pipeline(make_model()[0], source, [sink], limits=limits, gate=gate)
    pipeline.start()
    for count in range(1, 51):
        source.step()
        while pipeline.tally["published"] + sum(pipeline.report().dropped.values()) < count:
            pass
    pipeline.stop()
    source.close()
    assert pipeline.wait(5)
    assert pipeline.report().error is None
    results = list(sink)
    assert len(results) + sum(pipeline.report().dropped.values()) == 50
    assert [result.id for result in results] == sorted({result.id for result in results})
