"""Serves a repository over MQTT 5: each request is answered with a piece of a file, a few of them at a time."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Mapping
from random import random

import msgspec

from edgeinfer.config import UplinkConfig
from edgeinfer.errors import UpdateError
from edgeinfer.fleet.files import ServedFiles
from edgeinfer.updates.exchange import Answer, FleetTopics, Request, Wish
from edgeinfer.uplink.address import read_address
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.link import MqttLink
from edgeinfer.uplink.publication import Acknowledged, Connected, Event, Link, Lost, Publication, Received, Unheard

log = logging.getLogger(__name__)

_TURN_S = 5.0
_GOODBYE_S = 1.0
_UNDER_WAY_MAX = 16
_WAITING_MAX = 4096
_REQUEST_BYTES_MAX = 2048
_ANSWER_EXPIRES_S = 60


class FleetResponder:
    """Answers in a thread of its own until it is closed. wishes: slot -> release, said on the `desired` topics.

    Who asks and is not answered asks again, so what does not fit is forgotten. Raises UsageError, ConfigError.
    """

    def __init__(
        self, files: ServedFiles, config: UplinkConfig, repository: str, *, wishes: Mapping[str, int] | None = None
    ) -> None:
        read_address(config)
        self._files = files
        self._topics = FleetTopics(repository, config.prefix)
        self._wishes = dict(wishes or {})
        self._waiting: deque[Received] = deque(maxlen=_WAITING_MAX)
        self._under_way: set[int] = set()
        self._room = _UNDER_WAY_MAX
        self._stopped = threading.Event()
        self.failure: UpdateError | None = None
        self._link: Link = MqttLink(
            lambda: read_address(config),
            config.client_id or f"edgeinfer-fleet-{secrets.token_hex(6)}",
            keepalive_s=config.keepalive,
            backoff=Backoff(0.5, 15.0, random),
            stolen=Backoff(5.0, 60.0, random),
        )
        self._link.open(None)
        self._thread = threading.Thread(target=self._run, name="fleet mqtt", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """May be called twice."""
        self._stopped.set()
        self._link.wake()
        self._thread.join(2 * _GOODBYE_S)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                for event in self._link.turn(_TURN_S if not self._may_answer() else 0.0):
                    self._hear(event)
                while self._may_answer():
                    self._answer(self._waiting.popleft())
        except UpdateError as refused:
            self.failure = refused
            log.error("%s", refused)
        finally:
            self._link.close(_GOODBYE_S)

    def _may_answer(self) -> bool:
        return bool(self._waiting) and len(self._under_way) < self._room

    def _hear(self, event: Event) -> None:
        if isinstance(event, Received):
            if len(event.payload) <= _REQUEST_BYTES_MAX:
                self._waiting.append(event)
        elif isinstance(event, Acknowledged):
            self._under_way.discard(event.token)
        elif isinstance(event, Connected):
            self._connected(event)
        elif isinstance(event, Lost):
            self._waiting.clear()
            self._under_way.clear()
            log.warning("%s; trying again in %.1f s", event.reason, event.retry_s)
        elif isinstance(event, Unheard):
            raise UpdateError(f"the broker refuses a subscription to {event.topic}", hint="ask for other rights")

    def _connected(self, connected: Connected) -> None:
        if connected.protocol != "5":
            raise UpdateError("the broker speaks MQTT 3.1.1 only, and updates need MQTT 5")
        self._room = min(_UNDER_WAY_MAX, connected.receive_max)
        self._link.subscribe((self._topics.get,))
        for slot, release in self._wishes.items():
            wish = msgspec.json.encode(Wish(release))
            self._link.publish(Publication(self._topics.wish(slot), wish, retain=True))
        log.info("answering on %s", self._topics.get)

    def _answer(self, received: Received) -> None:
        topic = received.response_topic
        if topic is None or not self._topics.may_be_answered_at(topic):
            return
        answer = self._answer_to(received.payload)
        token = self._link.publish(
            Publication(topic, answer.encode(), correlation=received.correlation, expiry_s=_ANSWER_EXPIRES_S)
        )
        if token is not None:
            self._under_way.add(token)

    def _answer_to(self, payload: bytes) -> Answer:
        try:
            request = msgspec.json.decode(payload, type=Request)
        except (msgspec.MsgspecError, RecursionError):
            return Answer("refused")
        try:
            piece = self._files.read(request.path, request.offset, request.length)
        except OSError as failed:
            log.warning("cannot read %s: %s", request.path, failed.strerror)
            return Answer("refused")
        if piece is None:
            return Answer("missing")
        return Answer("here", request.offset, max(piece.size, request.offset + len(piece.content)), piece.content)
