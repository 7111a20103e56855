"""How the bytes of a repository come here: a protocol, its patience, and what all ways of it share."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from typing import Protocol

from edgeinfer.clock import Clock
from edgeinfer.errors import UpdateError, UpdateRefused

SILENCE_S = 20.0
"""Who sends nothing for so long is given up."""

_RATE_MIN = 512.0
"""Bytes per second: who is slower than this over all of it, but for the first half minute, keeps us on purpose."""
_GRACE_S = 30.0
_AHEAD = 4
_POLL_S = 0.25

Chunks = Generator[bytes, None, None]


class NotThere(UpdateError):
    """The repository has no such file."""


class Transport(Protocol):
    """Brings files of a repository, by their paths in it such as `metadata/timestamp.json`."""

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        """What is in the file from `offset` on, in pieces as they come, until its end or `most` bytes.

        May wait for ever: `patiently` does not. Raises NotThere, UpdateError.
        """
        ...

    def close(self) -> None:
        """May be called twice."""
        ...


def patiently(
    transport: Transport, path: str, offset: int, most: int, *, clock: Clock | None = None, silence_s: float = SILENCE_S
) -> Chunks:
    """The chunks, read in a thread of their own, so that nothing that hangs or trickles keeps us.

    Raises UpdateError where nothing comes for `silence_s` or all of it is too slow, UpdateRefused where more than
    `most` bytes come; NotThere.
    """
    clock = clock or Clock()
    pieces: queue.Queue[bytes | Exception | None] = queue.Queue(_AHEAD)
    gone = threading.Event()
    reader = threading.Thread(target=_read, args=(transport, path, offset, most, pieces, gone), daemon=True)
    reader.start()
    begun_ns = heard_ns = clock.monotonic_ns()
    came = 0
    try:
        while True:
            piece = _next(pieces)
            now_ns = clock.monotonic_ns()
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                came += len(piece)
                heard_ns = now_ns
                if came > most:
                    raise UpdateRefused(f"{path} is longer than the {most} bytes that it may have")
                yield piece
            elif piece is None:
                return
            elif now_ns - heard_ns > silence_s * 1e9:
                raise UpdateError(f"nothing of {path} came for {silence_s:g} s")
            if now_ns - begun_ns > (_GRACE_S + came / _RATE_MIN) * 1e9:
                raise UpdateError(f"{path} comes too slowly: {came} bytes in {(now_ns - begun_ns) / 1e9:.0f} s")
    finally:
        gone.set()


def read_whole(transport: Transport, path: str, most: int, *, clock: Clock | None = None) -> bytes:
    """A small file. Raises UpdateRefused where it is longer than `most` bytes, NotThere, UpdateError."""
    # One more byte than allowed is asked for, so that a longer file is seen to be one.
    with closing(patiently(transport, path, 0, most + 1, clock=clock)) as pieces:
        content = b"".join(pieces)
    if len(content) > most:
        raise UpdateRefused(f"{path} is longer than the {most} bytes that it may have")
    return content


class _Nothing:
    """No piece came in time."""


def _next(pieces: queue.Queue[bytes | Exception | None]) -> bytes | Exception | _Nothing | None:
    try:
        return pieces.get(timeout=_POLL_S)
    except queue.Empty:
        return _Nothing()


def _read(
    transport: Transport,
    path: str,
    offset: int,
    most: int,
    pieces: queue.Queue[bytes | Exception | None],
    gone: threading.Event,
) -> None:
    """The reading thread: it is left behind where the transport never returns."""
    last: Exception | None = None
    try:
        with closing(transport.chunks(path, offset, most)) as chunks:
            for piece in chunks:
                if not _put(pieces, piece, gone):
                    return
    except Exception as failed:  # noqa: BLE001 - the edge of a thread: it is raised in the other one
        last = failed
    _put(pieces, last, gone)


def _put(pieces: queue.Queue[bytes | Exception | None], piece: bytes | Exception | None, gone: threading.Event) -> bool:
    while not gone.is_set():
        try:
            pieces.put(piece, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
