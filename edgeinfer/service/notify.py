"""What systemd is told of a service: one datagram at a time, as in sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

_STATUS_MAX = 1000


class Notifier:
    """Tells whoever started this program; where nobody asked to be told, all of it does nothing.

    watchdog_s: so often a sign of life is expected, None where it is not.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(environment, os.getpid() if pid is None else pid)
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def is_heard(self) -> bool:
        return self._socket is not None

    def tell(self, *assignments: str, status: str | None = None) -> None:
        """Assignments such as `READY=1`, and a line for a person. Never raises: nobody is helped by our end."""
        if self._socket is None:
            return
        lines = [*assignments, *([] if status is None else [f"STATUS={' '.join(status.split())[:_STATUS_MAX]}"])]
        with suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(errors="replace"), self._address)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Raises nothing: what makes no sense is as if it were not said."""
    period, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(pid))
    if not (period.isascii() and period.isdigit()) or whose != str(pid):
        return None
    return int(period) / 1e6 or None
