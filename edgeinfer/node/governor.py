"""When to ask less of a board, so that its kernel need not: by its heat, its load and its memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgeinfer.board import Heat, Vitals

SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1)
"""Of the frames that a pipeline computes when nothing holds it back, by level."""

CHANGE_NS = 60_000_000_000
"""Between two changes; so long a board takes to show what the last one did."""

_HALF = SHARES.index(0.5)
_CALM_NS = 120_000_000_000
_CALM_MAX_NS = 3_600_000_000_000
_SOON_NS = 600_000_000_000
_TREND_NS = 60_000_000_000
_TREND_MIN_NS = 20_000_000_000
_AHEAD_MINUTES = 0.5
_MEAN_OF = 3
_MUCH_C = 10.0
_NEAR_C = 1.0
_BACK_C = 5.0
_BACK_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a board is strained. margin_c: below the limit of a sensor. load: per core. memory_stalled: 0..1.

    Calm it is when heat is 5 °C below that, and load and memory are at half of theirs.
    """

    margin_c: float = 5.0
    load: float = 4.0
    memory_stalled: float = 0.2


@dataclass(frozen=True, slots=True)
class Change:
    """To another level of `SHARES`, and why."""

    level: int
    before: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Strain:
    """levels: how many to go down at once. deepest: the level beyond which this is no reason to go."""

    reason: str
    levels: int = 1
    deepest: int = len(SHARES) - 1


@dataclass(slots=True)
class _Trend:
    """The last minute of a sensor. A single reading may be off by a degree: the ends are means of some."""

    seen: deque[tuple[int, float]] = field(default_factory=deque)

    def add(self, now_ns: int, now_c: float) -> None:
        self.seen.append((now_ns, now_c))
        while now_ns - self.seen[0][0] > _TREND_NS:
            self.seen.popleft()

    @property
    def now_c(self) -> float:
        return self._last()[1]

    @property
    def per_minute_c(self) -> float:
        """0 where too little was seen to tell."""
        first_ns, first_c = _mean([self.seen[index] for index in range(min(_MEAN_OF, len(self.seen)))])
        last_ns, last_c = self._last()
        if last_ns - first_ns < _TREND_MIN_NS:
            return 0.0
        return (last_c - first_c) * 60e9 / (last_ns - first_ns)

    def _last(self) -> tuple[float, float]:
        return _mean([self.seen[-1 - index] for index in range(min(_MEAN_OF, len(self.seen)))])


