"""A group of messages that was accepted at once <-> the bytes of its row in the spool."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from edgeinfer.clock import ClockState
from edgeinfer.uplink.message import Channel, Message

MESSAGE_BYTES_MAX = 256 * 1024
"""Of `data`. Brokers take less by default; what is larger is no result."""

GROUP_BYTES_MAX = 512 * 1024
"""Of all messages of a group before they are packed, what is kept of each beside its data included."""

_BESIDE_DATA = 64  # Bytes of a message beside its data and its pipeline's name, at most.
_PACKED_BYTES_MAX = 2 * GROUP_BYTES_MAX
_LEVEL = 1  # Results resemble each other so much that a higher level gains little, and it costs time.

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[Channel, str, int, ClockState, bytes]]).decode


class DamagedGroup(ValueError):
    """The bytes are not those that were packed."""


def cost(message: Message) -> int:
    """Bytes that a message adds to a group."""
    return len(message.data) + 4 * len(message.pipeline) + _BESIDE_DATA


def pack(messages: Sequence[Message]) -> bytes:
    """At most GROUP_BYTES_MAX of them, by `cost`."""
    rows = [(each.channel, each.pipeline, each.unix_ns, each.clock, each.data) for each in messages]
    return zlib.compress(_encode(rows), _LEVEL)


def unpack(body: bytes) -> tuple[Message, ...]:
    """Raises DamagedGroup; zlib's checksum is over everything."""
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(body, _PACKED_BYTES_MAX)
        if not inflate.eof:
            raise DamagedGroup("is cut short or too large")
        return tuple(Message(*row) for row in _decode(raw))
    except (zlib.error, msgspec.DecodeError) as damaged:
        raise DamagedGroup(str(damaged)) from damaged
