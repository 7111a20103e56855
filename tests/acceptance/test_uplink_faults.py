"""What a real broker, network and disk do to an uplink: nothing accepted is lost, and it is said what is wrong."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from brokers import Broker, free_port, mosquitto
from proxy import Proxy

from edgeinfer import Consumer
from edgeinfer.clock import Clock
from edgeinfer.config import UplinkConfig
from edgeinfer.uplink.assemble import open_uplink
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.messages import Numbered, read_status
from edgeinfer.uplink.topics import Topics
from edgeinfer.uplink.uplink import Uplink
from edgeinfer.uplink.wire import Timeouts

TOPICS = Topics("pi-7")
WITHIN_S = 40.0


def wait_until(holds, within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


class Node:
    """An uplink, and what it was given; each result bears the next number."""

    def __init__(self, url: str, folder: Path, *, clock: Clock | None = None, topics: Topics = TOPICS, **words) -> None:
        self.count = 0
        self.uplink: Uplink = open_uplink(
            UplinkConfig(url=url, **{"commit_ms": 20, **words}),
            topics,
            folder,
            retry_s=(0.1, 0.2),
            stolen_s=(1.0, 2.0),
            timeouts=Timeouts(tcp_s=2, tls_s=2, all_s=5, greeting_s=2),
            clock=clock,
        )
        self.uplink.start()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.uplink.close(5)
        assert not self.uplink._thread.is_alive()

    def accept(self, count: int = 1, *, size: int = 300, pipeline: str = "main") -> None:
        for _ in range(count):
            self.count += 1
            data = json.dumps({"number": self.count, "rest": "x" * size}).encode()
            self.uplink.accept(Message("result", pipeline, time.time_ns(), "synced", data))

    def wait_until_connected(self) -> None:
        wait_until(lambda: self.uplink.counters().protocol is not None and self.uplink.state == "ok")

    def wait_until_done(self) -> None:
        wait_until(lambda: self.accepted == self.count and self.uplink.counters().depth == 0)

    @property
    def accepted(self) -> int:
        return self.uplink.counters().accepted

    def wait_for_state(self, *words: str) -> None:
        wait_until(lambda: all(word in self.uplink.state for word in words))


class Listener:
    """Somebody who subscribes to all topics, over a session that the broker keeps; knows what came, in its order."""

    def __init__(self, port: int, *, name: str = "listener") -> None:
        self.came: list[paho.MQTTMessage] = []
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False, protocol=paho.MQTTv311
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("edgeinfer/#", qos=1)
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.came.append(message)
        self._client.connect("localhost", port)
        self._client.loop_start()
        assert self._subscribed.wait(WITHIN_S)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def payloads(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.came if message.topic == topic]

    def numbers(self, pipeline: str = "main") -> list[int]:
        """Of the results as they came, without those that came before."""
        came = [json.loads(payload)["data"]["number"] for payload in self.payloads(TOPICS.results(pipeline))]
        return list(dict.fromkeys(came))

    def statuses(self) -> list[str]:
        return [read_status(payload).state for payload in self.payloads(TOPICS.status)]

    def gaps(self) -> list[dict]:
        return [json.loads(payload)["data"] for payload in self.payloads(TOPICS.gaps)]

    def wait_for(self, node: Node) -> None:
        """All that the node was given, in order."""
        wait_until(lambda: len(self.numbers()) >= node.count)
        assert self.numbers() == list(range(1, node.count + 1))


class Acknowledging:
    """The consumer of this package in a thread; knows how often each number came to it."""

    def __init__(self, url: str) -> None:
        self.came: Counter[int] = Counter()
        self.ids: set[tuple[str, int]] = set()
        self._consumer = Consumer(url)
        self._thread = threading.Thread(
            target=lambda: self._consumer.run(self._take, on_missing=self._miss), daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Acknowledging:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.stop()
        self._thread.join(WITHIN_S)

    def _take(self, message: Numbered) -> None:
        assert (message.epoch, message.seq) not in self.ids
        self.ids.add((message.epoch, message.seq))
        self.came[json.loads(message.body)["number"]] += 1

    def _miss(self, missing: object) -> None:
        raise AssertionError(missing)

    def wait_for(self, node: Node) -> None:
        wait_until(lambda: len(self.came) == node.count and node.uplink.counters().depth == 0)
        assert set(self.came) == set(range(1, node.count + 1))
        assert set(self.came.values()) == {1}


@pytest.fixture
def broker(tmp_path):
    (tmp_path / "broker").mkdir()
    with mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def start(tmp_path):
    """Starts a mosquitto with these settings."""
    with ExitStack() as stack:

        def started(*settings: str, port: int | None = None) -> Broker:
            folder = tmp_path / "broker"
            folder.mkdir(exist_ok=True)
            return stack.enter_context(mosquitto(folder, *settings, port=port))

        yield started


@pytest.fixture
def state(tmp_path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


# Brokers that are not there.


def test_a_broker_that_is_down_at_the_start_gets_all_when_it_comes(start, state):
    port = free_port()
    with Node(f"mqtt://localhost:{port}", state) as node:
        node.accept(200)
        node.wait_for_state("degraded", "refused")
        broker = start(port=port)
        with Listener(broker.port) as listener:
            node.wait_until_done()
            listener_came_late = listener.numbers()
            node.accept(100)
            wait_until(lambda: listener.numbers()[-1:] == [300])
            assert node.uplink.state == "ok"
            assert listener_came_late == listener.numbers()[: len(listener_came_late)]


def test_a_host_without_a_name_is_said_to_be_not_found(state):
    with Node("mqtt://no-such-host.invalid", state) as node:
        node.wait_for_state("host no-such-host.invalid not found")


def test_something_that_answers_nothing_is_timed_out(state):
    with (
        socket.create_server(("localhost", 0)) as silent,
        Node(f"mqtt://localhost:{silent.getsockname()[1]}", state) as node,
    ):
        node.wait_for_state("nobody answers")


def test_something_that_is_no_broker_is_said_to_be_none(state):
    with socket.create_server(("localhost", 0)) as http:

        def answer() -> None:
            while True:
                try:
                    client, _ = http.accept()
                except OSError:
                    return
                with client:
                    client.recv(4096)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with Node(f"mqtt://localhost:{http.getsockname()[1]}", state) as node:
            node.wait_for_state("not MQTT")
        http.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize("mode", ["broker", "consumer"])
def test_brokers_that_are_killed_while_somebody_listens_lose_nothing(broker, state, mode):
    with Listener(broker.port) as listener, Node(broker.url, state, mode=mode) as node, ExitStack() as stack:
        consumer = stack.enter_context(Acknowledging(broker.url)) if mode == "consumer" else None
        for _ in range(3):
            for _ in range(10):
                node.accept(10)
                time.sleep(0.01)
            broker.kill()
            node.accept(50)
            broker.start()
            node.wait_until_connected()
        if consumer is not None:
            consumer.wait_for(node)
        else:
            node.wait_until_done()
            # What the broker has taken and not handed on dies with it: that is what mode `consumer` is for.
            assert set(listener.numbers()) <= set(range(1, node.count + 1))
        assert node.uplink.counters().reconnects >= 3


def test_in_mode_consumer_what_a_killed_broker_held_for_one_who_was_away_comes_again(broker, state):
    with Node(broker.url, state, mode="consumer") as node:
        node.wait_until_connected()
        with Acknowledging(broker.url) as consumer:
            node.accept(100)
            consumer.wait_for(node)
        node.accept(100)
        wait_until(lambda: node.uplink._sender.is_idle and node.accepted == 200)
        broker.kill()  # With its defaults it had written down nothing.
        broker.start()
        with Acknowledging(broker.url) as later:
            wait_until(lambda: set(range(101, 201)) <= set(later.came))
            wait_until(lambda: node.uplink.counters().depth == 0)


def test_in_mode_broker_one_that_writes_down_what_it_takes_loses_nothing_for_one_who_was_away(start, state):
    broker = start("persistence true", "autosave_on_changes true", "autosave_interval 1")
    with Listener(broker.port):
        pass  # The broker keeps its session.
    with Node(broker.url, state) as node:
        node.accept(200)
        node.wait_until_done()
        time.sleep(1.0)  # Its interval; it looks each second.
        wait_until((broker.folder / "mosquitto.db").exists)
        broker.kill()
        broker.start()
        with Listener(broker.port) as listener:
            listener.wait_for(node)


# Brokers that do not take everything.


def test_what_an_acl_denies_leaves_a_gap_and_holds_nothing_up(start, state, tmp_path):
    (tmp_path / "acl").write_text(f"topic read #\ntopic write {TOPICS.root}/#\ntopic deny {TOPICS.results('secret')}\n")
    broker = start(f"acl_file {tmp_path / 'acl'}")
    with Listener(broker.port) as listener, Node(broker.url, state) as node:
        node.accept(20)
        node.accept(3, pipeline="secret")
        node.accept(20)
        node.wait_until_done()
        wait_until(lambda: len(listener.numbers()) == 40)
        told = {number for gap in listener.gaps() for number in range(gap["first"], gap["last"] + 1)}
        assert told == {21, 22, 23}
        assert node.uplink.counters().dropped == {"denied": 3}
        assert "degraded" in listener.statuses()
        assert "denied" in node.uplink.state


def test_receive_maximum_two_is_kept_to(start, state):
    broker = start("max_inflight_messages 2")
    with Listener(broker.port) as listener, Node(broker.url, state) as node:
        node.accept(1000)
        listener.wait_for(node)
        assert node.uplink._sender.window._receive_max == 2
        assert node.uplink.counters().reconnects == 0


@pytest.mark.parametrize("setting", ["max_packet_size 2000", "message_size_limit 1500"])
def test_a_message_that_is_too_large_leaves_a_gap_and_holds_nothing_up(start, state, setting):
    broker = start(setting)
    with Listener(broker.port) as listener, Node(broker.url, state) as node:
        node.accept(5)
        node.accept(1, size=3000)
        node.accept(5)
        node.wait_until_done()
        wait_until(lambda: len(listener.numbers()) == 10)
        (gap,) = listener.gaps()
        assert (gap["first"], gap["last"], gap["reason"]) == (6, 6, "too large")
        assert node.uplink.counters().reconnects == 0


# Networks.


def test_a_half_open_connection_is_given_up_and_the_will_that_comes_of_it_put_right(broker, state):
    with Listener(broker.port) as listener, Proxy(broker.port) as proxy, Node(proxy.url, state, keepalive=2) as node:
        node.wait_until_connected()
        proxy.is_hole = True  # The broker believes in the old connection until it hears of a new one.
        node.accept(100)
        node.wait_for_state("degraded", "timed out")
        proxy.is_hole = False
        listener.wait_for(node)
        wait_until(lambda: listener.statuses()[-1:] == ["online"] and "offline" in listener.statuses())


def test_a_will_that_arrives_after_the_new_birth_is_put_right(broker, state):
    with Listener(broker.port) as listener, Node(broker.url, state) as node:
        node.wait_until_connected()
        will = node.uplink._sender._composer.will(1)  # Of a connection long ago.
        listener._client.publish(will.topic, will.payload, will.qos, will.retain)
        wait_until(lambda: listener.statuses() == ["online", "offline", "online"])
        with Listener(broker.port, name="another") as late:
            wait_until(lambda: late.statuses() == ["online"])


def test_a_slow_link_delays_and_loses_nothing(broker, state):
    with Listener(broker.port) as listener, Proxy(broker.port) as proxy, Node(proxy.url, state, keepalive=2) as node:
        node.wait_until_connected()
        proxy.bytes_per_s = 40_000
        node.accept(400)
        listener.wait_for(node)
        assert node.uplink.counters().reconnects == 0


def test_connections_that_are_cut_all_the_time_lose_nothing(broker, state):
    with Listener(broker.port) as listener, Proxy(broker.port) as proxy, Node(proxy.url, state) as node:
        for _ in range(10):
            node.accept(50)
            time.sleep(0.05)
            proxy.cut()
        listener.wait_for(node)


def test_another_client_of_the_same_id_is_named_and_not_fought_with(broker, state):
    with Listener(broker.port) as listener, Node(broker.url, state, client_id="same") as node:
        node.wait_until_connected()
        thief = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="same", protocol=paho.MQTTv5)
        thief.connect("localhost", broker.port)
        thief.loop_start()
        node.wait_for_state("another client came with this client id")
        node.accept(50)
        thief.disconnect()
        thief.loop_stop()
        listener.wait_for(node)


def test_a_wrong_password_is_said_and_a_new_one_in_the_file_is_taken(start, state, tmp_path):
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    import subprocess

    subprocess.run([tool, "-b", "-c", tmp_path / "users", "anna", "right"], check=True, capture_output=True)
    (tmp_path / "users").chmod(0o644)
    (tmp_path / "password").write_text("wrong")
    broker = start("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    url = f"mqtt://anna@localhost:{broker.port}"
    with Node(url, state, password_file=str(tmp_path / "password")) as node:
        node.accept(1)
        node.wait_for_state("user name or password")
        (tmp_path / "password").write_text("right")
        node.wait_until_done()
