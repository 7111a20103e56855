"""A repository on a web server or in a bucket, over HTTP or HTTPS."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from urllib.parse import quote, urlsplit

from edgeinfer.errors import UpdateError, UsageError
from edgeinfer.updates.transport import SILENCE_S, Chunks, NotThere

_CHUNK_BYTES = 1 << 16
_NOT_THERE = frozenset({403, 404, 410})  # A bucket says 403 for what it does not hold.
_PAST_THE_END = 416


class WebTransport:
    """Everything below a URL. Proxies are those of the environment. Raises UsageError for what is no such URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no URL of a web server", hint="write it like https://models.example/fleet")
        if parts.password is not None:
            # Not shown, for it would be in a log then.
            raise UsageError("a password in the URL of a repository can be seen by every user of this machine")
        self._url = url.rstrip("/")
        self._opener = urllib.request.OpenerDirector()
        # Not `build_opener`, which would also follow to file: and ftp: URLs.
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        if most <= 0:
            return
        url = f"{self._url}/{quote(path)}"
        wanted = {"Range": f"bytes={offset}-{offset + most - 1}"} if offset else {}
        request = urllib.request.Request(url, headers={**wanted, "User-Agent": "edgeinfer"})
        try:
            response = self._opener.open(request, timeout=SILENCE_S)
            if response is None:
                raise UpdateError(f"{url} leads to what is neither http:// nor https://")
            with response:
                yield from _body(response, url, offset, most)
        except urllib.error.HTTPError as refused:
            refused.close()
            if refused.code in _NOT_THERE:
                raise NotThere(f"there is no {url}: the server says {refused.code}") from refused
            if refused.code == _PAST_THE_END:
                return
            raise UpdateError(f"{url}: the server says {refused.code} {refused.reason}") from refused
        except (OSError, http.client.HTTPException, ValueError) as failed:
            reason = getattr(failed, "reason", None) or failed
            raise UpdateError(f"{url} cannot be read: {reason or type(failed).__name__}") from failed

    def close(self) -> None:
        self._opener.close()


def _body(response: http.client.HTTPResponse, url: str, offset: int, most: int) -> Chunks:
    """What comes, from `offset` on: a server that knows no ranges sends all of it, and its begin is passed over."""
    to_skip = 0
    if offset and response.status == http.client.PARTIAL_CONTENT:
        said = response.headers.get("Content-Range", "")
        if not said.startswith(f"bytes {offset}-"):
            raise UpdateError(f"{url}: asked for byte {offset}, the server says {said[:60]!r}")
    else:
        to_skip = offset
    # One `recv` each: `read` would wait until so many bytes are there, however slowly they come.
    while most > 0 and (piece := response.read1(_CHUNK_BYTES)):
        skipped = min(to_skip, len(piece))
        to_skip -= skipped
        piece = piece[skipped:][:most]
        most -= len(piece)
        yield piece
