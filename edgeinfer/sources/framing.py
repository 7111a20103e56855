"""Bytes as they come -> lines, or records of a fixed size; bounded, whatever comes."""

from __future__ import annotations

from typing import NamedTuple

from edgeinfer.sources.account import Fate
from edgeinfer.sources.records import LINE_BYTES_MAX


class Piece(NamedTuple):
    """raw: a line or record, or what is left of one. fate: None for a whole one. bytes_after: that came behind it."""

    raw: bytes
    fate: Fate | None
    bytes_after: int


class Lines:
    """Splits at line feeds. A line that is too long is given up at once, and passed over to its end."""

    def __init__(self) -> None:
        self._begun = b""
        self._is_too_long = False

    def feed(self, arrived: bytes) -> list[Piece]:
        pieces = []
        *lines, rest = (self._begun + arrived).split(b"\n")
        after = len(arrived) + len(self._begun)
        for line in lines:
            after -= len(line) + 1
            if self._is_too_long or len(line) > LINE_BYTES_MAX:
                self._is_too_long = False
                pieces.append(Piece(line[:LINE_BYTES_MAX], "too long", after))
            else:
                pieces.append(Piece(line.rstrip(b"\r"), None, after))
        if len(rest) > LINE_BYTES_MAX:
            self._is_too_long, rest = True, b""
        self._begun = rest
        return pieces

    def pause(self) -> list[Piece]:
        """Nothing came for a while: a line may come in parts."""
        return []

    def finish(self) -> list[Piece]:
        """No more comes: the last line of a file may lack its line feed."""
        rest, self._begun = self._begun, b""
        if self._is_too_long:
            return [Piece(rest, "too long", 0)]
        return [Piece(rest.rstrip(b"\r"), None, 0)] if rest else []


class Records:
    """Splits into records of `size` bytes, each after `sync`. Where there is no sync, a record begins after a pause:
    until the first pause what comes belongs to nothing, and so does one that a pause cuts short.

    What lies between two records is one piece, however long it is; only its beginning is kept.
    """

    def __init__(self, size: int, sync: bytes) -> None:
        self._size = size
        self._sync = sync
        self._begun = b""
        self._passed = b""
        self._is_aligned = bool(sync)

    def feed(self, arrived: bytes) -> list[Piece]:
        if not self._is_aligned:
            self._passed = (self._passed + arrived)[: self._size]
            return []
        self._begun += arrived
        pieces = []
        begin = len(self._sync)
        while self._find_sync() and len(self._begun) >= begin + self._size:
            pieces += self._take_passed("garbage", len(self._begun))
            record, self._begun = self._begun[begin : begin + self._size], self._begun[begin + self._size :]
            pieces.append(Piece(record, None, len(self._begun)))
        return pieces

    def pause(self) -> list[Piece]:
        """Nothing came for a while, so that what comes next is a beginning."""
        if self._sync:
            return []
        self._is_aligned = True
        return self.finish()

    def finish(self) -> list[Piece]:
        self._passed, self._begun = (self._passed + self._begun)[: self._size], b""
        return self._take_passed("half line", 0)

    def _find_sync(self) -> bool:
        """Pass over what is no beginning; whether one is found."""
        found = self._begun.find(self._sync)
        # The last bytes may be all that has come of it.
        passed = found if found >= 0 else max(0, len(self._begun) - len(self._sync) + 1)
        self._passed = (self._passed + self._begun[:passed])[: self._size]
        self._begun = self._begun[passed:]
        return found >= 0

    def _take_passed(self, fate: Fate, bytes_after: int) -> list[Piece]:
        passed, self._passed = self._passed, b""
        return [Piece(passed, fate, bytes_after)] if passed else []


Framing = Lines | Records
