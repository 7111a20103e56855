"""YOLOv8 and 11: a cell is a box and a score for each class; in one output, or boxes and scores in two."""

from __future__ import annotations

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks.detect.found import NOTHING, Found, by_score, to_outcome, without_doubles
from edgeinfer.tasks.detect.head import Head, cells_reaching, corners, find_head
from edgeinfer.tasks.detect.units import UnitsWatch
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec

_FORM = "[1, 4 + classes, cells], or that turned round, or [1, 4, cells] and [1, classes, cells]"
_BOX = 4


class Yolov8:
    """Boxes are centre x, centre y, width, height; scores are probabilities."""

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._boxes, self._scores = _heads(bundle, specs)
        # In one output the scores follow the box, in two they are alone.
        self._first_score = _BOX if self._boxes is self._scores else 0
        check_label_count(bundle, self._scores.features - self._first_score)
        self._least = stored_threshold(bundle.decode.score_min, self._scores.spec)
        self._units = UnitsWatch(bundle)

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        boxes = self._boxes.view(raw)
        scores = self._scores.view(raw)[self._first_score :]
        if boxes.shape[1] != scores.shape[1]:
            raise ModelError(f"{boxes.shape[1]} boxes for {scores.shape[1]} scores")
        if self._least is None:
            return NOTHING
        cells, best = cells_reaching(scores, self._least)
        if not cells.size:
            return NOTHING
        real_scores = self._scores.real(best)
        order = by_score(real_scores)
        cells = cells[order]
        xywh = self._boxes.real(boxes[:_BOX].take(cells, axis=1))
        found = Found(
            corners(xywh, self._units.width, self._units.height),
            real_scores[order],
            scores.take(cells, axis=1).argmax(axis=0),
        )
        self._units.look_at(found.boxes_xyxy)
        decode = self._bundle.decode
        return to_outcome(without_doubles(found, decode.iou_max), decode, where, self._bundle.label)


def _heads(bundle: Bundle, specs: tuple[TensorSpec, ...]) -> tuple[Head, Head]:
    """The head with the boxes and that with the scores; the same one where one output holds both."""
    classes = len(bundle.labels) or None
    if len(specs) == 1:
        features = None if classes is None else _BOX + classes
        head = find_head(0, specs[0], bundle.picture, features=features, least=_BOX + 1, form=_FORM)
        return head, head
    if len(specs) != 2:
        found = ", ".join(spec.describe() for spec in specs)
        raise ModelError(f"{len(specs)} outputs ({found}), expected {_FORM}")
    boxes_index = _boxes_index(specs)
    boxes = find_head(boxes_index, specs[boxes_index], bundle.picture, features=_BOX, least=_BOX, form=_FORM)
    scores_index = 1 - boxes_index
    scores = find_head(scores_index, specs[scores_index], bundle.picture, features=classes, least=1, form=_FORM)
    if boxes.features != _BOX or boxes.cells != scores.cells:
        raise ModelError(f"outputs {specs[0].describe()} and {specs[1].describe()}, expected {_FORM}")
    return boxes, scores


def _boxes_index(specs: tuple[TensorSpec, ...]) -> int:
    """Which of two outputs holds boxes: that with 4 features; of two such, that whose name says so."""
    fits = [index for index, spec in enumerate(specs) if _BOX in spec.shape[1:]]
    if len(fits) == 2:
        fits = [index for index in fits if "box" in specs[index].name.lower()]
    if len(fits) != 1:
        raise ModelError(
            f"outputs {specs[0].name!r} {specs[0].describe()} and {specs[1].name!r} {specs[1].describe()} "
            "do not tell which holds the boxes"
        )
    return fits[0]
