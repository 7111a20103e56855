"""When a node asks for new releases: no more often than its configuration says, whatever starts the updater."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.clock import Clock
from edgeinfer.durable import replace_file

_EARLY = 0.9  # The timer comes when it comes: what is nearly due is due.
_DIGITS_MAX = 20


class Schedule:
    """Keeps in a file when was asked last."""

    def __init__(self, folder: Path, every_s: float, clock: Clock) -> None:
        self._path = folder / "asked"
        self._every_s = every_s
        self._clock = clock

    def is_due(self) -> bool:
        """Also where the clock was set back, or nothing is known."""
        asked_s = self._asked_s()
        now_s = self._clock.unix_ns() / 1e9
        return asked_s is None or not 0 <= now_s - asked_s < _EARLY * self._every_s

    def asked(self) -> None:
        """Now. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, b"%d\n" % (self._clock.unix_ns() // 10**9))

    def _asked_s(self) -> int | None:
        try:
            with self._path.open("rb") as file:
                digits = file.read(_DIGITS_MAX).strip()
        except OSError:
            return None
        return int(digits) if digits.isdigit() else None
