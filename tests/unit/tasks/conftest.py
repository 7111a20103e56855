"""Bundles built by hand: a task sees nothing but facts and arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.bundle import Bundle, Decode, ImageInput, ModelFile
from edgeinfer.bundle.facts import Metadata
from edgeinfer.tensor import TensorSpec


def build_bundle(
    specs,
    decoder="yolov8",
    *,
    task="detect",
    size=(64, 64),
    labels=(),
    score_min=0.4,
    iou_max=0.5,
    max_results=100,
    box_units="pixels",
    output_is="probabilities",
):
    width, height = size
    image = ImageInput(0, width, height, 3, "nhwc", "rgb", (0.0,), (255.0,), False, "letterbox", 114)
    file = ModelFile(
        path=Path("made.tflite"),
        format="tflite",
        sha256="",
        size_bytes=0,
        inputs=(TensorSpec("image", (1, height, width, 3), np.dtype(np.uint8)),),
        outputs=tuple(specs),
        ops={},
        output_ops=("",) * len(specs),
        custom_ops=frozenset(),
        metadata=Metadata(),
    )
    decode = Decode(decoder, score_min, iou_max, max_results, box_units, output_is)
    return Bundle("made", "0", file, task, image, decode, tuple(labels), {})


@pytest.fixture(scope="session")
def make_bundle():
    return build_bundle
