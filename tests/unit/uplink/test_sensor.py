"""A topic as a source, at a real broker."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from brokers import free_port, mosquitto
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edgeinfer.errors import ConfigError, SourceError, SourceLost, UsageError
from edgeinfer.sources import SourceOptions, open_any
from edgeinfer.sources.account import Account

WITHIN_S = 20


def publisher(port: int) -> Client:
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect("localhost", port)
    client.loop_start()
    return client


def rows_of(source, count: int) -> list:
    rows: list = []
    deadline = time.monotonic() + WITHIN_S
    while len(rows) < count and time.monotonic() < deadline:
        rows += source.read().values.tolist()
    assert len(rows) == count
    return rows


def test_messages_of_a_topic_are_samples(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous true") as broker:
        client = publisher(broker.port)
        client.publish("plant/old/temp", b"99", qos=1, retain=True).wait_for_publish(WITHIN_S)
        source = open_any(f"mqtt://localhost:{broker.port}/plant/%2B/%23")
        assert source.uri == f"mqtt://localhost:{broker.port}/plant/+/#"
        account = Account()
        source.begin(("temp", "hum"), account)
        # The retained one says that we are subscribed.
        while not account.fates():
            source.read()
        for payload in (b"21.5", b"n/a?", b"21.75"):
            client.publish("plant/pump/temp", payload, qos=1).wait_for_publish(WITHIN_S)
        client.publish("plant/pump/hum", b"40", qos=1).wait_for_publish(WITHIN_S)
        rows = rows_of(source, 3)
        assert [row[0] for row in rows[:2]] == [21.5, 21.75]
        assert rows[2][1] == 40
        assert account.fates() == {"late": 1, "garbage": 1}
        client.loop_stop()
        source.close()
        source.close()
        assert source.read() is None


def test_json_with_times_and_several_lines_in_a_message(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous true") as broker:
        client = publisher(broker.port)
        source = open_any(f"mqtt://localhost:{broker.port}/a?format=json")
        account = Account()
        source.begin((), account)
        while not source._was_connected:
            source.read()
        source.read()
        client.publish("a", b'{"ts": 1795694400, "v": 1}\n{"ts": 1795694401, "v": 2}', qos=1)
        assert rows_of(source, 2) == [[1], [2]]
        assert source.channels == ("v",)
        client.loop_stop()
        source.close()


def test_nobody_there_is_a_loss_that_says_why() -> None:
    source = open_any(f"mqtt://localhost:{free_port()}/a", SourceOptions(open_timeout_s=0.1))
    source.begin((), Account())
    with pytest.raises(SourceLost, match=r"cannot be reached: .*refused"):
        rows_of(source, 1)
    source.close()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("mqtt://broker", "names no topic"),
        ("mqtt://broker/", "names no topic"),
        ("mqtt:///a", "names no host"),
        ("mqtt://broker/a?fromat=json", "did you mean 'format'"),
        ("mqtt://broker/a?format=struct:<h", "serial:// only"),
        ("mqtt://broker/a?ca=x.pem", "no meaning with mqtt://"),
        ("mqtts://broker/a?ca=nowhere.pem", "cannot read nowhere.pem"),
    ],
)
def test_an_address_that_cannot_be(word: str, says: str) -> None:
    with pytest.raises((SourceError, ConfigError, UsageError), match=says):
        open_any(word)


def test_no_password_is_ever_shown() -> None:
    with pytest.raises(UsageError) as caught:
        open_any("mqtt://me:secret@broker/a")
    assert "secret" not in str(caught.value)
