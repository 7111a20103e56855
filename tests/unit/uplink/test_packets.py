"""What is written by hand, against the client library that writes and reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeinfer.uplink.packets import Malformed, Splitter, publish_packet, read_puback
from edgeinfer.uplink.publication import Publication


class Wire:
    """Takes what the library sends."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, packet: bytes) -> int:
        self.sent += packet
        return len(packet)

    def setblocking(self, flag: bool) -> None: ...

    def close(self) -> None: ...

    def fileno(self) -> int:
        return -1


class Library(Client):
    def __init__(self, version: str) -> None:
        self.wire = Wire()
        protocol = MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311
        super().__init__(CallbackAPIVersion.VERSION2, protocol=protocol)
        self.connect("localhost")
        self.loop_write()
        self.wire.sent = b""

    def _create_socket(self) -> Wire:
        return self.wire

    def published(self, publication: Publication) -> bytes:
        properties = None
        if self.protocol == MQTTProtocolVersion.MQTTv5 and not publication.has_no_properties:
            properties = Properties(PacketTypes.PUBLISH)
            if publication.expiry_s is not None:
                properties.MessageExpiryInterval = publication.expiry_s
            if publication.content_type is not None:
                properties.ContentType = publication.content_type
            if publication.response_topic is not None:
                properties.ResponseTopic = publication.response_topic
            if publication.correlation is not None:
                properties.CorrelationData = publication.correlation
            if publication.user:
                properties.UserProperty = list(publication.user)
        self.publish(publication.topic, publication.payload, publication.qos, publication.retain, properties=properties)
        self.loop_write()
        return self.wire.sent


FULL = Publication(
    "edgeinfer/v1/küche/results/tür",
    b"{}" * 300,
    1,
    True,
    content_type="application/cloudevents+json; charset=utf-8",
    response_topic="answers/here",
    correlation=b"\0\1\2",
    user=(("traceparent", "00-1"), ("ü", "ß")),
    expiry_s=3600,
)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize(
    "publication",
    [
        Publication("a/b", b"", 0),
        Publication("a/b", b"x", 1),
        Publication("a/b", b"x" * 127, 1, True),
        Publication("a/b", b"x" * 20_000, 1, content_type="text/plain"),
        Publication("a/b", b"x" * 2_100_000, 0),
        FULL,
    ],
    ids=["empty", "small", "two bytes of length", "three", "four", "full"],
)
def test_a_publish_packet_is_what_the_library_writes(publication, version):
    written = publish_packet(publication, 1, version)
    assert written == Library(version).published(publication)
    assert len(written) <= publication.packet_bytes


def test_a_puback_without_a_reason_is_success():
    assert read_puback(b"\x40\x02\x12\x34") == (0x1234, 0)
    assert read_puback(b"\x40\x03\x12\x34\x87") == (0x1234, 0x87)
    assert read_puback(b"\x40\x04\x12\x34\x10\x00") == (0x1234, 0x10)


def test_a_puback_without_an_id_is_refused():
    with pytest.raises(Malformed):
        read_puback(b"\x40\x01\x12")


@given(some.lists(some.binary(max_size=300), max_size=8), some.lists(some.integers(1, 40), min_size=1, max_size=50))
def test_packets_are_cut_the_same_however_they_arrive(payloads, sizes):
    packets = [publish_packet(Publication("t", payload, 1), 7, "5") for payload in payloads]
    stream = b"".join(packets)
    splitter, found, at = Splitter(1 << 20), [], 0
    while at < len(stream):
        for size in sizes:
            found += splitter.split(stream[at : at + size])
            at += size
    assert found == packets


def test_a_packet_that_would_be_too_large_is_refused_before_it_has_come():
    with pytest.raises(Malformed, match="5000 bytes"):
        list(Splitter(4096).split(b"\x30\x88\x27"))


def test_a_length_that_does_not_end_is_refused():
    with pytest.raises(Malformed):
        list(Splitter(1 << 20).split(b"\x30\xff\xff\xff\xff\xff"))
