"""A source of samples and what a model takes -> windows, even and whole."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle.facts import WindowInput
from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.frame import Samples, Window
from edgeinfer.sources.account import Account
from edgeinfer.sources.grid import Filling, Grid, Missing, Rows
from edgeinfer.sources.readings import Numbers, Readings, SampleSource
from edgeinfer.sources.resample import Resampler
from edgeinfer.sources.timeline import Stretch, Timeline
from edgeinfer.words import unknown

log = logging.getLogger(__name__)

_LATE_PERIODS = 2
_JUMP_MIN_S = 1.0
_JUMP_PERIODS = 10
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Evenness:
    """How uneven samples become even, where a person says it; None and what is not named leave it to the model.

    missing, missing_s: for all channels, or by the name of each. late_s: how far behind the newest a sample may come.
    """

    missing: Missing | Mapping[str, Missing] | None = None
    missing_s: float | Mapping[str, float] | None = None
    late_s: float | None = None


class Windows:
    """A Source of windows out of one of samples, which it owns.

    `account` goes on with the counts of a source that this one follows. Raises SourceError where the channels that the
    model names are not there.
    """

    def __init__(
        self,
        source: SampleSource,
        window: WindowInput,
        *,
        evenness: Evenness | None = None,
        account: Account | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.uri = source.uri
        self.live = source.live
        self.fps: float | None = window.rate_hz / window.stride
        self.account = account or Account()
        self._clock = clock or Clock()
        self.looked_ns = self._clock.monotonic_ns()
        self._source = source
        self._window = window
        self._cutter = _Cutter(window)
        self._ready: deque[Window] = deque()
        self._seq = 0
        self._is_over = False
        source.begin(window.channels, self.account)
        rate_hz = source.rate_hz
        self._evener: _Even | _Sound = (
            _Even(source, window, evenness or Evenness(), self.account)
            if rate_hz is None
            else _Sound(rate_hz, window, self.account)
        )

    @property
    def skipped(self) -> Mapping[str, str]:
        return self.account.skipped()

    def read(self) -> Window | None:
        """Its `looked_ns` says when samples were last asked for: to wait for enough of them is not to hang."""
        while not self._ready and not self._is_over:
            readings = self._source.read()
            self.looked_ns = self._clock.monotonic_ns()
            if readings is None:
                self._end()
            else:
                self._take(readings)
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        self._is_over = True
        self._source.close()

    def _take(self, readings: Readings) -> None:
        for rows in self._evener.feed(readings):
            self._cut(rows, readings)

    def _end(self) -> None:
        closed, self._is_over = self._is_over, True
        if closed or self.live:
            return
        now = Readings(np.empty((0, 0)), None, self._clock.monotonic_ns(), self._clock.unix_ns(), has_wall_time=False)
        for rows in self._evener.finish():
            self._cut(rows, now)
        if self._seq == 0 and (short := self._evener.pad()) is not None:
            self._cut(short, now)
        if self._seq == 0:
            wanted_s = self._window.length / self._window.rate_hz
            raise SourceError(
                f"{self.uri!r} gives no whole window: the model takes {wanted_s:g} s without a gap",
                hint=_why_none(self.account) or "it ends too early",
            )

    def _cut(self, rows: Rows, readings: Readings) -> None:
        if rows.anew and self._cutter.has_line:
            self.account.note("gaps")
        for cut in self._cutter.feed(rows):
            first_ns = cut.first_ns
            last_ns = first_ns + round((self._window.length - 1) * 1e9 / self._window.rate_hz)
            self._ready.append(
                Window(
                    values=cut.values,
                    seq=self._seq,
                    captured_ns=readings.captured_ns,
                    captured_unix_ns=last_ns if self._evener.has_wall_time else readings.captured_unix_ns,
                    uri=self.uri,
                    rate_hz=self._window.rate_hz,
                    channels=self._source.channels,
                    position_s=None if self.live else (first_ns - self._evener.begin_ns) / 1e9,
                    filled=cut.filled,
                    follows=cut.follows,
                )
            )
            self._seq += 1


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    values: Samples
    filled: float
    first_ns: int
    follows: bool


class _Cutter:
    """Rows -> windows of `length`, a `stride` apart, none over a gap. A line is what lies between two gaps."""

    def __init__(self, window: WindowInput) -> None:
        self._length = window.length
        self._stride = window.stride
        self._period_ns = 1e9 / window.rate_hz
        self._pieces: list[Rows] = []
        self._line_ns: int | None = None
        # Of the line: the first row that is held, the one behind the last, and where the next window begins.
        self._begin = self._end = self._next = 0
        self._follows = False

    @property
    def has_line(self) -> bool:
        return self._line_ns is not None

    def feed(self, rows: Rows) -> list[_Cut]:
        if rows.anew or self._line_ns is None:
            self._pieces.clear()
            self._line_ns = rows.first_ns
            self._begin = self._end = self._next = 0
            self._follows = False
        self._pieces.append(rows)
        self._end += len(rows.values)
        if self._end < self._next + self._length:
            return []
        values = np.concatenate([each.values for each in self._pieces])
        made_up = np.concatenate([each.made_up for each in self._pieces])
        cuts = []
        while self._end >= self._next + self._length:
            cuts.append(self._cut(values, made_up, self._line_ns))
            self._next += self._stride
            self._follows = self._stride <= self._length
        kept = min(self._next, self._end) - self._begin
        self._pieces = [Rows(values[kept:].copy(), made_up[kept:].copy(), rows.first_ns, anew=False)]
        self._begin += kept
        return cuts

    def _cut(self, values: Samples, made_up: npt.NDArray[np.int64], line_ns: int) -> _Cut:
        first = self._next - self._begin
        numbers = values[first : first + self._length].copy()
        share = float(made_up[first : first + self._length].sum()) / numbers.size
        return _Cut(numbers, share, line_ns + round(self._next * self._period_ns), self._follows)


class _Even:
    """Samples with times of their own."""

    def __init__(self, source: SampleSource, window: WindowInput, evenness: Evenness, account: Account) -> None:
        self.begin_ns = 0
        self.has_wall_time = True
        self._source = source
        self._window = window
        self._evenness = evenness
        self._account = account
        period_s = 1 / window.rate_hz
        late_s = evenness.late_s if evenness.late_s is not None else _LATE_PERIODS * period_s
        limits_s = [filling.limit_s for filling in self._fillings(window.channels or ("",))]
        self._timeline = Timeline(
            late_ns=round(late_s * 1e9) if source.can_be_late else 0,
            jump_ns=round(max(_JUMP_MIN_S, _JUMP_PERIODS * period_s, *limits_s) * 1e9),
            account=account,
        )
        self._grid: Grid | None = None
        self._has_begun = False

    def feed(self, readings: Readings) -> list[Rows]:
        if self._grid is None and self._source.channels:
            self._grid = Grid(self._window.rate_hz, self._fillings(self._source.channels))
        if readings.at_ns is not None and readings.at_ns.size:
            self.has_wall_time = readings.has_wall_time
            self._place(readings.at_ns, readings.values, readings.captured_ns)
        return self._rows(self._timeline.settle(readings.until_ns), readings.until_ns)

    def finish(self) -> list[Rows]:
        return self._rows(self._timeline.finish(), None)

    def pad(self) -> Rows | None:
        """What a sensor did not say is not made up."""
        return None

    def _place(self, at_ns: npt.NDArray[np.int64], values: Numbers, came_ns: int) -> None:
        is_number = np.abs(values) <= _LARGEST  # False for NaN, too.
        values = np.where(is_number, values, np.nan)
        is_empty = ~is_number.any(axis=1)
        missing = int((~is_number[~is_empty]).sum())
        if missing:
            self._account.note("missing numbers", missing)
        if is_empty.any():
            self._account.count("no number", int(is_empty.sum()))
        for at, numbers in zip(at_ns[~is_empty].tolist(), values[~is_empty].tolist(), strict=True):
            self._timeline.add(at, numbers, came_ns)

    def _rows(self, stretches: list[Stretch], until_ns: int | None) -> list[Rows]:
        if self._grid is None:
            return []
        made: list[Rows] = []
        for stretch in stretches:
            if not self._has_begun:
                self._has_begun, self.begin_ns = True, int(stretch.at_ns[0])
            elif stretch.anew:
                self._grid.restart()
            self._grid.add(stretch.at_ns, stretch.values)
            made += self._grid.rows(int(stretch.at_ns[-1]))
        if until_ns is not None:
            made += self._grid.rows(until_ns)
        return made

    def _fillings(self, channels: tuple[str, ...]) -> list[Filling]:
        said, said_s = self._evenness.missing, self._evenness.missing_s
        for words in (said, said_s):
            for name in words if isinstance(words, Mapping) and channels != ("",) else ():
                if name not in channels:
                    raise SourceError(unknown("channel", name, channels))
        missing = said if isinstance(said, Mapping) else dict.fromkeys(channels, said or self._window.missing)
        limit_s = said_s if isinstance(said_s, Mapping) else dict.fromkeys(channels, said_s)
        return [
            Filling(
                missing.get(name, self._window.missing),
                self._window.missing_s if (own_s := limit_s.get(name)) is None else own_s,
            )
            for name in channels
        ]


class _Sound:
    """Samples at even distances, brought to the model's rate."""

    has_wall_time = False
    begin_ns = 0

    def __init__(self, rate_hz: float, window: WindowInput, account: Account) -> None:
        self._resampler = Resampler(rate_hz, window.rate_hz)
        self._window = window
        self._account = account
        self._given = 0
        self._anew = True

    def feed(self, readings: Readings) -> list[Rows]:
        made = []
        if not readings.follows:
            made += self._rows(self._resampler.finish())
            self._resampler.restart()
            self._anew = True
        sound = readings.values[:, 0]
        is_number = np.isfinite(sound)
        if not is_number.all():
            self._account.note("missing numbers", int((~is_number).sum()))
        self._account.count("used", sound.size)
        # One that is missing in the middle of sound is a click at most.
        return made + self._rows(self._resampler.feed(np.where(is_number, sound, 0).astype(np.float32)))

    def finish(self) -> list[Rows]:
        return self._rows(self._resampler.finish())

    def pad(self) -> Rows | None:
        """All there was and silence behind it, where that is less than a window."""
        missing = self._window.length - self._given
        if not 0 < missing < self._window.length:
            return None
        return Rows(np.zeros((missing, 1), np.float32), np.ones(missing, np.int64), self._place_ns(), anew=False)

    def _rows(self, sound: Samples) -> list[Rows]:
        if not sound.size:
            return []
        rows = Rows(sound[:, None], np.zeros(sound.size, np.int64), self._place_ns(), self._anew)
        self._given += sound.size
        self._anew = False
        return [rows]

    def _place_ns(self) -> int:
        return round(self._given * 1e9 / self._window.rate_hz)


def _why_none(account: Account) -> str | None:
    """What became of the samples, where they were not used."""
    return ", ".join(f"{name} {said}" for name, said in account.skipped().items()) or None
