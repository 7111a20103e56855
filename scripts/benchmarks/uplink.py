"""How fast what waits in the spool goes to a broker, and what a result costs on its way.

    python -m scripts.benchmarks.uplink ours|bare drain|paced COUNT PER_S      one contender, once

mosquitto with its defaults (20 messages unacknowledged at once) on loopback, results of 400 bytes, QoS 1. The bare
sender is the client library alone, with its own thread and window: it takes its results from memory, and nothing of it
survives a power cut.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from scripts.benchmarks.contest import BARE, OURS, Line, Row, cases, fresh, of, take_turns
from scripts.benchmarks.meter import resident_mib, tell
from scripts.benchmarks.setting import SETTING

if TYPE_CHECKING:
    from edgeinfer.uplink.message import Message
    from edgeinfer.uplink.uplink import Uplink

TITLE = "The uplink: results of 400 bytes to mosquitto on loopback"

DRAIN_MIN = 5000
RESULT_BYTES = 400
SPOOL_BYTES = 200_000_000
_TODO = {"a backlog of 100 000": ("drain", 100_000, 0), "100 results/s": ("paced", 2000, 100)}
_QUICK_PART = 10
_BARE_QUEUE = 1000
_SYSTEM = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def measure(rounds: int) -> list[Row]:
    if shutil.which("mosquitto", path=_SYSTEM) is None:
        raise SystemExit("scripts/bench: uplink needs mosquitto")
    rows: list[Row] = []
    for case, (kind, count, per_s) in _TODO.items():
        words = (kind, count // (_QUICK_PART if SETTING.quick else 1), per_s)
        contenders = {who: lambda who=who, words=words: fresh("uplink", who, *words) for who in (BARE, OURS)}
        rows += take_turns(rounds, case, contenders)
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for case in cases(rows):
        if "backlog" in case:
            lines.append(_line(rows, case, "per_s", "drained", "/s", at_least=DRAIN_MIN))
        lines.append(_line(rows, case, "cpu_us", "CPU per result", "us"))
        lines.append(_line(rows, case, "mib", "memory", "MiB"))
    return lines


def _line(
    rows: Sequence[Row], case: str, figure: str, metric: str, unit: str, *, at_least: float | None = None
) -> Line:
    ours, bare = of(rows, case, OURS, figure), of(rows, case, BARE, figure)
    return Line(case, metric, ours, unit, median(ours), median(bare), at_least=at_least)


def run(who: str, kind: str, count: int, per_s: int) -> dict[str, float]:
    """per_s: 0 for all that waits, as fast as it goes."""
    with _mosquitto() as port:
        if who == BARE:
            return _bare(port, count, per_s)
        return _drained(port, count) if kind == "drain" else _paced(port, count, per_s)


def _drained(port: int, count: int) -> dict[str, float]:
    """From the start of an uplink whose spool is full already, to the last acknowledgement."""
    from edgeinfer.uplink.spool import Spool

    folder = Path.cwd() / "state"
    spool = Spool.open(folder / "spool", max_bytes=SPOOL_BYTES)
    left = [_message(number) for number in range(count)]
    while left:
        left = left[len(spool.commit(left[:1000])) :]
    spool.close()
    uplink = _uplink(port, folder)
    begin_s, begin_cpu_s = time.monotonic(), time.process_time()
    uplink.start()
    return _ended(uplink, count, begin_s, begin_cpu_s)


def _paced(port: int, count: int, per_s: int) -> dict[str, float]:
    uplink = _uplink(port, Path.cwd() / "state")
    uplink.start()
    while uplink.counters().protocol is None:
        time.sleep(0.05)
    messages = [_message(number) for number in range(count)]
    begin_s, begin_cpu_s = time.monotonic(), time.process_time()
    for number, message in enumerate(messages):
        time.sleep(max(0.0, begin_s + number / per_s - time.monotonic()))
        uplink.accept(message)
    return _ended(uplink, count, begin_s, begin_cpu_s)


def _ended(uplink: Uplink, count: int, begin_s: float, begin_cpu_s: float) -> dict[str, float]:
    while uplink.counters().delivered < count:
        time.sleep(0.02)
    figures = _figures(count, begin_s, begin_cpu_s)
    uplink.close(5.0)
    return figures


def _figures(count: int, begin_s: float, begin_cpu_s: float) -> dict[str, float]:
    return {
        "per_s": count / (time.monotonic() - begin_s),
        "cpu_us": (time.process_time() - begin_cpu_s) / count * 1e6,
        "mib": resident_mib(),
    }


def _uplink(port: int, folder: Path) -> Uplink:
    from edgeinfer.config import UplinkConfig
    from edgeinfer.uplink.assemble import open_uplink
    from edgeinfer.uplink.topics import Topics

    config = UplinkConfig(url=f"mqtt://localhost:{port}", spool_bytes=f"{SPOOL_BYTES}B")
    return open_uplink(config, Topics("bench"), folder)


def _bare(port: int, count: int, per_s: int) -> dict[str, float]:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    connected, done = threading.Event(), threading.Event()
    acknowledged = 0

    def count_one(*_: object) -> None:
        nonlocal acknowledged
        acknowledged += 1
        if acknowledged == count:
            done.set()

    client.on_connect = lambda *_: connected.set()
    client.on_publish = count_one
    client.connect("localhost", port)
    client.loop_start()
    connected.wait()
    payloads = [_message(number).data for number in range(count)]
    begin_s, begin_cpu_s = time.monotonic(), time.process_time()
    for number, payload in enumerate(payloads):
        if per_s:
            time.sleep(max(0.0, begin_s + number / per_s - time.monotonic()))
        # There are 65 535 packet ids: what the library is given beyond them it drops.
        while number - acknowledged >= _BARE_QUEUE:
            time.sleep(0.001)
        client.publish("edgeinfer/v1/bench/results/main", payload, qos=1)
    done.wait()
    figures = _figures(count, begin_s, begin_cpu_s)
    client.disconnect()
    client.loop_stop()
    return figures


def _message(number: int) -> Message:
    from edgeinfer.uplink.message import Message

    data = json.dumps({"number": number, "rest": "x" * (RESULT_BYTES - 40)}).encode()
    return Message("result", "main", time.time_ns(), "synced", data)


@contextmanager
def _mosquitto() -> Iterator[int]:
    """A broker with its defaults; its port. The current folder is one of its own meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="uplink-", dir=Path.cwd()))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    (folder / "mosquitto.conf").write_text(f"listener {port} localhost\nallow_anonymous true\n")
    broker = subprocess.Popen(
        [str(shutil.which("mosquitto", path=_SYSTEM)), "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL
    )
    os.chdir(folder)
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        broker.kill()
        broker.wait()
        os.chdir(folder.parent)
        shutil.rmtree(folder)


if __name__ == "__main__":
    _who, _kind, _count, _per_s = sys.argv[1:]
    tell(run(_who, _kind, int(_count), int(_per_s)))
