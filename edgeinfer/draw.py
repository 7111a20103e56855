"""Results drawn on a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edgeinfer.bundle.layouts import COCO_KEYPOINTS
from edgeinfer.frame import Outline, Pixels
from edgeinfer.result import Box, Classification, Detection, Keypoint, Result, RunLengths, Segment

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
_KEYPOINT_SCORE_MIN = 0.25
# Pairs of COCO's keypoints (https://cocodataset.org/#keypoints-2020) that a limb or a side of the body joins.
_COCO_LIMBS = (
    *((0, 1), (0, 2), (1, 3), (2, 4)),
    *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
    *((5, 11), (6, 12), (11, 12)),
    *((11, 13), (13, 15), (12, 14), (14, 16)),
)
_DARK = (24, 24, 24)
_LIGHT = (255, 255, 255)
_WHOLE_XYXY = (0.0, 0.0, 1.0, 1.0)


def annotate(pixels: Pixels, result: Result, outlines: Sequence[Outline] = ()) -> None:
    """Draw what was found into `pixels` (height, width, 3) uint8 BGR: masks, boxes with labels and scores, bodies and
    faces, or the best classes; and the outlines, such as those of zones.
    """
    for line, segment in enumerate(result.segments or ()):
        _draw_segment(pixels, segment, line)
    for outline in outlines:
        _draw_outline(pixels, outline)
    for detection in result.detections or ():
        _draw_detection(pixels, detection)
    for line, found in enumerate(result.classes or ()):
        _draw_class(pixels, found, line)
    if result.keypoints:
        _draw_keypoints(pixels, result.keypoints, _COLOURS[0])
    if result.inferred_age_ms is not None:
        _draw_text(pixels, f"reused, {result.inferred_age_ms / 1000:.1f} s", (0, pixels.shape[0]), _DARK)


def _draw_detection(pixels: Pixels, detection: Detection) -> None:
    height = pixels.shape[0]
    left, top, right, bottom = _in_pixels(detection.box_xyxy, pixels)
    for inner in detection.inner or ():
        for line, segment in enumerate(inner.segments or ()):
            _draw_segment(pixels, segment, line, inner.crop_xyxy or _WHOLE_XYXY, detection.box_xyxy)
    colour = _COLOURS[detection.class_id % len(_COLOURS)]
    cv2.rectangle(pixels, (left, top), (right, bottom), colour, max(1, round(height / 240)), cv2.LINE_AA)
    if detection.keypoints:
        _draw_keypoints(pixels, detection.keypoints, colour)
    classes = [f", {_caption(inner.classes[0])}" for inner in detection.inner or () if inner.classes]
    _draw_text(pixels, _caption(detection) + "".join(classes), (left, top), colour)
    for inner in detection.inner or ():
        for each in inner.detections or ():
            _draw_detection(pixels, each)
        if inner.keypoints:
            _draw_keypoints(pixels, inner.keypoints, colour)


def _draw_keypoints(pixels: Pixels, keypoints: tuple[Keypoint, ...], colour: tuple[int, int, int]) -> None:
    """Dots, and COCO's limbs between them where there are 17; what scores too low is left out."""
    height, width = pixels.shape[:2]
    places = [
        (round(x * width), round(y * height)) if score >= _KEYPOINT_SCORE_MIN else None for x, y, score in keypoints
    ]
    thickness = max(1, round(height / 240))
    for begin, end in _COCO_LIMBS if len(keypoints) == COCO_KEYPOINTS else ():
        start, stop = places[begin], places[end]
        if start is not None and stop is not None:
            cv2.line(pixels, start, stop, colour, thickness, cv2.LINE_AA)
    for place in places:
        if place is not None:
            cv2.circle(pixels, place, 2 * thickness, _LIGHT, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(pixels, place, 2 * thickness, colour, thickness, cv2.LINE_AA)


def _draw_segment(
    pixels: Pixels, segment: Segment, line: int, mask_xyxy: Box = _WHOLE_XYXY, list_xyxy: Box = _WHOLE_XYXY
) -> None:
    """The mask as a veil, where there is one, and the caption at its box, or in the list of classes.

    mask_xyxy, list_xyxy: where these two lie.
    """
    colour = _COLOURS[(segment.class_id if segment.box_xyxy is None else line) % len(_COLOURS)]
    left, top, right, bottom = _in_pixels(mask_xyxy, pixels)
    seen = pixels[top:bottom, left:right]
    if segment.mask is not None and seen.size:
        mask = cv2.resize(_mask(segment.mask), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR) > 127
        # Blended in whole numbers, and only there.
        seen[mask] = (seen[mask].astype(np.uint16) + np.array(colour, dtype=np.uint16)) >> 1
    caption = _short(segment.label) + f" {100 * segment.area:.1f} %"
    if segment.box_xyxy is None:
        left, top, _, _ = _in_pixels(list_xyxy, pixels)
        _draw_text(pixels, caption, (left, top + (line + 1) * (_text_height(pixels) + 6)), colour)
        return
    left, top, right, bottom = _in_pixels(segment.box_xyxy, pixels)
    height = pixels.shape[0]
    cv2.rectangle(pixels, (left, top), (right, bottom), colour, max(1, round(height / 240)), cv2.LINE_AA)
    _draw_text(pixels, caption, (left, top), colour)


def _in_pixels(box_xyxy: Box, pixels: Pixels) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    x_min, y_min, x_max, y_max = box_xyxy
    return round(x_min * width), round(y_min * height), round(x_max * width), round(y_max * height)


def _mask(runs: RunLengths) -> npt.NDArray[np.uint8]:
    """(height, width): 255 inside, 0 outside."""
    is_inside = np.arange(len(runs.counts)) % 2 == 1
    inside = np.repeat(is_inside, runs.counts).astype(np.uint8) * np.uint8(255)
    return inside.reshape(runs.height, runs.width)


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
    track = "" if isinstance(found, Classification) or found.track_id is None else f" #{found.track_id}"
    return f"{_short(found.label)}{track} {found.score:.2f}"


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_MAX else label[: _LABEL_MAX - 3] + "..."


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
