"""A socket in systemd's place, and a logger as it was."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from edgeinfer.clock import Clock
from edgeinfer.service.notify import Notifier


class Systemd:
    """Hears what a service tells; `watchdog_s` is what it was told of the watchdog."""

    def __init__(self, folder: Path, watchdog_s: float | None = None) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(60)
        self.environment = {"NOTIFY_SOCKET": str(self.path)}
        if watchdog_s is not None:
            self.environment["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        self.notifier = Notifier(self.environment)

    def hear(self) -> list[str]:
        """The lines of the next datagram."""
        return self._socket.recv(4096).decode().splitlines()

    def hear_until(self, begin: str) -> list[str]:
        """The lines of the first datagram that has one which begins so."""
        while True:
            lines = self.hear()
            if any(line.startswith(begin) for line in lines):
                return lines

    def hear_nothing(self) -> bool:
        self._socket.setblocking(False)
        try:
            return not self._socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(60)

    def close(self) -> None:
        self.notifier.close()
        self._socket.close()


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.clock = Clock(monotonic_ns=lambda: round(self.now_s * 1e9))


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def systemd(tmp_path):
    heard = Systemd(tmp_path, watchdog_s=30)
    yield heard
    heard.close()


@pytest.fixture(autouse=True)
def _logger():
    logger = logging.getLogger("edgeinfer")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(autouse=True)
def _state(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
