"""What a profile says of the stages of a run, held against times that are known."""

from __future__ import annotations

import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.frame import Frame
from edgeinfer.pipeline import Limits, Pipeline
from edgeinfer.pipeline.motion import MotionGate
from edgeinfer.pipeline.profile import Profile
from edgeinfer.sinks.memory import MemorySink
from edgeinfer.sources import open_source


def times_of(nanoseconds):
    profile = Profile(Clock())
    stage = profile.stage("stage")
    for each in nanoseconds:
        stage.add(each)
    (time,) = profile.times()
    return time


@pytest.mark.parametrize("scale_ns", [100, 7_000, 123_456, 10**8, 10**10])
def test_percentiles_are_within_a_twentieth_of_the_exact_ones(scale_ns):
    took_ns = np.random.default_rng(1).gamma(2.0, 10.0, 5000) * scale_ns
    time = times_of(int(each) for each in took_ns)
    assert time.count == 5000
    assert time.mean_ms == pytest.approx(np.floor(took_ns).mean() / 1e6)
    assert time.max_ms == int(took_ns.max()) / 1e6
    assert time.p50_ms == pytest.approx(np.percentile(took_ns, 50) / 1e6, rel=0.05)
    assert time.p99_ms == pytest.approx(np.percentile(took_ns, 99) / 1e6, rel=0.05)


def test_a_clock_that_goes_back_and_times_beyond_reason_are_taken():
    time = times_of([-5, 0, 2**70])
    assert (time.count, time.p50_ms < 0.0001, time.max_ms) == (3, True, pytest.approx(2**70 / 1e6))


def test_every_stage_of_a_run_is_there_with_its_counts_and_what_it_wrote(make_model):
    source = open_source("synthetic://noise?frames=20&width=64&height=48")
    sinks = [MemorySink("a:"), MemorySink("b:")]
    model, _ = make_model(latency_ms=1)
    report = Pipeline(model, source, sinks, gate=MotionGate(), profile=Profile(Clock())).run()
    stages = {time.stage: time for time in report.profile}
    assert list(stages) == [
        *("source", "gate", "wait", "preprocess", "infer", "decode", "deliver"),
        *("write a:", "age at a:", "write b:", "age at b:"),
    ]
    assert {time.count for time in report.profile} == {20}
    assert stages["source"].bytes_each == 64 * 48 * 3
    assert stages["preprocess"].bytes_each == 32 * 32 * 3
    assert stages["infer"].bytes_each is None
    assert stages["infer"].mean_ms == pytest.approx(report.stage_ms["infer"], abs=0.001)
    assert stages["infer"].p50_ms > 1
    assert stages["age at a:"].p50_ms >= stages["infer"].p50_ms


def test_the_age_at_a_sink_is_from_the_capture(make_model):
    now_ns = [0]

    class Later(MemorySink):
        def write(self, result, frame):
            now_ns[0] += 250_000_000
            super().write(result, frame)

    clock = Clock(monotonic_ns=lambda: now_ns[0], unix_ns=lambda: 0)
    profile = Profile(clock)
    sink = profile.sink(Later("later:"))
    model, _ = make_model(clock=clock)
    result = model.infer(Frame(np.zeros((8, 8, 3), np.uint8), 0, 0, 0, "test:"))
    now_ns[0] = 40_000_000
    sink.write(result, None)
    stages = {time.stage: time.max_ms for time in profile.times()}
    assert stages == {"write later:": 250.0, "age at later:": 40.0}
    assert (sink.uri, sink.wants_pixels, sink.waiting_max) == ("later:", False, 256)


def test_a_source_that_was_opened_again_is_timed_too(make_model):
    word = "synthetic://noise?live=1&fps=1000&width=64&height=48"
    first = open_source(f"{word}&lose_after=5")
    pipeline = Pipeline(
        make_model()[0],
        first,
        [],
        reopen=lambda: open_source(f"{word}&frames=7"),
        limits=Limits(),
        profile=Profile(Clock()),
    )
    pipeline._capture._wait = lambda seconds: False
    stages = {time.stage: time.count for time in pipeline.run().profile}
    assert stages["source"] == 12


def test_without_a_profile_a_report_has_none(make_model):
    report = Pipeline(make_model()[0], open_source("synthetic://noise?frames=2"), []).run()
    assert report.profile == ()
