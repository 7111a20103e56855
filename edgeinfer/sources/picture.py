"""Encoded pictures: how large, whether whole, and as blue-green-red pixels."""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np

from edgeinfer.frame import Pixels

PIXELS_MAX = 100_000_000

_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
# Markers that hold the size: all starts of frame, which leave out the tables C4, C8 and CC.
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT, _TIFF_TAGS_MAX = 256, 257, 3, 4096
_PNM = re.compile(rb"P[1-6](?:\s+|#[^\n]*\n)*(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})\s")


class BadPicture(ValueError):
    """The message says why, without a name."""


# By what a JPEG's sides are divided while it is decoded.
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode(data: bytes, *, factor: int = 1) -> Pixels:
    """Blue-green-red, turned as its EXIF data say; gray is spread and transparency dropped. Raises BadPicture.

    factor: 1, 2, 4 or 8, what the sides are divided by; a JPEG is then decoded at that size.
    """
    if not data:
        raise BadPicture("empty")
    size = size_of(data)
    if size is None:
        raise BadPicture("not an image that is known here")
    width, height = size
    if width * height > PIXELS_MAX:
        raise BadPicture(f"{width}x{height} pixels are more than {PIXELS_MAX // 1_000_000} million")
    if data.startswith(_JPEG) and not is_whole_jpeg(data):
        # OpenCV would pass it on with the rest in gray.
        raise BadPicture("a JPEG that was cut off")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[factor])
    except cv2.error as failed:
        raise BadPicture(f"does not decode: {failed.err}") from failed
    if pixels is None or pixels.size == 0:
        raise BadPicture("does not decode")
    return pixels  # type: ignore[return-value]


def is_whole_jpeg(data: bytes) -> bool:
    """Whether the last scan is ended; what follows the end (padding, a second picture) does not matter."""
    return data.rfind(_JPEG_END) > data.rfind(_JPEG_SCAN) >= 0


def size_of(data: bytes) -> tuple[int, int] | None:
    """(width, height) as the header says, before anything is decoded; None where it says nothing sensible."""
    try:
        size = _size_of(data)
    except (struct.error, IndexError):
        return None
    return size if size is not None and min(size) > 0 else None


def _size_of(data: bytes) -> tuple[int, int] | None:
    if data.startswith(_JPEG):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pair(">II", data, 16)
    if data.startswith(b"BM"):
        # A negative height means that the rows go from the top down.
        width, height = _pair("<HH" if data[14] == 12 else "<ii", data, 18)
        return width, abs(height)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_size(data, "<" if data[:2] == b"II" else ">")
    match = _PNM.match(data[:1024])
    return (int(match[1]), int(match[2])) if match else None


def _pair(layout: str, data: bytes, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data, offset)
    return int(first), int(second)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    offset = 2
    while data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:
            offset += 1
            continue
        if marker in _JPEG_SIZE_MARKERS:
            height, width = _pair(">HH", data, offset + 5)
            return width, height
        (length,) = struct.unpack_from(">H", data, offset + 2)
        offset += 2 + max(2, int(length))
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff_size(data: bytes, order: str) -> tuple[int, int] | None:
    (offset,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    found: dict[int, int] = {}
    for index in range(min(int(count), _TIFF_TAGS_MAX)):
        tag, kind = _pair(f"{order}HH", data, offset + 2 + 12 * index)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            layout = f"{order}H" if kind == _TIFF_SHORT else f"{order}I"
            (found[tag],) = struct.unpack_from(layout, data, offset + 10 + 12 * index)
    return (found[_TIFF_WIDTH], found[_TIFF_HEIGHT]) if len(found) == 2 else None
