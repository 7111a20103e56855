"""A head in outputs of their own for each grid: which output belongs to which stride."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import ImageInput
from edgeinfer.bundle.layouts import LEVEL_STRIDES, level_cells
from edgeinfer.errors import ModelError
from edgeinfer.tasks.detect.head import Head
from edgeinfer.tensor import TensorSpec


@dataclass(frozen=True, slots=True)
class Level:
    """One grid. heads: its outputs, in the order of the features asked for. columns: cells in a row."""

    stride: int
    columns: int
    heads: tuple[Head, ...]

    def corners_of(self, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(2, n): x and y of each cell's upper left corner, in strides."""
        return np.stack((cells % self.columns, cells // self.columns)).astype(np.float32)


def find_levels(
    specs: tuple[TensorSpec, ...], image: ImageInput, features: tuple[int, ...], form: str
) -> tuple[Level, ...]:
    """For each stride the outputs [1, cells, n] with n of `features`, by their cells; where these are free, by the
    stride that ends their names. Raises ModelError where they are not that; `form` says what would be.
    """
    found = ", ".join(spec.describe() for spec in specs)
    wrong = ModelError(f"{len(specs)} outputs ({found}), expected {form} for each of the strides 8, 16 and 32")
    if len(specs) != 3 * len(features) or any(
        len(spec.shape) != 3 or spec.shape[0] not in (1, -1) or spec.dtype.kind not in "iuf" for spec in specs
    ):
        raise wrong
    counts = level_cells(image.width, image.height)
    left = list(range(len(specs)))
    levels = []
    for stride, cells in zip(LEVEL_STRIDES, counts, strict=True):
        heads = []
        for feature in features:
            fits = [index for index in left if _is_of(specs[index], stride, cells, feature)]
            if not fits:
                raise wrong
            left.remove(fits[0])
            spec = specs[fits[0]]
            if spec.quantization is not None and spec.quantization.axis is not None:
                raise ModelError(f"output {spec.name!r} is quantised per channel, expected one scale")
            heads.append(Head(fits[0], spec, feature, cells, features_first=False))
        levels.append(Level(stride, image.width // stride, tuple(heads)))
    return tuple(levels)


def _is_of(spec: TensorSpec, stride: int, cells: int, feature: int) -> bool:
    if spec.shape[1] == -1:
        return spec.shape[2] == feature and spec.name.rpartition("_")[2] == str(stride)
    return spec.shape[1:] == (cells, feature)
