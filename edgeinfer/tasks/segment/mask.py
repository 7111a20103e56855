"""A mask in cells of the model's input -> cells of the source image, and the lengths of its runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.preprocess import Placement
from edgeinfer.result import RunLengths
from edgeinfer.tensor import Array

# More runs than this is no shape but noise, and is not written out.
RUNS_MAX = 20_000


class Raster:
    """The cells of the source that cells (height, width) of the model's input show, never finer than these.

    As fine where the whole picture is in the input; coarser where it is cropped, so that a mask of a picture which
    sticks far out of the input is no larger than that of one which fills it.
    """

    def __init__(self, where: Placement, width: int, height: int) -> None:
        self._columns, self._has_columns = _places(where.x, where.width, width)
        self._rows, self._has_rows = _places(where.y, where.height, height)
        self.width, self.height = len(self._columns), len(self._rows)

    def to_source(self, cells: Array, outside: int) -> Array:
        """(height, width) of the input -> (height, width) of the source; `outside` where the input shows nothing."""
        placed: Array = cells[self._rows[:, None], self._columns]
        placed[~self._has_rows] = outside
        placed[:, ~self._has_columns] = outside
        return placed


def _places(start: float, extent: float, cells: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each cell of the source the one of the input that shows its centre, and whether there is one."""
    count = min(cells, max(1, round(extent * cells)))
    centres = np.floor((start + (np.arange(count) + 0.5) / count * extent) * cells).astype(np.int64)
    inside = (centres >= 0) & (centres < cells)
    return np.clip(centres, 0, cells - 1), inside


def run_lengths(mask: npt.NDArray[np.bool_]) -> RunLengths | None:
    """The runs of a mask (height, width), those outside first; None where there are too many."""
    height, width = mask.shape
    flat = mask.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if changes.size >= RUNS_MAX:
        return None
    counts = np.diff(changes, prepend=0, append=flat.size).tolist()
    return RunLengths(width, height, tuple([0, *counts] if flat[0] else counts))
