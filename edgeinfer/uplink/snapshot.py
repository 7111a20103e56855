"""Now and then a picture of what a camera sees, as JPEG on a topic of its own; never spooled."""

from __future__ import annotations

import cv2

from edgeinfer.clock import ClockState, rfc3339
from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.uplink.publication import Publication
from edgeinfer.uplink.topics import Topics

_QUALITY = 80
_WIDTH_MAX = 1280


class Snapshots:
    """Which frames of a pipeline are sent: the first, and then one every `every_s` seconds by the frames' own time."""

    def __init__(self, every_s: float) -> None:
        self._every_ns = round(every_s * 1e9)
        self._due_ns: int | None = None

    def takes(self, frame: Frame) -> bool:
        """Whether this frame is to be sent."""
        now_ns = frame.captured_ns
        if self._due_ns is not None and now_ns < self._due_ns:
            return False
        self._due_ns = now_ns + self._every_ns
        return True


def snapshot(frame: Frame, pipeline: str, topics: Topics, clock: ClockState) -> Publication:
    """The picture at 1280 pixels' width at most; the broker keeps the last one. Raises OutputError.

    When it was taken, by what clock, and the number of its frame are user properties: a JPEG has no place for them.
    """
    return Publication(
        topics.snapshots(pipeline),
        _jpeg(frame),
        qos=0,
        retain=True,
        content_type="image/jpeg",
        user=(("captured_at", rfc3339(frame.captured_unix_ns)), ("clock", clock), ("seq", str(frame.seq))),
    )


def _jpeg(frame: Frame) -> bytes:
    height, width = frame.pixels.shape[:2]
    share = min(1.0, _WIDTH_MAX / width)
    size = (round(width * share), max(1, round(height * share)))
    try:
        pixels = frame.pixels if share == 1.0 else cv2.resize(frame.pixels, size, interpolation=cv2.INTER_AREA)
        is_done, encoded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    except cv2.error as refused:
        raise OutputError(f"frame {frame.seq} cannot be made a JPEG: {refused}") from refused
    if not is_done:
        raise OutputError(f"frame {frame.seq} cannot be made a JPEG")
    return encoded.tobytes()
