"""What goes to the broker and what comes from it, in words that name no client library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Version = Literal["5", "3.1.1"]

# Type, lengths of packet, topic and properties, packet id, expiry, correlation's name and length.
_HEADER_BYTES_MAX = 1 + 4 + 2 + 4 + 2 + 5 + 3
_PROPERTY_BYTES = 3


@dataclass(frozen=True, slots=True)
class Publication:
    """A message as the broker gets it. What follows `retain` is for MQTT 5, and left out under 3.1.1.

    content_type: of the payload. response_topic, correlation: where an answer is wanted, or what it answers.
    user: pairs of name and value. expiry_s: after so long the broker need not deliver it any more.
    """

    topic: str
    payload: bytes
    qos: Literal[0, 1] = 1
    retain: bool = False
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    user: tuple[tuple[str, str], ...] = ()
    expiry_s: int | None = None

    @property
    def has_no_properties(self) -> bool:
        """Whether MQTT 5 has nothing to add."""
        return not (self.content_type or self.response_topic or self.correlation or self.user or self.expiry_s)

    @property
    def packet_bytes(self) -> int:
        """The most that a packet with it takes."""
        texts = (self.content_type or "", self.response_topic or "", *(text for pair in self.user for text in pair))
        return (
            _HEADER_BYTES_MAX
            + len(self.topic.encode())
            + len(self.payload)
            + len(self.correlation or b"")
            + sum(_PROPERTY_BYTES + len(text.encode()) for text in texts)
        )


@dataclass(frozen=True, slots=True)
class Connected:
    """receive_max: how many messages of QoS 1 may be unacknowledged at once; packet_max: the most bytes that the broker
    takes in one packet, None where it sets no limit; protocol: the version it speaks."""

    protocol: Version
    receive_max: int
    packet_max: int | None


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no connection, or the attempt to make one failed.

    reason: in words; retry_s: when it is tried again; by_broker: a connection that stood was ended by the other side.
    """

    reason: str
    retry_s: float
    by_broker: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker's answer to the publication with that token; reason_code as in MQTT 5, below 0x80 where it took it."""

    token: int
    reason_code: int


@dataclass(frozen=True, slots=True)
class Received:
    """A message on a topic that was subscribed to. Its fields are those of Publication."""

    topic: str
    payload: bytes
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unheard:
    """The broker refuses a subscription."""

    topic: str


Event = Connected | Lost | Acknowledged | Received | Unheard


class Link(Protocol):
    """A connection to a broker that is made again whenever it is lost.

    One thread owns it and calls all of it but `wake`. `turn` is where things happen: nothing is read, written or
    connected between two turns, so that an event never comes in the middle of something else.
    """

    def open(self, will: Callable[[], Publication] | None) -> None:
        """Begin to connect at the next turn, and go on for ever. `will` is asked for anew before each attempt; None for
        who leaves without a word."""
        ...

    def turn(self, timeout_s: float) -> Sequence[Event]:
        """Read and write what there is to read and write; where that is nothing, wait for it, for `wake`, or so long.

        What happened, in the order in which it did.
        """
        ...

    def wake(self) -> None:
        """End the wait of a turn, this one or the next. From any thread."""
        ...

    def publish(self, publication: Publication) -> int | None:
        """Hand it over for the next turn, and never wait. Its token; None where there is no connection."""
        ...

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for the messages of these topics, on this connection. Does nothing without one."""
        ...

    def reconnect(self, reason: str) -> None:
        """Give this connection up; the next turn says Lost."""
        ...

    def close(self, timeout_s: float) -> None:
        """Say goodbye, so that the will stays unsaid, within that time. May be called twice."""
        ...
