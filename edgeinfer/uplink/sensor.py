"""A sensor that publishes to a broker, as a source: `mqtt://broker.lan/plant/pump?format=json`.

The address is read, and the connection made, as for the uplink, with the same words for certificates and passwords.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from urllib.parse import unquote

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources.account import Account
from edgeinfer.sources.framing import Lines, Piece
from edgeinfer.sources.gathering import Gatherer
from edgeinfer.sources.options import Query, SourceOptions, refuse_picture_options
from edgeinfer.sources.readings import Readings
from edgeinfer.sources.records import Form, RecordReader, form_of, number_of
from edgeinfer.uplink.publication import Connected, Event, Link, Lost, Received, Unheard
from edgeinfer.uplink.subscriber import open_subscriber, subscriber_config

_WORDS = ("ca", "cert", "key", "server_name", "user_file", "password_file", "client_id")
_TURN_S = 0.5
_GOODBYE_S = 1.0


def open_mqtt(word: str, options: SourceOptions, clock: Clock) -> MqttSource:
    """Begin to connect. Raises SourceError and ConfigError for what is wrong with the address."""
    refuse_picture_options(options, word, "a topic")
    scheme, _, rest = word.partition("://")
    host, _, rest = rest.partition("/")
    path, _, asked = rest.partition("?")
    topic = unquote(path)
    shown = f"{scheme.lower()}://{host.rpartition('@')[2]}/{topic}"
    if not topic or "\0" in topic:
        raise SourceError(f"{shown!r} names no topic", hint="mqtt://broker.lan/plant/pump, + and # as MQTT has them")
    query = Query(asked, shown)
    stated = {name: query.text(name) for name in _WORDS}
    form = form_of(query, shown)
    query.done()
    if form.format is not None and form.format.startswith("struct:"):
        raise SourceError(f"{shown!r}: binary records come from serial:// only", hint="format=csv, json or keyvalue")
    # Whoever runs that broker must not be sent the password of the node's own.
    config = subscriber_config(f"{scheme.lower()}://{host}", is_uplink=False, **stated)
    link = open_subscriber(config, is_uplink=False)
    return MqttSource(shown, link, topic, form, clock, options.open_timeout_s)


class MqttSource:
    """What is published from now on. See SampleSource.

    A message holds lines as a serial sensor sends them, or one number, which is called by the last level of its topic.
    A retained one is counted as late, unless messages are known to say their times: nobody knows how old it is.
    """

    live = True
    can_be_late = True
    rate_hz: float | None = None

    def __init__(self, uri: str, link: Link, topic: str, form: Form, clock: Clock, open_timeout_s: float) -> None:
        self.uri = uri
        self._link = link
        self._topic = topic
        self._names_numbers = form.format in (None, "keyvalue")
        self._reader = RecordReader(form, is_partial=True)
        self._gatherer = Gatherer(self._reader, clock)
        self._clock = clock
        self._account = Account()
        self._open_timeout_s = open_timeout_s
        self._opened_ns = clock.monotonic_ns()
        self._was_connected = False
        self._trouble = "it does not answer"
        self._turn = threading.Lock()
        self._is_closed = False

    @property
    def channels(self) -> tuple[str, ...]:
        return self._reader.channels

    def begin(self, channels: tuple[str, ...], account: Account) -> None:
        self._account = account
        self._gatherer.begin(channels, account)

    def read(self) -> Readings | None:
        with self._turn:
            if self._is_closed:
                return None
            events = self._link.turn(_TURN_S)
            pieces = [piece for event in events for piece in self._hear(event)]
            waited_s = (self._clock.monotonic_ns() - self._opened_ns) / 1e9
            if not self._was_connected and waited_s > self._open_timeout_s:
                raise SourceLost(f"{self.uri!r} cannot be reached: {self._trouble}")
            return self._gatherer.gather(pieces)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._link.wake()
        with self._turn:
            self._link.close(_GOODBYE_S)

    def _hear(self, event: Event) -> Iterator[Piece]:
        if isinstance(event, Received):
            yield from self._pieces_of(event)
        elif isinstance(event, Connected):
            if self._was_connected:
                self._account.note("reconnected")
            self._was_connected = True
            self._link.subscribe([self._topic])
        elif isinstance(event, Lost):
            self._trouble = event.reason
        elif isinstance(event, Unheard):
            raise SourceError(f"{self.uri!r}: the broker refuses the topic", hint="may this user read it?")

    def _pieces_of(self, received: Received) -> Iterator[Piece]:
        lines = Lines()
        for piece in [*lines.feed(received.payload), *lines.finish()]:
            if received.retain and not self._reader.has_times:
                yield piece._replace(fate="late")
                continue
            named = _named(received.topic, piece.raw) if self._names_numbers else None
            yield piece if named is None else piece._replace(raw=named)


def _named(topic: str, payload: bytes) -> bytes | None:
    """A lone number as `temp=21.5`, for one that comes to `plant/temp`; None for anything else."""
    try:
        number = number_of(payload.decode())
    except ValueError:
        return None
    return f"{topic.rpartition('/')[2]}={number}".encode() if payload.strip() else None
