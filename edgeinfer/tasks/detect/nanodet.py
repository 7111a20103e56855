"""NanoDet: for each cell of three grids class scores, and the distances of a box's sides as distributions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.bundle.layouts import DISTANCE_BINS
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks.detect.found import NOTHING, Found, by_score, to_outcome, without_doubles
from edgeinfer.tasks.detect.head import cells_reaching
from edgeinfer.tasks.detect.levels import Level, find_levels
from edgeinfer.tasks.labels import check_label_count
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec

_DISTANCES = 4 * DISTANCE_BINS
_FORM = f"[1, cells, classes] and [1, cells, {_DISTANCES}]"
_BINS = np.arange(DISTANCE_BINS, dtype=np.float32)[None, :, None]


class Nanodet:
    """A side's distance from the cell's centre is the mean of its distribution over 0 to 7 strides.

    After Generalized Focal Loss (Li et al., 2020), whose head it is.
    """

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        classes = _class_count(specs)
        self._levels = find_levels(specs, bundle.picture, (classes, _DISTANCES), _FORM)
        check_label_count(bundle, classes)
        self._least = [stored_threshold(bundle.decode.score_min, level.heads[0].spec) for level in self._levels]

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        parts = [
            _found_in(level, raw, least)
            for level, least in zip(self._levels, self._least, strict=True)
            if least is not None
        ]
        scores = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, np.float32)
        if not scores.size:
            return NOTHING
        image, decode = self._bundle.picture, self._bundle.decode
        size = np.array([image.width, image.height] * 2, dtype=np.float32)[:, None]
        boxes_xyxy = (np.concatenate([part[0] for part in parts], axis=1) / size).astype(np.float32)
        class_ids = np.concatenate([part[2] for part in parts])
        found = Found(boxes_xyxy, scores, class_ids)[by_score(scores)]
        return to_outcome(without_doubles(found, decode.iou_max), decode, where, self._bundle.label)


def _found_in(
    level: Level, raw: tuple[Array, ...], least: np.generic
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Boxes (4, n) in pixels of the input, scores and class ids of what one grid shows; bounded."""
    classes, distances = level.heads
    stored = classes.view(raw)
    cells, best = cells_reaching(stored, least)
    scores = classes.real(best)
    if scores.size:
        order = by_score(scores)
        cells, scores = cells[order], scores[order]
    sides = _means(distances.real(distances.view(raw).take(cells, axis=1))) * level.stride
    centres = (level.corners_of(cells) + 0.5) * level.stride
    boxes_xyxy = np.concatenate((centres - sides[:2], centres + sides[2:]))
    return boxes_xyxy, scores, stored.take(cells, axis=1).argmax(axis=0)


def _means(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(4 * bins, n) logits -> (4, n) means of the distributions, in bins."""
    bins = logits.reshape(4, DISTANCE_BINS, -1)
    with np.errstate(invalid="ignore", over="ignore"):
        weights = np.exp(bins - bins.max(axis=1, keepdims=True))
        means: npt.NDArray[np.float32] = (weights * _BINS).sum(axis=1) / weights.sum(axis=1)
    return means


def _class_count(specs: tuple[TensorSpec, ...]) -> int:
    """Classes, by the outputs that are no distances; where both have as many features, they cannot be told apart."""
    sizes = {spec.shape[2] for spec in specs if len(spec.shape) == 3} - {_DISTANCES}
    if len(sizes) != 1:
        found = ", ".join(spec.describe() for spec in specs)
        raise ModelError(f"{len(specs)} outputs ({found}), expected {_FORM} for each of the strides 8, 16 and 32")
    return sizes.pop()
