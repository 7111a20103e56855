"""YuNet: faces with five landmarks, from three grids of cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks.detect.found import NOTHING, Found, by_score, to_outcome, without_doubles
from edgeinfer.tasks.detect.head import corners
from edgeinfer.tasks.detect.levels import Level, find_levels
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec

_LANDMARKS = 5
_FORM = "[1, cells, n] with n of 1, 1, 4 and 10"


@dataclass(frozen=True, slots=True)
class _Faces:
    """scores (n,), xywh (4, n) and landmarks (5, 2, n) in pixels of the input."""

    scores: npt.NDArray[np.float32]
    xywh: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]


class Yunet:
    """A score is the geometric mean of class and object; a box is its centre's distance from the cell, and the
    logarithm of its size, in strides (Wu, Peng and Yu, 2023).

    Keypoints are right eye, left eye, tip of the nose, right and left corner of the mouth, as the person has them;
    they have no scores of their own, and bear that of the face.
    """

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._levels = find_levels(specs, bundle.picture, (1, 1, 4, 2 * _LANDMARKS), _FORM)
        check_label_count(bundle, 1)
        # Neither factor is more than 1, so that each has to reach the square at least.
        square = bundle.decode.score_min**2
        self._least = [
            (stored_threshold(square, level.heads[0].spec), stored_threshold(square, level.heads[1].spec))
            for level in self._levels
        ]

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        score_min = self._bundle.decode.score_min
        parts = [
            _faces_in(level, raw, least, score_min) for level, least in zip(self._levels, self._least, strict=True)
        ]
        scores = np.concatenate([part.scores for part in parts])
        if not scores.size:
            return NOTHING
        width, height = self._bundle.picture.width, self._bundle.picture.height
        points = np.empty((scores.size, _LANDMARKS, 3), dtype=np.float32)
        landmarks = np.concatenate([part.landmarks for part in parts], axis=2)
        points[:, :, 0] = landmarks[:, 0].T / width
        points[:, :, 1] = landmarks[:, 1].T / height
        points[:, :, 2] = scores[:, None]
        boxes_xyxy = corners(np.concatenate([part.xywh for part in parts], axis=1), width, height)
        found = Found(boxes_xyxy, scores, np.zeros(scores.size, dtype=np.int64), points)[by_score(scores)]
        decode = self._bundle.decode
        return to_outcome(without_doubles(found, decode.iou_max), decode, where, self._bundle.label)


def _faces_in(
    level: Level,
    raw: tuple[Array, ...],
    least: tuple[np.generic | None, np.generic | None],
    score_min: float,
) -> _Faces:
    """What one grid shows; bounded."""
    classes, objects, boxes, landmarks = level.heads
    class_least, object_least = least
    cells = np.zeros(0, dtype=np.int64)
    if class_least is not None and object_least is not None:
        cells = np.flatnonzero((classes.view(raw)[0] >= class_least) & (objects.view(raw)[0] >= object_least))
    with np.errstate(invalid="ignore", over="ignore"):
        scores = np.sqrt(
            np.clip(classes.real(classes.view(raw)[0, cells]), 0, 1)
            * np.clip(objects.real(objects.view(raw)[0, cells]), 0, 1)
        )
        reached = np.flatnonzero(scores >= np.float32(score_min - 1e-6))
        if reached.size:
            reached = reached[by_score(scores[reached])]
        cells = cells[reached]
        box = boxes.real(boxes.view(raw).take(cells, axis=1))
        places = level.corners_of(cells)
        xywh = np.concatenate((box[:2] + places, np.exp(box[2:]))) * level.stride
        offsets = landmarks.real(landmarks.view(raw).take(cells, axis=1)).reshape(_LANDMARKS, 2, -1)
        return _Faces(scores[reached], xywh, (offsets + places) * level.stride)
