"""One line or record of a sensor -> its time and its numbers: CSV, JSON, key=value, fixed binary records."""

from __future__ import annotations

import csv
import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgeinfer.errors import SourceError
from edgeinfer.sources import times
from edgeinfer.sources.account import Fate
from edgeinfer.sources.options import Query
from edgeinfer.sources.readings import Columns, choose_columns
from edgeinfer.sources.times import TimeReader, Unit
from edgeinfer.words import unknown

LINE_BYTES_MAX = 4096
CHANNELS_MAX = 256
RECORD_BYTES_MAX = 4096
FORMATS = ("csv", "json", "keyvalue")
UNITS = ("s", "ms", "us", "ns")

_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "--", "err", "error", "inf", "-inf", "+inf"})
_PAIRS = re.compile(r"[\s,;&]+")
_DEPTH_MAX = 4
_DETAIL_MAX = 40

Fields = Sequence[tuple[str, str | float]]
"""Names with what stands there: text, or a number (NaN where it is missing)."""


class BadRecord(Exception):
    """What came is no record; `fate` is what to count it under."""

    def __init__(self, fate: Fate, detail: str) -> None:
        super().__init__(detail)
        self.fate = fate
        self.detail = detail


class Record(NamedTuple):
    """at_ns: None where the record says no time. numbers: of the columns that were chosen, NaN where missing."""

    at_ns: int | None
    numbers: list[float]


@dataclass(frozen=True, slots=True)
class Form:
    """What records look like. format: csv, json, keyvalue, `struct:<fmt>`; None to be told by the first line.

    time: the column with the time, None to find it by its name, "none" for none. unit: of its numbers. names: of the
    columns, where no header says them. sync: the bytes that each binary record begins with.
    """

    format: str | None = None
    time: str | None = None
    unit: Unit | None = None
    names: tuple[str, ...] = ()
    sync: bytes = b""


def form_of(query: Query, word: str) -> Form:
    """`format=csv&time=when&unit=ms&names=a,b&sync=aa55`. Raises SourceError."""
    format_, unit, sync = query.text("format"), query.text("unit"), query.text("sync")
    if format_ is not None and format_ not in FORMATS and not format_.startswith("struct:"):
        raise SourceError(f"{unknown('format', format_, (*FORMATS, 'struct:<fmt>'))} (in {word!r})")
    if unit is not None and unit not in UNITS:
        raise SourceError(f"{unknown('unit', unit, UNITS)} (in {word!r})")
    names = tuple(name.strip() for name in (query.text("names") or "").split(",") if name.strip())
    if len(set(names)) < len(names):
        raise SourceError(f"two columns of {word!r} have the same name")
    try:
        begin = bytes.fromhex(sync or "")
    except ValueError:
        raise SourceError(f"sync={sync} in {word!r} is not hexadecimal", hint="as in sync=aa55") from None
    if sync and not (format_ or "").startswith("struct:"):
        raise SourceError(f"sync in {word!r} is for format=struct:…", hint="lines end with a line feed")
    if format_ is not None and format_.startswith("struct:"):
        layout_of(format_)
    return Form(format_, query.text("time"), unit, names, begin)  # type: ignore[arg-type]


def layout_of(format_: str) -> struct.Struct:
    """`struct:<hhf` -> its layout: of numbers only, and with a byte order. Raises SourceError."""
    pattern = format_.removeprefix("struct:")
    if pattern[:1] not in tuple("<>=!"):
        raise SourceError(f"{format_!r} names no byte order", hint="as in struct:<hhf, < for little-endian, > for big")
    try:
        layout = struct.Struct(pattern)
    except struct.error as wrong:
        raise SourceError(f"{format_!r} is no layout: {wrong}", hint="as in struct:<hhf") from wrong
    if not 1 <= layout.size <= RECORD_BYTES_MAX:
        raise SourceError(f"{format_!r} is {layout.size} bytes long", hint=f"1 to {RECORD_BYTES_MAX} can be read")
    if not all(isinstance(value, int | float) for value in layout.unpack(bytes(layout.size))):
        raise SourceError(f"{format_!r} holds text", hint="numbers only; x skips a byte")
    return layout


