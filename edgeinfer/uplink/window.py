"""What is under way to the broker and not done yet, what to send next, and when to send again. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

Mode = Literal["broker", "consumer"]

NO_LIMIT = 65_535  # Receive Maximum of a broker that says none.

# Reason codes of a PUBACK that will be the same next time; of all others the message is sent again after a while.
_REFUSED = {0x87: "denied", 0x90: "topic refused", 0x95: "too large", 0x99: "format refused"}
_FAILURE = 0x80
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """size: messages in flight at most; bytes_max: of them together; outstanding_max: sent and not done, at most.

    resend_s: without progress of the consumer, doubling up to resend_max_s. ack_timeout_s: in which the broker must
    acknowledge something. strikes_max: connections that may die of one message.
    """

    size: int = 200
    bytes_max: int = 256 << 10
    outstanding_max: int = 5000
    resend_s: float = 10.0
    resend_max_s: float = 300.0
    ack_timeout_s: float = 30.0
    strikes_max: int = 5


@dataclass(frozen=True, slots=True)
class Burial:
    """A message that cannot be delivered, to be replaced by a gap in the spool; then `send_again` is to be called."""

    seq: int
    reason: str


@dataclass(slots=True, eq=False)
class _Entry:
    """A message that was sent and is not done. is_done: as soon as all before it are."""

    seq: int
    is_gap: bool
    is_taken: bool = False
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class _Flight:
    """What the broker has not acknowledged; entry: None where the window does not care any more, or never did."""

    entry: _Entry | None
    bytes: int


class Window:
    """The messages between the spool and whoever acknowledges them; all times are monotonic seconds.

    Everything up to `done_seq` is done; what follows `cursor` is to be read and sent next, at most `room` of it, but
    first what `next_again` names. In mode `broker` a message is done when the broker has taken it and all before it,
    in mode `consumer` when the consumer says so.

    Nothing but the head is sent while a broker ends each connection before it has acknowledged a message; where it
    ends `strikes_max` of them on that message alone, having acknowledged something else before, the message is the
    reason, and is buried.
    """

    def __init__(self, mode: Mode, limits: Limits, *, done_seq: int, last_seq: int) -> None:
        self._mode = mode
        self._limits = limits
        self.done_seq = done_seq
        self.cursor = done_seq
        self.done_count = 0
        self._old_seq = last_seq
        self._entries: deque[_Entry] = deque()
        self._flights: dict[int, _Flight] = {}
        self._flying_bytes = 0
        self._again: deque[_Entry] = deque()
        self._is_connected = False
        self._receive_max = NO_LIMIT
        self._is_heard = self._is_progress = self._is_cautious = False
        self._strikes = 0
        self._struck_seq = 0
        self._waiting_since_s = 0.0
        self._resend_delay_s = limits.resend_s
        self._resend_at_s: float | None = None
        self._probed_seq = 0
        self._pause_s = _FIRST_PAUSE_S
        self._paused_until_s: float | None = None

    # What is to be done.

    @property
    def in_flight(self) -> int:
        """Publications that the broker has not acknowledged, other than messages included."""
        return len(self._flights)

    @property
    def outstanding(self) -> int:
        """Messages sent and not done."""
        return len(self._entries)

    def slots(self) -> int:
        """How many publications of any kind the broker lets us send now."""
        if not self._is_connected:
            return 0
        return max(0, min(self._limits.size, self._receive_max) - len(self._flights))

    def room(self) -> int:
        """How many messages may be sent now."""
        if self._paused_until_s is not None or self._flying_bytes >= self._limits.bytes_max:
            return 0
        if self._is_cautious:
            return min(self.slots(), 0 if self._messages_flying() else 1)
        return self.slots()

    def room_for_new(self) -> int:
        """How many of them may be ones that were not sent yet."""
        return max(0, min(self.room(), self._limits.outstanding_max - len(self._entries)))

    def next_again(self) -> int | None:
        """The seq of a message that is to be sent once more by itself, out of its turn."""
        while self._again and self._again[0].seq <= self.done_seq:
            self._again.popleft()
        return self._again[0].seq if self._again else None

    def is_replay(self, seq: int) -> bool:
        """Whether it may have been sent before, or is from before this connection."""
        return seq <= self._old_seq

    def is_stalled(self, now_s: float) -> bool:
        """Whether the broker acknowledges nothing, though it may well answer pings."""
        return bool(self._flights) and now_s - self._waiting_since_s >= self._limits.ack_timeout_s

    def due_s(self) -> float | None:
        """When to look again, though nothing may have happened: None where only events count."""
        if not self._is_connected:
            return None
        stalled_s = self._waiting_since_s + self._limits.ack_timeout_s if self._flights else None
        times = (self._paused_until_s, stalled_s, self._resend_at_s)
        return min((each for each in times if each is not None), default=None)

    # What happened.

    def connected(self, receive_max: int, last_seq: int, now_s: float) -> None:
        """last_seq: what was accepted by now is old, and is said to be."""
        self._is_connected = True
        self._receive_max = receive_max
        self._is_heard = self._is_progress = False
        self._old_seq = max(self._old_seq, last_seq)
        self._paused_until_s = None
        self._await_consumer(now_s)

    def lost(self, *, by_broker: bool) -> Burial | None:
        """The connection is gone, and with it what was in flight: that is sent again. What it died of, if known."""
        culprit = self._strike(by_broker=by_broker)
        self._is_connected = False
        self._forget_flights()
        untaken = next((entry.seq for entry in self._entries if not entry.is_taken and not entry.is_done), None)
        if untaken is not None:
            self._go_back(untaken - 1)
        return None if culprit is None else Burial(culprit, "ends the connection")

    def sent(self, seq: int, token: int, size: int, now_s: float, *, is_gap: bool = False) -> None:
        """The message at the cursor, or the one that `next_again` named, was handed to the link. size: bytes."""
        if self._again and self._again[0].seq == seq:
            entry = self._again.popleft()
            entry.is_gap = is_gap
        else:
            entry = self._append(seq, is_gap=is_gap)
        self._fly(token, _Flight(entry, size), now_s)
        self._old_seq = max(self._old_seq, seq)
        if self._resend_at_s is None:
            self._await_consumer(now_s)

    def lent(self, token: int, size: int, now_s: float) -> None:
        """Something other than a message was handed to the link, and takes a slot until it is acknowledged."""
        self._fly(token, _Flight(None, size), now_s)

    def held(self, seq: int, *, is_given_up: bool = False) -> None:
        """The message at the cursor is not to be sent as it is: nothing from it on is done before `send_again`.

        is_given_up: nor is anything else in its place.
        """
        entry = self._append(seq, is_gap=is_given_up)
        entry.is_taken = entry.is_done = is_given_up
        self._pop_done()

    def send_again(self, seq: int) -> None:
        """In the place of that message there is another one now."""
        entry = next((entry for entry in self._entries if entry.seq == seq), None)
        if entry is not None and entry not in self._again:
            self._again.append(entry)

    def acknowledged(self, token: int, reason_code: int, now_s: float) -> Burial | None:
        """The broker's answer. What is not to be sent again as it is, where it will never take it."""
        flight = self._flights.pop(token, None)
        if flight is None:
            return None
        self._flying_bytes -= flight.bytes
        self._waiting_since_s = now_s
        self._is_heard = True
        if flight.entry is None:
            return None
        if reason_code < _FAILURE:
            self._taken(flight.entry)
            return None
        return self._refused(flight.entry, reason_code, now_s)

    def consumed(self, seq: int, now_s: float, *, resume: bool) -> bool:
        """The consumer has everything up to `seq`; with `resume` it wants all that follows. False: it is not true."""
        if self._mode != "consumer" or seq > max(self._old_seq, self.cursor):
            return False
        progress = seq > self.done_seq
        while self._entries and self._entries[0].seq <= seq:
            self._pop()
        self.done_seq = max(self.done_seq, seq)
        self._pop_done()
        self.cursor = max(self.cursor, self.done_seq)
        if resume or (progress and seq < self._probed_seq):
            # It was away, and what was sent meanwhile it may not have.
            self._go_back(self.done_seq)
        if resume or progress:
            self._probed_seq = 0
            self._resend_delay_s = self._limits.resend_s
            self._await_consumer(now_s)
        return True

    def tick(self, now_s: float) -> None:
        """Time went by: without a word of the consumer, ask it with the first messages that it has not acknowledged.

        What follows them is sent again when it answers. So a consumer that is away for long costs little.
        """
        if self._paused_until_s is not None and now_s >= self._paused_until_s:
            self._paused_until_s = None
        if not self._is_connected or self._resend_at_s is None or now_s < self._resend_at_s:
            return
        for entry in list(self._entries)[: self._limits.size]:
            if entry.is_taken and entry not in self._again:
                self._again.append(entry)
                self._probed_seq = max(self._probed_seq, entry.seq + 1)
        self._resend_delay_s = min(self._resend_delay_s * 2, self._limits.resend_max_s)
        self._await_consumer(now_s)

    def covered(self, seq: int, by: int | None) -> None:
        """That message is gone from the spool, and what follows it up to `by`, where a gap stands for them all now."""
        covering = next((entry for entry in self._entries if entry.seq == by), None)
        if by is None or covering is None:
            self._go_back(seq - 1)
            return
        self._entries = deque(entry for entry in self._entries if not seq <= entry.seq < by)
        self._again = deque(entry for entry in self._again if not seq <= entry.seq < by)
        covering.is_taken = covering.is_done = False
        if covering not in self._again:
            self._again.appendleft(covering)

    def _append(self, seq: int, *, is_gap: bool) -> _Entry:
        entry = _Entry(seq, is_gap)
        self._entries.append(entry)
        self.cursor = seq
        return entry

    def _fly(self, token: int, flight: _Flight, now_s: float) -> None:
        if not self._flights:
            self._waiting_since_s = now_s
        self._flights[token] = flight
        self._flying_bytes += flight.bytes

    def _messages_flying(self) -> int:
        return sum(flight.entry is not None for flight in self._flights.values())

    def _taken(self, entry: _Entry) -> None:
        self._is_progress, self._is_cautious = True, False
        self._pause_s = _FIRST_PAUSE_S
        entry.is_taken = True
        if self._mode == "broker":
            entry.is_done = True
            self._pop_done()

    def _refused(self, entry: _Entry, reason_code: int, now_s: float) -> Burial | None:
        reason = _REFUSED.get(reason_code)
        if reason is not None and not entry.is_gap:
            return Burial(entry.seq, reason)
        if reason is not None:
            # Nobody can be told of the gap, either; what is behind it need not wait.
            entry.is_taken = entry.is_done = True
            self._pop_done()
            return None
        self._paused_until_s = now_s + self._pause_s
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        if entry.seq > self.done_seq:
            self._go_back(entry.seq - 1)
        return None

    def _pop_done(self) -> None:
        while self._entries and self._entries[0].is_done:
            self.done_seq = self._entries[0].seq
            self._pop()

    def _pop(self) -> None:
        entry = self._entries.popleft()
        self.done_count += not entry.is_gap
        entry.is_done = True
        if not self._entries:
            self._resend_at_s = None

    def _go_back(self, seq: int) -> None:
        while self._entries and self._entries[-1].seq > seq:
            self._entries.pop()
        self._again = deque(entry for entry in self._again if entry.seq <= seq)
        self._flights = {
            token: _Flight(None, flight.bytes) if flight.entry is not None and flight.entry.seq > seq else flight
            for token, flight in self._flights.items()
        }
        self.cursor = seq

    def _forget_flights(self) -> None:
        self._flights.clear()
        self._flying_bytes = 0

    def _strike(self, *, by_broker: bool) -> int | None:
        """Count a connection that died of a message; the message when it was one too many."""
        flying = [flight.entry for flight in self._flights.values() if flight.entry is not None]
        if self._is_progress:
            self._strikes = 0
        if self._is_progress or not flying or not by_broker:
            return None
        self._is_cautious = True
        if len(flying) > 1 or not self._is_heard:
            return None
        seq = flying[0].seq
        self._strikes = self._strikes + 1 if seq == self._struck_seq else 1
        self._struck_seq = seq
        if self._strikes < self._limits.strikes_max or flying[0].is_gap:
            return None
        self._strikes = 0
        return seq

    def _await_consumer(self, now_s: float) -> None:
        is_waiting = self._mode == "consumer" and self._entries
        self._resend_at_s = now_s + self._resend_delay_s if is_waiting else None
