"""Boxes above the threshold -> detections of the source image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Decode
from edgeinfer.preprocess import Placement
from edgeinfer.result import Detection, Keypoint, Outcome
from edgeinfer.tasks.detect.nms import suppress
from edgeinfer.tasks.keypoints import to_keypoints

# More than this many candidates are no objects but a flood: the best are enough, and the time stays bounded.
CANDIDATES_MAX = 1000

NOTHING = Outcome(detections=())


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes (4, n), rows x_min, y_min, x_max, y_max in 0..1 of the model's input; one class and score each.

    The best first. In rows, since a call into numpy costs as much as some dozens of boxes, and long rows need few.
    points: (n, k, 3) keypoints of each, x and y in 0..1 of the input and a score; None where the model has none.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    points: npt.NDArray[np.float32] | None = None

    def __getitem__(self, picked: npt.NDArray[np.int64]) -> Found:
        points = None if self.points is None else self.points[picked]
        return Found(self.boxes_xyxy.take(picked, axis=1), self.scores[picked], self.class_ids[picked], points)


def by_score(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Which come first: by falling score, equal ones as they came, no NaN; bounded. There is at least one score."""
    order = (-scores).argsort(kind="stable")
    # A NaN sorts behind all numbers.
    if np.isnan(scores[order[-1]]):
        order = order[~np.isnan(scores[order])]
    return order[:CANDIDATES_MAX]


def without_doubles(found: Found, iou_max: float) -> Found:
    """Without boxes that are none (NaN, infinite, no area); then non-maximum suppression per class."""
    boxes = found.boxes_xyxy
    with np.errstate(invalid="ignore", over="ignore"):
        extents = boxes[2:] - boxes[:2]
    # A NaN compares false, and where a corner is infinite the extent is, or is a NaN. All of them are sound as a rule.
    if not (extents.min(initial=1.0) > 0 and extents.max(initial=1.0) < np.inf):
        found = found[np.flatnonzero(((extents > 0) & (extents < np.inf)).all(axis=0))]
    staying = suppress(found.boxes_xyxy, found.class_ids, iou_max)
    return found if staying is None else found[staying]


def to_outcome(found: Found, decode: Decode, where: Placement, label: Callable[[int], str]) -> Outcome:
    """Best first -> at most `max_results` detections of the source; what lies outside the picture is left out."""
    # Rounded before it is judged: a box that has no area when written has none.
    boxes_xyxy = _rounded(where.to_source(found.boxes_xyxy), 1e6)
    scores = _rounded(np.minimum(np.maximum(found.scores, 0.0, dtype=np.float64), 1.0), 1e5)
    bodies: Iterable[tuple[Keypoint, ...] | None] = (
        repeat(None) if found.points is None else to_keypoints(found.points, where)
    )
    detections: list[Detection] = []
    # Without keypoints there is no end to them, so that the lengths differ.
    for x_min, y_min, x_max, y_max, score, class_id, keypoints in zip(
        *boxes_xyxy.tolist(), scores.tolist(), found.class_ids.tolist(), bodies, strict=False
    ):
        if x_min < x_max and y_min < y_max:
            box_xyxy = (x_min, y_min, x_max, y_max)
            detections.append(Detection(label(class_id), class_id, score, box_xyxy, keypoints=keypoints))
            if len(detections) == decode.max_results:
                break
    return Outcome(detections=tuple(detections))


def _rounded(shares: npt.NDArray[np.float64], steps: float) -> npt.NDArray[np.float64]:
    """In place, to one of so many steps between 0 and 1; what `round` does, without its detours."""
    shares *= steps
    np.rint(shares, out=shares)
    shares /= steps
    return shares
