"""Of boxes that show the same object, keep the best."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def suppress(
    boxes_xyxy: npt.NDArray[np.float32], class_ids: npt.NDArray[np.int64], iou_max: float
) -> npt.NDArray[np.int64]:
    """Indices of the boxes that stay, ascending. Best score comes first in the input.

    A box goes where it overlaps a better one of its class, which stays, by more than `iou_max`.
    """
    count = len(boxes_xyxy)
    if count == len(set(class_ids.tolist())):
        return np.arange(count)  # Nobody has another one of its class.
    xywh = boxes_xyxy.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    # OpenCV keeps classes apart by shifting each beyond the largest coordinate: there must be no negative one.
    xywh[:, :2] -= xywh[:, :2].min(axis=0)
    # The rank stands for the score: no ties, and none at or below the threshold of zero.
    ranks = np.arange(count, 0, -1, dtype=np.float32)
    kept = cv2.dnn.NMSBoxesBatched(xywh, ranks, class_ids.astype(np.int32), 0.0, iou_max)  # type: ignore[arg-type]  # Arrays are taken.
    return np.sort(np.asarray(kept, dtype=np.int64).reshape(-1))
