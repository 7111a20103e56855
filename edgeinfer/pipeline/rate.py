"""At most so many frames a second are inferred: which, and when the next is due."""

from __future__ import annotations

# A file's times are rounded to its time base and to milliseconds.
_ROUNDING_NS = 1_000_000


class Rate:
    """Due times at even distances, in nanoseconds of a clock or of a file.

    A frame that comes late, by less than a period, does not delay the next, so that the mean rate is kept.
    """

    def __init__(self, fps: float) -> None:
        self._period_ns = round(1e9 / fps)
        self._due_ns: int | None = None
        self._position_ns: int | None = None

    def wait_s(self, now_ns: int) -> float:
        """How long until the next frame is due; 0 where it is."""
        return 0.0 if self._due_ns is None else max(0, self._due_ns - now_ns) / 1e9

    def take(self, now_ns: int) -> None:
        """A frame is taken now."""
        due_ns = now_ns if self._due_ns is None else self._due_ns
        # Who is late by a period or more begins anew: nothing is made up for in a burst.
        begin_ns = due_ns if now_ns - due_ns < self._period_ns else now_ns
        self._due_ns = begin_ns + self._period_ns

    def passes_over(self, position_s: float | None) -> bool:
        """Whether the frame at that place of a file comes before the next is due; takes it otherwise.

        Without a time, or where time does not go on, every frame is taken.
        """
        if position_s is None:
            return False
        position_ns, before_ns = round(position_s * 1e9), self._position_ns
        self._position_ns = position_ns
        if before_ns is not None and position_ns <= before_ns:
            self._due_ns = None
        if self.wait_s(position_ns + _ROUNDING_NS) > 0:
            return True
        self.take(position_ns)
        return False
