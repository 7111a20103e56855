import msgspec
import numpy as np
import pytest

from edgeinfer.frame import Frame
from edgeinfer.result import Classification, Detection, ModelInfo, Result, SourceInfo, Timing


@pytest.fixture
def make_frame():
    def make(seq=0, *, width=64, height=48, captured_ns=0, value=90):
        return Frame(np.full((height, width, 3), value, dtype=np.uint8), seq, captured_ns, captured_ns, "test:")

    return make


@pytest.fixture
def make_result():
    def make(seq=0, *, classes=None, detections=None, **others):
        if detections is None and classes is None and not others:
            detections = (Detection(label="cat, tabby", class_id=1, score=0.5, box_xyxy=(0.25, 0.25, 0.75, 0.75)),)
        return Result(
            id=f"{seq:026d}",
            node="n",
            pipeline="p",
            seq=seq,
            captured_at="2026-11-22T04:00:00.000000Z",
            clock="synced",
            monotonic_ns=seq,
            source=SourceInfo("test:", 64, 48),
            model=ModelInfo("m", "1", "ab"),
            device="fake",
            task="detect",
            detections=detections,
            classes=classes,
            **others,
            timing_ms=Timing(0, 0, 1, 0, 2),
        )

    return make


@pytest.fixture
def read_results():
    return lambda path: [msgspec.json.decode(line, type=Result) for line in path.read_bytes().splitlines()]


@pytest.fixture
def a_class():
    return Classification(label="tabby", class_id=281, score=0.7)
