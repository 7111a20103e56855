"""docs/subscribe.md as it is written, and the subscribers that this package has, against real brokers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from brokers import amqtt, free_port, mosquitto
from sightings import composer, gap, meta, metrics, pipeline_info, result, spooled

from edgeinfer import Consumer, OutputError, UsageError
from edgeinfer.uplink.bodies import Ack
from edgeinfer.uplink.messages import read_ack
from edgeinfer.uplink.publication import Publication
from edgeinfer.uplink.selection import Selection, message_of_result

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOC = Path(__file__).parents[2] / "docs" / "subscribe.md"
TEXT = DOC.read_text()


def block(language: str, heading: str, index: int = 0) -> str:
    """A block of code of the doc, below a heading."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)[index]


def typed(beginning: str) -> str:
    """A command of the doc, which stands on a line of its own."""
    (line,) = re.findall(rf"^    ({re.escape(beginning)}.*)$", TEXT, re.MULTILINE)
    return line


class Node:
    """Speaks to a broker as a node does, in the real words; knows what it was told."""

    def __init__(self, port: int, name: str = "pi-7") -> None:
        self.name = name
        self.compose = composer(name)
        self.acks: list[Ack] = []
        self._lock = threading.Condition()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        self._client.on_connect = lambda client, *_: client.subscribe(f"edgeinfer/v1/{name}/ack", qos=1)
        self._client.connect("localhost", port)
        self._client.loop_start()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, publication: Publication) -> None:
        sent = self._client.publish(publication.topic, publication.payload, publication.qos, publication.retain)
        sent.wait_for_publish(20)

    def say_results(self, *seqs: int) -> None:
        for seq in seqs:
            self.say(
                self.compose(spooled(seq, message_of_result(result(seq, labels=["person", "dog"], node=self.name))))
            )

    def wait_for_ack(self, wanted: Ack) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: wanted in self.acks, 20), self.acks

    def _hear(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        with self._lock:
            self.acks.append(read_ack(message.payload))
            self._lock.notify_all()


@pytest.fixture
def broker(tmp_path):
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def node(broker):
    with Node(broker.port) as speaking:
        yield speaking


class Program:
    """Somebody's program, whose lines are read as they come."""

    def __init__(self, command: list[str], cwd: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(DOC.parents[1]), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._lock = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def wait_for(self, count: int) -> list[str]:
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.lines) >= count, 30), self.lines
            return self.lines[:count]

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._lock:
                self.lines.append(line.rstrip("\n"))
                self._lock.notify_all()


def until_printed(program: Program, node: Node, publication: Publication) -> list[str]:
    """Say it until the program, which takes its time to connect, has printed it."""
    deadline = time.monotonic() + 30
    while not program.lines and time.monotonic() < deadline:
        node.say(publication)
        time.sleep(0.2)
    return program.wait_for(1)


def at_port(code: str, port: int) -> str:
    assert code.count("1883") == 1
    return code.replace("1883", str(port))


A_RESULT = message_of_result(result(12, labels=["person", "dog"]))


@pytest.mark.parametrize("kind", [mosquitto, amqtt])
def test_the_subscriber_in_python_prints_what_a_node_finds(kind, tmp_path):
    code = block("python", "In Python")
    assert sum(bool(line) for line in code.splitlines()) == 10
    with (
        kind(tmp_path) as broker,
        Node(broker.port) as node,
        Program([sys.executable, "-W", "error", "-c", at_port(code, broker.port)], tmp_path) as program,
    ):
        line = until_printed(program, node, node.compose(spooled(41, A_RESULT)))[0]
        classified = message_of_result(result(13, best="tabby"))
        node.say(node.compose(spooled(42, classified)))
        deadline = time.monotonic() + 20
        while "tabby" not in program.lines[-1] and time.monotonic() < deadline:
            time.sleep(0.05)
    assert line == "edgeinfer/v1/pi-7/results/door ['person', 'dog']"
    assert program.lines[-1] == "edgeinfer/v1/pi-7/results/door ['tabby']"


