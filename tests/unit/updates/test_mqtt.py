"""A repository behind a real broker."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, amqtt, mosquitto
from fleets import Publisher
from proxy import Proxy

from edgeinfer.config import UplinkConfig
from edgeinfer.errors import UpdateError
from edgeinfer.fleet.broker import FleetResponder
from edgeinfer.fleet.files import ServedFiles
from edgeinfer.updates.mqtt import MqttTransport
from edgeinfer.updates.transport import NotThere, patiently, read_whole

Respond = Callable[..., FleetResponder]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with mosquitto(folder) as broker:
        yield broker


@pytest.fixture
def respond(publisher: Publisher, broker: Broker) -> Iterator[Respond]:
    made: list[FleetResponder] = []

    def respond(**wishes: int) -> FleetResponder:
        config = UplinkConfig(url=broker.url)
        made.append(FleetResponder(ServedFiles(publisher.served), config, "shop", wishes=wishes))
        return made[-1]

    yield respond
    for each in made:
        each.close()


@pytest.fixture
def transport(broker: Broker) -> Iterator[MqttTransport]:
    transport = MqttTransport(UplinkConfig(url=broker.url), "shop")
    yield transport
    transport.close()


def big(publisher: Publisher, size: int) -> bytes:
    content = os.urandom(size)
    publisher.publish(files={"model.toml": b"x", "weights": content})
    return content


def test_a_node_updates_over_mqtt(
    publisher: Publisher, node: Any, respond: Respond, transport: MqttTransport, tmp_path: Path
) -> None:
    content = big(publisher, 1_500_000)
    respond()
    remote = node.remote(transport)
    (release,) = remote.releases(("detector",))
    assert release.release == 1
    beside = tmp_path / "beside"
    beside.write_bytes(content[:777_777])
    remote.fetch(hashlib.sha256(content).hexdigest(), len(content), beside)
    assert beside.read_bytes() == content


def test_a_publisher_that_comes_back_is_asked_again(
    publisher: Publisher, respond: Respond, transport: MqttTransport
) -> None:
    content = big(publisher, 3_000_000)
    path = f"targets/blobs/{hashlib.sha256(content).hexdigest()}"
    first = respond()
    pieces = patiently(transport, path, 0, len(content))
    came = next(pieces)
    first.close()
    respond()
    assert came + b"".join(pieces) == content


def test_a_slow_link_is_not_flooded(publisher: Publisher, respond: Respond, broker: Broker) -> None:
    """A piece takes seconds here: whoever asked again all the time would never come to an end."""
    content = big(publisher, 60_000)
    respond()
    with Proxy(broker.port) as proxy:
        proxy.bytes_per_s = 20_000
        transport = MqttTransport(UplinkConfig(url=proxy.url), "shop")
        came = read_whole(transport, f"targets/blobs/{hashlib.sha256(content).hexdigest()}", len(content))
        transport.close()
    assert came == content


@pytest.mark.parametrize(
    "path", ["../keys/online.pem", "metadata/../../keys/online.pem", "/etc/passwd", "fleet.json", "metadata/no.json"]
)
def test_nothing_else_is_given_out(respond: Respond, transport: MqttTransport, path: str) -> None:
    respond()
    with pytest.raises(NotThere):
        read_whole(transport, path, 1000)


def test_a_wish_chooses_only_among_what_may_be_had(
    publisher: Publisher, node: Any, respond: Respond, broker: Broker
) -> None:
    for _ in range(3):
        publisher.publish()
    publisher.publish(floor=3)
    wishes = {2: [4, 3], 3: [3], 4: [4], 9: [4, 3]}  # 2 is below the floor that release 4 signs, and 9 is not there.
    for wished, expected in wishes.items():
        responder = respond(detector=wished)
        transport = MqttTransport(UplinkConfig(url=broker.url), "shop")
        # The retained wish has to be at the broker before the node comes.
        assert b"spec_version" in read_whole(transport, "metadata/timestamp.json", 20_000)
        transport.close()
        transport = MqttTransport(UplinkConfig(url=broker.url), "shop")
        node.wishes = transport.wishes
        assert node.ask(transport) == expected
        transport.close()
        responder.close()


def test_a_publisher_that_says_nothing_is_given_up(transport: MqttTransport) -> None:
    with pytest.raises(UpdateError, match=r"nothing of .* came"):
        next(patiently(transport, "metadata/timestamp.json", 0, 100, silence_s=0.5))


def test_no_broker_is_said_at_once() -> None:
    transport = MqttTransport(UplinkConfig(url="mqtt://127.0.0.1:9"), "shop")
    with pytest.raises(UpdateError, match="refused"):
        read_whole(transport, "metadata/timestamp.json", 100)
    transport.close()


def test_a_broker_that_knows_mqtt_3_only_is_refused(tmp_path: Path) -> None:
    with amqtt(tmp_path) as old:
        transport = MqttTransport(UplinkConfig(url=old.url), "shop")
        with pytest.raises(UpdateError, match=r"3\.1\.1"):
            read_whole(transport, "metadata/timestamp.json", 100)
        transport.close()
