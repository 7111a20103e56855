"""The connection to a broker: paho-mqtt behind one small class, and the only place that knows it."""

from __future__ import annotations

import logging
import os
import select
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from queue import Empty, SimpleQueue
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgeinfer.clock import Clock, rfc3339
from edgeinfer.errors import EdgeInferError
from edgeinfer.uplink.address import Address
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.packets import PUBACK, Malformed, Splitter, publish_packet, read_puback
from edgeinfer.uplink.publication import (
    Acknowledged,
    Connected,
    Event,
    Lost,
    Publication,
    Received,
    Unheard,
    Version,
)
from edgeinfer.uplink.window import NO_LIMIT
from edgeinfer.uplink.wire import Timeouts, Unreachable, Wire, dial

log = logging.getLogger(__name__)

_PACKET_MAX = 256 << 10  # Of what the broker may send us.
_STEADY_S = 30.0
_LONGEST_NAP_S = 5.0
_GUESS_AGAIN_S = 0.1
# A broker that does not know MQTT 5 may wait for the rest of a CONNECT that is all there. Whoever knows it answers at
# once: waited for is this, or so many times what the connection took to come about, which several round trips are in.
_GUESS_AFTER_S = 2.0
_GUESS_AFTER_DIALS = 10
_SHORT_LIFE_S, _SHORT_LIVES_MAX = 5.0, 5
# Of packets that we publish. The client numbers its own, a few of them, from 1.
_FIRST_ID, _LAST_ID = 0x4000, 0xFFFF
_CONNACK = 0x20

_VERSIONS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}
_UNSUPPORTED_VERSION, _KEEPALIVE, _TAKEN_OVER, _FAILURE = 0x84, 0x8D, 0x8E, 0x80
_REFUSALS = {
    0x85: "it refuses this client id",
    0x86: "bad user name or password",
    0x87: "not authorised; it may want another user name or password",
    0x88: "it is not available",
    0x8A: "this client is banned",
}
_GOODBYES = {
    0x8B: "it is shutting down",
    _KEEPALIVE: "it heard nothing for too long",
    0x93: "more messages in flight than it allows",
    0x95: "a packet was too large for it",
    0x97: "a quota is used up",
    _TAKEN_OVER: "another client came with this client id; see [uplink] client_id",
}


