"""What may be written to the flash: first results are accepted later, then fewer of them."""

from __future__ import annotations

import logging
from typing import Literal

from edgeinfer.clock import Clock
from edgeinfer.uplink.message import Message

log = logging.getLogger(__name__)

LONGEST_COMMIT_MS = 60_000.0
"""How long a result may wait to be accepted, and be lost in a power cut, to save flash."""

ROWS_MAX = 1000
"""Messages that may wait for a commit: as many again find room while it is written."""

# A saving of an hour; it is taken off the day, so that no 24 hours see more than the limit.
_SAVED_PART = 1 / 25
_AT_BEGIN = 0.75
# Of the saving: above the first, commits come as configured; below the second, as late as may be, and results go.
_PLENTY, _SCARCE = 0.75, 0.25
_WELL_AGAIN = 0.85

Stage = Literal["plenty", "later", "fewer"]


class FlashBudget:
    """Spends so many bytes a day, or any number where that is None; pure arithmetic over a clock.

    The bytes are those that the kernel counts as written to the device by the thread that owns the spool
    (Spool.written_bytes): they hold whole pages, the write-ahead log and its checkpoints, which the size of the results
    says nothing about. The file system's own journal is not in them, nor what the flash makes of it.
    Events and gaps are never left out. After a start, three quarters of an hour may be spent at once.
    """

    def __init__(self, max_bytes_per_day: int | None, *, commit_ms: float, commit_rows: int, clock: Clock) -> None:
        self._usual_ms, self._usual_rows = commit_ms, commit_rows
        self._monotonic_ns = clock.monotonic_ns
        self._counted_ns = self._monotonic_ns()
        self._per_day = max_bytes_per_day
        self._room = (max_bytes_per_day or 0) * _SAVED_PART
        self._saved = self._room * _AT_BEGIN
        self._stage: Stage = "plenty"
        self._due = 0.0

    @property
    def commit_ms(self) -> float:
        """From the first pending message to its commit: as configured, up to LONGEST_COMMIT_MS when there is little."""
        if self._per_day is None:
            return self._usual_ms
        longest = max(self._usual_ms, LONGEST_COMMIT_MS)
        scarcity = min(1.0, max(0.0, (_PLENTY - self._level()) / (_PLENTY - _SCARCE)))
        return float(self._usual_ms * (longest / self._usual_ms) ** scarcity)

    @property
    def commit_rows(self) -> int:
        """So many pending messages are committed at once, whatever the time."""
        longer = self.commit_ms / self._usual_ms
        return max(self._usual_rows, min(ROWS_MAX, round(self._usual_rows * longer)))

    @property
    def reason(self) -> str | None:
        """Why results come late or are missing, for people; None while there is plenty."""
        if self._stage == "plenty":
            return None
        told = "results are accepted later" if self._stage == "later" else "results are left out"
        return f"writes to flash are limited to {(self._per_day or 0) / 1e6:g} MB a day: {told}"

    def wrote(self, size: int) -> None:
        """So many bytes went to the device."""
        if self._per_day is None:
            return
        self._saved = self._level() * self._room - size
        self._counted_ns = self._monotonic_ns()
        self._go_on()

    def takes(self, message: Message) -> bool:
        """Whether that message shall be accepted: evenly fewer results, the less is left."""
        if self._per_day is None or message.channel != "result":
            return True
        self._due += min(1.0, max(0.0, self._level() / _SCARCE))
        if self._due < 1:
            return False
        self._due -= 1
        return True

    def _level(self) -> float:
        """Of the saving; below 0 where more was written than there was."""
        passed_s = (self._monotonic_ns() - self._counted_ns) / 1e9
        income = (self._per_day or 0) * (1 - _SAVED_PART) * passed_s / 86_400
        return min(1.0, (self._saved + income) / self._room)

    def _go_on(self) -> None:
        level, before = self._level(), self._stage
        if level < _SCARCE:
            self._stage = "fewer"
        elif level < _PLENTY and (before != "fewer" or level > (_SCARCE + _PLENTY) / 2):
            self._stage = "later"
        elif level > _WELL_AGAIN:
            self._stage = "plenty"
        if self._stage != before:
            log.warning("%s", self.reason or "results are accepted as usual again: enough may be written to flash")
