"""A broker in this process and a link to it: to try things out without a network, and faults at will."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeinfer.clock import Clock
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

_DENIED = 0x87


class MemoryBroker:
    """Keeps what it takes in `taken`, and the newest of each topic that is retained in `retained`.

    down: why it cannot be reached, None where it can. is_mute: it takes nothing and says nothing, but is there.
    denied: topics that nobody may publish or subscribe to. most_in_flight: the most it had not acknowledged at once.
    """

    def __init__(self, *, receive_max: int = NO_LIMIT, packet_max: int | None = None, version: Version = "5") -> None:
        self.receive_max = receive_max
        self.packet_max = packet_max
        self.version: Version = version
        self.down: str | None = None
        self.is_mute = False
        self.denied: set[str] = set()
        self.taken: list[Publication] = []
        self.retained: dict[str, Publication] = {}
        self.most_in_flight = 0
        self.links: list[MemoryLink] = []

    def publish(self, publication: Publication) -> int:
        """The reason code of the answer."""
        if publication.topic in self.denied:
            return _DENIED
        self.taken.append(publication)
        if publication.retain:
            self.retained[publication.topic] = publication
        for link in self.links:
            link.deliver(publication)
        return 0

    def cut(self, reason: str, *, by_broker: bool = True) -> None:
        """End all connections; the wills are said."""
        for link in list(self.links):
            link.cut(reason, by_broker=by_broker)


class MemoryLink:
    """See Link. A lost connection is made again after `retry_s`."""

    def __init__(self, broker: MemoryBroker, clock: Clock, *, retry_s: float = 1.0) -> None:
        self._broker = broker
        self._clock = clock
        self._retry_s = retry_s
        self._due_s: float | None = None
        self._ask_will: Callable[[], Publication] | None = None
        self._will: Publication | None = None
        self._handed: list[tuple[int, Publication]] = []
        self._events: list[Event] = []
        self._filters: list[str] = []
        self._token = 0
        self.wakes = 0

    @property
    def is_connected(self) -> bool:
        return self in self._broker.links

    def open(self, will: Callable[[], Publication] | None) -> None:
        self._ask_will = will
        self._due_s = self._now_s()

    def turn(self, timeout_s: float) -> Sequence[Event]:
        """Never waits: whoever owns the clock turns it on."""
        if self._due_s is not None and self._now_s() >= self._due_s:
            self._connect()
        if self.is_connected and not self._broker.is_mute:
            self._publish()
        events, self._events = self._events, []
        return events

    @property
    def has_news(self) -> bool:
        """Whether the next turn has something to tell, as far as is known now."""
        is_due = self._due_s is not None and self._now_s() >= self._due_s
        return bool(self._events) or is_due or (bool(self._handed) and not self._broker.is_mute)

    @property
    def due_s(self) -> float | None:
        """When it connects; None where it is connected."""
        return self._due_s

    def wake(self) -> None:
        self.wakes += 1

    def publish(self, publication: Publication) -> int | None:
        if not self.is_connected:
            return None
        self._token += 1
        self._handed.append((self._token, publication))
        in_flight = sum(each.qos for _, each in self._handed)
        self._broker.most_in_flight = max(self._broker.most_in_flight, in_flight)
        return self._token

    def subscribe(self, filters: Sequence[str]) -> None:
        for topic in filters:
            if topic in self._broker.denied:
                self._events.append(Unheard(topic))
                continue
            self._filters.append(topic)
            for kept in self._broker.retained.values():
                if matches(kept.topic, topic):
                    self._events.append(Received(kept.topic, kept.payload, retain=True))

    def deliver(self, publication: Publication) -> None:
        """From the broker: somebody published that."""
        if any(matches(publication.topic, each) for each in self._filters):
            self._events.append(
                Received(
                    publication.topic,
                    publication.payload,
                    response_topic=publication.response_topic,
                    correlation=publication.correlation,
                )
            )

    def reconnect(self, reason: str) -> None:
        if self.is_connected:
            self.cut(reason, by_broker=False)

    def cut(self, reason: str, *, by_broker: bool) -> None:
        """The connection ends, and what the broker has not taken is gone."""
        self._broker.links.remove(self)
        self._forget()
        self._lose(reason, by_broker=by_broker)
        if self._will is not None:
            self._broker.publish(self._will)

    def close(self, timeout_s: float) -> None:
        if self.is_connected:
            self._publish()
            self._broker.links.remove(self)
        self._due_s = None

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _connect(self) -> None:
        if self._broker.down is not None:
            self._lose(self._broker.down, by_broker=False)
            return
        self._due_s = None
        self._will = None if self._ask_will is None else self._ask_will()
        self._broker.links.append(self)
        self._events.append(Connected(self._broker.version, self._broker.receive_max, self._broker.packet_max))

    def _publish(self) -> None:
        handed, self._handed = self._handed, []
        for token, publication in handed:
            code = self._broker.publish(publication)
            if publication.qos:
                # Under 3.1.1 there is no way to say no.
                self._events.append(Acknowledged(token, code if self._broker.version == "5" else 0))

    def _lose(self, reason: str, *, by_broker: bool) -> None:
        self._due_s = self._now_s() + self._retry_s
        self._events.append(Lost(reason, self._retry_s, by_broker))

    def _forget(self) -> None:
        self._handed.clear()
        self._filters.clear()
        self._events.clear()


def matches(topic: str, pattern: str) -> bool:
    """Whether a topic is among those that a filter names, `+` and a last `#` in it."""
    levels, wanted = topic.split("/"), pattern.split("/")
    if wanted[-1] == "#":
        wanted, levels = wanted[:-1], levels[: len(wanted) - 1]
    return len(levels) == len(wanted) and all(want in ("+", level) for level, want in zip(levels, wanted, strict=True))
