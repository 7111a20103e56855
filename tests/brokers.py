"""Real brokers on this machine, each on a port of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

_MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@dataclass
class Broker:
    port: int
    command: list[str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://localhost:{self.port}/"

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        pytest.fail(f"the broker did not start: {(self.folder / 'broker.log').read_text()}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@contextmanager
def mosquitto(folder: Path, *settings: str, port: int | None = None) -> Iterator[Broker]:
    """mosquitto with its defaults, but open to everybody on this machine. settings: further lines, of the listener or
    of all."""
    if _MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    port = port or free_port()
    # As root it would become another user, who cannot read this folder; nobody else is asked who to be.
    lines = ["user root", f"listener {port} localhost", "allow_anonymous true", "max_queued_messages 0", *settings]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    with _running(Broker(port, [_MOSQUITTO, "-c", "mosquitto.conf"], folder)) as broker:
        yield broker


@contextmanager
def amqtt(folder: Path) -> Iterator[Broker]:
    """A broker in Python, which knows MQTT 3.1.1 only."""
    if find_spec("amqtt") is None:
        pytest.skip("amqtt is not installed")
    port = free_port()
    (folder / "amqtt.yaml").write_text(
        f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
        "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
    )
    command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", "amqtt.yaml"]
    with _running(Broker(port, command, folder)) as broker:
        yield broker


@contextmanager
def _running(broker: Broker) -> Iterator[Broker]:
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
