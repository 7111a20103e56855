"""One output that says for each cell of the picture which class it shows, as DeepLab and its like give it."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome, Segment
from edgeinfer.tasks.detect.head import only_output
from edgeinfer.tasks.segment.mask import Raster, run_lengths
from edgeinfer.tensor import Array, TensorSpec

_FORM = "[1, height, width] of class numbers, or [1, height, width, classes] or [1, classes, height, width] of scores"
_BACKGROUND = ("???", "background")
_CLASSES_MAX = 4096
_NO_CLASS = -1


class Deeplab:
    """A segment for each class that is seen, the largest first. The background, class 0 where no label says otherwise,
    is not one of them.
    """

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._bundle = bundle
        self._spec = only_output(specs, _FORM)
        self._class_axis = _class_axis(self._spec, bundle)
        classes = None if self._class_axis is None else self._spec.shape[self._class_axis]
        # Names to spare are usual: the lists say what else the training knew.
        if classes is not None and bundle.labels and len(bundle.labels) < classes:
            raise ModelError(
                f"{len(bundle.labels)} labels for the {classes} classes of {bundle.name}",
                hint="give --labels a file with one line for each class",
            )
        self._classes = classes or _CLASSES_MAX
        self._has_background = not bundle.labels or bundle.labels[0].lower() in _BACKGROUND

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        class_ids = self._class_ids(raw[0])
        raster = Raster(where, class_ids.shape[1], class_ids.shape[0])
        placed = raster.to_source(class_ids, _NO_CLASS)
        counts = np.bincount(placed.reshape(-1) + 1, minlength=2)[1:]
        if self._has_background:
            counts[0] = 0
        found = sorted((-int(counts[class_id]), class_id) for class_id in np.flatnonzero(counts).tolist())
        return Outcome(
            segments=tuple(
                Segment(
                    self._bundle.label(class_id),
                    class_id,
                    round(-negated / placed.size, 6),
                    mask=run_lengths(placed == class_id) if self._bundle.decode.masks else None,
                )
                for negated, class_id in found[: self._bundle.decode.max_results]
            )
        )

    def _class_ids(self, stored: Array) -> Array:
        """(height, width) int16: the class of each cell, -1 where there is none."""
        if stored.ndim != len(self._spec.shape) or stored.shape[0] != 1 or 0 in stored.shape:
            raise ModelError(f"output {self._spec.name!r} came as {list(stored.shape)}, not as {self._spec.describe()}")
        if self._class_axis is None:
            return np.where((stored[0] >= 0) & (stored[0] < self._classes), stored[0], _NO_CLASS).astype(np.int16)
        # One scale for all: the largest as stored is the largest in truth.
        scores = stored[0] if self._class_axis == 3 else np.moveaxis(stored[0], 0, -1)
        class_ids = scores.argmax(axis=-1)
        if scores.dtype.kind == "f":
            best = np.take_along_axis(scores, class_ids[..., None], axis=-1)[..., 0]
            class_ids[np.isnan(best)] = _NO_CLASS
        return np.asarray(class_ids, dtype=np.int16)


def _class_axis(spec: TensorSpec, bundle: Bundle) -> int | None:
    """The axis of the classes; None for a map of class numbers. Raises ModelError for any other form."""
    shape, is_single = spec.shape, spec.quantization is None or spec.quantization.axis is None
    if len(shape) == 3 and shape[0] in (1, -1) and spec.dtype.kind in "iu" and spec.quantization is None:
        return None
    if len(shape) == 4 and shape[0] in (1, -1) and spec.dtype.kind in "iuf" and is_single:
        known = [axis for axis in (1, 3) if 2 <= shape[axis] <= _CLASSES_MAX]
        named = [axis for axis in known if shape[axis] == len(bundle.labels)]
        known = named or sorted(known, key=lambda axis: shape[axis])[:1]
        if len(known) == 1:
            return known[0]
    raise ModelError(f"output {spec.name!r} is {spec.describe()}, expected {_FORM}")
