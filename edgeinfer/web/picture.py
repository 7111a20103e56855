"""A result drawn on its frame, as a JPEG for a page."""

from __future__ import annotations

import cv2

from edgeinfer.draw import annotate
from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.result import Result

_WIDTH_MAX = 640
_QUALITY = 75


def picture_of(result: Result, frame: Frame) -> bytes:
    """At most 640 pixels wide. Raises OutputError."""
    height, width = frame.pixels.shape[:2]
    share = min(1.0, _WIDTH_MAX / width)
    try:
        if share < 1.0:
            # Made small first: drawing and encoding cost by the pixel.
            pixels = cv2.resize(frame.pixels, (round(width * share), max(1, round(height * share))), dst=None)
        else:
            pixels = frame.pixels.copy()
        annotate(pixels, result, frame.outlines)  # type: ignore[arg-type]  # OpenCV's stubs know no dtype.
        is_done, encoded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    except cv2.error as refused:
        raise OutputError(f"frame {frame.seq} cannot be made a JPEG: {refused}") from refused
    if not is_done:
        raise OutputError(f"frame {frame.seq} cannot be made a JPEG")
    return encoded.tobytes()
