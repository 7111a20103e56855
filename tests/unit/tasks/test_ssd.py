"""The four outputs of TFLite_Detection_PostProcess, in whatever order they come."""

from itertools import permutations

import numpy as np
import pytest

from edgeinfer.errors import ModelError
from edgeinfer.preprocess import WHOLE, Placement
from edgeinfer.tasks.detect import make_detect
from edgeinfer.tensor import TensorSpec

KINDS = ("boxes", "classes", "scores", "count")
OWN_NAMES = {
    "boxes": "TFLite_Detection_PostProcess",
    "classes": "TFLite_Detection_PostProcess:1",
    "scores": "TFLite_Detection_PostProcess:2",
    "count": "TFLite_Detection_PostProcess:3",
}
WORDS = {"boxes": "detection_boxes", "classes": "detection_classes", "scores": "scores", "count": "num_detections"}
LABELS = ("person", "bicycle", "car", "motorcycle")


def raw_outputs(count=2.0):
    """Two objects and one left over from an earlier frame; boxes are y_min, x_min, y_max, x_max."""
    return {
        "boxes": np.array([[[0.1, 0.2, 0.5, 0.6], [0.3, 0.4, 0.9, 0.8], [0, 0, 1, 1]]], dtype=np.float32),
        "classes": np.array([[0.0, 2.0, 3.0]], dtype=np.float32),
        "scores": np.array([[0.75, 0.5, 0.95]], dtype=np.float32),
        "count": np.array([count], dtype=np.float32),
    }


@pytest.fixture
def decode(make_bundle):
    """Decode outputs in an order, under names; shapes as open as the real files leave them, or said."""

    def run(raw, *, order=KINDS, names=OWN_NAMES, are_open=True, where=WHOLE, **facts):
        specs = tuple(
            TensorSpec(names[kind], () if are_open else raw[kind].shape, np.dtype(np.float32)) for kind in order
        )
        task = make_detect(make_bundle(specs, "ssd", **{"labels": LABELS, **facts}), specs)
        return task.decode(tuple(raw[kind] for kind in order), where).detections

    return run


def told(detections):
    return [(each.label, each.class_id, each.score, each.box_xyxy) for each in detections]


EXPECTED = [("person", 0, 0.75, (0.2, 0.1, 0.6, 0.5)), ("car", 2, 0.5, (0.4, 0.3, 0.8, 0.9))]


@pytest.mark.parametrize("are_open", [True, False])
@pytest.mark.parametrize("names", [OWN_NAMES, WORDS, dict.fromkeys(KINDS, "StatefulPartitionedCall")])
@pytest.mark.parametrize("order", list(permutations(KINDS)), ids=",".join)
def test_any_order(decode, order, names, are_open):
    assert told(decode(raw_outputs(), order=order, names=names, are_open=are_open)) == EXPECTED


@pytest.mark.parametrize("order", [KINDS, ("scores", "boxes", "count", "classes")], ids=",".join)
def test_the_two_usual_orders_where_the_values_do_not_tell(decode, order):
    raw = raw_outputs()
    raw["scores"][:] = 1.0
    found = decode(raw, order=order, names=dict.fromkeys(KINDS, "Identity"))
    assert [each.label for each in found] == ["person", "car"]


@pytest.mark.parametrize(("count", "found"), [(0, 0), (1, 1), (2, 2), (9, 3), (-1, 0), (np.nan, 0)])
def test_the_count_is_honoured(decode, count, found):
    assert len(decode(raw_outputs(count))) == found


@pytest.mark.parametrize("first", ["???", "background"])
def test_a_label_file_that_starts_with_the_background(decode, first):
    found = decode(raw_outputs(), labels=(first, *LABELS))
    assert [(each.label, each.class_id) for each in found] == [("person", 0), ("car", 2)]


def test_a_class_without_a_label_is_a_number(decode):
    assert [each.label for each in decode(raw_outputs(), labels=("person",))] == ["person", "2"]
    assert [each.label for each in decode(raw_outputs(), labels=("???", "person"))] == ["person", "2"]


def test_threshold_and_most_results(decode):
    assert [each.label for each in decode(raw_outputs(), score_min=0.6)] == ["person"]
    assert [each.label for each in decode(raw_outputs(), max_results=1)] == ["person"]


def test_boxes_beyond_the_picture_are_clipped_and_those_that_are_none_left_out(decode):
    raw = {
        "boxes": np.array(
            [[[-0.2, -0.1, 1.3, 0.5], [np.nan, 0, 1, 1], [0.5, 0.5, 0.5, 0.9], [1.2, 0, 1.5, 1], [0.9, 0, 0.1, 1]]],
            dtype=np.float32,
        ),
        "classes": np.zeros((1, 5), dtype=np.float32),
        "scores": np.full((1, 5), 0.9, dtype=np.float32),
        "count": np.array([5], dtype=np.float32),
    }
    assert told(decode(raw)) == [("person", 0, 0.9, (0.0, 0.0, 0.5, 1.0))]


@pytest.mark.parametrize("kind", ["scores", "classes"])
def test_a_score_or_class_that_is_no_number(decode, kind):
    raw = raw_outputs()
    raw[kind][0, 0] = np.nan
    assert [each.label for each in decode(raw)] == ["car"]


def test_boxes_come_back_into_the_source(decode):
    found = decode(raw_outputs(), where=Placement(0.0, 0.1, 1.0, 0.8))
    assert found[0].box_xyxy == pytest.approx((0.2, 0.0, 0.6, 0.5), abs=1e-6)


def test_no_output_that_can_be_boxes(make_bundle):
    specs = tuple(TensorSpec(f"out{index}", (1, 10), np.dtype(np.float32)) for index in range(4))
    with pytest.raises(ModelError, match=r"'out0' \[1, 10\].*expected boxes"):
        make_detect(make_bundle(specs, "ssd"), specs)
