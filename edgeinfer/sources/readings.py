"""Samples as a sensor or a recording gives them, before anything is made even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgeinfer.sources.account import Account

Numbers = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """What came at once; may be empty, where nothing came for a while.

    values: (samples, channels); what is missing is NaN. at_ns: the time of each sample on the source's own line, such
    as nanoseconds since 1970; None where all follow each other at the source's `rate_hz`.
    captured_ns, captured_unix_ns: the clocks when the last one was there.
    until_ns: no sample of a time before this is still to come, where that is known.
    has_wall_time: whether `at_ns` is the wall clock's. follows: whether none was lost before these.
    """

    values: Numbers
    at_ns: Times | None
    captured_ns: int
    captured_unix_ns: int
    until_ns: int | None = None
    has_wall_time: bool = True
    follows: bool = True


@runtime_checkable
class SampleSource(Protocol):
    """An open source of samples. uri, live: as of a Source.

    rate_hz: of sound, samples at even distances; None where each has a time of its own. can_be_late: whether a sample
    may come after one of a later time.
    """

    uri: str
    live: bool

    @property
    def rate_hz(self) -> float | None: ...

    @property
    def can_be_late(self) -> bool: ...

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the columns that `read` gives; empty until it is known."""
        ...

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        """Called once, before the first read: give these columns, or all in their order where none is named, and count
        what becomes of samples that are not given. Raises SourceError where a column is known not to be there."""
        ...

    def read(self) -> Readings | None:
        """What has come, at least every second, if only to say that nothing has; None at the end, and once closed.

        Raises SourceLost when a live source stops, SourceError when what is left cannot be read.
        """
        ...

    def close(self) -> None:
        """May be called twice, and from another thread than `read`."""
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Which of the columns that come are given, in which order: `places` in what comes, `names` of what is given."""

    names: tuple[str, ...]
    places: tuple[int, ...]


def choose_columns(there: tuple[str, ...], wanted: tuple[str, ...]) -> Columns | str:
    """The wanted columns of those there, all where none is named; the name that is not there."""
    if not wanted:
        return Columns(there, tuple(range(len(there))))
    for name in wanted:
        if name not in there:
            return name
    return Columns(wanted, tuple(there.index(name) for name in wanted))


def no_readings(channels: int, captured_ns: int, captured_unix_ns: int, until_ns: int | None = None) -> Readings:
    """Nothing came until now."""
    empty = np.empty((0, channels))
    return Readings(empty, np.empty(0, np.int64), captured_ns, captured_unix_ns, until_ns)
