"""The frames with their results drawn on, as a video file."""

from __future__ import annotations

from pathlib import Path

import cv2

from edgeinfer.draw import annotate
from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame, Pixels
from edgeinfer.result import Result
from edgeinfer.sinks import SinkOptions

_FPS_WHEN_UNKNOWN = 30.0
_LONGEST_GAP_S = 2.0
# What the FFmpeg of OpenCV's wheels can encode; H.264 is not among it.
_CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}


class VideoSink:
    """Every result's frame, annotated. The first frame decides the size, later ones are scaled to it.

    From a live source, a picture stands as long as it was the newest (at most 2 s), so that the video runs at the
    speed of the scene whatever the model's rate was.
    """

    wants_pixels = True

    def __init__(self, uri: str, options: SinkOptions) -> None:
        self.uri = uri
        self._path = Path(uri)
        self._fps = options.fps if options.fps and 0.1 <= options.fps <= 1000 else _FPS_WHEN_UNKNOWN
        self._live = options.live
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._due_ns = 0
        self._last: Pixels | None = None
        _check_writable(self._path)

    def write(self, result: Result, frame: Frame | None) -> None:
        assert frame is not None, "a sink that wants pixels is given the frame"
        picture = frame.pixels.copy()
        annotate(picture, result)
        writer = self._writer or self._begin(frame)
        if (frame.width, frame.height) != self._size:
            picture = _scaled(picture, self._size)
        if self._live:
            self._fill_gap(writer, frame.captured_ns)
        writer.write(picture)
        self._due_ns += round(1e9 / self._fps)
        self._last = picture

    def close(self) -> None:
        writer, self._writer = self._writer, None
        self._last = None
        if writer is None:
            return
        writer.release()
        if not self._path.exists() or self._path.stat().st_size == 0:
            raise OutputError(f"cannot finish {self.uri}: nothing was written")

    def _begin(self, frame: Frame) -> cv2.VideoWriter:
        # mp4v wants even sizes.
        self._size = (frame.width & ~1 or 2, frame.height & ~1 or 2)
        codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, codec, self._fps, self._size)
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
                writer.write(self._last)
        if captured_ns > self._due_ns:
            self._due_ns = captured_ns


def _scaled(picture: Pixels, size: tuple[int, int]) -> Pixels:
    scaled = cv2.resize(picture, size)
    return scaled.astype("uint8", copy=False)


def _check_writable(path: Path) -> None:
    """Say now, not at the first frame, that a file cannot be written."""
    try:
        with path.open("wb"):
            pass
    except OSError as refused:
        raise OutputError(f"cannot write {path}: {refused.strerror}") from refused
