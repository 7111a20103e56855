"""Pieces of what came -> Readings, each piece counted: what all sources of lines have in common."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgeinfer.clock import Clock
from edgeinfer.sources.account import Account
from edgeinfer.sources.framing import Piece
from edgeinfer.sources.readings import Readings
from edgeinfer.sources.records import BadRecord, Fields, Record, RecordReader, shown


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

    def distrust(self) -> None:
        """Of the next line the beginning may be lost."""
        self._distrusts = True

    def gather(self, pieces: Iterable[Piece]) -> Readings:
        """Raises SourceError as RecordReader."""
        return self._readings((self._read(piece), piece.bytes_after) for piece in pieces)

    def gather_fields(self, rows: Iterable[Fields]) -> Readings:
        """The same of records that are split already."""
        return self._readings((self._read_fields(row), 0) for row in rows)

    def _readings(self, records: Iterable[tuple[Record | None, int]]) -> Readings:
        captured_ns, captured_unix_ns = self._clock.monotonic_ns(), self._clock.unix_ns()
        arrival_ns = captured_ns + self._offset_ns
        at_ns: list[int] = []
        rows: list[list[float]] = []
        for record, bytes_after in records:
            if record is None:
                continue
            came_ns = max(arrival_ns - round(bytes_after * self._byte_s * 1e9), self._last_ns + 1)
            self._last_ns = came_ns
            at_ns.append(came_ns if record.at_ns is None else record.at_ns)
            rows.append(record.numbers)
        self.records += len(rows)
        return Readings(
            np.array(rows, float).reshape(len(rows), len(self._reader.channels)),
            np.array(at_ns, np.int64),
            captured_ns,
            captured_unix_ns,
            # Whoever says no time is never late.
            until_ns=None if self._reader.has_times else max(arrival_ns, self._last_ns),
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

    def _read_fields(self, row: Fields) -> Record | None:
        try:
            return self._reader.read_fields(row, repr([value for _, value in row]).encode())
        except BadRecord as bad:
            self._account.count(bad.fate, detail=bad.detail)
            return None
