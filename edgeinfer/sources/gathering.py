"""Pieces of what came -> Readings, each piece counted: what all sources of lines have in common."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgeinfer.clock import Clock
from edgeinfer.sources.account import Account
from edgeinfer.sources.framing import Piece
from edgeinfer.sources.readings import Readings
from edgeinfer.sources.records import BadRecord, Record, RecordReader, shown


class Gatherer:
    """Reads pieces with `reader`, and gives a time to samples that say none: that of their arrival, by a clock that is
    never set. byte_s: how long a byte takes on the wire, which sets those that came at once apart.

    trusts_first: False where the beginning of the first line may be lost.
    """

    def __init__(self, reader: RecordReader, clock: Clock, *, byte_s: float = 0.0, trusts_first: bool = True) -> None:
        self._reader = reader
        self._clock = clock
        self._byte_s = byte_s
        self._distrusts = not trusts_first
        self._offset_ns = clock.unix_ns() - clock.monotonic_ns()
        self._last_ns = 0
        self._account = Account()
        self.records = 0

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        self._account = account
        self._reader.begin(channels)

    def gather(self, pieces: Iterable[Piece]) -> Readings:
        """Raises SourceError as RecordReader."""
        captured_ns, captured_unix_ns = self._clock.monotonic_ns(), self._clock.unix_ns()
        arrival_ns = captured_ns + self._offset_ns
        at_ns: list[int] = []
        rows: list[list[float]] = []
        has_times = False
        for piece in pieces:
            record = self._read(piece)
            if record is None:
                continue
            has_times = record.at_ns is not None
            came_ns = max(arrival_ns - round(piece.bytes_after * self._byte_s * 1e9), self._last_ns + 1)
            self._last_ns = max(self._last_ns, came_ns)
            at_ns.append(came_ns if record.at_ns is None else record.at_ns)
            rows.append(record.numbers)
        self.records += len(rows)
        return Readings(
            np.array(rows, float).reshape(len(rows), len(self._reader.channels)),
            np.array(at_ns, np.int64),
            captured_ns,
            captured_unix_ns,
            # Whoever says no time is never late.
            until_ns=None if has_times or self._reader.has_times else max(arrival_ns, self._last_ns),
            has_wall_time=not self._reader.has_times or self._reader.is_wall_time,
        )

    def _read(self, piece: Piece) -> Record | None:
        distrusts, self._distrusts = self._distrusts, False
        if piece.fate is not None:
            self._account.count(piece.fate, detail=shown(piece.raw))
            return None
        if distrusts and not self._reader.is_whole(piece.raw):
            self._account.count("half line", detail=shown(piece.raw))
            return None
        try:
            return self._reader.read(piece.raw)
        except BadRecord as bad:
            self._account.count(bad.fate, detail=bad.detail)
            return None
