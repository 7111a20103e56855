"""The spool as its owner uses it: opened, committed to, and tried again while the disk is in trouble."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf

from edgeinfer.errors import SpoolError, SpoolLost
from edgeinfer.metrics import Tally
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.budget import FlashBudget
from edgeinfer.uplink.inbox import Inbox
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.spool import Spool
from edgeinfer.uplink.trouble import Trouble

log = logging.getLogger(__name__)

ACCEPTED = "accepted.uplink"

DROPPED = "dropped.uplink.budget"

# After the last write: what was done since is written down by itself then, which costs some 10 kB of flash.
_IDLE_S = 30.0


class Keeper:
    """Accepts what waits in the inbox, a group at once, as often and as much of it as the budget lets it.

    spool: None until it could be opened. oldest_unix_ns: what the oldest message in it tells of, as at the last write.
    While there is trouble what waits stays in the inbox, and is tried again.
    What the budget leaves out is counted as `dropped.uplink.budget`.
    """

    def __init__(
        self,
        open_spool: Callable[[], Spool],
        inbox: Inbox,
        *,
        budget: FlashBudget,
        backoff: Backoff,
        tally: Tally,
    ) -> None:
        self.spool: Spool | None = None
        self.oldest_unix_ns: int | None = None
        self._open_spool = open_spool
        self._inbox = inbox
        self._budget = budget
        self._tally = tally
        self._trouble = Trouble(backoff, begins="results wait in memory", ends="the spool takes results again")
        self._written_s = -inf
        self._flushed_seq = 0
        self._written_bytes = 0

    @property
    def trouble(self) -> str | None:
        """Why the spool takes nothing now; None where it does."""
        return self._trouble.reason

    @property
    def thrift(self) -> str | None:
        """Why results come late or are left out though the disk is well; None where they are not."""
        return self._budget.reason

    def attend(self, now_s: float, *, at_once: bool = False) -> None:
        """Do what is due; at_once: accept what waits without waiting for more."""
        if now_s < self.due_s() and not at_once:
            return
        try:
            spool = self._opened()
            if at_once or now_s >= self._commit_at_s():
                self._commit(spool)
            else:
                self._flush(spool)
            self._written_s = now_s
            self.oldest_unix_ns = spool.oldest_unix_ns
        except SpoolLost:
            self.set_aside()
        except SpoolError as failed:
            self._trouble.begin(str(failed), now_s)
        else:
            self._trouble.end()
        self._account()

    def set_aside(self) -> None:
        """The file was found damaged, and has said so itself: open a new one."""
        spool, self.spool = self.spool, None
        if spool is not None:
            spool.close()

    def due_s(self) -> float:
        """When `attend` will have something to do."""
        wanted_s = -inf if self.spool is None else min(self._commit_at_s(), self._flush_at_s())
        return max(wanted_s, self._trouble.due_s)

    def close(self) -> None:
        """Write down what is done; may be called twice."""
        try:
            if self.spool is not None:
                self.spool.close()
        except SpoolError as failed:
            log.warning("what was sent last will be sent again: %s", failed)

    def _opened(self) -> Spool:
        if self.spool is None:
            self.spool = self._open_spool()
            self._written_bytes = 0
            self._flushed_seq = self.spool.done_seq
        return self.spool

    def _commit_at_s(self) -> float:
        if self._inbox.count >= self._budget.commit_rows:
            return -inf
        first_s = self._inbox.first_s
        return inf if first_s is None else first_s + self._budget.commit_ms / 1e3

    def _flush_at_s(self) -> float:
        is_due = self.spool is not None and self.spool.done_seq != self._flushed_seq
        return self._written_s + _IDLE_S if is_due else inf

    def _commit(self, spool: Spool) -> None:
        waiting = self._affordable(self._inbox.take())
        try:
            while waiting:
                accepted = spool.commit(waiting)
                self._tally.add(ACCEPTED, len(accepted))
                waiting = waiting[len(accepted) :]
                self._flushed_seq = spool.done_seq
        finally:
            self._inbox.give_back(waiting)

    def _affordable(self, waiting: Sequence[Message]) -> Sequence[Message]:
        """What came back after a commit that failed was asked for already, and is asked for once more."""
        taken = tuple(message for message in waiting if self._budget.takes(message))
        if len(taken) < len(waiting):
            self._tally.add(DROPPED, len(waiting) - len(taken))
        return taken

    def _account(self) -> None:
        """Tell the budget what was written, also by what failed."""
        if self.spool is not None and self.spool.written_bytes != self._written_bytes:
            self._budget.wrote(self.spool.written_bytes - self._written_bytes)
            self._written_bytes = self.spool.written_bytes
            self._inbox.group_rows = self._budget.commit_rows

    def _flush(self, spool: Spool) -> None:
        spool.flush()
        self._flushed_seq = spool.done_seq
