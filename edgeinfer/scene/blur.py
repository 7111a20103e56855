"""What nobody shall recognise, made so coarse that nobody can."""

from __future__ import annotations

from collections.abc import Iterable

import cv2

from edgeinfer.frame import Pixels

# So much wider and higher than a box on every side: a box seldom holds all of its object.
_MARGIN = 0.1
# So many blocks along the longer side are left.
_BLOCKS = 8


def blurred(pixels: Pixels, boxes_xyxy: Iterable[tuple[float, float, float, float]]) -> Pixels:
    """A copy in which each box, 0..1 of the picture, is 8 blocks along its longer side; the picture where there is
    none."""
    places = [place for box in boxes_xyxy if (place := _place(box, pixels)) is not None]
    if not places:
        return pixels
    coarse = pixels.copy()
    for left, top, right, bottom in places:
        width, height = right - left, bottom - top
        share = min(1.0, _BLOCKS / max(width, height))
        size = max(1, round(width * share)), max(1, round(height * share))
        few = cv2.resize(coarse[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
        coarse[top:bottom, left:right] = cv2.resize(few, (width, height), interpolation=cv2.INTER_NEAREST)
    return coarse


def _place(box_xyxy: tuple[float, float, float, float], pixels: Pixels) -> tuple[int, int, int, int] | None:
    height, width = pixels.shape[:2]
    x_min, y_min, x_max, y_max = box_xyxy
    wider, higher = (x_max - x_min) * _MARGIN, (y_max - y_min) * _MARGIN
    left, top = max(0, int((x_min - wider) * width)), max(0, int((y_min - higher) * height))
    right, bottom = min(width, int((x_max + wider) * width) + 1), min(height, int((y_max + higher) * height) + 1)
    return (left, top, right, bottom) if left < right and top < bottom else None
