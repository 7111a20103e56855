"""An OpenCV capture that another thread may close, and that keeps FFmpeg quiet."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import cv2

from edgeinfer.frame import Pixels
from edgeinfer.sources.buffers import Buffers

# AV_LOG_QUIET. Read by OpenCV when the first capture opens; damaged streams print a line per block otherwise.
_FFMPEG_QUIET = "-8"
# Whole seconds, for the process, read by OpenCV at the first wait: short, so that a driver counts up to its own
# timeout and notices a close.
_V4L2_SELECT_TIMEOUT_S = "1"
_LOG_SILENT = 0


def open_capture(path: str, backend: int, parameters: Sequence[int] = ()) -> Capture | None:
    """Open by path or URL; None where OpenCV cannot."""
    _quieten()
    try:
        capture = cv2.VideoCapture(path, backend, list(parameters))
    except cv2.error:
        return None
    if not capture.isOpened():
        capture.release()
        return None
    return Capture(capture)


class Capture:
    """A `cv2.VideoCapture` whose `close` never pulls the device from under a running `read`."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._buffers = Buffers()
        self._reading = threading.Lock()
        self._is_closed = False
        self._closing = threading.Event()

    @property
    def closed(self) -> bool:
        return self._is_closed

    def read(self) -> Pixels | None:
        """The next picture as a fresh array; None where there is none, or once closed."""
        return self._with_memory(self._capture.read)

    def grab(self) -> bool:
        """The first half of `read`: decode the next picture, or pass over it. Whether there was one."""
        with self._reading:
            is_there = not self._is_closed and self._grab()
        if self._is_closed:
            self._release_if_idle()
        return is_there

    def retrieve(self) -> Pixels | None:
        """The second half: give the picture that was decoded."""
        return self._with_memory(self._capture.retrieve)

    def get(self, prop: int) -> float:
        """A property; 0 where the backend does not know it, or once closed."""
        with self._reading:
            return 0.0 if self._is_closed else float(self._capture.get(prop))

    def set(self, prop: int, value: float) -> bool:
        with self._reading:
            return not self._is_closed and bool(self._capture.set(prop, value))

    def wait_closed(self, seconds: float) -> bool:
        """Sleep, unless closed meanwhile: True then."""
        return self._closing.wait(seconds)

    def close(self) -> None:
        """Let go now, or, when another thread reads, as soon as its call returns."""
        self._is_closed = True
        self._closing.set()
        self._release_if_idle()

    def _with_memory(self, take: Callable[[Any], tuple[bool, Any]]) -> Pixels | None:
        with self._reading:
            pixels = None if self._is_closed else self._take(take)
        if self._is_closed:
            self._release_if_idle()
        return pixels

    def _take(self, take: Callable[[Any], tuple[bool, Any]]) -> Pixels | None:
        buffer = self._buffers.free()
        try:
            there, pixels = take(buffer)
        except cv2.error:
            # An empty picture from a driver: OpenCV fails to convert it.
            return None
        if not there or pixels is None or not pixels.size:
            return None
        picture: Pixels = pixels
        if picture is not buffer:
            self._buffers.keep(picture)
        return picture

    def _grab(self) -> bool:
        try:
            return bool(self._capture.grab())
        except cv2.error:
            return False

    def _release_if_idle(self) -> None:
        # Releasing beneath a read crashes the process. The reader looks at `closed` after it let go of the lock.
        if self._reading.acquire(blocking=False):
            try:
                self._capture.release()
            finally:
                self._reading.release()


def _quieten() -> None:
    """Once, before the first capture: what the user has set stays."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_QUIET)
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", _V4L2_SELECT_TIMEOUT_S)
    if "OPENCV_LOG_LEVEL" not in os.environ:
        # What OpenCV warns of is said again, better, by the driver. The call moved between OpenCV 4 and 5.
        at: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
        at.setLogLevel(_LOG_SILENT)
