"""The two packets of MQTT that there are thousands of: PUBLISH as it is sent, PUBACK as it comes.

The client library takes 200 µs for the two, most of it for properties that nobody set; this takes a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeinfer.uplink.publication import Publication, Version

PUBACK = 0x40
_PUBLISH = 0x30
_EXPIRY, _CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION, _USER = b"\x02", b"\x03", b"\x08", b"\x09", b"\x26"


class Malformed(ValueError):
    """What arrives is not MQTT."""


def publish_packet(publication: Publication, packet_id: int, version: Version) -> bytes:
    """packet_id: 1 to 65535, of no use with QoS 0."""
    body = [_text(publication.topic)]
    if publication.qos:
        body.append(packet_id.to_bytes(2, "big"))
    if version == "5":
        body.append(b"\0" if publication.has_no_properties else _properties(publication))
    body.append(publication.payload)
    kind = _PUBLISH | publication.qos << 1 | publication.retain
    return b"".join((bytes((kind,)), _number(sum(map(len, body))), *body))


def read_puback(packet: bytes) -> tuple[int, int]:
    """Packet id and reason code. Raises Malformed."""
    if packet[1] < 2:
        raise Malformed("a PUBACK without a packet id")
    return int.from_bytes(packet[2:4], "big"), packet[4] if packet[1] > 2 else 0


class Splitter:
    """Cuts what arrives into packets of at most so many bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rest = b""

    def split(self, arrived: bytes) -> Iterator[bytes]:
        """The packets that are complete now. Raises Malformed."""
        buffer, at = self._rest + arrived, 0
        self._rest = b""
        while (end := self._end(buffer, at)) is not None and end <= len(buffer):
            yield buffer[at:end]
            at = end
        self._rest = buffer[at:]

    def _end(self, buffer: bytes, at: int) -> int | None:
        """Where the packet at `at` ends; None where its length has not arrived."""
        length = 0
        for index in range(4):
            if at + 1 + index >= len(buffer):
                return None
            byte = buffer[at + 1 + index]
            length |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if length > self._bytes_max:
                    raise Malformed(f"a packet of {length} bytes")
                return at + 2 + index + length
        raise Malformed("the length of a packet takes more than four bytes")


def _properties(publication: Publication) -> bytes:
    parts = []
    if publication.expiry_s is not None:
        parts += [_EXPIRY, publication.expiry_s.to_bytes(4, "big")]
    if publication.content_type is not None:
        parts += [_CONTENT_TYPE, _text(publication.content_type)]
    if publication.response_topic is not None:
        parts += [_RESPONSE_TOPIC, _text(publication.response_topic)]
    if publication.correlation is not None:
        parts += [_CORRELATION, _sized(publication.correlation)]
    for name, value in publication.user:
        parts += [_USER, _text(name), _text(value)]
    content = b"".join(parts)
    return _number(len(content)) + content


def _text(text: str) -> bytes:
    return _sized(text.encode())


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def _number(value: int) -> bytes:
    """A variable byte integer: seven bits a byte, the lowest first."""
    if value < 0x80:
        return bytes((value,))
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
