"""Asks the page of a node."""

from __future__ import annotations

import http.client
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from edgeinfer.errors import UsageError

_PORT = 80
_TIMEOUT_S = 5.0
_ANSWER_BYTES_MAX = 8 << 20
_TOKEN_BYTES_MAX = 1024

Shape = TypeVar("Shape")


class Node:
    """At `url`, as in `http://pi-7:8080/`. Raises UsageError: one line."""

    def __init__(self, url: str, token_file: Path | None = None) -> None:
        try:
            parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
            self._port = parts.port or _PORT
        except ValueError as impossible:
            raise UsageError(f"{url!r} is not the address of a page: {impossible}") from impossible
        if parts.scheme != "http" or not parts.hostname or parts.query or parts.username is not None:
            raise UsageError(f"{url!r} is not the address of a page", hint="as in http://pi-7:8080/")
        self._host = parts.hostname
        self._path = parts.path.rstrip("/")
        self._url = url
        self._headers = {} if token_file is None else {"Authorization": f"Bearer {_token(token_file)}"}

    def ask(self, path: str, shape: type[Shape]) -> Shape:
        status, body = self._get(f"{self._path}/{path}", self._headers)
        if status == http.client.UNAUTHORIZED:
            raise UsageError(f"{self._url} wants a token", hint="--token-file FILE, a copy of the node's")
        if status != http.client.OK:
            raise UsageError(f"{self._url} answers {status}: is it the page of edgeinfer?")
        try:
            return msgspec.json.decode(body, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as strange:
            raise UsageError(
                f"{self._url} answers something else: {strange}", hint="is it of this version?"
            ) from strange

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=dict(headers))
            answer = connection.getresponse()
            body = answer.read(_ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as failed:
            reason = getattr(failed, "strerror", None) or str(failed) or type(failed).__name__
            hint = "is it running with --web, and there?"
            raise UsageError(f"no answer from {self._url}: {reason}", hint=hint) from failed
        finally:
            connection.close()
        if len(body) > _ANSWER_BYTES_MAX:
            raise UsageError(f"{self._url} answers more than {_ANSWER_BYTES_MAX} bytes: is it the page of edgeinfer?")
        return answer.status, body


def _token(path: Path) -> str:
    try:
        # Not a pipe, which might wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(handle, "rb") as file:  # noqa: PTH123 - the handle is open.
            token = (file.read(_TOKEN_BYTES_MAX + 1) or b"").decode("ascii", "replace").rstrip("\r\n")
    except OSError as unreadable:
        raise UsageError(f"--token-file: cannot read {path}: {unreadable.strerror}") from unreadable
    if not token.isascii() or not token.isprintable() or len(token) > _TOKEN_BYTES_MAX:
        raise UsageError(f"--token-file: {path} holds no token", hint="one line of ASCII characters")
    return token
