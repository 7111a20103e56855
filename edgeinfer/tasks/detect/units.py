"""Whether boxes come in pixels of the model's input or in 0..1 of it, and a look at whether that is true."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle

log = logging.getLogger(__name__)

# A sound box may stick out of the picture, but not by its size many times over.
_FAR_OUT = 4.0


class UnitsWatch:
    """width, height: what divides a box to make it 0..1. Warns once where a best box is far outside the picture."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._has_warned = False
        in_pixels = bundle.decode.box_units == "pixels"
        self.width = float(bundle.picture.width) if in_pixels else 1.0
        self.height = float(bundle.picture.height) if in_pixels else 1.0

    def look_at(self, boxes_xyxy: npt.NDArray[np.float32]) -> None:
        """boxes_xyxy: (4, n), the best first."""
        if self._has_warned or not boxes_xyxy.size:
            return
        farthest = max(boxes_xyxy[:, 0].tolist())
        if not farthest >= _FAR_OUT:
            return
        self._has_warned = True
        other = "pixels" if self._bundle.decode.box_units == "normalised" else "normalised"
        log.warning(
            "%s gives boxes up to %.4g times the picture, taken as %s; if nothing fits, say --box-units %s",
            self._bundle.name,
            farthest,
            self._bundle.decode.box_units,
            other,
        )
