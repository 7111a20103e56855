"""The frames with their results drawn on, as a video file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2

from edgeinfer.draw import annotate
from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame, Pixels
from edgeinfer.result import Result
from edgeinfer.sinks import SinkOptions

_FPS_WHEN_UNKNOWN = 30.0
_LONGEST_GAP_S = 2.0
_SIDE_MIN = 16
# .mkv knows its length in milliseconds and not its pictures.
_MISCOUNTED_MAX = 2
# What the FFmpeg of OpenCV's wheels can encode; H.264 is not among it.
_CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}


class VideoSink:
    """Every result's frame, annotated. The first frame decides the size, later ones are scaled to it.

    From a live source, a picture stands as long as it was the newest (at most 2 s), so that the video runs at the
    speed of the scene whatever the model's rate was. Without a frame there is no file. Whether all was written is
    known at `close`: the encoder does not say that a disk is full.
    """

    wants_pixels = True

    def __init__(self, uri: str, options: SinkOptions) -> None:
        self.uri = uri
        self._path = Path(uri)
        self._fps = _encodable(options.fps) if options.fps and 0.1 <= options.fps <= 1000 else _FPS_WHEN_UNKNOWN
        self._live = options.live
        self._writer: cv2.VideoWriter | None = None
        self._written = 0
        self._size = (0, 0)
        self._due_ns = 0
        self._last: Pixels | None = None
        _check_writable(self._path)

    def write(self, result: Result, frame: Frame | None) -> None:
        assert frame is not None, "a sink that wants pixels is given the frame"
        picture = frame.pixels.copy()
        annotate(picture, result, frame.outlines)
        writer = self._writer or self._begin(frame)
        if (frame.width, frame.height) != self._size:
            picture = _scaled(picture, self._size)
        if self._live:
            self._fill_gap(writer, frame.captured_ns)
        self._add(writer, picture)
        self._due_ns += round(1e9 / self._fps)
        self._last = picture

    def close(self) -> None:
        writer, self._writer = self._writer, None
        self._last = None
        if writer is None:
            if not self._written and self._path.is_file() and self._path.stat().st_size == 0:
                self._path.unlink()
            return
        writer.release()
        # The encoder never says that it could not write.
        if _pictures_in(self._path) < self._written - _MISCOUNTED_MAX:
            raise OutputError(
                f"{self.uri} is damaged: not all of {self._written} pictures could be written", hint="is the disk full?"
            )

    def _begin(self, frame: Frame) -> cv2.VideoWriter:
        # mp4v wants even sizes, and on a picture of few pixels FFmpeg's rate control aborts the process.
        self._size = (max(frame.width & ~1, _SIDE_MIN), max(frame.height & ~1, _SIDE_MIN))
        _quieten()
        codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        # Absolute: FFmpeg would take what stands before a colon for a protocol.
        writer = cv2.VideoWriter(str(self._path.absolute()), cv2.CAP_FFMPEG, codec, self._fps, self._size)
        if not writer.isOpened():
            raise OutputError(f"cannot write {self.uri}: the video encoder did not start")
        self._writer = writer
        self._due_ns = frame.captured_ns
        return writer

    def _fill_gap(self, writer: cv2.VideoWriter, captured_ns: int) -> None:
        """Repeat the last picture until the video's time has reached this frame's, within bounds."""
        period_ns = round(1e9 / self._fps)
        missing = min((captured_ns - self._due_ns) // period_ns, int(_LONGEST_GAP_S * self._fps))
        for _ in range(missing):
            if self._last is not None:
                self._add(writer, self._last)
        if captured_ns > self._due_ns:
            self._due_ns = captured_ns

    def _add(self, writer: cv2.VideoWriter, picture: Pixels) -> None:
        writer.write(picture)
        self._written += 1


def _encodable(fps: float) -> float:
    """The rate as a fraction that MPEG-4 has room for: 16 bits."""
    return round(fps, 3 if fps < 65 else 2 if fps < 650 else 1)


def _pictures_in(path: Path) -> float:
    """As the file's index says, which is written last."""
    video = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        return video.get(cv2.CAP_PROP_FRAME_COUNT) if video.isOpened() else 0.0
    finally:
        video.release()


def _quieten() -> None:
    """OpenCV warns of every picture that it cannot write; that is said once, when the file is closed."""
    if "OPENCV_LOG_LEVEL" not in os.environ:
        # The call moved between OpenCV 4 and 5.
        at: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
        at.setLogLevel(0)


def _scaled(picture: Pixels, size: tuple[int, int]) -> Pixels:
    scaled = cv2.resize(picture, size)
    return scaled.astype("uint8", copy=False)


def _check_writable(path: Path) -> None:
    """Say now, not at the first frame, that a file cannot be written."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        # OpenCV takes no other name, and crashes on it.
        raise OutputError(f"cannot write {path}: its name is not UTF-8") from None
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: a video needs a regular file")
    try:
        with path.open("wb"):
            pass
    except OSError as refused:
        raise OutputError(f"cannot write {path}: {refused.strerror}") from refused
    except ValueError as impossible:  # A NUL in the name.
        raise OutputError(f"cannot write {str(path)!r}: {impossible}") from impossible
