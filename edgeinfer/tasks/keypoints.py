"""Keypoints of the model's input -> of the source image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.preprocess import Placement
from edgeinfer.result import Keypoint


def to_keypoints(points: npt.NDArray[np.float32], where: Placement) -> list[tuple[Keypoint, ...]]:
    """points: (n, k, 3), x and y in 0..1 of the input and a score -> the k keypoints of each of n.

    Clipped to the picture. One that is no number is 0, 0 with a score of 0: the order tells which is which, so that
    none is left out.
    """
    placed: npt.NDArray[np.float64] = points.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        placed[..., 0] = (placed[..., 0] - where.x) / where.width
        placed[..., 1] = (placed[..., 1] - where.y) / where.height
    placed[~np.isfinite(placed).all(axis=-1)] = 0.0
    np.clip(placed, 0.0, 1.0, out=placed)
    return [
        tuple((round(x, 6), round(y, 6), round(score, 5)) for x, y, score in keypoints) for keypoints in placed.tolist()
    ]
