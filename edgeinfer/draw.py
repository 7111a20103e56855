"""Results drawn on a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edgeinfer.frame import Outline, Pixels
from edgeinfer.result import Classification, Detection, Result

# Okabe and Ito's palette, told apart by colour-blind eyes (https://jfly.uni-koeln.de/color/), as blue-green-red.
_COLOURS = (
    (0, 94, 213),
    (178, 114, 0),
    (115, 158, 0),
    (0, 159, 230),
    (167, 121, 204),
    (233, 180, 86),
    (66, 228, 240),
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LABEL_MAX = 40
_DARK = (24, 24, 24)
_LIGHT = (255, 255, 255)


def annotate(pixels: Pixels, result: Result, outlines: Sequence[Outline] = ()) -> None:
    """Draw boxes with labels and scores, or the best classes, into `pixels` (height, width, 3) uint8 BGR."""
    for outline in outlines:
        _draw_outline(pixels, outline)
    for detection in result.detections or ():
        _draw_detection(pixels, detection)
    for line, found in enumerate(result.classes or ()):
        _draw_class(pixels, found, line)
    if result.inferred_age_ms is not None:
        _draw_text(pixels, f"reused, {result.inferred_age_ms / 1000:.1f} s", (0, pixels.shape[0]), _DARK)


def _draw_detection(pixels: Pixels, detection: Detection) -> None:
    height, width = pixels.shape[:2]
    left, top, right, bottom = (
        round(share * size) for share, size in zip(detection.box_xyxy, (width, height) * 2, strict=True)
    )
    colour = _COLOURS[detection.class_id % len(_COLOURS)]
    cv2.rectangle(pixels, (left, top), (right, bottom), colour, max(1, round(height / 240)), cv2.LINE_AA)
    _draw_text(pixels, _caption(detection), (left, top), colour)


def _draw_outline(pixels: Pixels, outline: Outline) -> None:
    height, width = pixels.shape[:2]
    points = np.array([(round(x * (width - 1)), round(y * (height - 1))) for x, y in outline.points], dtype=np.int32)
    thickness = max(1, round(height / 240))
    cv2.polylines(pixels, [points], outline.closed, _LIGHT, thickness + 2, cv2.LINE_AA)
    cv2.polylines(pixels, [points], outline.closed, _DARK, thickness, cv2.LINE_AA)
    x, y = points[points[:, 1].argmin()].tolist()
    _draw_text(pixels, outline.name, (x, y), _DARK)


def _draw_class(pixels: Pixels, found: Classification, line: int) -> None:
    text_height = _text_height(pixels)
    place = (0, (line + 1) * (text_height + 6))
    _draw_text(pixels, _caption(found), place, _COLOURS[line % len(_COLOURS)])


def _caption(found: Detection | Classification) -> str:
    label = found.label if len(found.label) <= _LABEL_MAX else found.label[: _LABEL_MAX - 3] + "..."
    track = "" if isinstance(found, Classification) or found.track_id is None else f" #{found.track_id}"
    return f"{label}{track} {found.score:.2f}"


def _text_height(pixels: Pixels) -> int:
    return max(9, round(int(pixels.shape[0]) / 44))


def _draw_text(pixels: Pixels, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Text on a plate of `colour` that stands on `place`, moved into the picture where it would stick out."""
    text_height = _text_height(pixels)
    scale = text_height / 22.0  # Hershey Simplex is 22 units high at scale 1.
    (text_width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    left = max(0, min(place[0], pixels.shape[1] - text_width - 4))
    base = max(text_height + 4, place[1])
    cv2.rectangle(pixels, (left, base - text_height - 4), (left + text_width + 4, base), colour, cv2.FILLED)
    ink = _DARK if sum(colour) > 380 else _LIGHT
    cv2.putText(pixels, text, (left + 2, base - 3), _FONT, scale, ink, 1, cv2.LINE_AA)
