"""How long to wait before the next attempt: longer each time, and never the same for two nodes."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Doubles from `first_s` to `longest_s`; each delay is shortened by up to half, at random.

    So the nodes of a site do not all come at once when its broker does. `random` gives 0..1.
    """

    def __init__(self, first_s: float, longest_s: float, random: Callable[[], float]) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._random = random
        self._next_s = first_s

    def next_s(self) -> float:
        """The delay before the next attempt."""
        delay_s, self._next_s = self._next_s, min(self._next_s * 2, self._longest_s)
        return delay_s * (1 - self._random() / 2)

    def reset(self) -> None:
        """It worked: begin with the shortest delay again."""
        self._next_s = self._first_s
