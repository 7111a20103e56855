"""CloudEvents 1.0, structured JSON: written around what the spool holds, and read again on the other side."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta as Rule

from edgeinfer.clock import Clock, ClockState, ClockWatch, rfc3339
from edgeinfer.event import Happening
from edgeinfer.result import Result
from edgeinfer.uplink.bodies import Ack, Meta, Metrics, SlotModel, State, Status
from edgeinfer.uplink.message import Channel, Gap, Message, Spooled
from edgeinfer.uplink.publication import Publication
from edgeinfer.uplink.topics import Topics, level

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
PAYLOAD_BYTES_MAX = 4 << 20
_ACK_BYTES_MAX = 512
_HEADS_MAX = 256

_ID = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,18})")

_encode = msgspec.json.Encoder().encode
Shape = TypeVar("Shape")
OfNode = Literal["status", "meta", "metrics", "model"]


class BadMessage(ValueError):
    """A payload that is not what its topic says; the message is one line."""


class Composer:
    """What one node publishes. Called by the uplink's thread.

    epoch: of the spool; done_seq: up to which message all is done, asked at each message. Such a message says it as
    `done`, so that a subscriber who comes late knows what will not come any more.
    """

    def __init__(
        self, topics: Topics, epoch: str, done_seq: Callable[[], int], *, session: int = 0, clock: Clock | None = None
    ) -> None:
        self._topics = topics
        self._epoch = epoch
        self._done_seq = done_seq
        self._session = session
        self._clock = clock or Clock()
        self._watch = ClockWatch(self._clock)
        self._heads: dict[tuple[Channel, str], tuple[str, bytes]] = {}
        self._accepted_before = 0
        self._told = 0

    def connected(self, session: int, last_seq: int) -> None:
        """A connection begins; what was accepted up to `last_seq` is old news on it."""
        self._session = session
        self._accepted_before = last_seq

    def __call__(self, spooled: Spooled, again: bool = False) -> Publication:  # noqa: FBT001 - as Uplink calls it
        """A message as it is sent now; again: it was sent before."""
        message = spooled.message
        topic, head = self._head(message)
        replay = b',"replay":true' if again or spooled.seq <= self._accepted_before else b""
        payload = b'%b%d","time":"%b","clock":"%b","done":"%d"%b,"data":%b}' % (
            head,
            spooled.seq,
            rfc3339(message.unix_ns).encode(),
            message.clock.encode(),
            self._done_seq(),
            replay,
            message.data,
        )
        return Publication(topic, payload, content_type=CONTENT_TYPE)

    def will(self, session: int) -> Publication:
        """What the broker says when this connection is lost. It bears no time: nobody knows yet when that will be."""
        body = Status(state="offline", session=session, epoch=self._epoch)
        return self._of_node("status", f"{session}-will", "", body)

    def status(self, state: State, since_unix_ns: int, reason: str | None = None) -> Publication:
        body = Status(
            state=state, session=self._session, epoch=self._epoch, since=rfc3339(since_unix_ns), reason=reason
        )
        return self._now("status", body)

    def meta(self, meta: Meta) -> Publication:
        return self._now("meta", meta)

    def metrics(self, metrics: Metrics) -> Publication:
        """Not kept: the next one says more, and nobody waits for an old one."""
        return self._now("metrics", metrics)

    def model(self, model: SlotModel) -> Publication:
        return self._now("model", model, of=model.slot)

    def _head(self, message: Message) -> tuple[str, bytes]:
        """The topic, and the envelope up to the number."""
        key = (message.channel, message.pipeline)
        known = self._heads.get(key)
        if known is None:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            below = "" if message.channel == "gap" else f"/{level(message.pipeline)}"
            head = _open(message.channel, f"/edgeinfer/{level(self._topics.node)}{below}") + f'"id":"{self._epoch}-'
            known = self._heads[key] = (self._topics.topic_of(message), head.encode())
        return known

    def _now(self, kind: OfNode, body: Any, *, of: str | None = None) -> Publication:
        self._told += 1
        time = f',"time":"{rfc3339(self._clock.unix_ns())}"'
        return self._of_node(kind, f"{self._session}-{self._told}", time, body, of=of)

    def _of_node(self, kind: OfNode, number: str, time: str, body: Any, *, of: str | None = None) -> Publication:
        """of: what it is about, where that is not the whole node."""
        head = _open(kind, f"/edgeinfer/{level(self._topics.node)}")
        rest = f'"id":"{kind}-{number}"{time},"clock":"{self._watch.state()}","data":'
        return Publication(
            f"{self._topics.root}/{kind}" + ("" if of is None else f"/{level(of)}"),
            (head + rest).encode() + _encode(body) + b"}",
            qos=0 if kind == "metrics" else 1,
            retain=kind != "metrics",
            content_type=CONTENT_TYPE,
        )


def _open(kind: str, source: str) -> str:
    """How each envelope begins. `source` is a path of escaped names, so that nothing in it needs escaping in JSON."""
    return (
        f'{{"specversion":"1.0","type":"edgeinfer.{kind}.v1","source":"{source}",'
        f'"datacontenttype":"application/json","dataschema":"urn:edgeinfer:{kind}:1",'
    )


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent as it was received, its data not yet read. Attributes that this version does not know are left."""

    specversion: Literal["1.0"]
    id: Annotated[str, Rule(min_length=1, max_length=256)]
    source: Annotated[str, Rule(min_length=1, max_length=1024)]
    type: Annotated[str, Rule(min_length=1, max_length=256)]
    time: str | None = None
    dataschema: str | None = None
    clock: ClockState = "unsynced"
    replay: bool = False
    done: Annotated[str, Rule(pattern=r"^[0-9]{1,19}\Z")] = "0"
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Numbered:
    """A message of a spool as it was received.

    node, pipeline: as in the topic. channel: what it is; data: accordingly a Result, a Happening or a Gap.
    epoch, seq: the same two never name another message. done: every message up to that one was acknowledged before.
    time: RFC 3339, what it tells of; clock: whether the node's clock was set then. replay: sent before, or accepted
    before the node's present connection. body: the data as they were sent, one JSON object.
    """

    node: str
    pipeline: str
    channel: Channel
    epoch: str
    seq: int
    done: int
    time: str | None
    clock: ClockState
    replay: bool
    data: Result | Happening | Gap
    body: bytes


