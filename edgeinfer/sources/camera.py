"""A camera at this machine, by V4L2: `/dev/video0`, `/dev/v4l/by-id/…`, `camera://0?width=1280&height=720`."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2

from edgeinfer.access import how_to_join
from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.frame import Frame, Pixels
from edgeinfer.sources.capture import Capture, open_capture
from edgeinfer.sources.options import SourceOptions, from_query
from edgeinfer.sources.picture import BadPicture, decode
from edgeinfer.sources.reduced import FROM_RAW, can_be_reduced, factor_for

# struct v4l2_capability: driver[16], card[32], bus_info[32], version, capabilities, device_caps, reserved[3].
_VIDIOC_QUERYCAP = 0x80685600
_CAPABILITY = struct.Struct("16s32s32s6I")
_CAN_CAPTURE, _CAN_CAPTURE_PLANES, _HAS_DEVICE_CAPS = 0x1, 0x1000, 0x80000000

_STABLE_FOLDERS = (Path("/dev/v4l/by-id"), Path("/dev/v4l/by-path"))
_KNOWN_MAX = 64
# A read that fails at once is tried again after a pause: thousands of failures a second help nobody.
_FAILURES_MAX = 10
_FAILURE_PAUSE_S = 0.05
_FPS_NEAR = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """A camera that was open under a word: its stable link (None where there is none), and who it says it is."""

    link: Path | None
    identity: str


class _Memory:
    """Which camera a word meant when it was first opened, so that it is found again under another number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, _Known] = OrderedDict()

    def get(self, device: Path) -> _Known | None:
        with self._lock:
            return self._known.get(device)

    def put(self, device: Path, known: _Known) -> None:
        with self._lock:
            self._known[device] = known
            self._known.move_to_end(device)
            while len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._known.clear()


MEMORY = _Memory()


def open_camera(word: str, options: SourceOptions, clock: Clock) -> CameraSource:
    """Open and configure a camera; raises SourceError saying what is wrong with the device."""
    device, query = device_of(word)
    if query is not None:
        options = from_query(options, query, word)
    node = _find(device, word)
    identity = probe(node, word)
    capture = open_capture(str(node), cv2.CAP_V4L2)
    if capture is None:
        raise SourceError(f"camera {word!r} does not open", hint=f"another program may hold it: fuser -v {node}")
    known = MEMORY.get(device)
    if known is not None and known.identity != identity:
        log.warning("camera %s is now another one: %s, was %s", word, identity, known.identity)
    MEMORY.put(device, _Known(stable_link(node), identity))
    taken = _configure(capture, options, word)
    return CameraSource(word, node, capture, taken, options.read_timeout_s, clock)


def device_of(word: str) -> tuple[Path, str | None]:
    """The device file that a word names, and the query of a `camera://` word."""
    scheme, separator, rest = word.partition("://")
    if not separator:
        return Path(word), None
    name, _, query = rest.partition("?")
    number = name.rstrip("/")
    if scheme.lower() != "camera" or not (number.isascii() and number.isdigit() and len(number) <= 3):
        raise SourceError(f"{word!r} names no camera", hint="camera://0 is /dev/video0")
    return Path(f"/dev/video{int(number)}"), query


def stable_link(node: Path, folders: tuple[Path, ...] = _STABLE_FOLDERS) -> Path | None:
    """The link under /dev/v4l that leads to this device whatever its number; by serial before by plug."""
    for folder in folders:
        try:
            links = sorted(folder.iterdir())
        except OSError:
            continue
        for link in links:
            if link.resolve() == node.resolve():
                return link
    return None


def probe(node: Path, word: str) -> str:
    """Who the camera says it is; raises SourceError where the node is absent, closed to us, or no camera."""
    try:
        # Non-blocking, so that a device of another kind cannot hold us.
        handle = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failed:
        raise _cannot_open(word, node, failed) from failed
    try:
        answer = fcntl.ioctl(handle, _VIDIOC_QUERYCAP, bytes(_CAPABILITY.size))
    except OSError as failed:
        raise SourceError(f"camera {word!r}: {node} is no video device", hint=_cameras_hint()) from failed
    finally:
        os.close(handle)
    _driver, card, bus, _version, capabilities, device_caps, *_ = _CAPABILITY.unpack(answer)
    able = device_caps if capabilities & _HAS_DEVICE_CAPS else capabilities
    if not able & (_CAN_CAPTURE | _CAN_CAPTURE_PLANES):
        # Webcams have a second node, for metadata.
        raise SourceError(f"camera {word!r}: {node} is a video device but gives no pictures", hint=_cameras_hint())
    return f"{_text(card)} ({_text(bus)})"


