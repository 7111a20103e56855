"""Something that does not work for a while: said once when it begins and once when it ends, tried again in between."""

from __future__ import annotations

import logging
from math import inf

from edgeinfer.uplink.backoff import Backoff

log = logging.getLogger(__name__)


class Trouble:
    """reason: what is wrong, None while nothing is. due_s: when to try again, in monotonic seconds, -inf for any time.

    begins, ends: what the log says, the reason after the first.
    """

    def __init__(self, backoff: Backoff, *, begins: str, ends: str) -> None:
        self.reason: str | None = None
        self.due_s = -inf
        self._backoff = backoff
        self._begins = begins
        self._ends = ends

    def begin(self, reason: str, now_s: float) -> None:
        """It failed, for the first time or again."""
        if self.reason is None:
            log.error("%s: %s", self._begins, reason)
        self.reason = reason
        self.due_s = now_s + self._backoff.next_s()

    def end(self) -> None:
        """It worked."""
        if self.reason is None:
            return
        log.warning("%s", self._ends)
        self.reason, self.due_s = None, -inf
        self._backoff.reset()
