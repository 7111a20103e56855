"""How the board is now: its temperatures, what is held back already, how busy it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgeinfer.board import firmware
from edgeinfer.board.recognise import Board, ThermalZone
from edgeinfer.board.roots import Roots, entries, read_bytes, read_int, read_line

# Where a kernel gives only the temperature at which it switches off, clocks go down some degrees before.
_BELOW_CRITICAL_C = 10.0
_NEVER_C = 200.0

# A fan is a cooling device too, and no loss.
_HOLDS_BACK = re.compile(r"(thermal-)?(cpufreq|devfreq)\b.*|.*-throttle-alert|.*-balanced|tegra-heavy|Processor")

_FLAGS = (
    (firmware.THROTTLED, "the firmware throttles"),
    (firmware.SOFT_LIMIT, "the firmware keeps to its soft limit of temperature"),
)


@dataclass(frozen=True, slots=True)
class Heat:
    """A sensor, and from which temperature on clocks go down by it."""

    type: str
    now_c: float
    limit_c: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """heats: of the sensors with a limit. throttled: what holds the board back now, in words. under_voltage: of the
    supply, now.

    load: processes that run or wait, the mean of a minute, per core. memory_stalled: of the last ten seconds the share
    in which some process waited for memory, 0..1. None where the kernel does not say.
    """

    heats: tuple[Heat, ...] = ()
    throttled: tuple[str, ...] = ()
    under_voltage: bool = False
    load: float | None = None
    memory_stalled: float | None = None


class Watch:
    """Looks at the vitals; limit_c: a limit for every sensor, beside those that the kernel and the profile know."""

    def __init__(self, board: Board, roots: Roots | None = None, *, limit_c: float | None = None) -> None:
        self._board = board
        self._roots = roots or Roots()
        limits = ((zone, _limit_c(zone, limit_c)) for zone in board.thermal)
        self._zones = [(zone, limit) for zone, limit in limits if limit is not None]
        self._cooling = [
            (path, kind)
            for path in entries(self._roots.sys / "class/thermal", "cooling_device*")
            if _HOLDS_BACK.fullmatch(kind := read_line(path / "type"))
        ]
        # They only ever grow: what counts is that they do.
        self._counters = {
            **dict.fromkeys(
                [
                    path
                    for folder in entries(self._roots.sys / "class/hwmon", "hwmon*")
                    for path in entries(folder, "oc[0-9]*_event_cnt")
                ],
                "the board draws too much current",
            ),
            self._roots.sys / "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "the CPU throttles",
        }
        self._counted = {path: read_int(path) for path in self._counters}

    def look(self) -> Vitals:
        flags = firmware.throttled_flags(self._roots) or 0
        return Vitals(
            heats=tuple(self._heats()),
            throttled=tuple(dict.fromkeys(self._throttled(flags))),
            under_voltage=bool(flags & firmware.UNDER_VOLTAGE),
            load=self._load(),
            memory_stalled=_stalled(read_bytes(self._roots.proc / "pressure/memory")),
        )

    def _heats(self) -> Iterator[Heat]:
        for zone, limit_c in self._zones:
            now_c = zone.temperature_c()
            if now_c is not None:
                yield Heat(zone.type, now_c, limit_c)

    def _throttled(self, flags: int) -> Iterator[str]:
        yield from (words for flag, words in _FLAGS if flags & flag)
        for path, kind in self._cooling:
            if (read_int(path / "cur_state") or 0) > 0:
                yield f"the kernel throttles ({kind})"
        for path, words in self._counters.items():
            count, before = read_int(path), self._counted[path]
            self._counted[path] = count
            if count is not None and before is not None and count > before:
                yield words

    def _load(self) -> float | None:
        found = re.match(rb"(\d{1,6}\.\d{1,6}) ", read_bytes(self._roots.proc / "loadavg"))
        return None if found is None else float(found[1]) / self._board.cores


def _limit_c(zone: ThermalZone, stated_c: float | None) -> float | None:
    known_c = zone.throttle_c
    if known_c is None and zone.critical_c is not None:
        known_c = zone.critical_c - _BELOW_CRITICAL_C
    if known_c is None and stated_c is None:
        return None
    return min(_NEVER_C if known_c is None else known_c, _NEVER_C if stated_c is None else stated_c)


def _stalled(pressure: bytes) -> float | None:
    """Of the kernel's pressure stall information."""
    found = re.match(rb"some avg10=(\d{1,3}\.\d{1,6}) ", pressure)
    return None if found is None else float(found[1]) / 100
