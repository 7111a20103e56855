"""A network camera: `rtsp://`, `rtsps://`, or a stream over `http(s)://`, through FFmpeg."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

import cv2

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.frame import Frame, Pixels
from edgeinfer.sources.capture import Capture, open_capture
from edgeinfer.sources.options import FPS_MAX, SourceOptions, refuse_picture_options

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_PROBE_TIMEOUT_S = 2.0
_FPS_GUESS = 25.0
# Each further decoder thread holds a frame back, and OpenCV takes as many as there are cores.
_DECODER_THREADS = 2
# Cameras that take the password in the path or query: rtsp://host/user=admin&password=x&channel=1
_SECRET = re.compile(r"(?i)\b(user|username|pass|passwd|password|pwd|token|key|apikey|api_key|secret|auth)=[^&/?#]*")


def open_rtsp(word: str, options: SourceOptions, clock: Clock) -> RtspSource:
    """Connect within `open_timeout_s`; raises SourceError saying whether the host or the stream is missing."""
    uri = hide_credentials(word)
    refuse_picture_options(options, uri, "a network stream")
    scheme, host, port = _address(word, uri)
    # OpenCV asks for RTSP over TCP by itself, unless OPENCV_FFMPEG_CAPTURE_OPTIONS is set: that variable holds for
    # the whole process, so it stays the user's.
    timeouts = (
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        max(1, round(options.open_timeout_s * 1000)),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        max(1, round(options.read_timeout_s * 1000)),
        cv2.CAP_PROP_N_THREADS,
        _DECODER_THREADS,
    )
    capture = open_capture(word, cv2.CAP_FFMPEG, timeouts)
    if capture is None:
        raise _why_not(uri, host, port, options)
    if scheme in ("http", "https") and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        capture.close()
        raise SourceError(f"{uri!r} is a file, not a live stream", hint="download it and give the file")
    return RtspSource(uri, capture, options.read_timeout_s, clock)


def hide_credentials(url: str) -> str:
    """The URL as it may be shown: no user, no password, no token."""
    scheme, separator, rest = url.partition("://")
    if "@" in rest:
        # The last one, wherever it stands: a password may hold an unescaped @ or slash.
        rest = f"***@{rest.rpartition('@')[2]}"
    return _SECRET.sub(lambda match: f"{match[1]}=***", f"{scheme}{separator}{rest}")


class RtspSource:
    """A live stream; `uri` shows no credentials."""

    live = True

    def __init__(self, uri: str, capture: Capture, read_timeout_s: float, clock: Clock) -> None:
        self.uri = uri
        self._silence_ns = round(0.95e9 * read_timeout_s)
        self._backlog_ns = self._silence_ns // 2
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if 0 < fps <= FPS_MAX else None
        self._capture = capture
        self._clock = clock
        self._seq = 0

    @property
    def skipped(self) -> Mapping[str, str]:
        return {}

    def read(self) -> Frame | None:
        begun_ns = self._clock.monotonic_ns()
        pixels = self._capture.read() if self._seq else self._newest()
        captured_ns, captured_unix_ns = self._clock.monotonic_ns(), self._clock.unix_ns()
        if self._capture.closed:
            return None
        if captured_ns - begun_ns >= self._silence_ns:
            # A frame that comes now was flushed out of the decoder by the timeout: it is as old as the silence.
            pixels = None
        if pixels is None:
            raise SourceLost(f"{self.uri!r} stopped after {self._seq} frames")
        seq, self._seq = self._seq, self._seq + 1
        return Frame(pixels, seq, captured_ns, captured_unix_ns, self.uri)

    def close(self) -> None:
        self._capture.close()

    def _newest(self) -> Pixels | None:
        """The first frame to pass on. FFmpeg held back a second or two while it looked what the stream is: those
        frames come at once and are old, so they are let go until one has to be waited for."""
        waited_ns = round(0.5e9 / (self.fps or _FPS_GUESS))
        begun_ns = before_ns = self._clock.monotonic_ns()
        pixels = self._capture.read()
        while pixels is not None:
            now_ns = self._clock.monotonic_ns()
            if now_ns - before_ns > waited_ns or now_ns - begun_ns > self._backlog_ns:
                break
            before_ns = now_ns
            later = self._capture.read()
            if later is None:
                break
            pixels = later
        return pixels


def _address(word: str, uri: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(word)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        # Without `from`: what it says may hold the password.
        raise SourceError(f"{uri!r} is no address", hint="rtsp://user:password@host:554/path") from None
    if not host:
        raise SourceError(f"{uri!r} names no host", hint="rtsp://user:password@host:554/path")
    return scheme, host, port or _PORTS[scheme]


def _why_not(uri: str, host: str, port: int, options: SourceOptions) -> SourceError:
    """OpenCV does not say why: look whether anybody listens there."""
    try:
        socket.create_connection((host, port), timeout=min(_PROBE_TIMEOUT_S, options.open_timeout_s)).close()
    except OSError as failed:
        reason = failed.strerror or str(failed) or "no answer"
        return SourceError(f"{uri!r} cannot be reached: {reason}", hint="is it on, are host and port right?")
    hint = "check the path, the user and the password"
    return SourceError(f"{uri!r} answers, but gives no stream", hint=hint)
