"""Who may see the page, and who may act."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import os
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from edgeinfer.config import WebConfig
from edgeinfer.errors import ConfigError, UsageError

CREDENTIAL = "web-token"

_TOKEN_MIN, _TOKEN_MAX = 16, 1024
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_LISTEN = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^\[\]:/\s]*):)?(?P<port>[0-9]{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen. port: 0 for any that is free."""

    host: str
    port: int
    family: socket.AddressFamily
    is_loopback: bool


def read_listen(words: str) -> Listen:
    """`host:port`, `:port` or `port`, without a host the loopback one. Raises UsageError."""
    found = _LISTEN.match(words)
    if found is None or int(found["port"]) > 65_535:
        raise UsageError(f"the page's address {words!r} is not HOST:PORT", hint="as in 127.0.0.1:8080")
    host = (found["host"] or "127.0.0.1").strip("[]")
    port = int(found["port"])
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as unknown:
        raise UsageError(f"the page's address {words!r}: no host {host!r}") from unknown
    family, _, _, _, place = known[0]
    is_loopback = all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in known)
    return Listen(str(place[0]), port, family, is_loopback)


def read_token(config: WebConfig) -> str | None:
    """From the file that is named, else systemd's credential; None where there is neither. Raises ConfigError."""
    if config.token_file is not None:
        return _token(Path(config.token_file))
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    place = Path(folder) / CREDENTIAL if folder else None
    return _token(place) if place is not None and place.exists() else None


def _token(path: Path) -> str:
    try:
        # Not a pipe, which might wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(handle, "rb") as file:  # noqa: PTH123 - the handle is open.
            content = file.read(_TOKEN_MAX + 2) or b""
    except OSError as unreadable:
        raise ConfigError(f"the page's token: cannot read {path}: {unreadable.strerror}") from unreadable
    token = content.decode("ascii", "replace").removesuffix("\n").removesuffix("\r")
    if not _TOKEN_MIN <= len(token) <= _TOKEN_MAX or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the page's token in {path} must be one line of {_TOKEN_MIN} to {_TOKEN_MAX} ASCII characters, no spaces",
            hint=f"(umask 077; openssl rand -hex 24 > {path})",
        )
    return token


@dataclass(frozen=True, slots=True)
class Access:
    """Who listens on a loopback address is seen by everybody on this machine, and by nobody else; all who bring the
    token may see and act.

    Without the token the page must have been asked for by a name of this machine: else any page in a browser here
    could read ours by a name of its own that it lets point here (DNS rebinding).
    """

    is_loopback: bool
    token: str | None = field(default=None, repr=False)
    hosts: Collection[str] = ()

    @property
    def cookie(self) -> str:
        """What a browser keeps of the token."""
        return hmac.digest((self.token or "").encode(), b"edgeinfer page", "sha256").hex()

    def has_token(self, authorization: str | None, cookie: str | None) -> bool:
        """By the header `Authorization: Bearer …`, as the password of `Basic …`, or by the cookie."""
        if self.token is None:
            return False
        if authorization is not None and self.is_token(_brought(authorization)):
            return True
        return cookie is not None and hmac.compare_digest(cookie.encode(), self.cookie.encode())

    def is_token(self, brought: str) -> bool:
        return self.token is not None and hmac.compare_digest(brought.encode(), self.token.encode())

    def is_ours(self, host: str) -> bool:
        """Whether the header `Host` is a name of this machine."""
        return _name_of(host) in _LOCAL_NAMES or _name_of(host) in self.hosts


def _brought(authorization: str) -> str:
    scheme, _, words = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return words.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(words, validate=True).decode("ascii").partition(":")[2]
    except ValueError:
        return ""


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends this for our own page; other programs send no `Origin`."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def refuse_open(listen: Listen, token: str | None, words: str) -> None:
    """Raises UsageError where everybody on the network could look in."""
    if not listen.is_loopback and token is None:
        raise UsageError(
            f"the page on {words} could be seen by everybody on the network",
            hint="give it a token: --web-token-file FILE, token_file in [web], or systemd's credential web-token",
        )
