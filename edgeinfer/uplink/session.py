"""A number for each connection to the broker, higher than all before it, also of earlier runs."""

from __future__ import annotations

import logging
from pathlib import Path

from edgeinfer.clock import Clock
from edgeinfer.durable import replace_file, sweep

log = logging.getLogger(__name__)

_CONNECTIONS_BITS = 20
_START_MAX = (1 << 53 >> _CONNECTIONS_BITS) - 1  # So that JSON's numbers hold it.


class Sessions:
    """Counts from what the wall clock or the file at `path` says, whichever is higher.

    So the numbers rise where a board without a clock of its own starts in 1970, and where its state was lost.
    """

    def __init__(self, path: Path | None, clock: Clock) -> None:
        if path is not None:
            sweep(path.parent, path.stem)
        start = min(max(_read(path) + 1, clock.unix_ns() // 10**9), _START_MAX)
        self._last = start << _CONNECTIONS_BITS
        _write(path, start)

    def next(self) -> int:
        self._last += 1
        return self._last

    def rise_above(self, seen: int) -> None:
        """A number that somebody has seen of this node."""
        self._last = max(self._last, min(seen, _START_MAX << _CONNECTIONS_BITS))


def _read(path: Path | None) -> int:
    try:
        digits = b"" if path is None else _head(path)
    except OSError:
        return 0
    return int(digits) if digits.isdigit() else 0


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32).strip()


def _write(path: Path | None, start: int) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, b"%d\n" % start)
    except OSError as failed:
        log.warning("cannot write %s: %s; the clock has to do", path, failed.strerror)