class MqttLink:
    """See Link. MQTT 5 where the broker speaks it, else 3.1.1.

    Each attempt is a client of its own, with a clean start: nothing is ever sent that was not handed to this
    connection. `read_address` is called for each, by another thread, so that renewed files are taken up; what it
    raises is a reason like others. backoff: between attempts that fail. stolen: the delays where another client has
    taken this one's id, as the broker says or as it seems where it does not: two nodes would take it from each other
    for ever. packet_max: the most bytes that the broker may send in one packet.
    """

    def __init__(
        self,
        read_address: Callable[[], Address],
        client_id: str,
        *,
        keepalive_s: int,
        backoff: Backoff,
        stolen: Backoff,
        timeouts: Timeouts | None = None,
        packet_max: int = _PACKET_MAX,
        clock: Clock | None = None,
    ) -> None:
        self._packet_max = packet_max
        self._read_address = read_address
        self._client_id = client_id
        self._keepalive_s = keepalive_s
        self._backoff = backoff
        self._stolen = stolen
        self._timeouts = timeouts or Timeouts()
        self._clock = clock or Clock()
        self._will: Callable[[], Publication] | None = None
        self._events: list[Event] = []
        self._version: Version = "5"
        self._has_spoken_5 = self._has_refused_5 = self._is_told = False
        self._attempt = self._short_lives = 0
        self._dialled_at_s = self._up_since_s = 0.0
        self._retry_at_s = inf
        self._give_up_at_s = inf
        self._dialling: threading.Thread | None = None
        self._dialled: SimpleQueue[tuple[int, Address | None, Wire | str]] = SimpleQueue()
        self._session: _Session | None = None
        self._lock = threading.Lock()  # Of `_is_closed` and the bell, for `wake` and the thread that dials.
        self._is_closed = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def open(self, will: Callable[[], Publication] | None) -> None:
        self._will = will
        self._retry_at_s = self._now_s()

    def turn(self, timeout_s: float) -> Sequence[Event]:
        self._begin_when_due()
        if self._session is not None:
            self._session.write()
        self._wait(0.0 if self._events else timeout_s)
        self._take_dialled()
        if self._session is not None:
            self._read(self._session)
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self._bell, 1)

    def publish(self, publication: Publication) -> int | None:
        session = self._session
        return session.publish(publication) if session is not None and session.is_up else None

    def subscribe(self, filters: Sequence[str]) -> None:
        if self._session is not None and self._session.is_up:
            self._session.subscribe(filters)

    def reconnect(self, reason: str) -> None:
        if self._session is not None:
            self._session.abort(reason)
            self._read(self._session)

    def close(self, timeout_s: float) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.close(self._bell)
        self._retry_at_s = self._give_up_at_s = inf
        if self._session is not None:
            self._session.goodbye(timeout_s)
            self._session = None
        while (dialled := self._next_dialled()) is not None:
            if isinstance(dialled[2], Wire):
                dialled[2].end()

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    # Before there is a connection.

    def _begin_when_due(self) -> None:
        now_s = self._now_s()
        if self._session is None and now_s >= self._give_up_at_s:
            self._lose("timed out looking the host up and connecting")
        if now_s < self._retry_at_s:
            return
        if self._dialling is not None and self._dialling.is_alive():
            self._retry_at_s = now_s + 1.0  # The last attempt still hangs: there is never more than one.
            return
        self._attempt += 1
        self._dialled_at_s, self._retry_at_s, self._give_up_at_s = now_s, inf, now_s + self._timeouts.all_s
        self._dialling = threading.Thread(target=self._dial, args=(self._attempt,), name="uplink dial", daemon=True)
        self._dialling.start()

    def _dial(self, attempt: int) -> None:
        address: Address | None = None
        try:
            address = self._read_address()
            reached: Wire | str = dial(address, self._timeouts, clock=self._clock)
        except (Unreachable, EdgeInferError) as refused:
            reached = str(refused)
        with self._lock:
            if not self._is_closed:
                self._dialled.put((attempt, address, reached))
                os.eventfd_write(self._bell, 1)
            elif isinstance(reached, Wire):
                reached.end()

    def _next_dialled(self) -> tuple[int, Address | None, Wire | str] | None:
        try:
            return self._dialled.get_nowait()
        except Empty:
            return None

    def _take_dialled(self) -> None:
        dialled = self._next_dialled()
        if dialled is None:
            return
        attempt, address, reached = dialled
        if attempt != self._attempt or self._give_up_at_s == inf:
            if isinstance(reached, Wire):
                reached.end()  # Too late: it was given up.
        elif isinstance(reached, str) or address is None:
            self._short_lives = 0
            self._lose(_with_our_end(str(reached), address, self._clock))
        else:
            self._greet(address, reached)

    def _greet(self, address: Address, wire: Wire) -> None:
        self._session = _Session(
            wire,
            address,
            version=self._version,
            client_id=self._client_id,
            keepalive_s=self._keepalive_s,
            will=None if self._will is None else self._will(),
            packet_max=self._packet_max,
            first_token=self._attempt << 16,
        )
        now_s, patience_s = self._now_s(), self._timeouts.greeting_s
        if self._version == "5" and not self._has_spoken_5:
            dial_s = now_s - self._dialled_at_s
            patience_s = min(patience_s, max(_GUESS_AFTER_S, _GUESS_AFTER_DIALS * dial_s))
        self._give_up_at_s = now_s + patience_s
        self._session.write()

    # While there is one.

    def _wait(self, timeout_s: float) -> None:
        now_s = self._now_s()
        until_s = min(self._retry_at_s, self._give_up_at_s, now_s + timeout_s)
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        session = self._session
        if session is not None:
            until_s = min(until_s, now_s + min(_LONGEST_NAP_S, self._keepalive_s / 4))
            poll.register(session.wire, select.POLLIN | (select.POLLOUT if session.wire.has_unsent else 0))
            if session.wire.holds_more:
                until_s = now_s
        ready = poll.poll(max(0, ceil((until_s - now_s) * 1e3)))
        if any(handle == self._bell for handle, _ in ready):
            os.eventfd_read(self._bell)

    def _read(self, session: _Session) -> None:
        was_up = session.is_up
        session.read()
        self._events += session.take_events()
        if session.is_up and not was_up:
            self._connected(session)
        if session.end is not None:
            self._ended(session, session.end)
        elif not session.is_up and self._now_s() >= self._give_up_at_s:
            session.abort(f"{session.address} timed out: there is a connection, and nobody answers")
            self._read(session)

    def _connected(self, session: _Session) -> None:
        self._give_up_at_s = inf
        self._up_since_s = self._now_s()
        self._has_spoken_5 = self._has_spoken_5 or session.version == "5"
        if session.version == "3.1.1" and not self._is_told:
            self._is_told = True
            log.warning("%s speaks MQTT 3.1.1 and not 5: what it denies it does not tell of", session.address)

    def _ended(self, session: _Session, end: _End) -> None:
        self._session = None
        session.wire.end()
        reason = _with_our_end(end.reason, session.address, self._clock)
        if not session.is_up and end.code == _UNSUPPORTED_VERSION and session.version == "5":
            self._has_refused_5 = True
            self._greet_again("3.1.1", after_s=0.0)
        elif not session.is_up and end.code is None and not self._has_spoken_5:
            # Some that know only 3.1.1 hang up without a word, or wait for more. Next time it is the other one.
            if session.version == "5":
                self._greet_again("3.1.1", after_s=_GUESS_AGAIN_S)
            else:
                self._version = "5"
                self._lose(reason)
        else:
            self._lose_session(session, end, reason)

    def _greet_again(self, version: Version, *, after_s: float) -> None:
        """In another version; nothing is lost by that."""
        self._version = version
        self._give_up_at_s, self._retry_at_s = inf, self._now_s() + after_s

    def _lose_session(self, session: _Session, end: _End, reason: str) -> None:
        lived_s = self._now_s() - self._up_since_s if session.is_up else 0.0
        if session.is_up:
            self._backoff.reset()
            if not self._has_refused_5:
                self._version = "5"  # That it knows no better may have been a wrong guess.
        if lived_s >= _STEADY_S:
            self._stolen.reset()
        is_short = session.is_up and end.by_broker and end.code is None and lived_s < _SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if is_short else 0
        is_stolen = end.code == _TAKEN_OVER
        if self._short_lives >= _SHORT_LIVES_MAX:
            # Some brokers, and all under 3.1.1, do not say that they took another client for this one.
            is_stolen = True
            reason += " soon after it let us in, time and again; has another client this client id?"
        retry_s = self._stolen.next_s() if is_stolen else None
        self._lose(reason, retry_s=retry_s, by_broker=session.is_up and end.by_broker)

    def _lose(self, reason: str, *, retry_s: float | None = None, by_broker: bool = False) -> None:
        delay_s = self._backoff.next_s() if retry_s is None else retry_s
        self._give_up_at_s = inf
        self._retry_at_s = self._now_s() + delay_s
        self._events.append(Lost(reason, delay_s, by_broker))


