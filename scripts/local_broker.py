"""An MQTT broker of one's own on this machine: mosquitto where it is installed, else amqtt of the test group."""

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

# Debian puts it where only root looks.
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
AMQTT = find_spec("amqtt") is not None
_STARTS_WITHIN_S = 20.0


class NoBroker(Exception):
    """It does not start, or there is none."""


@dataclass
class Broker:
    """A program that is a broker, on a port of its own; `folder` holds its settings and its log."""

    name: str
    port: int
    command: list[str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://localhost:{self.port}/"

    def start(self) -> None:
        """Returns once it can be connected to. Raises NoBroker."""
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise NoBroker(f"{self.name} does not start: {(self.folder / 'broker.log').read_text()}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def mosquitto(folder: Path, *settings: str, port: int | None = None) -> Broker:
    """mosquitto with its defaults, but open to everybody on this machine. settings: further lines, of the listener or
    of all. Raises NoBroker."""
    if MOSQUITTO is None:
        raise NoBroker("mosquitto is not installed")
    port = port or free_port()
    # As root it would become another user, who cannot read this folder; nobody else is asked who to be. Not 0 for any
    # number of messages: mosquitto 2.0.11 hangs up on whom it denies something then.
    usual = ["user root", f"listener {port} localhost", "allow_anonymous true", "max_queued_messages 1000000"]
    (folder / "mosquitto.conf").write_text("\n".join([*usual, *settings]) + "\n")
    return Broker("mosquitto", port, [MOSQUITTO, "-c", "mosquitto.conf"], folder)


def amqtt(folder: Path) -> Broker:
    """A broker in Python, which knows MQTT 3.1.1 only. Raises NoBroker."""
    if not AMQTT:
        raise NoBroker("amqtt is not installed")
    port = free_port()
    (folder / "amqtt.yaml").write_text(
        f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
        "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
    )
    command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", "amqtt.yaml"]
    return Broker("amqtt", port, command, folder)


@contextmanager
def running(broker: Broker) -> Iterator[Broker]:
    """Started, and killed at the end. Raises NoBroker."""
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def any_broker(folder: Path) -> Broker:
    """Raises NoBroker."""
    return mosquitto(folder) if MOSQUITTO is not None else amqtt(folder)
