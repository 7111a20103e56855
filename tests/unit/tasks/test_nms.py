"""Non-maximum suppression against the definition, one pair at a time."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeinfer.tasks.detect.nms import suppress

BOX = st.tuples(*(st.integers(-20, 20),) * 2, *(st.integers(1, 16),) * 2, st.integers(0, 2))


def overlap(a, b):
    """Intersection over union in exact integers' arithmetic."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def by_definition(boxes, class_ids, iou_max):
    kept = []
    for index, box in enumerate(boxes):
        rivals = [other for other in kept if class_ids[other] == class_ids[index]]
        if all(overlap(boxes[other], box) <= iou_max for other in rivals):
            kept.append(index)
    return kept


@given(st.lists(BOX, max_size=25), st.sampled_from([0.0, 0.21, 0.45, 0.63, 0.97]))
@example([(-20, 0, 8, 8, 1), (0, 0, 8, 8, 0), (20, 0, 16, 16, 0), (-3, 0, 8, 8, 2)], 0.45)
def test_keeps_what_the_definition_keeps(drawn, iou_max):
    boxes = [(x, y, x + width, y + height) for x, y, width, height, _ in drawn]
    class_ids = [row[4] for row in drawn]
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    kept = suppress(array, np.array(class_ids, dtype=np.int64), iou_max)
    assert kept.tolist() == by_definition(boxes, class_ids, iou_max)


def test_classes_stay_apart_although_boxes_are_the_same():
    boxes = np.tile(np.array([[0.2, 0.2, 0.6, 0.6]], dtype=np.float32), (3, 1))
    assert suppress(boxes, np.array([0, 1, 0]), 0.5).tolist() == [0, 1]


def test_classes_stay_apart_left_of_and_above_the_picture():
    # A shift by the largest coordinate alone would push the second into the first.
    boxes = np.array([[1.5, 0.0, 2.0, 1.0], [-1.5, -3.0, -1.0, -2.0], [-1.5, -3.0, -1.0, -2.0]], dtype=np.float32)
    assert suppress(boxes, np.array([0, 1, 1]), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count):
    assert suppress(np.ones((count, 4), dtype=np.float32), np.zeros(count, dtype=np.int64), 0.5).tolist() == [0] * count