def test_the_consumer_in_python_prints_each_message_once_and_acknowledges_it(broker, node, tmp_path):
    node.say(node.compose.status("online", 0))
    code = at_port(block("python", "In Python", 1), broker.port)
    with Program([sys.executable, "-W", "error", "-c", code], tmp_path) as program:
        node.wait_for_ack(Ack("", 0, resume=True))
        node.say_results(1, 2, 1, 2, 3)
        lines = program.wait_for(3)
        node.wait_for_ack(Ack("0123456789abcdef", 3))
    assert [line.split(" ")[:3] for line in lines] == [["pi-7", "0123456789abcdef", str(seq)] for seq in (1, 2, 3)]
    assert "label='person'" in lines[0]
    assert json.loads((tmp_path / "seen.json").read_text())["nodes"]["pi-7"] == [["0123456789abcdef", 3, []]]


def test_the_subscriber_in_node_prints_what_a_node_finds(broker, node, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    if subprocess.run(["node", "-e", "require('mqtt')"], capture_output=True, cwd=tmp_path).returncode:
        pytest.skip("mqtt.js is not installed where Node.js looks (npm install mqtt; NODE_PATH)")
    code = at_port(block("js", "In Node"), broker.port)
    with Program(["node", "-e", code], tmp_path) as program:
        line = until_printed(program, node, node.compose(spooled(41, A_RESULT)))[0]
    assert line == "edgeinfer/v1/pi-7/results/door [ 'person', 'dog' ]"


def test_the_line_for_mosquitto_sub_prints_topic_and_event(broker, node, tmp_path):
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_sub is not installed")
    command = typed("mosquitto_sub").replace("-h localhost", f"-h localhost -p {broker.port}")
    with Program(["sh", "-c", f"exec {command}"], tmp_path) as program:
        line = until_printed(program, node, node.compose(spooled(41, A_RESULT)))[0]
    topic, _, payload = line.partition(" ")
    assert topic == "edgeinfer/v1/pi-7/results/door"
    assert json.loads(payload)["data"] == json.loads(A_RESULT.data)


def test_the_line_that_gives_a_command_gives_one_that_fits(broker, tmp_path):
    if shutil.which("mosquitto_pub") is None:
        pytest.skip("mosquitto_pub is not installed")
    heard: list[paho.MQTTMessage] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    subscribed = threading.Event()
    client.on_message = lambda _client, _data, message: heard.append(message)
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("localhost", broker.port)
    client.subscribe("edgeinfer/v1/#", qos=1)
    client.loop_start()
    try:
        assert subscribed.wait(20)
        command = typed("mosquitto_pub -h localhost -q 1").replace("-h localhost", f"-h localhost -p {broker.port}")
        subprocess.run(["sh", "-c", command], check=True, timeout=20)
        deadline = time.monotonic() + 20
        while not heard and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        client.disconnect()
        client.loop_stop()
    assert heard[0].topic == "edgeinfer/v1/pi-7/cmd/pause"
    assert json.loads(heard[0].payload) == {"id": "1", "pipeline": "door"}


def value_at(body: object, path: str) -> object:
    """As GJSON finds it: names with dots between; `#` is how many an array holds."""
    for step in path.split("."):
        body = len(body) if step == "#" else body[step]
    return body


def test_the_configuration_for_telegraf_names_what_there_is_in_real_messages():
    plugins = tomllib.loads(block("toml", "Telegraf"))["inputs"]["mqtt_consumer"]
    compose = composer()
    published = [compose.metrics(metrics()), compose(spooled(41, A_RESULT))]
    for plugin, publication in zip(plugins, published, strict=True):
        (topic,) = plugin["topics"]
        assert paho.topic_matches_sub(topic, publication.topic)
        (parsing,) = plugin["topic_parsing"]
        assert parsing["topic"] == topic
        assert len(parsing["tags"].split("/")) == len(topic.split("/"))
        (parser,) = plugin["json_v2"]
        body = json.loads(publication.payload)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", value_at(body, parser["timestamp_path"]))
        for field in parser.get("field", []):
            assert isinstance(value_at(body, field["path"]), int if field["type"] == "int" else float)
        for whole in parser.get("object", []):
            assert value_at(body, whole["path"]) == body["data"]


def test_the_flow_for_node_red_is_one_that_holds_together():
    flow = json.loads(block("json", "Node-RED"))
    by_id = {each["id"]: each for each in flow}
    assert len(by_id) == len(flow)
    for each in flow:
        assert {target for output in each.get("wires", []) for target in output} <= by_id.keys()
    (source,) = [each for each in flow if each["type"] == "mqtt in"]
    assert by_id[source["broker"]]["type"] == "mqtt-broker"
    assert paho.topic_matches_sub(source["topic"], "edgeinfer/v1/pi-7/events/door")


def test_the_function_for_node_red_lets_each_message_through_once(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    (function,) = [each["func"] for each in json.loads(block("json", "Node-RED")) if each["type"] == "function"]
    event = json.loads(composer()(spooled(41, A_RESULT)).payload)
    kept = (
        "const kept = {}; const context = {get: (name) => kept[name], set: (name, value) => { kept[name] = value; }};"
    )
    program = f"""{kept} const once = (msg) => {{ {function} }};
    const msg = {json.dumps({"topic": "t", "payload": event})};
    console.log(JSON.stringify([once(msg), once(msg)]));"""
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout) == [{"topic": "t", "payload": event["data"]}, None]


def test_each_body_in_the_doc_fits_its_schema():
    import jsonschema
    from referencing import Registry, Resource
    from sightings import SCHEMAS

    schemas = {path.stem: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    registry = Registry().with_resources((each["$id"], Resource.from_contents(each)) for each in schemas.values())
    shown = {"result": [], "event": [], "gap": [], "status": [], "meta": [], "metrics": [], "model": []}
    for text in re.findall(r"^```json\n(\{.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        body = json.loads(text)
        name = "cloudevent" if "specversion" in body else "ack" if "epoch" in body else "answer"
        jsonschema.Draft202012Validator(schemas[name], registry=registry).validate(body)
        if name == "cloudevent":
            shown[body["type"].split(".")[1]].append(body)
    assert all(len(bodies) == 1 for bodies in shown.values())


def test_every_topic_in_the_doc_is_one_of_ours_and_none_is_left_out():
    from edgeinfer.uplink.topics import KINDS, place_of

    named = re.findall(r"^\| `([a-z]+[^`]*)` \| .* \| [01] \| ", TEXT, re.MULTILINE)
    places = [place_of(f"edgeinfer/v1/pi-7/{re.sub('<[a-z]+>', 'x', each)}") for each in named]
    assert None not in places
    assert {each.kind for each in places} == set(KINDS)


class Listener:
    """A consumer in a thread of its own."""

    def __init__(self, consumer: Consumer, *, fails_at: int | None = None) -> None:
        self.consumer = consumer
        self.got: list[tuple[str, str, int]] = []
        self.missing: list[tuple[int, int]] = []
        self.error: BaseException | None = None
        self._fails_at = fails_at
        self._lock = threading.Condition()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.consumer.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def wait_for(self, count: int) -> list[int]:
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.got) >= count or self.error, 30), self.got
            return [seq for _, _, seq in self.got]

    def join(self) -> None:
        self._thread.join(20)

    def _run(self) -> None:
        try:
            self.consumer.run(self._take, on_missing=lambda it: self.missing.append((it.first, it.last)))
        except RuntimeError as error:
            self.error = error

    def _take(self, message) -> None:
        if message.seq == self._fails_at:
            raise RuntimeError("the handler cannot")
        with self._lock:
            self.got.append((message.node, message.channel, message.seq))
            self._lock.notify_all()


def test_a_consumer_meets_a_node_takes_each_message_once_and_acknowledges(broker, node):
    node.say(node.compose.status("online", 0))
    with Listener(Consumer(broker.url)) as listener:
        node.wait_for_ack(Ack("", 0, resume=True))
        node.say_results(1, 2, 2)
        node.say(node.compose(gap(3, 5)))
        node.say_results(6)
        assert listener.wait_for(4) == [1, 2, 5, 6]
        node.wait_for_ack(Ack("0123456789abcdef", 6))
    assert [channel for _, channel, _ in listener.got] == ["result", "result", "gap", "result"]


def test_after_the_broker_was_killed_the_consumer_says_from_where_to_go_on(broker, caplog):
    with Listener(Consumer(broker.url)) as listener:
        with Node(broker.port) as node:
            node.say(node.compose.status("online", 0))
            node.wait_for_ack(Ack("", 0, resume=True))
            node.say_results(1, 2)
            listener.wait_for(2)
            node.wait_for_ack(Ack("0123456789abcdef", 2))
        broker.kill()
        broker.start()
        with Node(broker.port) as node:
            node.wait_for_ack(Ack("0123456789abcdef", 2, resume=True))
            node.say_results(2, 3)
            assert listener.wait_for(3) == [1, 2, 3]
    assert caplog.text.count("trying again") == caplog.text.count("connected again") == 1


def test_a_message_whose_handler_fails_is_not_acknowledged_and_comes_again(broker, node, tmp_path):
    node.say(node.compose.status("online", 0))
    state = tmp_path / "state.json"
    with Listener(Consumer(broker.url, state=state), fails_at=3) as listener:
        node.wait_for_ack(Ack("", 0, resume=True))
        node.say_results(1, 2, 3, 4)
        listener.join()
    assert str(listener.error) == "the handler cannot"
    node.wait_for_ack(Ack("0123456789abcdef", 2))
    assert all(ack.seq <= 2 for ack in node.acks)
    with Listener(Consumer(broker.url, state=state)) as listener:
        node.wait_for_ack(Ack("0123456789abcdef", 2, resume=True))
        node.say_results(2, 3, 4)
        assert listener.wait_for(2) == [3, 4]
        node.wait_for_ack(Ack("0123456789abcdef", 4))


def test_who_only_listens_leaves_the_acknowledging_to_another(broker, node):
    node.say(node.compose.status("online", 0))
    with Listener(Consumer(broker.url, acknowledge=False)) as quiet, Listener(Consumer(broker.url)) as listener:
        node.wait_for_ack(Ack("", 0, resume=True))
        deadline = time.monotonic() + 20
        while not quiet.got and time.monotonic() < deadline:
            node.say_results(1)
            time.sleep(0.1)
        node.say_results(2)
        assert quiet.wait_for(2) == listener.wait_for(2) == [1, 2]
        node.wait_for_ack(Ack("0123456789abcdef", 2))
    assert sum(ack.resume for ack in node.acks) == 1


def test_a_consumer_may_be_for_one_node_only(broker, node):
    with Node(broker.port, "pi-8") as other, Listener(Consumer(broker.url, node="pi-8")) as listener:
        other.say(other.compose.status("online", 0))
        other.wait_for_ack(Ack("", 0, resume=True))
        node.say_results(1)
        other.say_results(1)
        listener.wait_for(1)
    assert [name for name, _, _ in listener.got] == ["pi-8"]


def test_what_will_not_come_is_told(broker, node):
    node.say(node.compose.status("online", 0))
    with Listener(Consumer(broker.url)) as listener:
        node.wait_for_ack(Ack("", 0, resume=True))
        node.say_results(1)
        node.say(composer(done=4)(spooled(5)))
        assert listener.wait_for(2) == [1, 5]
    assert listener.missing == [(2, 4)]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda _: Consumer("http://localhost/"), UsageError, "neither mqtt:// nor mqtts://"),
        (lambda _: Consumer("mqtt://localhost/", prefx="a"), UsageError, "did you mean 'prefix'"),
        (lambda _: Consumer("mqtt://localhost/", prefix="a/+"), UsageError, "prefix"),
        (lambda _: Consumer("mqtt://localhost/", node=""), UsageError, "empty name"),
        (lambda folder: Consumer("mqtt://localhost/", state=folder / "no" / "file"), UsageError, "no folder"),
        (lambda folder: Consumer("mqtt://localhost/", state=folder), OutputError, "cannot read"),
        (lambda folder: Consumer("mqtt://localhost/", state=folder / "rubbish"), OutputError, "not the state"),
    ],
)
def test_a_consumer_that_cannot_be_says_why_in_one_line(make, error, said, tmp_path):
    (tmp_path / "rubbish").write_bytes(b"\xff{")
    with pytest.raises(error, match=said) as refused:
        make(tmp_path)
    assert "\n" not in str(refused.value)


