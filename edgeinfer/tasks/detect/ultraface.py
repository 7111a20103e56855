"""UltraFace: faces as boxes that are decoded already, with the scores of background and face."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks.detect.found import NOTHING, Found, by_score, to_outcome, without_doubles
from edgeinfer.tasks.detect.head import Head
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec

_FORM = "[1, n, 2] and [1, n, 4]"
_FACE = 1


class Ultraface:
    """Boxes are x_min, y_min, x_max, y_max in 0..1 of the input."""

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._scores, self._boxes = _heads(specs)
        check_label_count(bundle, 1)
        self._least = stored_threshold(bundle.decode.score_min, self._scores.spec)

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        stored = self._scores.view(raw)[_FACE]
        boxes = self._boxes.view(raw)
        if self._least is None:
            return NOTHING
        faces = np.flatnonzero(stored >= self._least)
        if not faces.size:
            return NOTHING
        scores = self._scores.real(stored[faces])
        order = by_score(scores)
        boxes_xyxy = self._boxes.real(boxes.take(faces[order], axis=1))
        found = Found(boxes_xyxy, scores[order], np.zeros(order.size, dtype=np.int64))
        decode = self._bundle.decode
        return to_outcome(without_doubles(found, decode.iou_max), decode, where, self._bundle.label)


def _heads(specs: tuple[TensorSpec, ...]) -> tuple[Head, Head]:
    """The scores and the boxes."""
    heads = []
    for features in (2, 4):
        fits = [
            (index, spec)
            for index, spec in enumerate(specs)
            if len(spec.shape) == 3 and spec.shape[2] == features and spec.shape[0] in (1, -1)
        ]
        if len(specs) != 2 or len(fits) != 1:
            found = ", ".join(spec.describe() for spec in specs)
            raise ModelError(f"{len(specs)} outputs ({found}), expected {_FORM}")
        index, spec = fits[0]
        heads.append(Head(index, spec, features, spec.shape[1], features_first=False))
    scores, boxes = heads
    if scores.cells != boxes.cells:
        raise ModelError(f"{boxes.cells} boxes for {scores.cells} scores")
    return scores, boxes
