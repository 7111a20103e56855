"""`mqtt://…` or `mqtts://…`, the files beside it and systemd's credentials -> where and as whom to connect."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from edgeinfer.config import UplinkConfig
from edgeinfer.errors import ConfigError, EdgeInferError
from edgeinfer.uplink.certificate import valid_until_s

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_SECRET_BYTES_MAX = 4096
_PEM_BYTES_MAX = 1 << 20
_ONLY_WITH_TLS = ("ca", "cert", "key", "server_name", "alpn")


@dataclass(frozen=True, slots=True)
class Address:
    """A broker, and as whom to come to it. str() is fit for logs: it has neither user nor password.

    tls: None for a plain connection. server_name: what the certificate of the broker must bear. ends_unix_s: when our
    own certificate ends, None where there is none.
    """

    host: str
    port: int
    server_name: str
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ends_unix_s: float | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'' if self.tls is None else 's'}://{host}:{self.port}"


def read_address(
    config: UplinkConfig, *, url_error: type[EdgeInferError] = ConfigError, is_uplink: bool = True
) -> Address:
    """Read the files that `config` names. Raises `url_error` for the URL, ConfigError for all else: one line each.

    is_uplink: systemd's credentials, where no file is named, are for the broker of `[uplink]` and for no other.
    """
    parts = _split(config.url, url_error)
    user, password = _credentials(config, parts, is_uplink=is_uplink)
    return Address(
        host=parts.hostname or "",
        port=_port(parts, config.url, url_error),
        server_name=config.server_name or parts.hostname or "",
        tls=_tls(config, parts),
        user=user,
        password=password,
        ends_unix_s=None if config.cert is None or parts.scheme == "mqtt" else valid_until_s(_pem("cert", config.cert)),
    )


def _split(url: str, error: type[EdgeInferError]) -> SplitResult:
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError as impossible:
        raise error(f"broker {url!r}: {impossible}") from impossible
    if password is not None:
        # Not shown, for it would be in a log then.
        raise error(
            "a password in the broker's URL can be seen by every user of this machine",
            hint="write it to a file and name that in [uplink] password_file",
        )
    if parts.scheme not in _PORTS:
        raise error(f"broker {url!r} begins with neither mqtt:// nor mqtts://")
    if not parts.hostname:
        raise error(f"broker {url!r} names no host", hint="as in mqtt://broker.local:1883")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise error(f"broker {url!r}: nothing may follow the host and port", hint="topics begin with [uplink] prefix")
    return parts


def _port(parts: SplitResult, url: str, error: type[EdgeInferError]) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise error(f"broker {url!r}: its port must be 1 to 65535")
    return port or _PORTS[parts.scheme]


def _credentials(config: UplinkConfig, parts: SplitResult, *, is_uplink: bool) -> tuple[str | None, str | None]:
    user = None if parts.username is None else unquote(parts.username)
    if user is not None and config.user_file is not None:
        raise ConfigError("uplink.user_file: the URL names a user already", hint="take one of them away")
    if user is None:
        user = _secret("user_file", config.user_file, "mqtt-user" if is_uplink else None)
    password = _secret("password_file", config.password_file, "mqtt-password" if is_uplink else None)
    if password is not None and user is None:
        raise ConfigError("uplink.password_file: there is a password and no user", hint="name one in uplink.user_file")
    return user, password


def _secret(key: str, path: str | None, credential: str | None) -> str | None:
    """The line of the file, or else systemd's credential of that name. None where there is neither."""
    if path is not None:
        return _one_line(f"uplink.{key}", Path(path))
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    place = Path(folder) / credential if folder and credential else None
    return _one_line(f"credential {credential}", place) if place is not None and place.exists() else None


def _one_line(key: str, path: Path) -> str:
    content = _bytes(key, path, _SECRET_BYTES_MAX)
    try:
        line = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as binary:
        raise ConfigError(f"{key}: {path} is not text in UTF-8") from binary
    if not line or "\n" in line or "\0" in line:
        raise ConfigError(f"{key}: {path} must hold one line, and nothing else")
    return line


def _bytes(key: str, path: Path, most: int) -> bytes:
    try:
        # Not a pipe, which might wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(handle, "rb") as file:  # noqa: PTH123 - the handle is open.
            content = file.read(most + 1) or b""
    except OSError as unreadable:
        raise ConfigError(f"{key}: cannot read {path}: {unreadable.strerror}") from unreadable
    if len(content) > most:
        raise ConfigError(f"{key}: {path} is larger than {most} bytes")
    return content


def _pem(key: str, path: str) -> str:
    return _bytes(f"uplink.{key}", Path(path), _PEM_BYTES_MAX).decode("ascii", errors="replace")


def _tls(config: UplinkConfig, parts: SplitResult) -> ssl.SSLContext | None:
    if parts.scheme == "mqtts":
        return _context(config)
    for key in _ONLY_WITH_TLS:
        if getattr(config, key):
            raise ConfigError(f"uplink.{key} has no meaning with mqtt://", hint="write mqtts:// for TLS")
    return None


def _context(config: UplinkConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # Checks the certificate and the name in it.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.ca is None:
        context.load_default_certs()
    else:
        _trust(context, config.ca)
    if config.cert is not None:
        _identify(context, config.cert, config.key)
    elif config.key is not None:
        raise ConfigError("uplink.key: there is a key and no certificate", hint="name one in uplink.cert")
    if config.alpn:
        context.set_alpn_protocols(_protocols(config.alpn))
    return context


def _trust(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(cadata=_pem("ca", ca))
    except ssl.SSLError as no_certificate:
        raise ConfigError(f"uplink.ca: {ca} holds no certificate in PEM form") from no_certificate


def _identify(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    pem = _pem("cert", cert)
    if key is not None:
        _pem("key", key)
    try:
        context.load_cert_chain(cert, key, password=_no_prompt)
    except _Encrypted as encrypted:
        raise ConfigError(
            f"uplink.key: {key or cert} is encrypted, and nobody is there to type its password",
            hint="openssl pkey -in KEY -out PLAIN_KEY",
        ) from encrypted
    except ssl.SSLError as refused:
        if refused.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"uplink.key: {key or cert} does not fit the certificate {cert}") from refused
        if "BEGIN CERTIFICATE" not in pem:
            raise ConfigError(f"uplink.cert: {cert} holds no certificate in PEM form") from refused
        raise ConfigError(f"uplink.key: {key or cert} holds no private key in PEM form") from refused


class _Encrypted(Exception):
    """A key asks for a password."""


def _no_prompt() -> str:
    # Without this OpenSSL would ask on the terminal, and wait.
    raise _Encrypted


def _protocols(names: Sequence[str]) -> list[str]:
    for name in names:
        if not name.isascii() or len(name) > 255:
            raise ConfigError(f"uplink.alpn: {name!r} must be ASCII, of 255 characters at most")
    return list(names)
