"""Latencies and throughput on a clock of the test's own: `fake` as the device, drawn pictures as the source."""

from __future__ import annotations

from functools import partial
from math import comb

import pytest

from edgeinfer.bundle import Bundle, load_bundle
from edgeinfer.clock import Clock
from edgeinfer.errors import RuntimeFailed, UsageError
from edgeinfer.pipeline.bench import OFFICIAL_QUERIES, STEPS, SingleStream, measure, offline, single_stream
from edgeinfer.runtimes.fake import FakeRuntime, Faults
from edgeinfer.sources import open_source

CARD = partial(open_source, "synthetic://test-card?frames=5&width=64&height=48")


class Time:
    """Stands still but for those who sleep on it."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.clock = Clock(lambda: self.now_ns, lambda: self.now_ns)

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def bundle() -> Bundle:
    return load_bundle("blood-cells")


def test_a_query_is_issued_when_the_last_is_complete_and_its_preparation_is_not_counted(time):
    asked = []

    def ask():
        time.sleep(0.5)
        asked.append(time.now_ns)
        return lambda: time.sleep(0.010 if len(asked) % 2 else 0.030)

    stream = single_stream(ask, seconds=20, clock=time.clock)
    assert set(stream.latency_ms) == {10.0, 30.0}
    warm_up = 3
    assert len(stream.latency_ms) == len(asked) - warm_up == 39


def test_offline_counts_samples_per_second(time):
    assert offline(lambda: lambda: time.sleep(0.004), seconds=2, clock=time.clock) == 250.0


@pytest.mark.parametrize(
    ("queries", "share", "expected"), [(10, 0.5, 6), (10, 0.9, 10), (100, 0.9, 91), (100, 0.99, 100), (1, 0.9, 1)]
)
def test_a_percentile_is_the_one_that_loadgen_takes(queries, share, expected):
    # LoadGen: sorted_latencies[queries * share], counted from 0.
    assert SingleStream(tuple(float(number) for number in range(queries, 0, -1))).percentile_ms(share) == expected


@pytest.mark.parametrize(
    ("queries", "slowest"),
    # 64 is the least that LoadGen takes; of 200 it said "would discard 9", and took the tenth slowest.
    [(63, None), (64, 1), (200, 10)],
)
def test_early_stopping_bounds_p90_as_loadgen_does(queries, slowest):
    stream = SingleStream(tuple(float(number) for number in range(queries)))
    assert stream.p90_early_stopping_ms == (None if slowest is None else queries - slowest)


def test_the_bound_of_a_long_run_holds_with_99_percent_and_is_the_least_such():
    queries = 1500
    slowest = queries - SingleStream(tuple(float(number) for number in range(queries))).p90_early_stopping_ms

    def at_most(count):
        # In whole numbers, which do not run out of range.
        ways = sum(comb(queries, each) * 9 ** (queries - each) for each in range(count + 1))
        return ways * 1000 // 10**queries / 1000

    assert at_most(int(slowest)) <= 0.01 < at_most(int(slowest) + 1) + 0.001


@pytest.mark.parametrize(
    ("queries", "each_ms", "official"), [(1024, 60.0, True), (1023, 60.0, False), (1024, 50.0, False)]
)
def test_a_run_is_official_with_enough_queries_in_enough_time(queries, each_ms, official):
    assert SingleStream((each_ms,) * queries).is_official is official
    assert OFFICIAL_QUERIES == 1024


def test_all_four_steps_are_measured_and_said(bundle):
    said = []
    runtime = FakeRuntime(bundle.file, Faults(latency_ms=2))
    measured = measure(bundle, runtime, CARD, seconds=0.05, report=said.append)
    assert tuple(said) == STEPS
    assert (measured.device, measured.frame) == ("fake", "64 x 48")
    assert min(measured.alone.latency_ms) >= 2
    assert min(measured.end_to_end.latency_ms) >= 2
    assert 0 < measured.alone_fps <= 500
    assert 0 < measured.end_to_end_fps <= 500
    assert list(measured.stage_ms) == ["read", "preprocess", "infer", "decode", "result"]
    assert measured.stage_ms["infer"] >= 2
    with pytest.raises(RuntimeFailed, match="closed"):
        runtime.run()


def test_the_model_alone_sees_the_picture_at_every_query(bundle):
    runtime = FakeRuntime(bundle.file, Faults())
    measure(bundle, runtime, partial(open_source, "synthetic://test-card?frames=1"), seconds=0.01)
    # One picture: alone, end to end and in the pipeline, in the model's own form.
    assert len(set(runtime.seen)) == 1


def test_a_live_source_is_refused_and_everything_is_closed(bundle):
    runtime = FakeRuntime(bundle.file, Faults())
    with pytest.raises(UsageError, match="sets the pace itself"):
        measure(bundle, runtime, partial(open_source, "synthetic://noise"), seconds=1)
    with pytest.raises(RuntimeFailed, match="closed"):
        runtime.run()


def test_a_device_that_fails_is_an_error(bundle):
    with pytest.raises(RuntimeFailed, match="as asked"):
        measure(bundle, FakeRuntime(bundle.file, Faults(fail_at=30)), CARD, seconds=0.05)
