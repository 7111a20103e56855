"""What time it is at least, where a clock may stand in 2016: the latest of clock, build and what was seen before."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Protocol

from edgeinfer.clock import Clock

BUILT = datetime(2026, 11, 26, tzinfo=timezone.utc)
"""When this version was made: no clock that is right says less. Raised with each release of the package."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class TimeFloor(Protocol):
    """Where the latest moment is kept that was ever held for true; a Store."""

    def time_floor(self) -> int: ...

    def raise_time_floor(self, unix_ns: int) -> None: ...


def trusted_now(floor: TimeFloor, clock: Clock) -> datetime:
    """UTC, whole microseconds."""
    latest_ns = max(clock.unix_ns(), floor.time_floor(), unix_ns_at(BUILT))
    return _EPOCH + timedelta(microseconds=latest_ns // 1000)


def keep(floor: TimeFloor, now: datetime) -> None:
    """Never trust less from now on.

    Only for a moment up to which signed metadata was valid: so a clock that once stood two years ahead does not stop
    the updates of these two years.
    """
    floor.raise_time_floor(unix_ns_at(now))


def unix_ns_at(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
