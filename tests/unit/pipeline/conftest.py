"""A pipeline of shipped parts: a drawn source, the fake runtime, a classifier of four classes, memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.bundle import Bundle, Decode, ImageInput, ModelFile
from edgeinfer.bundle.facts import Metadata
from edgeinfer.model import Identity, Model
from edgeinfer.runtimes.fake import FakeRuntime, Faults
from edgeinfer.tensor import Quantization, TensorSpec

PIXELS = TensorSpec("image", (1, 32, 32, 3), np.dtype(np.uint8))
SCORES = TensorSpec("scores", (1, 4), np.dtype(np.uint8), Quantization((1 / 256,), (0,)))


@pytest.fixture
def bundle():
    file = ModelFile(
        path=Path("tiny.tflite"),
        format="tflite",
        sha256="0" * 64,
        size_bytes=1,
        inputs=(PIXELS,),
        outputs=(SCORES,),
        ops={"SOFTMAX": 1},
        output_ops=("SOFTMAX",),
        custom_ops=frozenset(),
        metadata=Metadata(),
    )
    return Bundle(
        name="tiny",
        version="1",
        file=file,
        task="classify",
        image=ImageInput(0, 32, 32, 3, "nhwc", "rgb", (0.0,), (1.0,), True, "stretch", 114),
        decode=Decode("classify", 0.0, 0.5, 5, "normalised", "probabilities"),
        labels=("a", "b", "c", "d"),
        provenance={},
    )


@pytest.fixture
def make_model(bundle):
    def make(*, clock=None, **faults):
        runtime = FakeRuntime(
            bundle.file, Faults(**faults), outputs=lambda _: (np.array([[10, 200, 30, 16]], dtype=np.uint8),)
        )
        return Model(bundle, runtime, identity=Identity("node", "pipe"), clock=clock), runtime

    return make