class RecordReader:
    """Reads the records of one source, each by itself.

    The first one says which columns there are, unless the form or a header does. Which of them are given is chosen by
    `begin`. is_partial: each record may hold some of the columns only, the first one too.
    """

    def __init__(self, form: Form, *, is_partial: bool = False) -> None:
        self._form = form
        self._is_partial = is_partial
        self._time = TimeReader(form.unit)
        self._wanted: tuple[str, ...] = ()
        self._columns: Columns | None = None
        self._time_name: str | None = None
        self._split: Callable[[bytes], Fields] | None = None if form.format is None else _splitter(form, form.format)

    @property
    def channels(self) -> tuple[str, ...]:
        return () if self._columns is None else self._columns.names

    @property
    def has_times(self) -> bool:
        """Whether each record says its time; only known once there was one."""
        return self._time_name is not None

    @property
    def is_wall_time(self) -> bool:
        return self._time.is_wall_time

    def begin(self, wanted: tuple[str, ...]) -> None:
        self._wanted = wanted

    def is_whole(self, raw: bytes) -> bool:
        """Whether a line can be believed though its beginning may be lost: one of JSON, or a header with all that is
        wanted."""
        text = raw.strip()
        if self._form.format in (None, "json") and text[:1] == b"{" and text[-1:] == b"}":
            return True
        return bool(self._wanted) and all(name.encode() in text for name in self._wanted)

    def read(self, raw: bytes) -> Record | None:
        """One record, or None for a line that holds none: a header, a comment, nothing. Raises BadRecord; SourceError
        for the first, where a column that is wanted is not in it."""
        if self._split is None:
            if not raw.strip():
                return None
            self._split = _splitter(self._form, _format_of(raw))
        try:
            fields = self._split(raw)
        except (ValueError, RecursionError) as bad:
            raise BadRecord("garbage", shown(raw)) from bad
        return self.read_fields(fields, raw) if fields else None

    def read_fields(self, fields: Fields, raw: bytes) -> Record:
        """One record that is split already; `raw` is what a message shows of it. Raises as `read`."""
        if self._columns is None:
            self._columns = self._choose(fields, raw)
        return self._record(dict(fields), raw, self._columns)

    def _record(self, fields: Mapping[str, str | float], raw: bytes, columns: Columns) -> Record:
        try:
            numbers = [number_of(fields.get(name, math.nan)) for name in columns.names]
        except (ValueError, OverflowError) as bad:
            raise BadRecord("garbage", shown(raw)) from bad
        if self._time_name is None:
            return Record(None, numbers)
        try:
            return Record(self._time.read(fields[self._time_name]), numbers)
        except (KeyError, ValueError, OverflowError) as bad:
            raise BadRecord("no time", shown(raw)) from bad

    def _choose(self, fields: Fields, raw: bytes) -> Columns:
        names = [name for name, _ in fields]
        self._time_name = self._find_time(fields)
        if self._time_name is not None:
            self._time.guess_from(self._time_name)
        there = tuple(name for name in names if name != self._time_name)
        if self._wanted and self._is_partial:
            return Columns(self._wanted, ())
        chosen = choose_columns(there, self._wanted) if self._wanted else None
        if isinstance(chosen, Columns):
            return chosen
        is_numbered = self._wanted == tuple(str(place) for place in range(len(self._wanted)))
        if chosen is not None and not is_numbered:
            raise SourceError(unknown("channel", chosen, there), hint="the model names its channels in model.toml")
        # A model that does not name its channels takes the columns in their order.
        numeric = tuple(name for name, value in fields if name in there and _is_number(value))
        if not numeric or len(numeric) > CHANNELS_MAX:
            raise BadRecord("garbage", shown(raw))
        if self._wanted and len(numeric) != len(self._wanted):
            raise SourceError(
                f"the model takes {len(self._wanted)} channels, and there are {len(numeric)} columns with numbers: "
                f"{', '.join(numeric)}",
                hint="name those that it takes as channels, under [window] in a model.toml",
            )
        return Columns(numeric, tuple(range(len(numeric))))

    def _find_time(self, fields: Fields) -> str | None:
        said = self._form.time
        if said == "none":
            return None
        if said is not None:
            if said not in (names := [name for name, _ in fields]):
                raise SourceError(unknown("column", said, names), hint="time= names the column with the times")
            return said
        for name, _ in fields:
            if name.lower() in times.NAMES:
                return name
        first, value = fields[0]
        return first if first == "0" and times.looks_like_time(str(value)) and len(fields) > 1 else None


