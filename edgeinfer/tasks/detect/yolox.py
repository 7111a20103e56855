"""YOLOX as its own export leaves it: a cell is a box relative to its place in a grid, an object, and classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.bundle.recognise import STRIDES, cells_of
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks.detect.found import NOTHING, Found, to_outcome, without_doubles
from edgeinfer.tasks.detect.head import corners
from edgeinfer.tasks.detect.yolov5 import object_head, scored_cells
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec

_FORM = "[1, cells, 5 + classes]"


class Yolox:
    """A box is its centre's distance from the cell, and the logarithm of its size, both in strides."""

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._head = object_head(bundle, specs, _FORM)
        self._least = stored_threshold(bundle.decode.score_min, self._head.spec)
        self._grid_xy, self._strides = _grid(bundle, self._head.cells)

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        cells, picked, scores, class_ids = scored_cells(self._head, raw, self._least, self._bundle.decode.score_min)
        if not scores.size:
            return NOTHING
        strides = self._strides[cells]
        # An overflow is no box, and goes as one that is not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            xywh = np.concatenate(((picked[:2] + self._grid_xy[:, cells]) * strides, np.exp(picked[2:4]) * strides))
        image = self._bundle.picture
        found = Found(corners(xywh, image.width, image.height), scores, class_ids)
        decode = self._bundle.decode
        return to_outcome(without_doubles(found, decode.iou_max), decode, where, self._bundle.label)


def _grid(bundle: Bundle, cells: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(2, cells) x and y of each cell in its grid, (cells,) its stride: finest grid first, row by row."""
    width, height = bundle.picture.width, bundle.picture.height
    fits = [strides for strides in STRIDES if cells_of(width, height, strides) == cells]
    if not fits:
        raise ModelError(
            f"{cells} cells in the output, expected {cells_of(width, height, STRIDES[0])} "
            f"of strides 8, 16 and 32 in {width}x{height}"
        )
    places, steps = [], []
    for stride in fits[0]:
        ys, xs = np.mgrid[0 : height // stride, 0 : width // stride]
        places.append(np.stack((xs.ravel(), ys.ravel())))
        steps.append(np.full(xs.size, stride))
    return np.concatenate(places, axis=1).astype(np.float32), np.concatenate(steps).astype(np.float32)
