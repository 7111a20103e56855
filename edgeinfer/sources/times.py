"""How sensors and recordings write a time -> nanoseconds."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Literal

Unit = Literal["s", "ms", "us", "ns"]

NAMES = frozenset(
    {"time", "timestamp", "ts", "t", "datetime", "date_time", "date", "unix", "unix_s", "unix_ms", "epoch", "utc"}
    | {"time_s", "time_ms", "time_us", "time_ns", "ts_ms", "timestamp_ms", "t_s", "t_ms"}
)
"""Columns that hold times, in lower case."""

_SCALES: dict[Unit, int] = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
# Of a number that stands for a moment after 1973 in one unit, and before 2286 in the next larger.
_FROM_1973: tuple[tuple[float, Unit], ...] = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e8, "s"))
_LARGEST_NS = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?\s*(?:([Zz])|([+-]\d\d):?(\d\d))?\Z", re.ASCII
)


class TimeReader:
    """Reads the times of one source. Numbers are Unix time in s, ms, µs or ns, as the first of them says by its size
    unless `unit` does; small ones count seconds from a beginning of their own. Text is RFC 3339, UTC unless it says
    otherwise."""

    def __init__(self, unit: Unit | None = None) -> None:
        self._unit = unit
        self.is_wall_time = True

    def guess_from(self, name: str) -> None:
        """A column `time_ms` says its unit."""
        ending = name.lower().rpartition("_")[2]
        if self._unit is None and name.lower() != ending:
            self._unit = next((unit for unit in _SCALES if unit == ending), None)

    def read(self, stated: str | float) -> int:
        """Nanoseconds. Raises ValueError."""
        if isinstance(stated, str):
            at_ns = _of_text(stated.strip())
            if at_ns is not None:
                return at_ns
        number = float(stated)
        if self._unit is None:
            self._unit = _unit_of(number)
        at_ns = round(number * _SCALES[self._unit])  # Raises OverflowError, or ValueError for NaN.
        self.is_wall_time = abs(at_ns) >= 10**17
        if abs(at_ns) > _LARGEST_NS:
            raise ValueError(f"{stated} is no time")
        return at_ns


def _unit_of(number: float) -> Unit:
    return next((unit for least, unit in _FROM_1973 if abs(number) >= least), "s")


def looks_like_time(stated: str) -> bool:
    """Whether a field can hardly be anything else."""
    try:
        return _of_text(stated.strip()) is not None or 1e8 <= float(stated) < 1e19
    except ValueError:
        return False


def _of_text(text: str) -> int | None:
    parts = _RFC3339.match(text)
    if parts is None:
        return None
    day, second, fraction, _, hours, minutes = parts.groups()
    moment = datetime.fromisoformat(f"{day}T{second}+00:00")
    offset = timedelta(hours=int(hours), minutes=int(f"{hours[0]}{minutes}")) if hours else timedelta()
    seconds = (moment - offset - _EPOCH) // timedelta(seconds=1)
    return seconds * 10**9 + int((fraction or "").ljust(9, "0"))
