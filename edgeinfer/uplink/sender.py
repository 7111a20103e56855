"""From the spool to the broker: what is sent next, what came of it, and what is said besides."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeinfer.clock import Clock
from edgeinfer.metrics import Tally
from edgeinfer.uplink.bodies import State
from edgeinfer.uplink.message import Spooled
from edgeinfer.uplink.messages import BadMessage, Composer, read_ack, read_status
from edgeinfer.uplink.notices import Notices
from edgeinfer.uplink.publication import Acknowledged, Connected, Link, Lost, Publication, Received, Version
from edgeinfer.uplink.session import Sessions
from edgeinfer.uplink.spool import Spool
from edgeinfer.uplink.topics import Topics
from edgeinfer.uplink.window import Burial, Limits, Mode, Window

log = logging.getLogger(__name__)

DELIVERED = "delivered.uplink"

_AHEAD_MESSAGES = 200
_AHEAD_BYTES = 256 << 10
_ANSWERS_MAX = 64
_RESTORED_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class _Said:
    """The status of this node, as it was last published or is to be."""

    state: State
    reason: str | None
    since_unix_ns: int


class Sender:
    """Sends what a spool holds over a link, as far as its window allows.

    Of one thread; `notices` may be given by any. on_command: gets what comes on the topics of `filters`, and may give
    an answer to publish.
    """

    def __init__(
        self,
        link: Link,
        topics: Topics,
        mode: Mode,
        *,
        limits: Limits,
        sessions: Sessions,
        notices: Notices,
        tally: Tally,
        clock: Clock,
        filters: Sequence[str] = (),
        on_command: Callable[[Received], Publication | None] | None = None,
    ) -> None:
        self.window = Window(mode, limits, done_seq=0, last_seq=0)
        self.version: Version | None = None
        self.refusal: str | None = None
        self._link = link
        self._topics = topics
        self._mode: Mode = mode
        self._limits = limits
        self._sessions = sessions
        self._notices = notices
        self._tally = tally
        self._clock = clock
        self._filters = filters
        self._on_command = on_command
        self._spool: Spool | None = None
        self._composer = self._composer_of(None)
        self._session = 0
        self._packet_max: int | None = None
        self._ahead: deque[Spooled] = deque()
        self._ahead_follows = 0
        self._burials: dict[int, str] = {}
        self._answers: deque[Publication] = deque(maxlen=_ANSWERS_MAX)
        self._said = _Said("online", None, clock.unix_ns())
        self._status_due_s: float | None = None
        self._status_restored_s: float | None = None
        self._status_token: int | None = None
        self._counted = 0
        self._is_warned = False

    @property
    def is_connected(self) -> bool:
        return self.version is not None

    @property
    def is_idle(self) -> bool:
        """Whether all there was to send has been sent, and taken by the broker."""
        last_seq = 0 if self._spool is None else self._spool.last_seq
        return self.window.cursor >= last_seq and not self.window.in_flight and not self._burials

    @property
    def is_status_taken(self) -> bool:
        """Whether the broker has taken the status as it is now."""
        return self._status_due_s is None and self._status_token is None

    def open(self) -> None:
        self._link.open(self._will)

    def take_spool(self, spool: Spool | None) -> None:
        """What to send from. Another epoch begins with a connection of its own, so that the will bears it."""
        if spool is self._spool:
            return
        self._spool = spool
        self._composer = self._composer_of(spool)
        self.window = Window(
            self._mode,
            self._limits,
            done_seq=0 if spool is None else spool.done_seq,
            last_seq=0 if spool is None else spool.last_seq,
        )
        self._counted = 0
        self._ahead.clear()
        self._burials.clear()
        if self.is_connected:
            self._link.reconnect("another spool is used now")

    def say(self, state: State, reason: str | None, now_s: float) -> None:
        """Publish the status, where it is another one than before."""
        if (state, reason) != (self._said.state, self._said.reason):
            self._said = _Said(state, reason, self._clock.unix_ns())
            self._status_due_s = now_s if self.is_connected else None

    def hear_connected(self, connected: Connected, now_s: float) -> None:
        last_seq = 0 if self._spool is None else self._spool.last_seq
        self.version = connected.protocol
        self.refusal = None
        self._packet_max = connected.packet_max
        self._composer.connected(self._session, last_seq)
        self.window.connected(connected.receive_max, last_seq, now_s)
        self._status_due_s = now_s
        self._notices.connected()
        self._link.subscribe([self._topics.status, *self._filters, *self._acks()])

    def hear_lost(self, lost: Lost) -> None:
        self.version = None
        self._status_due_s = self._status_token = None
        self._notices.lost()
        self._answers.clear()
        self._bury_later(self.window.lost(by_broker=lost.by_broker), "")

    def hear_acknowledged(self, acknowledged: Acknowledged, now_s: float) -> None:
        if acknowledged.token == self._status_token:
            self._status_token = None
        burial = self.window.acknowledged(acknowledged.token, acknowledged.reason_code, now_s)
        self._bury_later(burial, "the broker refuses messages of this node")

    def hear_received(self, received: Received, now_s: float) -> None:
        if received.topic == self._topics.status:
            self._compare_status(received, now_s)
        elif received.topic == self._topics.ack:
            self._take_ack(received.payload, now_s)
        elif self._on_command is not None:
            answer = self._on_command(received)
            if answer is not None:
                self._answers.append(answer)

    def send_messages(self, now_s: float) -> None:
        """As many as may be sent now. Raises SpoolError."""
        spool = self._spool
        if spool is None or not self.is_connected:
            return
        self.window.tick(now_s)
        self._bury(spool)
        while self.window.room() > 0 and (message := self._next(spool)) is not None:
            if not self._send(spool, message, now_s):
                break

    def send_notices(self, now_s: float) -> None:
        """The status where it is due, answers, and what else is told, as far as the broker lets us."""
        if not self.is_connected:
            return
        if self._status_due_s is not None and now_s >= self._status_due_s and self.window.slots() > 0:
            self._status_due_s = None
            said = self._said
            self._status_token = self._publish(
                self._composer.status(said.state, said.since_unix_ns, said.reason), now_s
            )
        while self.window.slots() > 0 and self._answers:
            self._publish(self._answers.popleft(), now_s)
        while self.window.slots() > 0 and (notice := self._notices.take()) is not None:
            self._publish(notice, now_s)

    def check(self, now_s: float) -> None:
        """Give up a connection on which nothing is acknowledged."""
        if self.is_connected and self.window.is_stalled(now_s):
            self._link.reconnect("the broker acknowledges nothing")

    def settle(self) -> None:
        """Tell the spool what is done."""
        if self._spool is not None and self.window.done_seq > self._spool.done_seq:
            self._spool.done(self.window.done_seq)
        if self.window.done_count > self._counted:
            self._tally.add(DELIVERED, self.window.done_count - self._counted)
            self._counted = self.window.done_count

    def due_s(self) -> float | None:
        """When there will be something to do though nothing happened; None where only events count."""
        if not self.is_connected:
            return None
        return min((each for each in (self.window.due_s(), self._status_due_s) if each is not None), default=None)

    def _composer_of(self, spool: Spool | None) -> Composer:
        epoch = "" if spool is None else spool.epoch
        return Composer(self._topics, epoch, lambda: self.window.done_seq, clock=self._clock)

    def _will(self) -> Publication:
        self._session = self._sessions.next()
        return self._composer.will(self._session)

    def _acks(self) -> Sequence[str]:
        return (self._topics.ack,) if self._mode == "consumer" else ()

    # Messages.

    def _next(self, spool: Spool) -> Spooled | None:
        """Raises SpoolError."""
        while (again := self.window.next_again()) is not None:
            found = spool.read(again - 1, 1, _AHEAD_BYTES)
            if found and found[0].seq == again:
                return found[0]
            self.window.covered(again, found[0].seq if found else None)
        cursor = self.window.cursor
        if cursor >= spool.last_seq or self.window.room_for_new() <= 0:
            return None
        if not self._ahead or self._ahead_follows != cursor:
            self._ahead = deque(spool.read(cursor, _AHEAD_MESSAGES, _AHEAD_BYTES))
        if not self._ahead:
            return None
        message = self._ahead.popleft()
        self._ahead_follows = message.seq
        return message

    def _send(self, spool: Spool, spooled: Spooled, now_s: float) -> bool:
        """Hand a message to the link; whether to go on."""
        publication = self._composer(spooled, again=self.window.is_replay(spooled.seq))
        is_gap = spooled.message.channel == "gap"
        size = publication.packet_bytes
        if self._packet_max is not None and size > self._packet_max:
            self.window.held(spooled.seq, is_given_up=is_gap)
            if not is_gap:
                self._bury_later(Burial(spooled.seq, "too large"), f"the broker takes {self._packet_max} bytes at most")
                self._bury(spool)
            return True
        token = self._link.publish(publication)
        if token is None:
            return False
        self.window.sent(spooled.seq, token, size, now_s, is_gap=is_gap)
        return True

    def _bury_later(self, burial: Burial | None, why: str) -> None:
        if burial is None:
            return
        self._burials[burial.seq] = burial.reason
        if self.refusal is None:
            self.refusal = f"{why}: {burial.reason}" if why else f"a message {burial.reason}"
            log.warning("message %d is left out: %s", burial.seq, self.refusal)

    def _bury(self, spool: Spool) -> None:
        """Raises SpoolError."""
        for seq, reason in list(self._burials.items()):
            spool.bury(seq, reason)
            del self._burials[seq]
            self._ahead.clear()
            self.window.send_again(seq)

    def _take_ack(self, payload: bytes, now_s: float) -> None:
        try:
            ack = read_ack(payload)
        except BadMessage as bad:
            log.debug("an acknowledgement is ignored: %s", bad)
            return
        if self._spool is None:
            return
        if ack.epoch == self._spool.epoch:
            self.window.consumed(ack.seq, now_s, resume=ack.resume)
        elif not ack.epoch and ack.resume:
            self.window.consumed(0, now_s, resume=True)

    # What is said besides.

    def _publish(self, publication: Publication, now_s: float) -> int | None:
        size = publication.packet_bytes
        if self._packet_max is not None and size > self._packet_max:
            log.debug("%s is too large for the broker: %d bytes", publication.topic, size)
            return None
        token = self._link.publish(publication)
        if token is not None and publication.qos:
            self.window.lent(token, size, now_s)
        return token

    def _compare_status(self, received: Received, now_s: float) -> None:
        """What others publish as our status is put right: most often the will of a connection that is over by now."""
        try:
            status = read_status(received.payload)
        except BadMessage:
            self._restore_status(now_s)
            return
        if status.session == self._session and status.state != "offline":
            return
        if status.session < self._session and received.retain:
            return  # From before; our own was sent right after we asked for it.
        if status.session > self._session and received.retain:
            # Whoever saw that number would take ours, and the will's, for old.
            self._sessions.rise_above(status.session)
            self._link.reconnect("an earlier run of this node had a higher session number")
            return
        if status.state != "offline" and not self._is_warned:
            self._is_warned = True
            log.warning("another node publishes as %s: give each a name of its own", self._topics.root)
        self._restore_status(now_s)

    def _restore_status(self, now_s: float) -> None:
        """Not often: two nodes of one name would do nothing else."""
        last_s = self._status_restored_s
        at_s = now_s if last_s is None else max(now_s, last_s + _RESTORED_EVERY_S)
        self._status_restored_s = at_s
        self._status_due_s = at_s
