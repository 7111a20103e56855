"""YOLOv8 and 11 for poses: a cell is a box, a score for each class, and keypoints."""

from __future__ import annotations

import ast

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.bundle.layouts import COCO_KEYPOINTS
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks.detect.found import NOTHING, Found, by_score, to_outcome, without_doubles
from edgeinfer.tasks.detect.head import cells_reaching, corners, find_head, only_output
from edgeinfer.tasks.detect.units import UnitsWatch
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec

_BOX = 4
_FORM = "[1, 4 + classes + 3 x keypoints, cells], or that turned round"


class Yolov8Pose:
    """Detections with keypoints, in the model's order. Boxes and keypoints are in the same units.

    After Ultralytics' documented export; the keypoints' scores are probabilities already. `kpt_shape` of the file's
    metadata says how many there are, and whether they have a score; without it they are COCO's 17 with one. A keypoint
    without a score of its own bears that of the body.
    """

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._count, self._numbers = keypoint_shape(bundle.file.metadata.extra.get("kpt_shape"))
        tail = self._count * self._numbers
        features = _BOX + len(bundle.labels) + tail if bundle.labels else None
        spec = only_output(specs, _FORM)
        self._head = find_head(0, spec, bundle.picture, features=features, least=_BOX + 1 + tail, form=_FORM)
        self._classes = self._head.features - _BOX - tail
        check_label_count(bundle, self._classes)
        self._least = stored_threshold(bundle.decode.score_min, self._head.spec)
        self._units = UnitsWatch(bundle)

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        stored = self._head.view(raw)
        scores = stored[_BOX : _BOX + self._classes]
        if self._least is None:
            return NOTHING
        cells, best = cells_reaching(scores, self._least)
        if not cells.size:
            return NOTHING
        real_scores = self._head.real(best)
        order = by_score(real_scores)
        cells, real_scores = cells[order], real_scores[order]
        found = Found(
            corners(self._head.real(stored[:_BOX].take(cells, axis=1)), self._units.width, self._units.height),
            real_scores,
            scores.take(cells, axis=1).argmax(axis=0),
            self._points(self._head.real(stored[_BOX + self._classes :].take(cells, axis=1)), real_scores),
        )
        self._units.look_at(found.boxes_xyxy)
        decode = self._bundle.decode
        return to_outcome(without_doubles(found, decode.iou_max), decode, where, self._bundle.label)

    def _points(self, numbers: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        points = np.empty((scores.size, self._count, 3), dtype=np.float32)
        points[:, :, : self._numbers] = numbers.reshape(self._count, self._numbers, -1).transpose(2, 0, 1)
        if self._numbers == 2:
            points[:, :, 2] = scores[:, None]
        points[:, :, 0] /= self._units.width
        points[:, :, 1] /= self._units.height
        return points


def keypoint_shape(stated: str | None) -> tuple[int, int]:
    """How many keypoints, and numbers of each (2 or 3), by Ultralytics' `kpt_shape`. Raises ModelError."""
    if stated is None:
        return COCO_KEYPOINTS, 3
    try:
        shape = ast.literal_eval(stated)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        shape = None
    if (
        not isinstance(shape, (list, tuple))
        or len(shape) != 2
        or not all(isinstance(size, int) for size in shape)
        or not 1 <= shape[0] <= 1000
        or shape[1] not in (2, 3)
    ):
        raise ModelError(f"kpt_shape of the metadata is {stated[:40]!r}, expected [keypoints, 2 or 3]")
    return shape[0], shape[1]
