"""Boxes above the threshold -> detections of the source image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Decode
from edgeinfer.preprocess import Placement
from edgeinfer.result import Detection, Outcome
from edgeinfer.tasks.detect.nms import suppress

# More than this many candidates are no objects but a flood: the best are enough, and the time stays bounded.
CANDIDATES_MAX = 1000

NOTHING = Outcome(detections=())


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes (n, 4) in 0..1 of the model's input, one class and score each; any order, any number a model gives."""

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]

    def __getitem__(self, picked: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Found:
        return Found(self.boxes_xyxy[picked], self.scores[picked], self.class_ids[picked])


def best_first(found: Found) -> Found:
    """Without boxes that are none (NaN, infinite, no area); by falling score, equal ones as they came; bounded."""
    boxes = found.boxes_xyxy
    with np.errstate(invalid="ignore", over="ignore"):
        extents = boxes[:, 2:] - boxes[:, :2]
    # A NaN compares false, and where a corner is infinite the extent is, or is a NaN. All of them are sound as a rule.
    if not (extents.min(initial=1.0) > 0 and extents.max(initial=1.0) < np.inf and found.scores.min(initial=0.0) <= 0):
        found = found[((extents > 0) & (extents < np.inf)).all(axis=1) & ~np.isnan(found.scores)]
    order = np.argsort(-found.scores, kind="stable")
    return found[order[:CANDIDATES_MAX]]


def without_doubles(found: Found, iou_max: float) -> Found:
    """Non-maximum suppression per class; best first in and out."""
    return found[suppress(found.boxes_xyxy, found.class_ids, iou_max)]


def to_outcome(found: Found, decode: Decode, where: Placement, label: Callable[[int], str]) -> Outcome:
    """Best first -> at most `max_results` detections of the source; what lies outside the picture is left out."""
    # Rounded before it is judged: a box that has no area when written has none.
    boxes_xyxy = where.to_source(found.boxes_xyxy).round(6)
    scores = np.minimum(np.maximum(found.scores.astype(np.float64), 0.0), 1.0).round(5)
    detections: list[Detection] = []
    for box, score, class_id in zip(boxes_xyxy.tolist(), scores.tolist(), found.class_ids.tolist(), strict=True):
        x_min, y_min, x_max, y_max = box
        if x_min < x_max and y_min < y_max:
            detections.append(Detection(label(class_id), class_id, score, (x_min, y_min, x_max, y_max)))
            if len(detections) == decode.max_results:
                break
    return Outcome(detections=tuple(detections))
