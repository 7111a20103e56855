"""MoveNet for one body: its 17 keypoints, decoded by the model itself."""

from __future__ import annotations

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.bundle.layouts import COCO_KEYPOINTS
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Placement
from edgeinfer.result import Outcome
from edgeinfer.tasks.detect.head import only_output
from edgeinfer.tasks.keypoints import to_keypoints
from edgeinfer.tasks.threshold import stored_threshold
from edgeinfer.tensor import Array, TensorSpec, dequantize

_FORM = f"[1, 1, {COCO_KEYPOINTS}, 3]"
_NOBODY = Outcome(keypoints=())


class Movenet:
    """Keypoints are y, x in 0..1 of the input, and a score.

    All of them, in COCO's order, where one reaches `score_min`, for each place tells which it is; none where none does.
    """

    def __init__(self, bundle: Bundle, specs: tuple[TensorSpec, ...]) -> None:
        self._spec = only_output(specs, _FORM)
        if self._spec.shape[1:] != (1, COCO_KEYPOINTS, 3) or self._spec.shape[0] not in (1, -1):
            raise ModelError(f"output {self._spec.name!r} is {self._spec.describe()}, expected {_FORM}")
        self._least = stored_threshold(bundle.decode.score_min, self._spec)

    def decode(self, raw: tuple[Array, ...], where: Placement) -> Outcome:
        stored = raw[0]
        if stored.shape != (1, 1, COCO_KEYPOINTS, 3):
            raise ModelError(f"output {self._spec.name!r} came as {list(stored.shape)}, not as {self._spec.describe()}")
        # A NaN compares false.
        if self._least is None or not (stored[0, 0, :, 2] >= self._least).any():
            return _NOBODY
        y_x_score = dequantize(stored[0], self._spec.quantization)
        (keypoints,) = to_keypoints(np.take(y_x_score, (1, 0, 2), axis=2), where)
        return Outcome(keypoints=keypoints)
