"""Sound from a `.wav` file: 8, 16, 24 or 32 bits or floating point, any rate; several channels are mixed into one.

The layout of the file: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft, 1991), and
WAVEFORMATEXTENSIBLE in mmreg.h.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.sources.account import Account
from edgeinfer.sources.options import SourceOptions, refuse_picture_options
from edgeinfer.sources.readings import Numbers, Readings
from edgeinfer.sources.words import cannot_read, split_query

CHANNEL = "sound"
RATE_MAX = 768_000
CHANNELS_MAX = 64

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FORMAT = struct.Struct("<HHIIHH")
# Everything of a subformat's GUID but its first two bytes, which are the format.
_GUID_END = bytes.fromhex("0000000010008000 00aa00389b71")
_CHUNKS_MAX = 1000
_FORMAT_BYTES_MAX = 4096
_FRAMES_AT_ONCE = 32_768
# What a recorder writes that cannot go back to the header once it knows how long it was.
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0xFFFFFFFF - 36)


@dataclass(frozen=True, slots=True)
class Format:
    """How a sample lies in the file. frame_bytes: of one sample of all channels."""

    is_float: bool
    channels: int
    rate_hz: int
    bits: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8


def open_wav(word: str, options: SourceOptions, clock: Clock) -> WavSource:
    """Read the header. Raises SourceError where it is broken."""
    refuse_picture_options(options, word, "a sound file")
    path, asked = split_query(word)
    if asked:
        raise SourceError(f"{word!r}: nothing can be chosen for a sound file")
    try:
        file = path.open("rb")
    except OSError as failed:
        raise cannot_read(str(path), failed) from failed
    try:
        format_, size = read_header(file, path)
    except SourceError:
        file.close()
        raise
    except OSError as failed:
        file.close()
        raise cannot_read(str(path), failed) from failed
    return WavSource(word, file, format_, size, clock)


def read_header(file: BinaryIO, path: Path) -> tuple[Format, int]:
    """The format, and the size in bytes of what follows where the file now stands. Raises SourceError, OSError."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise SourceError(f"{str(path)!r} is no WAV file", hint="ffmpeg -i FILE sound.wav makes one of any sound")
    format_ = None
    end = os.fstat(file.fileno()).st_size
    for _ in range(_CHUNKS_MAX):
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"fmt ":
            format_ = _read_format(file.read(min(size, _FORMAT_BYTES_MAX)), path)
            size = max(0, size - _FORMAT_BYTES_MAX)
        elif name == b"data":
            if format_ is None:
                break
            left = end - file.tell()
            return format_, left if size in _UNKNOWN_SIZES else size
        file.seek(size + size % 2, os.SEEK_CUR)
    missing = "no sound" if format_ is not None else "no format"
    raise SourceError(f"{str(path)!r} has a broken header: {missing} is in it", hint="the file is cut off or damaged")


def _read_format(chunk: bytes, path: Path) -> Format:
    if len(chunk) < _FORMAT.size:
        raise SourceError(f"{str(path)!r} has a broken header: its format is {len(chunk)} bytes long")
    code, channels, rate_hz, _, frame_bytes, bits = _FORMAT.unpack_from(chunk)
    if code == _EXTENSIBLE and len(chunk) >= 40 and chunk[26:40] == _GUID_END:
        code = int.from_bytes(chunk[24:26], "little")
    if code not in (_PCM, _FLOAT):
        raise SourceError(f"{str(path)!r} holds compressed sound (format {code})", hint="ffmpeg -i FILE sound.wav")
    if bits not in ((32, 64) if code == _FLOAT else (8, 16, 24, 32)):
        raise SourceError(f"{str(path)!r} has {bits} bits a sample, which cannot be read")
    if not (1 <= channels <= CHANNELS_MAX and 1 <= rate_hz <= RATE_MAX and frame_bytes == channels * bits // 8):
        said = f"{channels} channels, {rate_hz} Hz, {frame_bytes} bytes for {channels} times {bits} bits"
        raise SourceError(f"{str(path)!r} has a broken header: {said}")
    return Format(code == _FLOAT, channels, rate_hz, bits)


class WavSource:
    """The sound of a file, -1..1; an end that comes too early is an error, after all that could be read."""

    live = False
    can_be_late = False
    channels = (CHANNEL,)

    def __init__(self, uri: str, file: BinaryIO, format_: Format, size: int, clock: Clock) -> None:
        self.uri = uri
        self.rate_hz: float | None = float(format_.rate_hz)
        self._file = file
        self._format = format_
        self._size = self._left = size - size % format_.frame_bytes
        self._clock = clock
        self._is_closed = False

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        check_channels(self.uri, channels)

    def read(self) -> Readings | None:
        if self._is_closed or not self._left:
            return None
        try:
            raw = self._file.read(min(self._left, _FRAMES_AT_ONCE * self._format.frame_bytes))
        except (OSError, ValueError) as failed:
            if self._is_closed:
                return None
            raise cannot_read(self.uri, failed) from failed
        raw = raw[: len(raw) - len(raw) % self._format.frame_bytes]
        if not raw:
            read = (self._size - self._left) / self._format.frame_bytes / self._format.rate_hz
            said = self._size / self._format.frame_bytes / self._format.rate_hz
            raise SourceError(f"{self.uri!r} ended after {read:.2f} of {said:.2f} s", hint="the file is cut off")
        self._left -= len(raw)
        mono = samples_of(raw, self._format).mean(axis=1, keepdims=True)
        return Readings(mono, None, self._clock.monotonic_ns(), self._clock.unix_ns(), has_wall_time=False)

    def close(self) -> None:
        self._is_closed = True
        self._file.close()


def samples_of(raw: bytes, format_: Format) -> Numbers:
    """(samples, channels), -1..1, of whole frames."""
    if format_.is_float:
        values = np.frombuffer(raw, f"<f{format_.bits // 8}").astype(np.float64)
    elif format_.bits == 8:  # The only one without a sign.
        values = (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    else:
        # Of 24 bits the highest of four bytes, so that the sign is where it belongs.
        size = format_.bits // 8
        wide = np.zeros((len(raw) // size, 4), np.uint8)
        wide[:, 4 - size :] = np.frombuffer(raw, np.uint8).reshape(-1, size)
        values = wide.view("<i4")[:, 0].astype(np.float64) / 2**31
    return values.reshape(-1, format_.channels)


def check_channels(uri: str, channels: tuple[str, ...]) -> None:
    """Sound has one channel, whatever a model calls it. Raises SourceError."""
    if len(channels) > 1:
        raise SourceError(f"{uri!r} gives one channel of sound, and the model takes {', '.join(channels)}")
