"""Serves a repository over HTTP, with ranges: a small server for a few nodes, beside which any other serves as well."""

from __future__ import annotations

import logging
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from edgeinfer.errors import UsageError
from edgeinfer.fleet.files import ServedFiles

log = logging.getLogger(__name__)

DEFAULT_LISTEN = "127.0.0.1:8321"

_AT_ONCE_MAX = 64
_IDLE_S = 30
_LOOKS_EVERY_S = 0.1  # For its end.
_PIECE_BYTES = 1 << 18
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")


class FleetServer:
    """Listens from the start on. listen: `host:port`. Raises UsageError."""

    def __init__(self, files: ServedFiles, listen: str = DEFAULT_LISTEN) -> None:
        host, colon, port = listen.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65_535:
            raise UsageError(f"--listen {listen!r} is no host:port", hint=f"such as {DEFAULT_LISTEN}")
        try:
            self._server = _Server((host.strip("[]"), int(port)), files)
        except OSError as refused:
            raise UsageError(f"cannot listen on {listen}: {refused.strerror or refused}") from refused
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOKS_EVERY_S,), name="fleet http", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def close(self) -> None:
        """May be called twice."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], files: ServedFiles) -> None:
        self.files = files
        self._places = threading.BoundedSemaphore(_AT_ONCE_MAX)
        super().__init__(address, _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        # Who comes when all places are taken is let go at once, and comes again.
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("a connection of %s ended", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "edgeinfer"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's own name
        log.debug("%s %s", self.address_string(), format % args)

    def _answer(self, *, with_content: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        size = self.server.files.size(path)
        if size is None:
            self._head(HTTPStatus.NOT_FOUND, 0)
            return
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted else 0
        end = min(size, int(wanted[2]) + 1) if wanted and wanted[2] else size
        if wanted and begin >= end:
            self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, f"bytes */{size}")
            return
        self._head(
            HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK,
            end - begin,
            f"bytes {begin}-{end - 1}/{size}" if wanted else None,
        )
        if with_content:
            self._send(path, begin, end)

    def _head(self, status: HTTPStatus, length: int, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _send(self, path: str, begin: int, end: int) -> None:
        while begin < end:
            piece = self.server.files.read(path, begin, min(_PIECE_BYTES, end - begin))
            if piece is None or not piece.content:
                self.close_connection = True  # It was promised more than there is.
                return
            self.wfile.write(piece.content)
            begin += len(piece.content)
