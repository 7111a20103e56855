"""A video file: every frame, in order, with its place in time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.frame import Frame, Pixels
from edgeinfer.sources.capture import Capture, open_capture
from edgeinfer.sources.decoding import DecoderPace
from edgeinfer.sources.options import FPS_MAX, SourceOptions, refuse_picture_options
from edgeinfer.sources.words import read_head, sniff

# Files whose header counts the frames, by their first bytes; elsewhere OpenCV multiplies duration by rate.
_COUNTED = ((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (8, b"AVI "))
_MATROSKA = b"\x1aE\xdf\xa3"

# More threads need so many times the frames that they decode once more, to make up for that.
_LONG = 5

log = logging.getLogger(__name__)


def open_video(word: str, options: SourceOptions, clock: Clock) -> VideoSource:
    """Open a video file with FFmpeg; raises SourceError where it is none."""
    refuse_picture_options(options, word, "a video file")
    path = Path(word)
    head = read_head(path)
    if sniff(head) == "text":
        # FFmpeg would follow a playlist to other files and hosts.
        raise SourceError(f"{word!r} is text, not a video")
    # A path beginning with a scheme-like name or a dash must stay a path.
    absolute = str(path.absolute())
    capture = open_capture(absolute, cv2.CAP_FFMPEG, (cv2.CAP_PROP_N_THREADS, 1))
    if capture is None:
        raise SourceError(f"{word!r} is no video that can be read", hint="it may be cut off, or of an unknown format")
    return VideoSource(
        word, capture, head, clock, open_faster=lambda: open_capture(absolute, cv2.CAP_FFMPEG), pace=DecoderPace()
    )


class VideoSource:
    """Frames of a file, none dropped; an end that comes too early is an error, after all that could be read.

    `open_faster` opens the file once more, with as many decoding threads as OpenCV gives by itself, for when `pace`
    says that these may help.
    """

    live = False

    def __init__(
        self,
        uri: str,
        capture: Capture,
        head: bytes,
        clock: Clock,
        *,
        open_faster: Callable[[], Capture | None] | None = None,
        pace: DecoderPace | None = None,
    ) -> None:
        self.uri = uri
        self.fps = _sensible_fps(capture.get(cv2.CAP_PROP_FPS))
        self._frames_said = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._head = head
        self._capture = capture
        self._clock = clock
        self._open_faster = open_faster
        self._pace = pace
        self._before: Pixels | None = None
        self._is_closed = False
        self._seq = 0
        self._position_s = 0.0

    @property
    def skipped(self) -> Mapping[str, str]:
        return {}

    def read(self) -> Frame | None:
        if self._before is not None:
            self._go_on_faster(self._before)
        pixels = self._capture.read() if self._pace is None else self._read_looking(self._pace)
        captured_ns, captured_unix_ns = self._clock.monotonic_ns(), self._clock.unix_ns()
        if self._capture.closed:
            return None
        if pixels is None:
            self._check_end()
            return None
        self._position_s = self._next_position_s()
        seq, self._seq = self._seq, self._seq + 1
        return Frame(pixels, seq, captured_ns, captured_unix_ns, self.uri, self._position_s)

    def close(self) -> None:
        self._is_closed = True
        self._capture.close()

    def _read_looking(self, pace: DecoderPace) -> Pixels | None:
        """Read, and see whether more threads would help from the next frame on."""
        begun_ns = self._clock.monotonic_ns()
        is_there = self._capture.grab()
        decoded_ns = self._clock.monotonic_ns()
        pixels = self._capture.retrieve() if is_there else None
        if pixels is None:
            return None
        if pace.wants_more(begun_ns, decoded_ns, self._clock.monotonic_ns()) and self._is_long():
            self._before = pixels
        elif pace.is_settled:
            self._pace = None
        return pixels

    def _is_long(self) -> bool:
        """Whether there is much more to come than what is decoded once more; so, too, where the file does not say."""
        said = self._frames_said
        return not 0 < said < 1e9 or said > _LONG * (self._seq + 1)

    def _go_on_faster(self, last: Pixels) -> None:
        """Go on behind the last picture in the file opened once more; not where another picture lies there."""
        pace, self._pace, self._before = self._pace, None, None
        faster = None if self._open_faster is None else self._open_faster()
        if faster is None or pace is None:
            return
        begun_ns = self._clock.monotonic_ns()
        is_there = self._is_passed_over(faster, self._seq)
        decode_ns = (self._clock.monotonic_ns() - begun_ns) / self._seq
        picture = faster.retrieve() if is_there and pace.is_worth(decode_ns) else None
        if picture is None or not np.array_equal(picture, last):
            faster.close()
            return
        log.debug("%s is decoded with more threads from frame %d on", self.uri, self._seq)
        slower, self._capture = self._capture, faster
        slower.close()
        if self._is_closed:
            faster.close()  # Whoever closed this source meanwhile may have closed the other one.

    def _is_passed_over(self, capture: Capture, frames: int) -> bool:
        """Whether so many frames were there, the last of which can be retrieved, and this source is still wanted."""
        return all(not self._is_closed and capture.grab() for _ in range(frames))

    def _next_position_s(self) -> float:
        """The file's timestamp; where that stands still or goes back, one frame on."""
        stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
        if self._seq == 0:
            return stamp_s if math.isfinite(stamp_s) and stamp_s > 0 else 0.0
        if math.isfinite(stamp_s) and stamp_s > self._position_s:
            return stamp_s
        return self._position_s + (1.0 / self.fps if self.fps else 0.0)

    def _check_end(self) -> None:
        """FFmpeg ends a damaged file like a whole one: only the header tells that more was meant to come."""
        if self._seq == 0:
            raise SourceError(f"{self.uri!r} holds no frame that can be read")
        if self._missing():
            raise SourceError(
                f"{self.uri!r} ended after {self._seq} of {round(self._frames_said)} frames",
                hint="the file is cut off or damaged",
            )

    def _missing(self) -> bool:
        said = self._frames_said
        # 0 or garbage where the header has no count (streams, raw H.264).
        if not 0 < said < 1e9:
            return False
        rate = self.fps or 25.0
        if any(self._head[at : at + len(mark)] == mark for at, mark in _COUNTED):
            # Exact, but for what an edit list hides or an open end of a clip loses: up to a second, or 5 % when short.
            return self._seq + 2 + min(rate, 0.05 * said) < said
        if self._head.startswith(_MATROSKA):
            # Duration times a nominal rate: wrong for a varying rate, so compare times. Sound may outlast the picture.
            duration_s = said / rate
            return self._position_s + 1.0 / rate + min(2.0, 0.1 * duration_s) < duration_s
        # A transport stream's length is itself measured from what is there.
        return False


def _sensible_fps(fps: float) -> float | None:
    return fps if math.isfinite(fps) and 0 < fps <= FPS_MAX else None
