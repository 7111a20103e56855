"""How old an accepted message is, on devices whose wall clock jumps."""

from __future__ import annotations

from dataclasses import dataclass

from edgeinfer.clock import Clock, ClockState

_JUMP_NS = 10_000_000_000
_STEADY_NS = 300_000_000_000
_SETTLES_WITHIN_NS = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment. at_s: of the spool's own clock, never less than before; wall_s: unix time, where that is trusted.

    is_settled: the time that the spool was closed is in it, or will never be.
    """

    at_s: int
    wall_s: int | None
    is_settled: bool = True


class SpoolClock:
    """A clock of the spool's own, which no jump of the wall clock moves.

    While the spool is open it goes with the monotonic clock. For the time that it was closed it is put forward by the
    difference of the wall clock, and only where that was trusted both at the last mark before and within an hour of
    opening: the kernel calls it synchronised, and it has gone steadily for five minutes, which a clock that starts in
    1970 or was just set has not. Where it was not trusted, the time closed does not count: a message may be kept too
    long, and the limit in bytes holds, but none is dropped because of a date.
    """

    def __init__(self, clock: Clock, last: Mark) -> None:
        self._clock = clock
        self._opened_ns = self._steady_ns = clock.monotonic_ns()
        self._offset_ns = clock.unix_ns() - self._opened_ns
        self._begin_s = last.at_s
        self._closed_at_wall_s = last.wall_s

    def mark(self, state: ClockState) -> Mark:
        """Now. state: whether the kernel calls the wall clock synchronised."""
        now_ns, unix_ns = self._clock.monotonic_ns(), self._clock.unix_ns()
        open_ns = now_ns - self._opened_ns
        open_s, wall_s = open_ns // 1_000_000_000, unix_ns // 1_000_000_000
        is_trusted = self._is_trusted(state, now_ns, unix_ns)
        if self._closed_at_wall_s is not None and is_trusted:
            self._begin_s += max(0, wall_s - open_s - self._closed_at_wall_s)
        if is_trusted or open_ns > _SETTLES_WITHIN_NS:
            self._closed_at_wall_s = None
        return Mark(self._begin_s + open_s, wall_s if is_trusted else None, self._closed_at_wall_s is None)

    def _is_trusted(self, state: ClockState, now_ns: int, unix_ns: int) -> bool:
        jump_ns = abs(unix_ns - now_ns - self._offset_ns)
        self._offset_ns = unix_ns - now_ns  # Slewing adds up over a long time, and is no jump.
        if jump_ns > _JUMP_NS:
            self._steady_ns = now_ns
        return state == "synced" and now_ns - self._steady_ns >= _STEADY_NS