def _mean(readings: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Of the times and of the temperatures."""
    count = len(readings)
    return sum(at_ns for at_ns, _ in readings) / count, sum(now_c for _, now_c in readings) / count


def step(level: int, lighter: int) -> tuple[float, int]:
    """The share at that level of a pipeline with so many lighter models, and which of these (0: its usual one).

    First it is slowed to half, which loses nothing but frames; then the models change; only then it is slowed further.
    """
    beyond = max(0, level - _HALF)
    model = min(beyond, lighter)
    return SHARES[level - model], model


class Governor:
    """Looks at the vitals every few seconds and says when the level changes: at most once a minute.

    Heat is judged by where it will be in half a minute. It goes back a level when the board has been calm for two
    minutes; where it has to go down again within ten minutes, next time it waits for twice as long, up to an hour.
    A bad supply, or whoever else keeps the board busy, can slow us to half: beyond that we would only make room.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.level = 0
        self._bounds = bounds or Bounds()
        self._trends: dict[str, _Trend] = {}
        self._changed_ns: int | None = None
        self._raised_ns: int | None = None
        self._calm_since_ns: int | None = None
        self._patience_ns = _CALM_NS

    @property
    def share(self) -> float:
        return step(self.level, 0)[0]

    def look(self, now_ns: int, vitals: Vitals) -> Change | None:
        for heat in _hottest(vitals):
            self._trends.setdefault(heat.type, _Trend()).add(now_ns, heat.now_c)
        strains = [each for each in self._strains(vitals) if self.level < each.deepest]
        calm = not strains and self._is_calm(vitals)
        if not calm:
            self._calm_since_ns = None
        elif self._calm_since_ns is None:
            self._calm_since_ns = now_ns
        if self._changed_ns is not None and now_ns - self._changed_ns < CHANGE_NS:
            return None
        if strains:
            return self._lower(now_ns, max(strains, key=lambda each: each.levels))
        if self.level and self._calm_since_ns is not None and now_ns - self._calm_since_ns >= self._patience_ns:
            return self._raise(now_ns)
        return None

    def _lower(self, now_ns: int, strain: _Strain) -> Change:
        if self._raised_ns is not None:
            too_soon = now_ns - self._raised_ns < _SOON_NS
            self._patience_ns = min(2 * self._patience_ns, _CALM_MAX_NS) if too_soon else _CALM_NS
            self._raised_ns = None
        return self._change(now_ns, min(self.level + strain.levels, strain.deepest), strain.reason)

    def _raise(self, now_ns: int) -> Change:
        self._raised_ns = now_ns
        return self._change(now_ns, self.level - 1, "the board is calm again")

    def _change(self, now_ns: int, level: int, reason: str) -> Change:
        change = Change(level, self.level, reason)
        self.level = level
        self._changed_ns = now_ns
        self._calm_since_ns = None
        return change

    def _strains(self, vitals: Vitals) -> Iterator[_Strain]:
        bounds = self._bounds
        if vitals.throttled:
            yield _Strain("; ".join(vitals.throttled), levels=2)
        for heat in _hottest(vitals):
            trend = self._trends[heat.type]
            now_c, rise_c = trend.now_c, max(0.0, trend.per_minute_c)
            if now_c >= heat.limit_c - _NEAR_C:
                yield _Strain(_said(heat, now_c, rise_c), levels=2)
            elif now_c + rise_c * _AHEAD_MINUTES >= heat.limit_c - bounds.margin_c:
                # The next change is a minute away, and until then this one has to do.
                too_much_c = now_c + rise_c - heat.limit_c
                levels = 1 if too_much_c < 0 else 2 if too_much_c < _MUCH_C else 3
                yield _Strain(_said(heat, now_c, rise_c), levels)
        if vitals.under_voltage:
            yield _Strain("the supply's voltage is too low", deepest=_HALF)
        if vitals.memory_stalled is not None and vitals.memory_stalled >= bounds.memory_stalled:
            yield _Strain(f"programs wait for memory {vitals.memory_stalled:.0%} of the time", deepest=_HALF)
        if vitals.load is not None and vitals.load >= bounds.load:
            yield _Strain(f"the load is {vitals.load:.1f} per core", deepest=_HALF)

    def _is_calm(self, vitals: Vitals) -> bool:
        bounds = self._bounds
        return (
            not vitals.throttled
            and not vitals.under_voltage
            and all(
                self._trends[heat.type].now_c <= heat.limit_c - bounds.margin_c - _BACK_C for heat in _hottest(vitals)
            )
            and (vitals.load or 0.0) <= bounds.load * _BACK_SHARE
            and (vitals.memory_stalled or 0.0) <= bounds.memory_stalled * _BACK_SHARE
        )


def _hottest(vitals: Vitals) -> list[Heat]:
    """Of several sensors of one type the one that is nearest to its limit."""
    nearest: dict[str, Heat] = {}
    for heat in vitals.heats:
        known = nearest.get(heat.type)
        if known is None or heat.limit_c - heat.now_c < known.limit_c - known.now_c:
            nearest[heat.type] = heat
    return list(nearest.values())


def _said(heat: Heat, now_c: float, rise_c: float) -> str:
    rising = f" and rises by {rise_c:.0f} °C a minute" if rise_c >= 1 else ""
    return f"{heat.type} is at {now_c:.0f} °C{rising}, its limit is {heat.limit_c:g} °C"