@dataclass(frozen=True, slots=True)
class _End:
    """Why a connection ended. code: as in MQTT 5, where it was said; by_broker: and not by us or the network."""

    reason: str
    code: int | None = None
    by_broker: bool = False


class _Client(Client):
    """A client on a connection that is there already."""

    def __init__(self, wire: Wire, **options: Any) -> None:
        self._wire = wire
        super().__init__(**options)

    def _create_socket(self) -> Wire:
        return self._wire


class _Session:
    """One connection, from CONNECT to its end. Nothing happens but in `read` and `write`."""

    def __init__(
        self,
        wire: Wire,
        address: Address,
        *,
        version: Version,
        client_id: str,
        keepalive_s: int,
        will: Publication | None,
        packet_max: int,
        first_token: int,
    ) -> None:
        self.wire = wire
        self.address = address
        self.version: Version = version
        self.is_up = False
        self.end: _End | None = None
        self._keepalive_s = keepalive_s
        self._first_token = first_token
        self._events: list[Event] = []
        self._subscribing: dict[int, str] = {}
        self._packet_max = packet_max
        self._splitter = Splitter(packet_max)
        self._unacknowledged: set[int] = set()
        self._has_heard = False
        self._last_id = _LAST_ID
        self._client = _Client(
            wire,
            callback_api_version=CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=_VERSIONS[version],
            clean_session=None if version == "5" else True,
            reconnect_on_failure=False,
        )
        self._greet(address, will)

    def read(self) -> None:
        """Take what has arrived, and note what it says."""
        try:
            arrived = self.wire.read()
            if not self._has_heard and arrived:
                self._has_heard = True
                self._check_greeting(arrived)
            for packet in self._splitter.split(arrived):
                self._take(packet)
            while self.end is None and self.wire.has_unread:
                if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS and self.end is None:
                    self._on_end(None)
            if self.end is None:
                self._client.loop_misc()
        except (ValueError, LookupError, TypeError, AttributeError, struct.error) as nonsense:
            log.debug("what the broker sends cannot be read", exc_info=nonsense)
            self.abort(f"{self.address}: it sends what is not MQTT")

    def write(self) -> None:
        """Send what was handed over, as far as the network takes it."""
        if self._client.want_write():
            self._client.loop_write()
        self.wire.flush()

    def take_events(self) -> Sequence[Event]:
        events, self._events = self._events, []
        return events

    def publish(self, publication: Publication) -> int:
        packet_id = self._free_id() if publication.qos else 0
        # Past the client, see `packets`. All that it sends are whole packets, too.
        self.wire.send(publish_packet(publication, packet_id, self.version))
        return self._first_token + packet_id

    def subscribe(self, filters: Sequence[str]) -> None:
        for each in filters:
            _, mid = self._client.subscribe(each, qos=1)
            if mid is not None:
                self._subscribing[mid] = each

    def abort(self, reason: str) -> None:
        """End it from here, and let the broker say the will."""
        self.end = self.end or _End(reason)
        self.wire.end()

    def goodbye(self, timeout_s: float) -> None:
        if self.is_up and self.end is None:
            self._client.disconnect()
            self.write()
            self.wire.goodbye(timeout_s)
        self.wire.end()

    def _check_greeting(self, arrived: bytes) -> None:
        """Raises Malformed, or a web server's answer would be waited for to its end."""
        if arrived[0] != _CONNACK:
            raise Malformed("not a broker")

    def _take(self, packet: bytes) -> None:
        """Raises Malformed."""
        if packet[0] != PUBACK:
            self.wire.let_through(packet)
            return
        packet_id, code = read_puback(packet)
        if packet_id in self._unacknowledged:
            self._unacknowledged.remove(packet_id)
            self._events.append(Acknowledged(self._first_token + packet_id, code))

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id + 1 if self._last_id < _LAST_ID else _FIRST_ID
            if self._last_id not in self._unacknowledged:
                self._unacknowledged.add(self._last_id)
                return self._last_id

    def _greet(self, address: Address, will: Publication | None) -> None:
        client = self._client
        client.on_socket_register_write = _later
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        if will is not None:
            properties = _will_properties(will) if self.version == "5" else None
            client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if self.version == "5":
            limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # So it is in paho.
            limits.MaximumPacketSize = self._packet_max
            client.connect(address.host, address.port, self._keepalive_s, clean_start=True, properties=limits)
        else:
            client.connect(address.host, address.port, self._keepalive_s)

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, code: ReasonCode, properties: Any) -> None:
        if code.is_failure:
            reason = _REFUSALS.get(code.value, str(code).lower())
            self.end = _End(f"{self.address} refuses: {reason}", code.value, by_broker=True)
            return
        self.is_up = True
        receive_max = getattr(properties, "ReceiveMaximum", NO_LIMIT)
        packet_max = getattr(properties, "MaximumPacketSize", None)
        self._events.append(Connected(self.version, receive_max, packet_max))

    def _on_disconnect(self, _client: Client, _data: Any, flags: Any, code: ReasonCode, _properties: Any) -> None:
        if self.end is not None:
            return
        if flags.is_disconnect_packet_from_server:
            reason = _GOODBYES.get(code.value, str(code).lower())
            self.end = _End(f"{self.address} ended the connection: {reason}", code.value, by_broker=True)
        else:
            self._on_end(code.value)

    def _on_end(self, code: int | None) -> None:
        if self.wire.failure is not None:
            self.end = _End(f"{self.address}: {self.wire.failure}", by_broker=self.wire.is_ended_by_peer)
        elif code == _KEEPALIVE:
            self.end = _End(f"{self.address} timed out: no answer to a ping in {self._keepalive_s} s")
        else:
            self.end = _End(f"{self.address}: it sends what is not MQTT")

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        properties = message.properties
        self._events.append(
            Received(
                message.topic,
                bytes(message.payload),
                message.retain,
                getattr(properties, "ResponseTopic", None),
                getattr(properties, "CorrelationData", None),
            )
        )

    def _on_subscribe(
        self, _client: Client, _data: Any, mid: int, codes: Sequence[ReasonCode], _properties: Any
    ) -> None:
        topic = self._subscribing.pop(mid, None)
        if topic is not None and any(code.value >= _FAILURE for code in codes):
            self._events.append(Unheard(topic))


def _later(_client: Client, _data: Any, _socket: Any) -> None:
    """There is something to write; `write` will do that. Without this the client would, packet by packet."""


def _will_properties(will: Publication) -> Properties:
    properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]  # So it is in paho.
    if will.content_type is not None:
        properties.ContentType = will.content_type
    return properties


def _with_our_end(reason: str, address: Address | None, clock: Clock) -> str:
    """An expired certificate of ours is told of, for the broker may not say why it does not want us."""
    ends_s = None if address is None else address.ends_unix_s
    if ends_s is None or clock.unix_ns() / 1e9 < ends_s:
        return reason
    return f"{reason} (our certificate ended on {rfc3339(int(ends_s) * 10**9)[:10]})"
