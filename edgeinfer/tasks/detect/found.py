"""Boxes above the threshold -> detections of the source image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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

Row = tuple[float, int, Sequence[float]]
"""score 0..1, class id, box x_min, y_min, x_max, y_max in 0..1 of the model's input."""


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes (n, 4) in 0..1 of the model's input, one class and score each; any order, any number a model gives."""

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]

    def rows(self) -> Iterator[Row]:
        """Each as plain numbers."""
        return zip(self.scores.tolist(), self.class_ids.tolist(), self.boxes_xyxy.tolist(), strict=True)

    def __getitem__(self, picked: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Found:
        return Found(self.boxes_xyxy[picked], self.scores[picked], self.class_ids[picked])


def best_first(found: Found) -> Found:
    """Without boxes that are none (NaN, infinite, no area); by falling score, equal ones as they came; bounded."""
    boxes = found.boxes_xyxy
    # A NaN compares false, and where a corner is infinite the extent is, or is a NaN.
    with np.errstate(invalid="ignore", over="ignore"):
        extents = boxes[:, 2:] - boxes[:, :2]
        sound = ((extents > 0) & (extents < np.inf)).all(axis=1) & ~np.isnan(found.scores)
    if not sound.all():
        found = found[sound]
    order = np.argsort(-found.scores, kind="stable")
    return found[order[:CANDIDATES_MAX]]


def without_doubles(found: Found, iou_max: float) -> Found:
    """Non-maximum suppression per class; best first in and out."""
    return found[suppress(found.boxes_xyxy, found.class_ids, iou_max)]


def to_outcome(rows: Iterable[Row], decode: Decode, where: Placement, label: Callable[[int], str]) -> Outcome:
    """Best first -> at most `max_results` detections of the source; what lies outside the picture is left out."""
    detections: list[Detection] = []
    for score, class_id, box_xyxy in rows:
        x_min, y_min, x_max, y_max = where.to_source(box_xyxy)
        # Rounded before it is judged: a box that has no area when written has none.
        placed = (round(x_min, 6), round(y_min, 6), round(x_max, 6), round(y_max, 6))
        if placed[2] <= placed[0] or placed[3] <= placed[1]:
            continue
        detections.append(Detection(label(class_id), class_id, round(min(max(score, 0.0), 1.0), 5), placed))
        if len(detections) == decode.max_results:
            break
    return Outcome(detections=tuple(detections))
