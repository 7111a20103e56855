"""What a V4L2 camera offers: formats, sizes and rates, without taking a picture."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# struct v4l2_fmtdesc, v4l2_frmsizeenum, v4l2_frmivalenum of a 64-bit kernel.
_ENUM_FMT, _FMT = 0xC0405602, struct.Struct("=3I32sI4I")
_ENUM_FRAMESIZES, _SIZE = 0xC02C564A, struct.Struct("=3I6I2I")
_ENUM_FRAMEINTERVALS, _INTERVAL = 0xC034564B, struct.Struct("=5I6I2I")
_CAPTURE_KINDS = (1, 9)  # V4L2_BUF_TYPE_VIDEO_CAPTURE, …_MPLANE
_DISCRETE = 1
_BIG_ENDIAN = 1 << 31
_ENTRIES_MAX = 256  # A broken driver may never come to an end.

Ask = Callable[[int, bytes], bytes]
"""An ioctl: (request, argument) -> the argument as the driver changed it. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A picture format and a size. fps: the highest rate, None where the driver does not say.

    least: where any size from that one up to width x height can be had.
    """

    pixel_format: str
    width: int
    height: int
    fps: float | None
    least: tuple[int, int] | None = None

    def holds(self, width: int, height: int) -> bool:
        if self.least is None:
            return (width, height) == (self.width, self.height)
        return self.least[0] <= width <= self.width and self.least[1] <= height <= self.height


def modes(node: Path) -> tuple[Mode, ...]:
    """All that the camera at `node` offers; nothing where its driver does not say. Raises OSError."""
    handle = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return tuple(modes_by(lambda request, argument: fcntl.ioctl(handle, request, argument)))
    finally:
        os.close(handle)


def modes_by(ask: Ask) -> Iterator[Mode]:
    for kind in _CAPTURE_KINDS:
        for index in range(_ENTRIES_MAX):
            answer = _asked(ask, _ENUM_FMT, _FMT, index, kind, 0, b"", 0, 0, 0, 0, 0)
            if answer is None:
                break
            yield from _sizes(ask, int(answer[4]))


def _sizes(ask: Ask, code: int) -> Iterator[Mode]:
    name = _name(code)
    for index in range(_ENTRIES_MAX):
        answer = _asked(ask, _ENUM_FRAMESIZES, _SIZE, index, code, *[0] * 9)
        if answer is None:
            return
        if answer[2] == _DISCRETE:
            width, height = int(answer[3]), int(answer[4])
            yield Mode(name, width, height, _fps(ask, code, width, height))
        else:
            least_width, width, _, least_height, height = map(int, answer[3:8])
            yield Mode(name, width, height, _fps(ask, code, width, height), (least_width, least_height))
            return  # A range is the only entry.


def _name(code: int) -> str:
    """The four letters; of big-endian pixels, which the highest bit says, with -BE behind them as v4l2-ctl has it."""
    letters = (code & ~_BIG_ENDIAN).to_bytes(4, "little").decode("ascii", "replace")
    return f"{letters}-BE" if code & _BIG_ENDIAN else letters.rstrip()


def _fps(ask: Ask, code: int, width: int, height: int) -> float | None:
    """The highest: of the intervals that are listed the shortest, of a range its lower end."""
    fastest = 0.0
    for index in range(_ENTRIES_MAX):
        answer = _asked(ask, _ENUM_FRAMEINTERVALS, _INTERVAL, index, code, width, height, *[0] * 9)
        if answer is None:
            break
        numerator, denominator = int(answer[5]), int(answer[6])
        fastest = max(fastest, denominator / numerator if numerator else 0.0)
        if answer[4] != _DISCRETE:
            break
    return fastest or None


def _asked(ask: Ask, request: int, layout: struct.Struct, *values: int | bytes) -> tuple[int | bytes, ...] | None:
    """None at the end of a list, or where the driver has none."""
    try:
        return layout.unpack(ask(request, layout.pack(*values)))
    except OSError:
        return None