_envelopes = msgspec.json.Decoder(Envelope)
_acks = msgspec.json.Decoder(Ack)
_SHAPES: dict[str, tuple[Channel, msgspec.json.Decoder[Any]]] = {
    "edgeinfer.result.v1": ("result", msgspec.json.Decoder(Result)),
    "edgeinfer.event.v1": ("event", msgspec.json.Decoder(Happening)),
    "edgeinfer.gap.v1": ("gap", msgspec.json.Decoder(Gap)),
}
_BODIES: dict[str, msgspec.json.Decoder[Any]] = {
    "edgeinfer.status.v1": msgspec.json.Decoder(Status),
    "edgeinfer.meta.v1": msgspec.json.Decoder(Meta),
    "edgeinfer.metrics.v1": msgspec.json.Decoder(Metrics),
    "edgeinfer.model.v1": msgspec.json.Decoder(SlotModel),
}


def read_envelope(payload: bytes) -> Envelope:
    """Raises BadMessage."""
    return _read(payload, _envelopes, PAYLOAD_BYTES_MAX, "a CloudEvent")


def read_id(envelope: Envelope) -> tuple[str, int]:
    """Epoch and seq. Raises BadMessage where it has none."""
    found = _ID.fullmatch(envelope.id)
    if found is None:
        raise BadMessage(f"id {envelope.id!r} is not EPOCH-SEQ")
    return found[1], int(found[2])


def read_numbered(envelope: Envelope, node: str, pipeline: str) -> Numbered:
    """The message in an envelope that came on a topic of that node and pipeline. Raises BadMessage."""
    epoch, seq = read_id(envelope)
    known = _SHAPES.get(envelope.type)
    if known is None:
        raise BadMessage(f"type {envelope.type!r} is not known to this version")
    channel, shape = known
    data = _read(bytes(envelope.data), shape, PAYLOAD_BYTES_MAX, envelope.type)
    if isinstance(data, Gap) and not 1 <= data.first <= data.last == seq:
        raise BadMessage(f"gap {data.first}..{data.last} does not end at its own number {seq}")
    return Numbered(
        node=node,
        pipeline=pipeline,
        channel=channel,
        epoch=epoch,
        seq=seq,
        done=int(envelope.done),
        time=envelope.time,
        clock=envelope.clock,
        replay=envelope.replay,
        data=data,
        body=bytes(envelope.data),
    )


def read_status(payload: bytes) -> Status:
    """Raises BadMessage."""
    return _read_body(payload, "edgeinfer.status.v1", Status)


def read_meta(payload: bytes) -> Meta:
    """Raises BadMessage."""
    return _read_body(payload, "edgeinfer.meta.v1", Meta)


def read_metrics(payload: bytes) -> Metrics:
    """Raises BadMessage."""
    return _read_body(payload, "edgeinfer.metrics.v1", Metrics)


def read_model(payload: bytes) -> SlotModel:
    """Raises BadMessage."""
    return _read_body(payload, "edgeinfer.model.v1", SlotModel)


def read_ack(payload: bytes) -> Ack:
    """What a consumer sent. Raises BadMessage."""
    return _read(payload, _acks, _ACK_BYTES_MAX, "an acknowledgement")


def write_ack(ack: Ack) -> bytes:
    return _encode(ack)


def _read_body(payload: bytes, kind: str, shape: type[Shape]) -> Shape:
    envelope = read_envelope(payload)
    if envelope.type != kind:
        raise BadMessage(f"type {envelope.type!r} where {kind!r} was expected")
    body = _read(bytes(envelope.data), _BODIES[kind], PAYLOAD_BYTES_MAX, kind)
    assert isinstance(body, shape)
    return body


def _read(payload: bytes, decoder: msgspec.json.Decoder[Shape], bytes_max: int, what: str) -> Shape:
    if len(payload) > bytes_max:
        raise BadMessage(f"{len(payload)} bytes are too many for {what}")
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as refused:
        raise BadMessage(f"not {what}: {refused}") from refused
