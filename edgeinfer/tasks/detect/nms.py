"""Of boxes that show the same object, keep the best."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def suppress(
    boxes_xyxy: npt.NDArray[np.float32], class_ids: npt.NDArray[np.int64], iou_max: float
) -> npt.NDArray[np.int64] | None:
    """Indices of the boxes that stay, ascending; None where all do. Best score comes first in the input.

    boxes_xyxy: (4, n), each with an area. A box goes where it overlaps a better one of its class, which stays, by more
    than `iou_max`.
    """
    if len(class_ids) == len(set(class_ids.tolist())):
        return None  # Nobody has another one of its class.
    best, others = _after_the_best(boxes_xyxy, class_ids, iou_max)
    if not others.size:
        return best
    staying = np.concatenate((best, others[_by_opencv(boxes_xyxy[:, others], class_ids[others], iou_max)]))
    staying.sort()
    return staying


def _after_the_best(
    boxes_xyxy: npt.NDArray[np.float32], class_ids: npt.NDArray[np.int64], iou_max: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The best box of each class, which stays, and those that do not overlap it by too much; both ascending.

    Where each class shows one object, which several cells saw, that is all there is to do.
    """
    count = len(class_ids)
    ranks = np.arange(count)
    best_of = np.empty(int(class_ids.max()) + 1, dtype=np.int64)
    best_of[class_ids[::-1]] = ranks[::-1]
    best = best_of[class_ids]
    boxes = boxes_xyxy.astype(np.float64)
    rivals = boxes.take(best, axis=1)
    sides = np.minimum(boxes[2:], rivals[2:]) - np.maximum(boxes[:2], rivals[:2])
    np.maximum(sides, 0.0, out=sides)
    shared = sides[0] * sides[1]
    extents = boxes[2:] - boxes[:2]
    areas = extents[0] * extents[1]
    is_best = best == ranks
    is_apart = shared / (areas + areas[best] - shared) <= iou_max
    return is_best.nonzero()[0], (is_apart & ~is_best).nonzero()[0]


def _by_opencv(
    boxes_xyxy: npt.NDArray[np.float32], class_ids: npt.NDArray[np.int64], iou_max: float
) -> npt.NDArray[np.int64]:
    """Indices of the boxes that stay."""
    xywh = boxes_xyxy.T.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    # OpenCV keeps classes apart by shifting each beyond the largest coordinate: there must be no negative one.
    xywh[:, :2] -= xywh[:, :2].min(axis=0)
    # The rank stands for the score: no ties, and none at or below the threshold of zero.
    ranks = np.arange(len(xywh), 0, -1, dtype=np.float32)
    kept = cv2.dnn.NMSBoxesBatched(xywh, ranks, class_ids.astype(np.int32), 0.0, iou_max)  # type: ignore[arg-type]  # Arrays are taken.
    return np.asarray(kept, dtype=np.int64).reshape(-1)
