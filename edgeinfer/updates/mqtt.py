"""A repository behind an MQTT 5 broker, for a node that reaches nothing else: files are asked for piece by piece."""

from __future__ import annotations

import logging
import secrets
import struct
import threading
from collections.abc import Iterator
from random import random

import msgspec

from edgeinfer.clock import Clock
from edgeinfer.config import UplinkConfig
from edgeinfer.errors import UpdateError
from edgeinfer.updates.exchange import ANSWER_BYTES_MAX, Answer, FleetTopics, Request, Window, Wish, read_answer
from edgeinfer.updates.transport import SILENCE_S, Chunks, NotThere
from edgeinfer.uplink.address import read_address
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.link import MqttLink
from edgeinfer.uplink.publication import Connected, Link, Lost, Publication, Received, Unheard

log = logging.getLogger(__name__)

_TICKET = struct.Struct(">IQ")  # Of the file being read, and of the request.
_TURN_S = 0.25
_ASK_AGAIN_S, _ASK_AGAIN_MAX_S = 1.0, 8.0
_GOODBYE_S = 1.0
_ROOM_FOR_A_TOPIC = 128 << 10


class MqttTransport:
    """config: how to come to the broker, as `[uplink]` says it. wishes: filled with what the `desired` topics say.

    Raises UsageError, ConfigError.
    """

    def __init__(self, config: UplinkConfig, repository: str, *, clock: Clock | None = None) -> None:
        read_address(config)  # What cannot be read now is said now.
        self.wishes: dict[str, int] = {}
        self._clock = clock or Clock()
        client_id = f"edgeinfer-update-{secrets.token_hex(6)}"
        self._topics = FleetTopics(repository, config.prefix)
        self._answers = self._topics.answers_of(client_id)
        self._link: Link = MqttLink(
            lambda: read_address(config),
            client_id,
            keepalive_s=config.keepalive,
            backoff=Backoff(0.5, 5.0, random),
            stolen=Backoff(1.0, 30.0, random),
            packet_max=ANSWER_BYTES_MAX + _ROOM_FOR_A_TOPIC,
        )
        self._link.open(None)
        # A reader that was left behind in its thread keeps the connection until it gives up, too.
        self._lock = threading.Lock()
        self._is_closed = False
        self._is_up = self._was_up = False
        self._reading = 0

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        if not self._lock.acquire(timeout=2 * SILENCE_S):
            raise UpdateError("the connection to the broker is held by a read that never ended")
        try:
            yield from self._chunks(path, Window(offset, most))
        finally:
            self._lock.release()

    def close(self) -> None:
        self._is_closed = True
        if self._lock.acquire(timeout=_GOODBYE_S):
            self._link.close(_GOODBYE_S)
            self._lock.release()

    def _chunks(self, path: str, window: Window) -> Chunks:
        self._reading += 1
        heard_ns = asked_ns = self._clock.monotonic_ns()
        again_s = _ASK_AGAIN_S
        while not window.is_done:
            if self._is_closed:
                raise UpdateError(f"{path} is no longer wanted")
            if self._is_up:
                for piece in window.due():
                    self._ask(Request(path, piece.offset, piece.length), piece.ticket)
            has_come = False
            for ticket, answer in self._answers_of_turn():
                has_come = True
                if answer.state != "here":
                    raise NotThere(f"the publisher has no {path}")
                yield from window.take(ticket, answer)
            now_ns = self._clock.monotonic_ns()
            if has_come or not self._is_up:
                asked_ns = now_ns
            if has_come:
                heard_ns, again_s = now_ns, _ASK_AGAIN_S
            elif now_ns - heard_ns > SILENCE_S * 1e9:
                what = "the publisher says nothing" if self._is_up else "the broker is gone"
                raise UpdateError(f"nothing of {path} came for {SILENCE_S:g} s: {what}")
            elif now_ns - asked_ns > again_s * 1e9:
                window.silence()
                asked_ns, again_s = now_ns, min(2 * again_s, _ASK_AGAIN_MAX_S)

    def _answers_of_turn(self) -> Iterator[tuple[int, Answer]]:
        for event in self._link.turn(_TURN_S):
            if isinstance(event, Received):
                answer = self._receive(event)
                if answer is not None:
                    yield answer
            elif isinstance(event, Connected):
                self._connected(event)
            elif isinstance(event, Lost):
                self._is_up = False
                if not self._was_up:
                    raise UpdateError(event.reason)
                log.info("%s; trying again in %.1f s", event.reason, event.retry_s)
            elif isinstance(event, Unheard):
                raise UpdateError(f"the broker refuses a subscription to {event.topic}")

    def _connected(self, connected: Connected) -> None:
        if connected.protocol != "5":
            raise UpdateError("the broker speaks MQTT 3.1.1 only, and updates need MQTT 5")
        self._is_up = self._was_up = True
        self._link.subscribe((self._answers, self._topics.wishes))

    def _ask(self, request: Request, ticket: int) -> None:
        self._link.publish(
            Publication(
                self._topics.get,
                msgspec.json.encode(request),
                qos=0,
                response_topic=self._answers,
                correlation=_TICKET.pack(self._reading & 0xFFFFFFFF, ticket),
            )
        )

    def _receive(self, received: Received) -> tuple[int, Answer] | None:
        if received.topic != self._answers:
            self._note_wish(received)
            return None
        correlation = received.correlation or b""
        answer = read_answer(received.payload)
        if answer is None or len(correlation) != _TICKET.size:
            return None
        reading, ticket = _TICKET.unpack(correlation)
        return (ticket, answer) if reading == self._reading & 0xFFFFFFFF else None

    def _note_wish(self, received: Received) -> None:
        slot = self._topics.slot_of_wish(received.topic)
        if slot is None:
            return
        self.wishes.pop(slot, None)
        try:
            if received.payload:
                self.wishes[slot] = msgspec.json.decode(received.payload, type=Wish).release
        except (msgspec.MsgspecError, RecursionError):
            log.warning("%s says nothing that can be understood", received.topic)
