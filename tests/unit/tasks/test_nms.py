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
    assert kept_of(boxes, class_ids, iou_max) == by_definition(boxes, class_ids, iou_max)


def kept_of(boxes, class_ids, iou_max):
    rows = np.array(boxes, dtype=np.float32).reshape(-1, 4).T
    staying = suppress(rows, np.array(class_ids, dtype=np.int64), iou_max)
    return list(range(len(boxes))) if staying is None else staying.tolist()


def test_classes_stay_apart_although_boxes_are_the_same():
    assert kept_of([(0.2, 0.2, 0.6, 0.6)] * 3, [0, 1, 0], 0.5) == [0, 1]


def test_classes_stay_apart_left_of_and_above_the_picture():
    # A shift by the largest coordinate alone would push the second of one class into the other's.
    boxes = [(1.5, 0, 2, 1), (-1.5, -3, -1, -2), (0, 0, 1, 1), (3, 3, 4, 4), (-3, -3, -2, -2), (-3, -3, -2, -2)]
    assert kept_of(boxes, [0, 1, 1, 0, 0, 1], 0.5) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count):
    assert kept_of([(0, 0, 1, 1)] * count, [0] * count, 0.5) == list(range(count))
