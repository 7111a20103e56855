"""Flatbuffers, read with every offset and length checked against the buffer."""

from __future__ import annotations

import struct
from typing import Any

MAX_TABLES = 1 << 17
"""More entries in one vector of tables than any model has; a hostile file could name the same one for ever."""

_HEADER = struct.Struct("<i")
_VTABLE = struct.Struct("<HH")
_OFFSET = struct.Struct("<I")


class FlatbufferError(ValueError):
    """The bytes are no flatbuffer, or one that points outside of itself; the message is one line."""


def read_root(content: bytes, identifier: bytes) -> Table:
    """The root table of a flatbuffer marked with `identifier`. Raises FlatbufferError."""
    if len(content) < 8 or content[4:8] != identifier:
        raise FlatbufferError(f"no {identifier.decode()} mark")
    return Table(content, _OFFSET.unpack_from(content, 0)[0])


class Table:
    """One table: its fields by slot, in the order of the schema, from 0.

    A field that the writer left out reads as its default. Nothing is read before its place is known to lie
    inside the buffer; all reading methods raise FlatbufferError.
    """

    __slots__ = ("_at", "_content", "_fields", "_size")

    def __init__(self, content: bytes, at: int) -> None:
        self._content = content
        self._at = at
        end = len(content)
        _check(at, 4, end, "a table")
        vtable = at - _HEADER.unpack_from(content, at)[0]
        _check(vtable, 4, end, "a table's field list")
        vtable_size, self._size = _VTABLE.unpack_from(content, vtable)
        if vtable_size < 4 or vtable_size % 2 or self._size < 4:
            raise FlatbufferError(f"the table at byte {at} has an impossible field list")
        _check(vtable, vtable_size, end, "a table's field list")
        _check(at, self._size, end, "a table")
        self._fields: tuple[int, ...] = struct.unpack_from(f"<{(vtable_size - 4) // 2}H", content, vtable + 4)

    def has(self, slot: int) -> bool:
        return slot < len(self._fields) and self._fields[slot] != 0

    def int8(self, slot: int) -> int:
        return int(self._scalar(slot, "<b", 1))

    def uint8(self, slot: int) -> int:
        return int(self._scalar(slot, "<B", 1))

    def int32(self, slot: int) -> int:
        return int(self._scalar(slot, "<i", 4))

    def uint32(self, slot: int) -> int:
        return int(self._scalar(slot, "<I", 4))

    def uint64(self, slot: int) -> int:
        return int(self._scalar(slot, "<Q", 8))

    def table(self, slot: int) -> Table | None:
        at = self._target(slot)
        return None if at is None else Table(self._content, at)

    def tables(self, slot: int) -> list[Table]:
        """A vector of tables, all of them checked; empty where left out."""
        start, count = self._vector(slot, 4)
        if count > MAX_TABLES:
            raise FlatbufferError(f"a list of {count} entries, at most {MAX_TABLES} are allowed")
        offsets = struct.unpack_from(f"<{count}I", self._content, start)
        return [Table(self._content, start + 4 * index + offset) for index, offset in enumerate(offsets)]

    def text(self, slot: int) -> str:
        """A string; "" where left out, bytes that are no UTF-8 replaced."""
        return self.data(slot).decode(errors="replace")

    def data(self, slot: int) -> bytes:
        """A copy of a vector of bytes."""
        start, count = self._vector(slot, 1)
        return self._content[start : start + count]

    def data_size(self, slot: int) -> int:
        """The length of a vector of bytes that is known to lie inside the buffer; nothing is copied."""
        return self._vector(slot, 1)[1]

    def int32s(self, slot: int) -> tuple[int, ...]:
        return self._scalars(slot, "i", 4)

    def int64s(self, slot: int) -> tuple[int, ...]:
        return self._scalars(slot, "q", 8)

    def float32s(self, slot: int) -> tuple[float, ...]:
        return self._scalars(slot, "f", 4)

    def _scalar(self, slot: int, layout: str, width: int) -> Any:
        if slot >= len(self._fields) or not self._fields[slot]:
            return 0
        return struct.unpack_from(layout, self._content, self._place(slot, width))[0]

    def _scalars(self, slot: int, kind: str, width: int) -> tuple[Any, ...]:
        start, count = self._vector(slot, width)
        return struct.unpack_from(f"<{count}{kind}", self._content, start)

    def _place(self, slot: int, width: int) -> int:
        offset = self._fields[slot]
        if offset < 4 or offset + width > self._size:
            raise FlatbufferError(f"the table at byte {self._at} has a field outside of itself")
        return self._at + offset

    def _target(self, slot: int) -> int | None:
        """Where the field's offset points to; None where the field is left out."""
        if slot >= len(self._fields) or not self._fields[slot]:
            return None
        place = self._place(slot, 4)
        return int(place + _OFFSET.unpack_from(self._content, place)[0])

    def _vector(self, slot: int, width: int) -> tuple[int, int]:
        """Where a vector's first element lies, and how many there are, all inside the buffer."""
        at = self._target(slot)
        if at is None:
            return 0, 0
        end = len(self._content)
        _check(at, 4, end, "a list")
        count = _OFFSET.unpack_from(self._content, at)[0]
        _check(at + 4, count * width, end, "a list")
        return at + 4, count


def _check(at: int, size: int, end: int, what: str) -> None:
    if at < 0:
        raise FlatbufferError(f"{what} lies {-at} bytes before the beginning")
    if at + size > end:
        raise FlatbufferError(f"{what} reaches {at + size - end} bytes past the end")
