"""YOLOv5 and 7: an anchor is a box, the probability of an object, and one for each class, in one output."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks.detect.found import NOTHING, Found, by_score, to_outcome, without_doubles
from edgeinfer.tasks.detect.head import Head, corners, find_head, only_output
from edgeinfer.tasks.detect.units import UnitsWatch
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec

_FORM = "[1, anchors, 5 + classes]"
_OBJECT = 4
_CLASSES = 5


class Yolov5:
    """Boxes are centre x, centre y, width, height; a score is that of the object times that of the class."""

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._head = object_head(bundle, specs, _FORM)
        self._least = stored_threshold(bundle.decode.score_min, self._head.spec)
        self._units = UnitsWatch(bundle)

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        _, picked, scores, class_ids = scored_cells(self._head, raw, self._least, self._bundle.decode.score_min)
        if not scores.size:
            return NOTHING
        found = Found(corners(picked[:_OBJECT], self._units.width, self._units.height), scores, class_ids)
        self._units.look_at(found.boxes_xyxy)
        decode = self._bundle.decode
        return to_outcome(without_doubles(found, decode.iou_max), decode, where, self._bundle.label)


def object_head(bundle: Bundle, specs: tuple[TensorSpec, ...], form: str) -> Head:
    """The one output with a box, an object and classes in each cell. Raises ModelError where it is not that."""
    features = _CLASSES + len(bundle.labels) if bundle.labels else None
    head = find_head(0, only_output(specs, form), bundle.picture, features=features, least=_CLASSES + 1, form=form)
    check_label_count(bundle, head.features - _CLASSES)
    return head


def scored_cells(
    head: Head, raw: tuple[Array, ...], least: np.generic | None, score_min: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Where object times class reaches `score_min`, the best first: cells, real features (features, n), scores,
    class ids."""
    view = head.view(raw)
    # The product reaches no more than its first factor, which is compared as stored.
    cells = np.flatnonzero(view[_OBJECT] >= least) if least is not None else np.zeros(0, dtype=np.int64)
    picked = head.real(view[:, cells])
    class_ids = picked[_CLASSES:].argmax(axis=0)
    scores = picked[_OBJECT] * picked[_CLASSES + class_ids, np.arange(cells.size)]
    # A hair of slack, as in the stored threshold: 0.5 times 0.8 must reach 0.4.
    reached = np.flatnonzero(scores >= np.float32(score_min - 1e-6))
    if reached.size:
        reached = reached[by_score(scores[reached])]
    return cells[reached], picked[:, reached], scores[reached], class_ids[reached]
