"""The owner of spool and connection: takes messages, keeps them, delivers them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import random

from edgeinfer.clock import Clock
from edgeinfer.config import UplinkConfig
from edgeinfer.errors import SpoolError, SpoolLost
from edgeinfer.metrics import Tally
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.budget import FlashBudget
from edgeinfer.uplink.inbox import DROPPED as DROPPED_PENDING
from edgeinfer.uplink.inbox import Inbox
from edgeinfer.uplink.keeper import ACCEPTED, Keeper
from edgeinfer.uplink.keeper import DROPPED as DROPPED_THRIFT
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.notices import Notices
from edgeinfer.uplink.publication import (
    Acknowledged,
    Connected,
    Event,
    Link,
    Lost,
    Publication,
    Received,
    Unheard,
    Version,
)
from edgeinfer.uplink.sender import DELIVERED, Sender
from edgeinfer.uplink.session import Sessions
from edgeinfer.uplink.spool import Spool
from edgeinfer.uplink.topics import Topics
from edgeinfer.uplink.trouble import Trouble
from edgeinfer.uplink.window import Limits

log = logging.getLogger(__name__)

RECONNECTED = "reconnected.uplink"

_DISK_FIRST_S, _DISK_LONGEST_S = 1.0, 60.0
_LONGEST_WAIT_S = 3600.0
_GOODBYE_S = 1.0
# The part of the time to close that is kept for the last status.
_LAST_WORDS = 0.25


@dataclass(frozen=True, slots=True)
class Counters:
    """accepted, delivered: messages since the start. depth, bytes: of the spool; oldest_unix_ns: what the oldest in it
    tells of, as at the last write, None where it is empty. reconnects: connections after the first. protocol: None
    while there is none. dropped: by reason; `pending` and `budget` before they were accepted, all others after.
    """

    accepted: int
    delivered: int
    depth: int
    bytes: int
    oldest_unix_ns: int | None
    dropped: Mapping[str, int]
    reconnects: int
    protocol: Version | None


class Uplink:
    """Delivers what it accepts, whatever happens to the broker, the network and the disk.

    `accept` and `tell` may be called by any thread, never wait and never raise; all else happens in one thread, begun
    by `start`. open_spool is called by it, again and again while it raises SpoolError. on_command gets what comes on
    the topics of `filters`; what it returns is published.

    Without `start` somebody else does what that thread would: `open`, then `step` with what happened, again and again.
    """

    def __init__(
        self,
        config: UplinkConfig,
        topics: Topics,
        open_spool: Callable[[], Spool],
        link: Link,
        *,
        sessions: Sessions | None = None,
        limits: Limits | None = None,
        budget: FlashBudget | None = None,
        filters: Sequence[str] = (),
        on_command: Callable[[Received], Publication | None] | None = None,
        random: Callable[[], float] = random,
        clock: Clock | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._tally = tally or Tally()
        self._link = link
        self._notices = Notices(self._tally)
        self._inbox = Inbox(group_rows=config.commit_rows, tally=self._tally, wake=link.wake, now_s=self._now_s)
        self._keeper = Keeper(
            open_spool,
            self._inbox,
            budget=budget or _any_budget(config, self._clock),
            backoff=Backoff(_DISK_FIRST_S, _DISK_LONGEST_S, random),
            tally=self._tally,
        )
        self._sender = Sender(
            link,
            topics,
            config.mode,
            limits=limits or Limits(size=config.window),
            sessions=sessions or Sessions(None, self._clock),
            notices=self._notices,
            tally=self._tally,
            clock=self._clock,
            filters=filters,
            on_command=on_command,
        )
        self._unreadable = Trouble(
            Backoff(_DISK_FIRST_S, _DISK_LONGEST_S, random),
            begins="what waits in the spool cannot be read",
            ends="the spool can be read again",
        )
        self._condition: str | None = None
        self._unheard: str | None = None
        self._lost: str | None = "not connected yet"
        self._has_been_lost = False
        self._connections = 0
        self._close_by_s: float | None = None
        self._close_within_s = 0.0
        self._is_silent = False
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)

    # From any thread.

    def accept(self, message: Message) -> None:
        """Deliver that, some time. What waits to be accepted is bounded: the oldest of it is dropped, and counted."""
        self._inbox.put(message)

    def tell(self, publication: Publication) -> None:
        """Publish that now, once there is a connection if it is retained, or not at all. See Notices."""
        if self._notices.put(publication):
            self._link.wake()

    def set_condition(self, reason: str | None) -> None:
        """What the status says beside what the uplink itself knows: why this node is degraded; None where it is not."""
        self._condition = reason
        self._link.wake()

    @property
    def state(self) -> str:
        """`ok`, or `degraded: …`."""
        reasons = [each for each in (self._keeper.trouble, self._lost, *self._complaints()) if each is not None]
        return f"degraded: {'; '.join(reasons)}" if reasons else "ok"

    def counters(self) -> Counters:
        spool = self._keeper.spool
        dropped = {} if spool is None else dict(spool.dropped)
        for reason, name in (("pending", DROPPED_PENDING), ("budget", DROPPED_THRIFT)):
            if self._tally[name]:
                dropped[reason] = self._tally[name]
        return Counters(
            accepted=self._tally[ACCEPTED],
            delivered=self._tally[DELIVERED],
            depth=0 if spool is None else spool.depth,
            bytes=0 if spool is None else spool.size_bytes,
            oldest_unix_ns=self._keeper.oldest_unix_ns if spool is not None and spool.depth else None,
            dropped=dropped,
            reconnects=self._tally[RECONNECTED],
            protocol=self._sender.version,
        )

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Accept what waits, send what can be sent within that time, say that the node is stopped. Once, at the end."""
        self.end(timeout_s)
        if self._thread.ident is None:
            self.let_go()
        else:
            # What hangs in the disk is left behind; it holds nothing that a power cut would not take as well.
            self._thread.join(timeout_s + 2 * _GOODBYE_S)

    def end(self, timeout_s: float) -> None:
        """As `close`, but without waiting for it."""
        self._close_within_s = timeout_s
        self._close_by_s = self._now_s() + timeout_s
        self._link.wake()

    # In the owner's thread.

    def open(self) -> None:
        self._sender.open()

    def step(self, events: Sequence[Event]) -> float | None:
        """Do what is due, after what happened. For how many seconds there is nothing to do; None at the end."""
        now_s = self._now_s()
        for event in events:
            self._hear(event, now_s)
        self._keeper.attend(now_s, at_once=self._close_by_s is not None)
        self._sender.take_spool(self._keeper.spool)
        self._say(now_s)
        self._send(now_s)
        self._sender.settle()
        if self._close_by_s is not None and self._is_over(now_s, self._close_by_s):
            return None
        return max(0.0, min(self._due_s(now_s), now_s + _LONGEST_WAIT_S) - now_s)

    def _run(self) -> None:
        try:
            self.open()
            wait_s = self.step(())
            while wait_s is not None:
                wait_s = self.step(self._link.turn(wait_s))
        except Exception:
            log.exception("the uplink failed and is given up; nothing is sent until the next start")
            self._lost = "given up after a bug in edgeinfer"
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Close connection and spool, whatever is left."""
        self._link.close(_GOODBYE_S)
        self._keeper.close()

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _hear(self, event: Event, now_s: float) -> None:
        if isinstance(event, Acknowledged):
            if self._lost is not None:
                self._hear_well()
            self._sender.hear_acknowledged(event, now_s)
        elif isinstance(event, Received):
            self._sender.hear_received(event, now_s)
        elif isinstance(event, Connected):
            self._hear_connected(event, now_s)
        elif isinstance(event, Lost):
            self._hear_lost(event)
        else:
            self._hear_unheard(event)

    def _hear_connected(self, event: Connected, now_s: float) -> None:
        self._connections += 1
        if self._connections > 1:
            self._tally.add(RECONNECTED)
        self._unheard = None
        self._sender.hear_connected(event, now_s)

    def _hear_well(self) -> None:
        """The broker takes something: there are some that let one in, and no more."""
        self._lost = None
        if self._has_been_lost:
            log.warning("connected to the broker again")
        else:
            log.info("connected to the broker, MQTT %s", self._sender.version)
        self._has_been_lost = False

    def _hear_lost(self, event: Lost) -> None:
        if event.reason != self._lost:
            log.warning("no broker, results wait: %s", event.reason)
        self._lost = event.reason
        self._has_been_lost = True
        self._sender.hear_lost(event)

    def _hear_unheard(self, event: Unheard) -> None:
        self._unheard = f"the broker refuses the subscription to {event.topic}"
        log.warning("%s", self._unheard)

    def _complaints(self) -> Sequence[str | None]:
        return (self._keeper.thrift, self._unreadable.reason, self._unheard, self._sender.refusal)

    def _say(self, now_s: float) -> None:
        reasons = [each for each in (self._condition, self._keeper.trouble, *self._complaints()) if each is not None]
        if self._is_silent:
            self._sender.say("stopped", None, now_s)
        else:
            self._sender.say("degraded" if reasons else "online", "; ".join(reasons) or None, now_s)

    def _send(self, now_s: float) -> None:
        self._sender.send_notices(now_s)
        if now_s < self._unreadable.due_s:
            return
        try:
            self._sender.send_messages(now_s)
        except SpoolLost:
            self._keeper.set_aside()
        except SpoolError as failed:
            self._unreadable.begin(str(failed), now_s)
        else:
            self._unreadable.end()
        self._sender.check(now_s)

    def _is_over(self, now_s: float, close_by_s: float) -> bool:
        """Whether everything was said, or there is nobody to say it to, or no time left."""
        if now_s >= close_by_s or (not self._sender.is_connected and self._has_been_lost):
            return True
        is_sent = self._sender.is_idle and not self._inbox.count
        if not self._is_silent and (is_sent or now_s >= close_by_s - _LAST_WORDS * self._close_within_s):
            self._is_silent = self._sender.is_connected
            self._say(now_s)
            self._send(now_s)
            return False
        return self._is_silent and self._sender.is_status_taken

    def _due_s(self, now_s: float) -> float:
        times = [self._keeper.due_s(), self._unreadable.due_s if self._unreadable.reason else inf]
        sender_s, close_by_s = self._sender.due_s(), self._close_by_s
        if sender_s is not None:
            times.append(sender_s)
        if close_by_s is not None:
            last_words_s = close_by_s - _LAST_WORDS * self._close_within_s
            times.append(last_words_s if now_s < last_words_s else close_by_s)
        return min(times)


def _any_budget(config: UplinkConfig, clock: Clock) -> FlashBudget:
    return FlashBudget(None, commit_ms=config.commit_ms, commit_rows=config.commit_rows, clock=clock)
