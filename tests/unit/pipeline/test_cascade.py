"""Stages of a cascade: what they find in a box of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeinfer.model import Model
from edgeinfer.pipeline import Pipeline
from edgeinfer.pipeline.cascade import Cascade, Stage
from edgeinfer.runtimes.fake import FakeRuntime
from edgeinfer.sinks.memory import MemorySink
from edgeinfer.sources import open_source
from edgeinfer.tensor import TensorSpec

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
