"""What a real broker, network and disk do to an uplink: nothing accepted is lost, and it is said what is wrong."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import textwrap
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import paho.mqtt.client as paho
import pytest
from brokers import Broker, amqtt, free_port, mosquitto
from certificates import Authority, Pair
from proxy import Proxy
from sightings import result

from edgeinfer import Consumer
from edgeinfer.clock import Clock
from edgeinfer.config import UplinkConfig
from edgeinfer.uplink.address import read_address
from edgeinfer.uplink.assemble import open_uplink
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.link import MqttLink
from edgeinfer.uplink.messages import Numbered, read_envelope, read_id, read_status
from edgeinfer.uplink.selection import message_of_result
from edgeinfer.uplink.topics import Topics
from edgeinfer.uplink.uplink import Uplink
from edgeinfer.uplink.wire import Timeouts
from tests.disk import faulty_disk

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
            told = replace(message_of_result(result(self.count, labels=["x" * size])), pipeline=pipeline)
            self.uplink.accept(told)

    def wait_until_connected(self) -> None:
        wait_until(lambda: self.uplink.counters().protocol is not None and self.uplink.state == "ok")

    def wait_until_done(self) -> None:
        wait_until(lambda: self.accepted == self.count and self.uplink.counters().depth == 0)

    def wait_until_done_with(self, count: int) -> None:
        """With so many of an earlier run."""
        wait_until(lambda: self.uplink.counters().delivered == count)

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
        came = [json.loads(payload)["data"]["seq"] for payload in self.payloads(TOPICS.results(pipeline))]
        return list(dict.fromkeys(came))

    def statuses(self) -> list[str]:
        return [read_status(payload).state for payload in self.payloads(TOPICS.status)]

    def gaps(self) -> list[dict]:
        return [json.loads(payload)["data"] for payload in self.payloads(TOPICS.gaps)]

    def left_out(self) -> set[int]:
        """The numbers of all gaps."""
        return {number for gap in self.gaps() for number in range(gap["first"], gap["last"] + 1)}

    def wait_for_gap(self) -> dict:
        """The only one. What the broker refuses is known after later results were sent: the gap comes after those."""
        wait_until(self.gaps)
        (gap,) = self.gaps()
        return gap

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
        self.came[message.data.seq] += 1

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
        wait_until(lambda: listener.left_out() == {21, 22, 23})
        assert node.uplink.counters().dropped == {"denied": 3}
        wait_until(lambda: "degraded" in listener.statuses())
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
        gap = listener.wait_for_gap()
        assert (gap["first"], gap["last"], gap["reason"]) == (6, 6, "too large")
        assert node.uplink.counters().reconnects == 0


def test_a_message_on_which_the_broker_hangs_up_each_time_is_found_out_and_left_out(start, state):
    broker = start("message_size_limit 1500", "max_queued_messages 0")  # A fault of mosquitto 2.0.
    with Listener(broker.port) as listener, Proxy(broker.port) as proxy, Node(proxy.url, state) as node:
        node.accept(5)
        node.accept(1, size=3000)
        node.accept(5)
        node.wait_until_done()
        wait_until(lambda: len(listener.numbers()) == 10)
        gap = listener.wait_for_gap()
        assert (gap["first"], gap["last"]) == (6, 6)
        assert gap["reason"] in ("too large", "ends the connection")  # Whether the answer comes before the end.


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
        for _ in range(5):
            thief = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="same", protocol=paho.MQTTv5)
            thief.connect("localhost", broker.port)  # And dies of the same.
            thief.loop_read()
            node.wait_for_state("degraded")
            if "client id" not in node.uplink.state:
                node.wait_until_connected()
            thief.disconnect()
        node.wait_for_state("has another client this client id?")
        node.accept(50)
        listener.wait_for(node)


# Who is who.


def test_a_wrong_password_is_said_and_a_new_one_in_the_file_is_taken(start, state, tmp_path):
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run([tool, "-b", "-c", tmp_path / "users", "anna", "right"], check=True, capture_output=True)
    (tmp_path / "password").write_text("wrong")
    broker = start("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    url = f"mqtt://anna@localhost:{broker.port}"
    with Node(url, state, password_file=str(tmp_path / "password")) as node:
        node.accept(1)
        node.wait_for_state("user name or password")
        (tmp_path / "password").write_text("right")
        node.wait_until_done()


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secured(start, authority):
    """A broker that speaks TLS as this name, with these settings besides."""

    def started(name: str = "localhost", *settings: str, **dates) -> Broker:
        pair = authority.issue(name, **dates)
        return start(f"certfile {pair.cert}", f"keyfile {pair.key}", *settings)

    return started


def test_results_go_over_tls(secured, authority, state):
    broker = secured()
    with Node(f"mqtts://localhost:{broker.port}", state, ca=str(authority.cert)) as node:
        node.accept(1000)
        node.wait_until_done()
        assert node.uplink.state == "ok"


@pytest.mark.parametrize(
    ("name", "dates", "says"),
    [
        ("localhost", {"begins": -timedelta(days=9), "ends": -timedelta(days=1)}, "certificate has expired (it is "),
        ("localhost", {"begins": timedelta(days=1)}, "certificate is not valid yet (it is "),
        ("elsewhere", {}, "certificate is not for localhost; [uplink] server_name"),
    ],
)
def test_a_certificate_that_is_not_good_is_refused_and_it_is_said_why(secured, authority, state, name, dates, says):
    broker = secured(name, **dates)
    with Node(f"mqtts://localhost:{broker.port}", state, ca=str(authority.cert)) as node:
        node.accept(1)
        node.wait_for_state(says)
        wait_until(lambda: node.uplink.counters().depth == 1)


def test_a_broker_whose_authority_is_another_one_is_refused(secured, state, tmp_path):
    broker = secured()
    other = Authority(tmp_path, "other")
    with Node(f"mqtts://localhost:{broker.port}", state, ca=str(other.cert)) as node:
        node.wait_for_state("signed by nobody trusted here; is [uplink] ca the right one?")


def test_a_broker_without_tls_is_not_spoken_to_with_it_nor_the_other_way_round(broker, secured, authority, state):
    with Node(f"mqtts://localhost:{broker.port}", state, ca=str(authority.cert)) as node:
        node.accept(1)
        node.wait_for_state("degraded: mqtts://localhost")
    tls = secured()
    with Node(f"mqtt://localhost:{tls.port}", state) as node:
        node.wait_for_state("degraded: mqtt://localhost")
        wait_until(lambda: node.uplink.counters().depth == 1)


def test_a_client_certificate_is_shown(secured, authority, state):
    broker = secured("localhost", f"cafile {authority.cert}", "require_certificate true")
    pair = authority.issue("pi-7")
    url = f"mqtts://localhost:{broker.port}"
    with Node(url, state, ca=str(authority.cert)) as node:
        node.accept(1)
        node.wait_for_state("degraded: mqtts://localhost")
        wait_until(lambda: node.uplink.counters().depth == 1)
    with Node(url, state, ca=str(authority.cert), cert=str(pair.cert), key=str(pair.key)) as node:
        node.wait_until_done_with(1)


def test_a_client_certificate_that_has_expired_is_said_to_have(secured, authority, state):
    broker = secured("localhost", f"cafile {authority.cert}", "require_certificate true")
    pair = authority.issue("pi-8", begins=-timedelta(days=9), ends=-timedelta(days=2))
    url = f"mqtts://localhost:{broker.port}"
    with Node(url, state, ca=str(authority.cert), cert=str(pair.cert), key=str(pair.key)) as node:
        node.wait_for_state("(our certificate ended on ")


def test_the_broker_is_asked_for_by_the_name_and_the_protocol_that_are_configured(broker, authority, state):
    pair = authority.issue("broker.example")
    asked: list[tuple[str | None, str | None]] = []
    with Terminator(broker.port, pair, "mqtt", asked) as terminator:
        url = f"mqtts://127.0.0.1:{terminator.port}"
        words = {"ca": str(authority.cert), "server_name": "broker.example", "alpn": ("x-amzn-mqtt-ca", "mqtt")}
        with Node(url, state, **words) as node:
            node.accept(10)
            node.wait_until_done()
    assert asked == [("broker.example", "mqtt")]


class Terminator:
    """Speaks TLS on a port of its own, and hands one connection on to a broker; notes name and protocol asked for."""

    def __init__(self, target: int, pair: Pair, protocol: str, asked: list[tuple[str | None, str | None]]) -> None:
        self._names: list[str | None] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        context.set_alpn_protocols([protocol])
        context.sni_callback = lambda _socket, name, _context: self._names.append(name)
        self._listener = socket.create_server(("localhost", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(context, target, asked), daemon=True)
        self._thread.start()

    def __enter__(self) -> Terminator:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(WITHIN_S)
        self._listener.close()

    def _serve(self, context: ssl.SSLContext, target: int, asked: list[tuple[str | None, str | None]]) -> None:
        plain, _ = self._listener.accept()
        with context.wrap_socket(plain, server_side=True) as client:
            asked.append((self._names[-1], client.selected_alpn_protocol()))
            with socket.create_connection(("localhost", target)) as broker:
                client.settimeout(0.01)
                broker.settimeout(0.01)
                while _pump(client, broker) and _pump(broker, client):
                    pass


def _pump(source: socket.socket, sink: socket.socket) -> bool:
    """Whether it is still open."""
    try:
        data = source.recv(65536)
    except TimeoutError:
        return True
    except OSError:
        return False
    if data:
        sink.sendall(data)
    return bool(data)


# Old brokers, old clocks.


def test_a_broker_that_speaks_only_3_1_1_is_spoken_to_so(tmp_path, state, caplog):
    (tmp_path / "broker").mkdir()
    with amqtt(tmp_path / "broker") as broker, Node(broker.url, state) as node:
        with Listener(broker.port) as listener:
            node.accept(100)
            listener.wait_for(node)
        node.wait_until_done()
        assert node.uplink.counters().protocol == "3.1.1"
        assert len([each for each in caplog.records if "speaks MQTT 3.1.1" in each.getMessage()]) == 1


def test_a_refusal_of_the_version_is_understood(start, state):
    with Refusing() as old, Node(f"mqtt://localhost:{old.port}", state) as node:
        wait_until(lambda: old.versions[:2] == [5, 4])
        assert node.uplink.counters().protocol is None


def test_a_first_greeting_in_mqtt_5_is_waited_for_for_two_seconds():
    now_ns = [0]
    never = Backoff(1e9, 1e9, random=lambda: 0.0)
    with Busy() as slow:
        address = read_address(UplinkConfig(url=f"mqtt://localhost:{slow.port}"))
        clock = Clock(monotonic_ns=lambda: now_ns[0])
        link = MqttLink(lambda: address, "pi-7", keepalive_s=30, backoff=never, stolen=never, clock=clock)

        def greeted_as(*versions: int) -> bool:
            link.turn(0.01)
            return slow.versions == list(versions)

        link.open(None)
        wait_until(lambda: greeted_as(5))
        now_ns[0] += 1_900_000_000
        for _ in range(20):
            assert greeted_as(5)
        now_ns[0] += 200_000_000
        link.turn(0.01)
        now_ns[0] += 200_000_000
        wait_until(lambda: greeted_as(5, 4))
        link.close(0)


def test_silence_is_no_proof_that_a_broker_is_old(state):
    with Busy() as slow, Node(f"mqtt://localhost:{slow.port}", state):
        wait_until(lambda: slow.versions[:3] == [5, 4, 5])


class Refusing:
    """A broker of old: refuses MQTT 5 by the word that 3.1.1 has for it, and hangs up; knows which versions came."""

    answers: ClassVar = {4: b"\x20\x02\x00\x01", 5: b"\x20\x02\x00\x01"}

    def __init__(self) -> None:
        self.versions: list[int] = []
        self._listener = socket.create_server(("localhost", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                connect = client.recv(4096)
                version = connect[connect.index(b"MQTT") + 4]
                self.versions.append(version)
                client.sendall(self.answers[version])
                if not self.answers[version]:
                    client.recv(4096)  # Until the other one has had enough.


class Busy(Refusing):
    """Does not answer the first one in time; lets the next one in, and goes."""

    answers: ClassVar = {4: b"\x20\x02\x00\x00", 5: b""}


@pytest.mark.parametrize("jump_s", [86_400, -86_400])
def test_a_clock_that_begins_in_1970_and_jumps_changes_nothing_but_the_times(broker, state, jump_s):
    now_s = [100_000]
    clock = Clock(unix_ns=lambda: now_s[0] * 10**9)
    with Listener(broker.port) as listener, Node(broker.url, state, clock=clock) as node:
        node.accept(100)
        listener.wait_for(node)
        now_s[0] += jump_s
        node.accept(100)
        listener.wait_for(node)
        node.wait_until_done()
        assert node.uplink.state == "ok"
        assert read_envelope(listener.payloads(TOPICS.status)[0]).time.startswith("1970-01-02T")


# Disks.


def test_a_spool_that_is_corrupt_is_set_aside_and_another_begun(broker, state):
    with Node("mqtt://localhost:1", state) as node:
        node.accept(100)
        wait_until(lambda: node.accepted == 100)
    spool = state / "spool"
    spool.write_bytes(spool.read_bytes()[:5000] + b"\xff" * 20_000)
    with Listener(broker.port) as listener, Node(broker.url, state) as node:
        node.accept(50)
        listener.wait_for(node)
        epochs = {read_id(read_envelope(each))[0] for each in listener.payloads(TOPICS.results("main"))}
        assert len(epochs) == 1
    assert (state / "spool.corrupt-1").exists()


DISK = """
import errno, sys
from pathlib import Path
sys.path.insert(0, "tests")
from acceptance.test_uplink_faults import Listener, Node, wait_until
from tests.disk.faulty_disk import Fault, fail

