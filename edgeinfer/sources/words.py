"""Which driver opens what a user typed."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from edgeinfer.errors import SourceError
from edgeinfer.words import nearest, unknown

SCHEMES = {
    "camera": "camera",
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "http": "rtsp",
    "https": "rtsp",
    "synthetic": "synthetic",
    "serial": "serial",
    "mic": "mic",
    "sqlite": "sqlite",
    "mqtt": "mqtt",
    "mqtts": "mqtt",
}
CAMERA_PREFIXES = ("/dev/video", "/dev/v4l/")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp"}
    | {".ogv", ".h264", ".264", ".h265", ".265", ".mjpg", ".mjpeg", ".y4m"}
)
SAMPLE_SUFFIXES = {".wav": "wav", ".wave": "wav", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FILE_DRIVERS = ("images", "video", "wav", "csv", "jsonl", "stdin")
SNIFF_BYTES = 512
NEIGHBOURS_MAX = 1000
WORD_MAX = 4096

_WHERE_TO_LOOK = (
    "a camera is /dev/video0, a stream rtsp://…, a sensor serial:///dev/ttyUSB0, a drawn picture synthetic://…"
)


def driver_name(word: str, known: Iterable[str]) -> str:
    """The name of the driver for a word; `known` are the names of all drivers. Raises SourceError."""
    if not word:
        raise SourceError("the source is empty", hint=_WHERE_TO_LOOK)
    if len(word) > WORD_MAX:
        # Not shown: it may hold a password.
        raise SourceError(f"the source is too long: {len(word)} characters")
    scheme, separator, _ = word.partition("://")
    if separator and "/" not in scheme:
        return _scheme_driver(scheme.lower(), known)
    if word.startswith(CAMERA_PREFIXES):
        return "camera"
    if word == "-" or word.startswith("-?"):
        return "stdin"
    return _path_driver(word)


def split_query(word: str) -> tuple[Path, str]:
    """A file of samples and what is said of it: `log.csv?follow=1`. A file that has a ? in its name is that file."""
    path, mark, query = word.rpartition("?")
    if not mark or Path(path).suffix.lower() not in SAMPLE_SUFFIXES or Path(word).exists():
        return Path(word), ""
    return Path(path), query


def is_glob(word: str) -> bool:
    return any(sign in word for sign in "*?[")


def sniff(head: bytes) -> str | None:
    """What the first bytes of a file say: image, video, sound or text; None where they say nothing."""
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")):
        return "image"
    if head[:4] == b"RIFF":
        return {b"WEBP": "image", b"AVI ": "video", b"WAVE": "sound"}.get(head[8:12])
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "video"
    if head.startswith((b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"YUV4MPEG2")):
        return "video"
    if head.startswith(b"\0\0\0\x01") or (head[:1] == b"G" and head[188:189] == b"G"):
        return "video"
    return "text" if _is_text(head) else None


def read_head(path: Path) -> bytes:
    """The first bytes of a file; raises SourceError where it is empty or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(SNIFF_BYTES)
    except OSError as failed:
        raise cannot_read(str(path), failed) from failed
    if not head:
        raise SourceError(f"{str(path)!r} is empty")
    return head


def cannot_read(word: str, failed: OSError | ValueError) -> SourceError:
    """One line for a path that the system refuses."""
    reason = failed.strerror if isinstance(failed, OSError) and failed.strerror else str(failed)
    return SourceError(f"cannot read {word!r}: {reason}")


def _scheme_driver(scheme: str, known: Iterable[str]) -> str:
    if scheme in SCHEMES:
        return SCHEMES[scheme]
    plugins = set(known) - set(SCHEMES.values()) - set(FILE_DRIVERS)
    if scheme in plugins:
        return scheme
    raise SourceError(unknown("source", f"{scheme}://", (f"{name}://" for name in plugins | SCHEMES.keys())))


def _path_driver(word: str) -> str:
    try:
        path, _ = split_query(word)
        if path.is_dir():
            return "images"
        if path.is_file():
            return _file_driver(path)
        if path.exists():
            raise SourceError(f"{str(path)!r} is neither a file nor a folder", hint=_WHERE_TO_LOOK)
    except (OSError, ValueError) as failed:
        raise cannot_read(word, failed) from failed
    if is_glob(str(path)):
        return "images"
    raise SourceError(f"no such file: {str(path)!r}", hint=_nearest_hint(str(path), path))


def _file_driver(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in SAMPLE_SUFFIXES:
        return SAMPLE_SUFFIXES[suffix]
    head = read_head(path)
    if suffix in IMAGE_SUFFIXES:
        return "images"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    seen = sniff(head)
    driver = {"image": "images", "video": "video", "sound": "wav"}.get(seen or "")
    if driver is not None:
        return driver
    what = "is text" if seen == "text" else "is neither an image nor a video that is known here"
    raise SourceError(f"{str(path)!r} {what}", hint="give an image, a video, a folder of images or a camera")


def _nearest_hint(word: str, path: Path) -> str:
    """A file beside it with nearly that name, else the word that may have been meant."""
    try:
        with os.scandir(path.parent) as entries:
            neighbours = [entry.name for entry in islice(entries, NEIGHBOURS_MAX)]
    except OSError:
        neighbours = []
    close = nearest(path.name, neighbours)
    if close:
        return f"did you mean {str(path.parent / close)!r}?"
    schemes = {scheme: f"{scheme}://" for scheme in SCHEMES} | {"video0": "/dev/video0", "dev/video0": "/dev/video0"}
    meant = nearest(word.rstrip(":/").lower(), schemes)
    return f"did you mean {schemes[meant]!r}?" if meant else _WHERE_TO_LOOK


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        # Incremental, because the last character may be cut in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(sign.isprintable() or sign in "\r\n\t\f\ufeff" for sign in text)