def number_of(value: str | float) -> float:
    """NaN for what is missing or not finite. Raises ValueError for what is no number."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _MISSING:
            return math.nan
        if "_" in text or not text.isascii():
            raise ValueError(text)
        value = float(text)
    return value if math.isfinite(value) else math.nan


def shown(raw: bytes) -> str:
    """What came, fit for a message: its beginning, printable."""
    text = raw[: _DETAIL_MAX + 1].decode("utf-8", "replace")
    text = "".join(sign if sign.isprintable() else "�" for sign in text)
    return repr(text if len(text) <= _DETAIL_MAX else f"{text[:_DETAIL_MAX]}…")


def _is_number(value: str | float) -> bool:
    try:
        number_of(value)
    except ValueError:
        return False
    return True


def _format_of(raw: bytes) -> str:
    text = raw.lstrip(b" \t\xef\xbb\xbf")
    if text.startswith((b"{", b"[")):
        return "json"
    return "keyvalue" if b"=" in text else "csv"


def _splitter(form: Form, format_: str) -> Callable[[bytes], Fields]:
    if format_ == "json":
        return _split_json
    if format_ == "keyvalue":
        return _split_pairs
    if format_ == "csv":
        return _CsvLines(form.names).split
    layout = layout_of(format_)
    return _BinaryRecords(layout, form).split


def _text_of(raw: bytes) -> str:
    """Raises ValueError."""
    text = raw.decode("utf-8-sig").strip()
    if not all(sign.isprintable() or sign == "\t" for sign in text):
        raise ValueError("unprintable")
    return text


def _split_pairs(raw: bytes) -> Fields:
    fields = []
    for part in _PAIRS.split(_text_of(raw)):
        if part:
            name, sign, value = part.partition("=")
            if not sign:
                name, sign, value = part.partition(":")
            if not (sign and name):
                raise ValueError(part)
            fields.append((name, value))
    return fields


def _split_json(raw: bytes) -> Fields:
    text = _text_of(raw)
    return list(_flat("", json.loads(text), 0)) if text else ()


def _flat(name: str, value: object, depth: int) -> list[tuple[str, str | float]]:
    """Objects and lists by their path, as in `acceleration.x` or `values.0`."""
    if depth > _DEPTH_MAX:
        raise ValueError("too deep")
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        within = f"{name}." if name else ""
        return [leaf for key, each in pairs for leaf in _flat(f"{within}{key}", each, depth + 1)]
    if value is None:
        return [(name, math.nan)]
    if isinstance(value, int):
        # As text a number of any length can be read, and is too large then.
        return [(name, str(value) if abs(value) > 2**53 else float(value))]
    if isinstance(value, float | str):
        return [(name, value)]
    raise ValueError(f"{value!r}")


class _CsvLines:
    """Lines with the same number of fields; the first may name them. `,`, `;`, tabs or blanks lie between them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._said = bool(names)
        self._delimiter: str | None = None
        self._is_settled = False

    def split(self, raw: bytes) -> Fields:
        text = _text_of(raw)
        if not text or text.startswith("#"):
            return ()
        if not self._is_settled:
            self._delimiter = next((sign for sign in ",;\t" if sign in text), None)
        parts = [part.strip() for part in self._parts(text)]
        # Before the first line of numbers there may be greetings; the last line without any names the columns.
        if not self._is_settled and not any(_is_number(part) or times.looks_like_time(part) for part in parts):
            self._names = self._names if self._said else tuple(parts)
            return ()
        if tuple(parts) == self._names:
            return ()
        if not self._is_settled and not self._said and len(parts) != len(self._names):
            self._names = tuple(map(str, range(len(parts))))
        if len(parts) != len(self._names):
            fate: Fate = "half line" if len(parts) < len(self._names) else "garbage"
            raise BadRecord(fate, shown(raw))
        self._is_settled = True
        return list(zip(self._names, parts, strict=True))

    def _parts(self, text: str) -> list[str]:
        if self._delimiter is None:
            return text.split()
        try:
            return next(csv.reader([text], delimiter=self._delimiter))
        except csv.Error as bad:
            raise ValueError(text) from bad


class _BinaryRecords:
    def __init__(self, layout: struct.Struct, form: Form) -> None:
        count = len(layout.unpack(bytes(layout.size)))
        self._layout = layout
        self._names = form.names or tuple(map(str, range(count)))
        if len(self._names) != count:
            raise SourceError(f"{form.format!r} holds {count} numbers, and {len(self._names)} names are given")

    def split(self, raw: bytes) -> Fields:
        return list(zip(self._names, self._layout.unpack(raw), strict=True))
