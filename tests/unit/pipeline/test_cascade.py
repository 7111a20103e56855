"""Stages of a cascade: what they find in a box of their own, and what becomes of a run when they cannot look."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest

from edgeinfer.bundle.facts import Carried
from edgeinfer.delegates import Failover
from edgeinfer.errors import DeviceNotFound, RuntimeFailed
from edgeinfer.model import Model
from edgeinfer.pipeline import Pipeline
from edgeinfer.pipeline.cascade import Cascade, Stage
from edgeinfer.runtimes.fake import FakeRuntime, Faults
from edgeinfer.sinks.memory import MemorySink
from edgeinfer.sources import open_source
from edgeinfer.tensor import TensorSpec

LIVE = "synthetic://noise?width=64&height=64&fps=100"
# On whole pixels, where there is no margin.
BOX_XYXY = (0.25, 0.125, 0.75, 0.875)


def with_outputs(bundle, task, decoder, arrays, *, labels=(), masks=False):
    """That bundle as one of another task, whose outputs are these."""
    specs = tuple(TensorSpec(name, array.shape, array.dtype) for name, array in arrays.items())
    file = dataclasses.replace(bundle.file, outputs=specs)
    decode = dataclasses.replace(bundle.decode, decoder=decoder, masks=masks, score_min=0.4)
    return dataclasses.replace(bundle, file=file, task=task, decode=decode, labels=labels)


@pytest.fixture
def detector(bundle):
    x_min, y_min, x_max, y_max = BOX_XYXY
    arrays = {
        "TFLite_Detection_PostProcess": np.array([[[y_min, x_min, y_max, x_max]]], dtype=np.float32),
        "TFLite_Detection_PostProcess:1": np.zeros((1, 1), dtype=np.float32),
        "TFLite_Detection_PostProcess:2": np.full((1, 1), 0.9, dtype=np.float32),
        "TFLite_Detection_PostProcess:3": np.ones(1, dtype=np.float32),
    }
    detecting = with_outputs(bundle, "detect", "ssd", arrays, labels=("person",))
    return Model(detecting, FakeRuntime(detecting.file, outputs=lambda _: tuple(arrays.values())))


@pytest.fixture
def segmenting(bundle):
    """Finds one object in what it is shown, in the box 0.25, 0.25, 0.75, 0.5 of it, whose mask is all of that."""
    head = np.zeros((1, 4 + 1 + 32, 21), dtype=np.float32)
    head[0, :5, 3] = 0.5, 0.375, 0.5, 0.25, 0.875
    head[0, 5, 3] = 1
    arrays = {"head": head, "protos": np.ones((1, 32, 8, 8), dtype=np.float32)}
    made = with_outputs(bundle, "segment", "yolov8-seg", arrays, labels=("coat",), masks=True)
    return Model(made, FakeRuntime(made.file, outputs=lambda _: tuple(arrays.values())))


class Rungs:
    """The devices of a classifying stage: the first fails at that run, and the other comes when it is told to."""

    def __init__(self, bundle, fail_at: int, *, is_there: bool = False) -> None:
        self.is_there = is_there
        self._bundle = bundle
        self._waits = threading.Event()
        first = FakeRuntime(bundle.file, Faults(fail_at=fail_at), outputs=self._scores)
        self.model = Model(
            bundle,
            Failover(
                ("first", "other"),
                0,
                first,
                self._open,
                wait=lambda _: self._waits.wait(0.002),
                now_s=itertools.count(0, 100).__next__,
            ),
        )

    def _open(self, index: int, *, afresh: bool) -> FakeRuntime:
        if not self.is_there or index == 0:
            raise DeviceNotFound("it is gone")
        return FakeRuntime(self._bundle.file, outputs=self._scores)

    def _scores(self, _):
        return (np.array([[10, 200, 30, 16]], dtype=np.uint8),)


@pytest.fixture
def start():
    """Live pipelines with these stages, closed after the test."""
    started = []

    def start_(detector, *stages):
        sink = MemorySink()
        started.append(Pipeline(detector, open_source(LIVE), [sink], cascade=Cascade(stages)))
        started[-1].start()
        return started[-1], sink

    yield start_
    for pipeline in started:
        pipeline.close()


def until(is_so) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_segments_lie_where_they_are_in_the_whole_picture(detector, segmenting):
    source = open_source("synthetic://noise?width=64&height=64&frames=1")
    sink = MemorySink()
    cascade = Cascade([Stage("parts", segmenting, margin=0.0)])
    assert Pipeline(detector, source, [sink], cascade=cascade).run().error is None
    (found,) = next(iter(sink)).detections
    (inner,) = found.inner
    assert inner.crop_xyxy == found.box_xyxy == BOX_XYXY
    (segment,) = inner.segments
    assert segment.label == "coat"
    # A quarter of half, and three quarters, of the picture in.
    assert segment.box_xyxy == (0.375, 0.3125, 0.625, 0.5)
    assert segment.area == 0.5 * 0.25 * (0.5 * 0.75)
    mask = np.repeat(np.arange(len(segment.mask.counts)) % 2 == 1, segment.mask.counts).reshape(8, 8)
    assert mask[2:4, 2:6].all()
    assert mask.sum() == 8


def test_a_stage_remembers_nothing_of_another_box(bundle, detector):
    """One whose answer is another where its state is not zeros."""
    made = with_outputs(
        bundle, "classify", "classify", {"scores": np.zeros((1, 2), np.float32), "hn": np.ones((1, 1), np.float32)}
    )
    inputs = (*made.file.inputs, TensorSpec("h", (1, 1), np.dtype(np.float32)))
    made = dataclasses.replace(
        made, file=dataclasses.replace(made.file, inputs=inputs), carried=Carried(((1, 1),)), labels=("new", "known")
    )

    def compute(seen):
        scores = np.eye(2, dtype=np.float32)[[int(seen[1][0, 0] != 0)]]
        return scores, np.ones((1, 1), np.float32)

    sink = MemorySink()
    cascade = Cascade([Stage("what", Model(made, FakeRuntime(made.file, outputs=compute)))])
    source = open_source("synthetic://noise?width=64&height=64&frames=3")
    assert Pipeline(detector, source, [sink], cascade=cascade).run().error is None
    assert [result.detections[0].inner[0].classes[0].label for result in sink] == ["new"] * 3


def test_a_stage_whose_devices_are_all_down_costs_frames_and_not_the_run(bundle, detector, start):
    rungs = Rungs(bundle, fail_at=2)
    pipeline, sink = start(detector, Stage("what", rungs.model))
    until(lambda: pipeline.tally["dropped.device"] > 3)
    assert pipeline.state.startswith("down: first fake failed at run 2, as asked")
    assert pipeline.tally["published"] == 1
    rungs.is_there = True
    until(lambda: pipeline.tally["published"] > 3)
    assert pipeline.state.startswith("degraded: first ")
    pipeline.close()
    report = pipeline.report()
    assert report.error is None
    results = list(sink)
    assert len(results) == report.counts["published"]
    assert results[1].seq - results[0].seq > report.counts["dropped.device"]
    for result in results:
        assert [each.classes[0].label for each in result.detections[0].inner] == ["b"]


def test_that_another_stage_is_degraded_hides_nothing(bundle, detector, start):
    well, gone = Rungs(bundle, fail_at=1, is_there=True), Rungs(bundle, fail_at=1)
    pipeline, _ = start(detector, Stage("a", well.model), Stage("b", gone.model))
    until(lambda: pipeline.tally["dropped.device"] > 1)
    assert pipeline.state.startswith("down: first fake failed at run 1, as asked")
    pipeline.close()
    assert pipeline.report().error is None


def test_of_a_file_no_frame_is_left_out_when_a_stage_is_down(bundle, detector):
    sink = MemorySink()
    source = open_source("synthetic://noise?width=64&height=64&frames=5")
    stage = Stage("what", Rungs(bundle, fail_at=3).model)
    report = Pipeline(detector, source, [sink], cascade=Cascade([stage])).run()
    assert isinstance(report.error, RuntimeFailed)
    assert [result.seq for result in sink] == [0, 1]