class CameraSource:
    """A V4L2 camera; silence and errors become SourceLost, pictures cut off are passed over and counted."""

    live = True

    def __init__(
        self, uri: str, node: Path, capture: Capture, taken: Taken, read_timeout_s: float, clock: Clock
    ) -> None:
        self.uri = uri
        self.fps = taken.fps
        self._node = node
        self._capture = capture
        self._taken = taken
        self._factor = 1
        self._read_timeout_s = read_timeout_s
        self._clock = clock
        self._seq = 0
        self._damaged = 0
        self._damage = ""

    @property
    def skipped(self) -> Mapping[str, str]:
        return {"damaged pictures": f"{self._damaged}, the last: {self._damage}"} if self._damaged else {}

    def suffice(self, width: int, height: int) -> None:
        """From now on pictures may be reduced, as long as their sides are at least these, in pixels."""
        taken = self._taken
        factor = factor_for(taken.width, taken.height, (width, height))
        if not taken.compressed:
            # As they come, so that they are reduced first and converted then.
            can = factor > 1 and can_be_reduced(taken.pixel_format, taken.width, taken.height, factor)
            factor = factor if can and self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0) else 1
        self._factor = factor

    def read(self) -> Frame | None:
        begun_ns = self._clock.monotonic_ns()
        failures = 0
        while not self._capture.closed:
            pixels = self._capture.read()
            captured_ns, captured_unix_ns = self._clock.monotonic_ns(), self._clock.unix_ns()
            if pixels is not None and (self._taken.compressed or self._factor > 1):
                pixels = self._decode(pixels)
            if pixels is not None:
                seq, self._seq = self._seq, self._seq + 1
                full_size = None if self._factor == 1 else (self._taken.width, self._taken.height)
                return Frame(pixels, seq, captured_ns, captured_unix_ns, self.uri, full_size=full_size)
            failures += 1
            waited_s = (captured_ns - begun_ns) / 1e9
            if self._capture.closed or self._capture.wait_closed(_FAILURE_PAUSE_S):
                break
            self._check_lost(failures, waited_s)
        return None

    def close(self) -> None:
        self._capture.close()

    def _decode(self, raw: Pixels) -> Pixels | None:
        taken = self._taken
        try:
            if taken.compressed:
                return decode(raw.tobytes(), factor=self._factor)
            return FROM_RAW[taken.pixel_format](raw, taken.width, taken.height, self._factor)
        except BadPicture as bad:
            self._damaged += 1
            self._damage = str(bad)
            if self._damaged == 1:
                log.warning(
                    "camera %s: a damaged picture was passed over: %s; the next ones are counted", self.uri, bad
                )
            return None

    def _check_lost(self, failures: int, waited_s: float) -> None:
        if not self._node.exists():
            raise SourceLost(f"camera {self.uri!r} is gone after {self._seq} frames", hint="is it still plugged in?")
        if waited_s >= self._read_timeout_s:
            raise SourceLost(f"camera {self.uri!r} gave no frame for {waited_s:.1f} s, after {self._seq} frames")
        if failures >= _FAILURES_MAX:
            raise SourceLost(f"camera {self.uri!r} failed {failures} times in a row, after {self._seq} frames")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a camera really does, whatever was asked for."""

    width: int
    height: int
    fps: float | None
    pixel_format: str
    compressed: bool

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.pixel_format}" + (f" at {self.fps:g} fps" if self.fps else "")


def differs(options: SourceOptions, taken: Taken) -> bool:
    """Whether a camera took something else than was asked for."""
    return (
        options.width not in (None, taken.width)
        or options.height not in (None, taken.height)
        or options.pixel_format not in (None, taken.pixel_format)
        or (options.fps is not None and (taken.fps is None or abs(options.fps - taken.fps) > _FPS_NEAR))
    )


def _configure(capture: Capture, options: SourceOptions, word: str) -> Taken:
    """Ask for format, size and rate, in the order in which each limits the next; say what was taken instead."""
    if options.pixel_format is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.pixel_format))
    if options.width is not None or options.height is not None:
        # OpenCV applies a size only when both sides were set.
        for prop, side in ((cv2.CAP_PROP_FRAME_WIDTH, options.width), (cv2.CAP_PROP_FRAME_HEIGHT, options.height)):
            capture.set(prop, side or capture.get(prop))
    if options.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, options.fps)
    taken = _taken(capture)
    if differs(options, taken):
        log.warning("camera %s was asked for %s, took %s", word, _asked(options), taken)
    return taken


def _taken(capture: Capture) -> Taken:
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=False).decode("ascii", "replace")
    # Taken as it comes: OpenCV would pass on a picture that was cut off, with the rest in gray.
    compressed = code in ("MJPG", "JPEG") and capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    fps = capture.get(cv2.CAP_PROP_FPS)
    return Taken(
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        fps=fps if fps > 0 else None,
        pixel_format=code,
        compressed=compressed,
    )


def _asked(options: SourceOptions) -> str:
    size = f"{options.width or '…'}x{options.height or '…'}" if options.width or options.height else ""
    rate = f"at {options.fps:g} fps" if options.fps else ""
    return " ".join(part for part in (size, options.pixel_format or "", rate) if part)


def _find(device: Path, word: str) -> Path:
    """The device file to open now: of the camera known under this word, wherever it is."""
    known = MEMORY.get(device)
    if known is None or known.link is None or not known.link.exists():
        return device
    node = known.link.resolve()
    if node != device.resolve():
        log.info("camera %s is %s now", word, node)
    return node


def _cannot_open(word: str, node: Path, failed: OSError) -> SourceError:
    if failed.errno == errno.ENOENT:
        return SourceError(f"camera {word!r}: there is no {node}", hint=_cameras_hint())
    if failed.errno in (errno.ENXIO, errno.ENODEV):
        return SourceError(f"camera {word!r}: nothing answers at {node}", hint="is it still plugged in?")
    if failed.errno in (errno.EACCES, errno.EPERM):
        hint = f"join the group video: {how_to_join('video')}"
        return SourceError(f"camera {word!r}: no permission for {node}", hint=hint)
    if failed.errno == errno.EBUSY:
        return SourceError(f"camera {word!r} is in use", hint=f"fuser -v {node} says by whom")
    return SourceError(f"camera {word!r}: {node} does not open: {failed.strerror}")


def _cameras_hint() -> str:
    nodes = sorted(Path("/dev").glob("video*"))
    return f"here are {', '.join(map(str, nodes[:8]))}" if nodes else "no camera is connected here"


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace")