port, state = int(sys.argv[1]), Path(sys.argv[2])
fault, error = Fault[sys.argv[3]], getattr(errno, sys.argv[4])
with Listener(port) as listener:
    if sys.argv[5] == "from the start":
        fail(fault, error)
    with Node(f"mqtt://localhost:{port}", state) as node:
        if sys.argv[5] == "in the middle":
            node.accept(100)
            listener.wait_for(node)
            fail(fault, error)
        node.accept(100)
        node.wait_for_state("degraded", "spool")
        wait_until(lambda: "degraded" in listener.statuses())
        accepted = node.accepted
        assert accepted == (100 if sys.argv[5] == "in the middle" else 0)
        fail(fault, 0)
        listener.wait_for(node)
        node.wait_until_done()
        wait_until(lambda: listener.statuses()[-1] == "online")
"""


@pytest.mark.parametrize(
    ("fault", "error", "when"),
    [
        ("GROW", "ENOSPC", "from the start"),
        ("WRITE", "ENOSPC", "in the middle"),
        ("WRITE", "EROFS", "in the middle"),
        ("SYNC", "EIO", "in the middle"),
        ("NAME", "EROFS", "from the start"),
    ],
)
def test_a_disk_that_fails_holds_results_up_and_loses_none(broker, state, fault, error, when):
    program = ["-c", textwrap.dedent(DISK), str(broker.port), str(state), fault, error, when]
    try:
        faulty_disk.run(program, state)
    except faulty_disk.NoCompiler as missing:
        pytest.skip(str(missing))
