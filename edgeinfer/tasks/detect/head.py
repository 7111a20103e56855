"""A YOLO's output as (features, cells), whichever way round the file has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import ImageInput
from edgeinfer.bundle.recognise import STRIDES, cells_of
from edgeinfer.errors import ModelError
from edgeinfer.tensor import Array, TensorSpec, dequantize


@dataclass(frozen=True, slots=True)
class Head:
    """One output. features: numbers of a cell; cells: how many, -1 where the file leaves it open."""

    index: int
    spec: TensorSpec
    features: int
    cells: int
    features_first: bool

    def view(self, raw: tuple[Array, ...]) -> Array:
        """The output as (features, cells), not copied. Raises ModelError for another shape than the file's."""
        stored = raw[self.index]
        if stored.ndim != 3 or stored.shape[0] != 1:
            raise ModelError(f"output {self.spec.name!r} came as {list(stored.shape)}, not as {self.spec.describe()}")
        view: Array = stored[0] if self.features_first else stored[0].T
        if view.shape[0] != self.features or self.cells not in (-1, view.shape[1]):
            raise ModelError(f"output {self.spec.name!r} came as {list(stored.shape)}, not as {self.spec.describe()}")
        return view

    def real(self, stored: Array) -> npt.NDArray[np.float32]:
        """Stored numbers of this output as real ones."""
        return dequantize(stored, self.spec.quantization)


def find_head(index: int, spec: TensorSpec, image: ImageInput, *, features: int | None, least: int, form: str) -> Head:
    """The orientation of an output: by the number of features where it is known, by the cells of the picture,
    else the longer side is that of the cells. Raises ModelError where nothing fits; `form` says what would.
    """
    shape = spec.shape
    if len(shape) != 3 or shape[0] not in (1, -1) or spec.dtype.kind not in "iuf":
        raise ModelError(f"output {spec.name!r} is {spec.describe()}, expected {form}")
    if spec.quantization is not None and spec.quantization.axis is not None:
        raise ModelError(f"output {spec.name!r} is quantised per channel, expected one scale")
    axis = _cells_axis(shape, image, features)
    head = Head(index, spec, shape[3 - axis], shape[axis], axis == 2)
    if head.features < least:
        raise ModelError(f"output {spec.name!r} is {spec.describe()}, expected {form}")
    return head


def _cells_axis(shape: tuple[int, ...], image: ImageInput, features: int | None) -> int:
    rules: tuple[Callable[[int], bool], ...] = (
        lambda axis: shape[3 - axis] == features,
        lambda axis: shape[axis] in _cell_counts(image),
        lambda axis: shape[axis] == -1,
        lambda axis: shape[axis] > shape[3 - axis],
    )
    for rule in rules:
        fits = [axis for axis in (1, 2) if rule(axis)]
        if len(fits) == 1:
            return fits[0]
    return 2


def _cell_counts(image: ImageInput) -> set[int]:
    cells = {cells_of(image.width, image.height, strides) for strides in STRIDES} - {0}
    return cells | {3 * count for count in cells}


def cells_reaching(scores: Array, least: np.generic) -> tuple[npt.NDArray[np.int64], Array]:
    """Cells, ascending, of (classes, cells) where any class reaches `least`, and the best score of each; as stored."""
    classes, cells = scores.shape
    if scores.strides[1] <= scores.strides[0] or classes == 1:
        best = scores.max(axis=0)
        reaching = (best >= least).nonzero()[0]
        return reaching, best[reaching]
    # One cell per row: a maximum along short rows is slow, a comparison of the whole is not.
    rows = scores.T
    reached = rows >= least
    if np.count_nonzero(reached) > cells:
        reaching = np.flatnonzero(reached.any(axis=1))
    else:
        reaching = np.unique(np.flatnonzero(reached) // classes)
    return reaching, rows[reaching].max(axis=1)


def corners(xywh: npt.NDArray[np.float32], width: float, height: float) -> npt.NDArray[np.float32]:
    """(4, n) centre x, centre y, width, height -> (4, n) x_min, y_min, x_max, y_max, divided by width and height."""
    boxes: npt.NDArray[np.float32] = np.empty((4, xywh.shape[1]), dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        half = xywh[2:] * np.float32(0.5)
        np.subtract(xywh[:2], half, out=boxes[:2])
        np.add(xywh[:2], half, out=boxes[2:])
        if (width, height) != (1.0, 1.0):
            boxes /= np.array([[width], [height], [width], [height]], dtype=np.float32)
    return boxes


def only_output(specs: tuple[TensorSpec, ...], form: str) -> TensorSpec:
    """The one output. Raises ModelError where there are more or none."""
    if len(specs) != 1:
        found = ", ".join(spec.describe() for spec in specs)
        raise ModelError(f"{len(specs)} outputs ({found}), expected one: {form}")
    return specs[0]
