"""A repository over HTTP: the server of `fleet serve`, and how a node reads from it and from worse ones."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fleets import Publisher

from edgeinfer.errors import UpdateError, UsageError
from edgeinfer.fleet.files import ServedFiles
from edgeinfer.fleet.web import FleetServer
from edgeinfer.updates.transport import NotThere, patiently, read_whole
from edgeinfer.updates.web import WebTransport


@pytest.fixture
def server(publisher: Publisher) -> Iterator[FleetServer]:
    server = FleetServer(ServedFiles(publisher.served), "127.0.0.1:0")
    yield server
    server.close()


def answer(server: FleetServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    try:
        connection.putrequest(method, path, skip_host=False)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_a_node_updates_over_http(publisher: Publisher, node: Any, server: FleetServer, tmp_path: Path) -> None:
    entry = publisher.publish().manifest.files["weights"]
    remote = node.remote(WebTransport(server.url))
    assert [each.release for each in remote.releases(("detector",))] == [1]
    remote.fetch(entry.sha256, entry.length, tmp_path / "beside")
    assert (tmp_path / "beside").read_bytes() == bytes([1]) * 5000


def test_ranges(publisher: Publisher, server: FleetServer) -> None:
    place = publisher.served / "targets" / "blobs" / ("a" * 64)
    place.write_bytes(bytes(range(200)))
    path = f"/targets/blobs/{place.name}"
    assert answer(server, path)[:2] == (200, bytes(range(200)))
    assert answer(server, path, "HEAD")[:2] == (200, b"")
    status, content, headers = answer(server, path, Range="bytes=150-")
    assert (status, content, headers["Content-Range"]) == (206, bytes(range(150, 200)), "bytes 150-199/200")
    assert answer(server, path, Range="bytes=0-9")[:2] == (206, bytes(range(10)))
    assert answer(server, path, Range="bytes=190-999")[:2] == (206, bytes(range(190, 200)))
    status, content, headers = answer(server, path, Range="bytes=200-")
    assert (status, content, headers["Content-Range"]) == (416, b"", "bytes */200")
    assert (
        answer(server, path, Range="bytes=0-9,20-29")[0] == 200
    )  # Several at once are not understood, and need not be.


@pytest.mark.parametrize(
    "path",
    [
        "/../keys/online.pem",
        "/metadata/../../keys/online.pem",
        "/%2e%2e/keys/online.pem",
        "/metadata/%2e%2e%2f%2e%2e%2fkeys/online.pem",
        "/metadata/..%5c..%5ckeys/online.pem",
        "/fleet.json",
        "/metadata/",
        "/metadata",
        "/",
        "//etc/passwd",
        "/metadata/timestamp.json%00",
        "/metadata/out.json",
    ],
)
def test_nothing_else_is_given_out(publisher: Publisher, server: FleetServer, path: str) -> None:
    (publisher.served / "metadata" / "out.json").symlink_to(publisher.folder / "keys" / "online.pem")
    assert answer(server, path)[:2] == (404, b"")


def test_any_web_server_will_do(publisher: Publisher, node: Any, tmp_path: Path) -> None:
    """One that knows no ranges sends all of it, and its begin is passed over."""
    entry = publisher.publish().manifest.files["weights"]

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(publisher.served))

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Quiet) as plain:
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        remote = node.remote(WebTransport(f"http://127.0.0.1:{plain.server_port}/"))
        assert [each.release for each in remote.releases(("detector",))] == [1]
        beside = tmp_path / "beside"
        beside.write_bytes(bytes([1]) * 1234)
        remote.fetch(entry.sha256, entry.length, beside)
        assert beside.read_bytes() == bytes([1]) * 5000
        plain.shutdown()


def test_a_download_goes_on_where_it_broke_off(publisher: Publisher, node: Any, tmp_path: Path) -> None:
    entry = publisher.publish().manifest.files["weights"]
    asked: list[str | None] = []

    class Breaks(BaseHTTPRequestHandler):
        """Ends each connection after 1500 bytes."""

        def do_GET(self) -> None:
            files = ServedFiles(publisher.served)
            path = self.path.lstrip("/")
            size = files.size(path)
            if size is None:
                self.send_error(404)
                return
            wanted = self.headers.get("Range")
            begin = 0 if wanted is None else int(wanted.removeprefix("bytes=").split("-")[0])
            if "blobs" in path:
                asked.append(wanted)
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(size - begin))
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
            self.end_headers()
            piece = files.read(path, begin, 1500 if "blobs" in path else size)
            assert piece is not None
            self.wfile.write(piece.content)

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Breaks) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        remote = node.remote(WebTransport(f"http://127.0.0.1:{broken.server_port}"))
        remote.releases(("detector",))
        remote.fetch(entry.sha256, entry.length, tmp_path / "beside")
        broken.shutdown()
    assert (tmp_path / "beside").read_bytes() == bytes([1]) * 5000
    assert asked == [None, "bytes=1500-4999", "bytes=3000-4999", "bytes=4500-4999"]


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        transport = WebTransport(f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(UpdateError, match=r"nothing of .* came"):
            next(patiently(transport, "metadata/timestamp.json", 0, 100, silence_s=0.3))


def test_what_is_not_there_and_what_is_no_server() -> None:
    with pytest.raises(UpdateError, match="refused"):
        read_whole(WebTransport("http://127.0.0.1:9"), "metadata/timestamp.json", 100)
    for url in ("ftp://host/x", "http:///x", "https://user:secret@host/"):
        with pytest.raises(UsageError) as refused:
            WebTransport(url)
        assert "secret" not in str(refused.value)


def test_a_redirect_to_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")

    class Away(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"file://{tmp_path / 'secret'}")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Away) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UpdateError):
            read_whole(WebTransport(f"http://127.0.0.1:{server.server_port}"), "metadata/timestamp.json", 100)
        server.shutdown()


def test_missing(server: FleetServer) -> None:
    with pytest.raises(NotThere):
        read_whole(WebTransport(server.url), "metadata/99.root.json", 100)