def tail(broker, tmp_path: Path, *words: str) -> Program:
    return Program([sys.executable, "-W", "error", "-m", "edgeinfer", "tail", broker.url, *words], tmp_path)


def test_tail_prints_a_line_for_each_result_of_a_fleet(broker, node, tmp_path):
    with tail(broker, tmp_path, "--count", "3") as program, Node(broker.port, "pi-8") as other:
        assert until_printed(program, node, node.compose(spooled(41, A_RESULT))) == [
            "2026-11-18 11:06:41.200  pi-7 door  1 dog, 1 person  litert:cpu  6 ms old"
        ]
        node.say(node.compose(spooled(41, A_RESULT)))
        other.say(other.compose(spooled(1, message_of_result(result(1, best="tabby", node="pi-8"))), True))
        node.say(node.compose(gap(42, 50)))
        assert program.wait_for(3)[1:] == [
            "2026-11-18 11:06:40.100  pi-8 door  tabby 0.80  litert:cpu  6 ms old (replay)",
            "2026-11-18 11:06:40.000  pi-7  messages 42 to 50 were dropped: full",
        ]
        assert program.process.wait(20) == 0
        assert program.process.stderr.read() == ""


def test_tail_shows_all_that_there_is_when_asked(broker, node, tmp_path):
    selection = Selection("events")
    (appeared,) = [each for seq in range(8) for each in selection.take(result(seq, labels=["person"]))]
    node.say(node.compose.status("online", 0))
    node.say(node.compose.meta(meta(pipeline_info("door"), pipeline_info("yard"))))
    with tail(broker, tmp_path, "--all") as program:
        program.wait_for(2)
        node.say(node.compose(spooled(1, appeared)))
        node.say(node.compose.status("degraded", 0, "door: down\x1b[2J"))
        node.say(node.compose.will(3))
        node.say(node.compose.metrics(metrics()))
        lines = program.wait_for(6)
    told = {line[23:].strip() for line in lines}
    assert "pi-7  online since 1970-01-01T00:00:00.000000Z (session 3)" in told
    assert "pi-7  edgeinfer 0.1.0 on Raspberry Pi 5 Model B Rev 1.0: door, yard" in told
    assert "pi-7 door  1 person appeared" in told
    assert "pi-7  degraded: door: down\\x1b[2J since 1970-01-01T00:00:00.000000Z (session 3)" in told
    assert "pi-7  offline (session 3)" in told
    assert "pi-7  door 20.0 fps; 2 waiting" in told


