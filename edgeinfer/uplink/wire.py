"""The socket to a broker: made within a time, read and written without waiting, many packets to a system call."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from dataclasses import dataclass

from edgeinfer.clock import Clock, rfc3339
from edgeinfer.uplink.address import Address

_CLOSED, _RESET = "the broker closed the connection", "the broker reset the connection"
_READ_BYTES = 64 << 10
# So that little is on its way on a slow link, and a ping behind it is answered in time.
_SEND_BUFFER_BYTES = 64 << 10
_LONG_AGO_S = 1_577_836_800  # 2020: a clock before that was never set.

_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID
_UNKNOWN_ISSUER = (18, 19, 20, 21)  # Self-signed, or signed by nobody that we trust.
_ALERTS = ("certificate expired", "unknown ca", "certificate required", "bad certificate", "certificate unknown")
_WRONG_NAME = 62, 64  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. tcp: for each address of the host; tls: of the handshake; all: of both and of the name's lookup;
    greeting: until the broker answers CONNECT."""

    tcp_s: float = 10.0
    tls_s: float = 10.0
    all_s: float = 30.0
    greeting_s: float = 10.0


class Unreachable(Exception):
    """No connection was made; why, in words."""


class Wire:
    """A connection that never waits. What `send` took leaves with `flush`; `recv` gives what was let through to it.

    The names without a docstring are those of a socket, for a client. failure: why it ended, None while it has not.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._inward = bytearray()
        self._unsent = bytearray()
        self.failure: str | None = None

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    @property
    def has_unread(self) -> bool:
        """Whether `recv` would give something, were it the end."""
        return bool(self._inward) or self.failure is not None

    @property
    def holds_more(self) -> bool:
        """Whether `read` would find something that no poll tells of, in what TLS has decrypted."""
        return isinstance(self._socket, ssl.SSLSocket) and self.failure is None and self._socket.pending() > 0

    @property
    def is_ended_by_peer(self) -> bool:
        """Whether the other side ended it on purpose, and not the network or we."""
        return self.failure in (_CLOSED, _RESET)

    def read(self) -> bytes:
        """What has arrived, nothing where that is nothing."""
        if self.failure is not None:
            return b""
        try:
            arrived = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        except OSError as broken:
            self.failure = _words(broken)
            return b""
        if not arrived:
            self.failure = _CLOSED
        return arrived

    def let_through(self, packet: bytes) -> None:
        """Give the client a packet to read."""
        self._inward += packet

    def flush(self) -> None:
        """Send what may be sent."""
        while self._unsent and self.failure is None:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as broken:
                self.failure = _words(broken)
                return
            del self._unsent[:sent]

    def goodbye(self, timeout_s: float) -> None:
        """Send all, and let the broker close: it would not read to the end what is followed by a reset."""
        until_s = time.monotonic() + timeout_s
        with contextlib.suppress(OSError, ValueError):
            while self.failure is None and self._wait_until(until_s, writing=self.has_unsent):
                if not self.has_unsent:
                    self._socket.shutdown(socket.SHUT_WR)
                    break
                self.flush()
            while self.failure is None and self._wait_until(until_s, writing=False):
                self.read()
        self.end()

    def end(self) -> None:
        """Close it; may be called twice."""
        self.failure = self.failure or "closed"
        self._socket.close()

    # What the client sees of it.

    def recv(self, buffer_size: int) -> bytes:
        if not self._inward:
            if self.failure is not None:
                return b""
            raise BlockingIOError
        taken = bytes(self._inward[:buffer_size])
        del self._inward[:buffer_size]
        return taken

    def send(self, buffer: bytes | bytearray) -> int:
        self._unsent += buffer
        return len(buffer)

    def close(self) -> None:
        # Whoever made it ends it: a client that says DISCONNECT closes before that has left.
        return

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - as of a socket.
        return

    def _wait_until(self, until_s: float, *, writing: bool) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT if writing else select.POLLIN)
        return bool(poll.poll(max(0.0, until_s - time.monotonic()) * 1e3))


def dial(address: Address, timeouts: Timeouts, *, clock: Clock) -> Wire:
    """Connect, and wait for it. Raises Unreachable."""
    connection = _connect(address, timeouts)
    if address.tls is None:
        return Wire(connection)
    try:
        connection.settimeout(timeouts.tls_s)
        secured = address.tls.wrap_socket(connection, server_hostname=address.server_name)
    except (OSError, ValueError) as refused:
        connection.close()
        raise Unreachable(f"{address}: {_tls_words(refused, address, clock)}") from refused
    return Wire(secured)


def _connect(address: Address, timeouts: Timeouts) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as unknown:
        raise Unreachable(f"host {address.host} not found: {_words(unknown)}") from unknown
    reason = ""
    for family, kind, protocol, _, place in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeouts.tcp_s)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect(place)
        except OSError as refused:
            connection.close()
            reason = reason or _words(refused)
        else:
            return connection
    raise Unreachable(f"{address}: {reason}")


def _words(error: Exception) -> str:
    """Of an error of the network, in few words."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionResetError):
        return _RESET
    if isinstance(error, ssl.SSLError):
        return _alert_words(error)
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


def _alert_words(error: ssl.SSLError) -> str:
    """What the other side has against us, as TLS says it in one of its alerts."""
    reason = (error.reason or str(error)).lower().replace("_", " ")
    for words in (
        "certificate expired",
        "unknown ca",
        "certificate required",
        "bad certificate",
        "certificate unknown",
    ):
        if reason.endswith(f"alert {words}"):
            return f"the broker refuses our certificate: {words}"
    return f"TLS failed: {reason}"


def _tls_words(error: Exception, address: Address, clock: Clock) -> str:
    now_s = clock.unix_ns() // 10**9
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        now = f"it is {rfc3339(now_s * 10**9)[:10]} here"
        if code == _EXPIRED:
            return f"the broker's certificate has expired ({now})"
        if code == _NOT_YET_VALID:
            unset = ", and the clock was not set" if now_s < _LONG_AGO_S else ""
            return f"the broker's certificate is not valid yet ({now}{unset})"
        if code in _UNKNOWN_ISSUER:
            return "the broker's certificate is signed by nobody trusted here; is [uplink] ca the right one?"
        if code in _WRONG_NAME:
            return f"the broker's certificate is not for {address.server_name}; [uplink] server_name may name another"
        return f"the broker's certificate is refused: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "timed out in the TLS handshake"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "the broker speaks no TLS on this port"
    return _words(error)