def test_tail_prints_the_messages_themselves_as_json(broker, node, tmp_path):
    publication = node.compose(spooled(41, A_RESULT))
    with tail(broker, tmp_path, "--json", "--node", "pi-7", "--pipeline", "door") as program:
        (line,) = until_printed(program, node, publication)
    assert line.encode() == publication.payload


def test_tail_shows_the_node_and_the_pipeline_that_are_asked_for(broker, node, tmp_path):
    with tail(broker, tmp_path, "--pipeline", "yard") as program:
        yard = message_of_result(result(2, labels=["cat"], pipeline="yard"))
        deadline = time.monotonic() + 30
        while not program.lines and time.monotonic() < deadline:
            node.say_results(1)
            node.say(node.compose(spooled(2, yard)))
            time.sleep(0.2)
        assert [line.split("  ")[1] for line in program.lines] == ["pi-7 yard"]


def test_tail_says_when_the_broker_goes_and_when_it_is_back(broker, tmp_path):
    with Node(broker.port) as before, tail(broker, tmp_path, "--count", "2") as program:
        until_printed(program, before, before.compose(spooled(41, A_RESULT)))
        broker.kill()
        broker.start()
        with Node(broker.port) as node:
            deadline = time.monotonic() + 30
            while len(program.lines) < 2 and time.monotonic() < deadline:
                node.say_results(42)
                time.sleep(0.2)
        assert program.process.wait(20) == 0
        warnings = program.process.stderr.read().splitlines()
    assert len(warnings) == 2
    assert "trying again until it works" in warnings[0]
    assert warnings[1] == "edgeinfer: warning: connected again; what was sent meanwhile may be missing"


def test_tail_leaves_rubbish_out_and_goes_on(broker, node, tmp_path):
    with tail(broker, tmp_path, "--all") as program:
        node.say(Publication("edgeinfer/v1/pi-7/status", b"rubbish", retain=True))
        until_printed(program, node, node.compose(spooled(41, A_RESULT)))
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(20) == 130
        assert "edgeinfer/v1/pi-7/status: not a CloudEvent" in program.process.stderr.read()


def certificate_for_localhost(folder: Path) -> None:
    """cert.pem, signed by itself, and key.pem."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(private)


def test_tail_and_consumer_come_by_tls_with_a_password_from_a_file(broker, tmp_path):
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    certificate_for_localhost(tmp_path)
    subprocess.run(["mosquitto_passwd", "-c", "-b", "users", "ann", "s3 cret"], cwd=tmp_path, check=True)
    (tmp_path / "users").chmod(0o644)
    (tmp_path / "key.pem").chmod(0o644)
    (tmp_path / "password").write_text("s3 cret\n")
    secure = free_port()
    conf = tmp_path / "mosquitto.conf"
    tls = f"listener {secure} localhost\ncertfile cert.pem\nkeyfile key.pem\npassword_file users\n"
    conf.write_text(f"per_listener_settings true\n{conf.read_text()}{tls}")
    broker.kill()
    broker.start()
    url = f"mqtts://ann@localhost:{secure}/"
    command = [sys.executable, "-W", "error", "-m", "edgeinfer", "tail", url, "--count", "1"]
    files = ["--mqtt-ca", "cert.pem", "--mqtt-password-file", "password"]
    heard = Consumer(url, ca=str(tmp_path / "cert.pem"), password_file=str(tmp_path / "password"))
    with Node(broker.port) as node, Program([*command, *files], tmp_path) as program, Listener(heard) as listener:
        assert "1 dog, 1 person" in until_printed(program, node, node.compose(spooled(41, A_RESULT)))[0]
        assert listener.wait_for(1) == [41]
    with Program([*command, "--mqtt-ca", "cert.pem"], tmp_path) as program:
        line = program.process.stderr.readline()
    assert "user name or password" in line or "not authorised" in line


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["http://localhost/"], 2, "neither mqtt:// nor mqtts://"),
        (["mqtt://localhost/", "--count", "0"], 2, "--count must be at least 1"),
        (["mqtt://localhost/", "--mqtt-prefix", "a/#"], 2, "prefix"),
        (["mqtts://localhost/", "--mqtt-ca", "absent.pem"], 6, "absent.pem"),
        ([], 2, "URL"),
    ],
)
def test_tail_refuses_what_makes_no_sense(words, code, said, edgeinfer):
    ran = edgeinfer("tail", *words)
    assert (ran.code, len(ran.errors)) == (code, 1)
    assert said in ran.err
