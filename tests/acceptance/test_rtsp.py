"""Real servers on this machine: frames, credentials, and a server that goes away."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources import Source, SourceOptions, open_source

SYSTEM_PYTHON = Path("/usr/bin/python3")  # GStreamer's bindings belong to the system's own Python.
USER, PASSWORD = "watcher", "s3cret"
START_S = 20.0
READ_TIMEOUT_S = 2.0
# A kill that closes the connection is seen at once; silence after the read timeout.
LOST_WITHIN_S = READ_TIMEOUT_S + 1.5

SERVER = """
import sys
import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

Gst.init(None)
user, password = sys.argv[1:]
size = "video/x-raw,width=320,height=240,framerate=15/1"
encoded = f"{size} ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 pt=96"
ROUTES = {
    "/red": f"( videotestsrc is-live=1 pattern=red ! {encoded} )",
    "/short": f"( videotestsrc is-live=1 num-buffers=30 ! {encoded} )",
}
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
token = GstRtspServer.RTSPToken()
token.set_string("media.factory.role", "watcher")
auth = GstRtspServer.RTSPAuth()
auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
server.set_auth(auth)
for path, launch in ROUTES.items():
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch)
    rights = GstRtspServer.RTSPPermissions()
    rights.add_role("watcher")
    rights.add_permission_for_role("watcher", "media.factory.access", True)
    rights.add_permission_for_role("watcher", "media.factory.construct", True)
    factory.set_permissions(rights)
    server.get_mount_points().add_factory(path, factory)
assert Gst.ElementFactory.find("x264enc") and Gst.ElementFactory.find("rtph264pay")
assert server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int

    def url(self, path: str, *, password: str = PASSWORD) -> str:
        return f"rtsp://{USER}:{password}@127.0.0.1:{self.port}/{path}"


def start() -> Server:
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"no {SYSTEM_PYTHON} for the RTSP server")
    command = [str(SYSTEM_PYTHON), "-c", SERVER, USER, PASSWORD]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.strip().isdigit():
        _, complaint = process.communicate(timeout=START_S)
        last = (complaint.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"no RTSP server here (python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly …): {last}")
    return Server(process, int(line))


def stop(server: Server) -> None:
    server.process.kill()
    server.process.communicate(timeout=START_S)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = start()
    yield started
    stop(started)


def opened(url: str) -> Source:
    return open_source(url, SourceOptions(read_timeout_s=READ_TIMEOUT_S))


def read_until_lost(source: Source, limit_s: float) -> tuple[str, float]:
    """What was said when the stream was lost, and after how many seconds."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit_s:
        try:
            assert source.read() is not None
        except SourceLost as lost:
            return str(lost), time.monotonic() - begun
    pytest.fail(f"still going after {limit_s:g} s")


def test_frames_arrive_in_colour_and_as_they_are_taken(server: Server) -> None:
    source = opened(server.url("red"))
    frames = [source.read() for _ in range(31)]
    source.close()
    assert source.live
    assert source.fps == pytest.approx(15)
    assert [frame.seq for frame in frames if frame] == list(range(31))
    last = frames[-1]
    assert last is not None
    assert last.pixels.shape == (240, 320, 3)
    assert last.position_s is None
    blue, green, red = last.pixels.reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert max(blue, green) < 60
    first = frames[0]
    assert first is not None
    # What FFmpeg held back while connecting would come in a burst, and be old.
    assert (last.captured_ns - first.captured_ns) / 1e9 == pytest.approx(30 / 15, rel=0.3)


def test_credentials_open_the_stream_and_are_never_shown(
    server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        source = opened(server.url("red"))
        frame = source.read()
        source.close()
    assert frame is not None
    shown = f"rtsp://***@127.0.0.1:{server.port}/red"
    assert source.uri == shown
    assert frame.uri == shown
    assert PASSWORD not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(("path", "password"), [("red", "wr0ng"), ("absent", PASSWORD)])
def test_a_stream_that_is_refused_is_one_line(server: Server, path: str, password: str) -> None:
    with pytest.raises(SourceError, match="answers, but gives no stream") as caught:
        opened(server.url(path, password=password))
    assert password not in str(caught.value)


def test_a_stream_that_ends_is_lost(server: Server) -> None:
    source = opened(server.url("short"))
    message, _ = read_until_lost(source, 30)
    source.close()
    assert "stopped after" in message


def test_a_server_that_is_killed_is_noticed() -> None:
    server = start()
    try:
        source = opened(server.url("red"))
        assert source.read() is not None
    finally:
        stop(server)
    message, seconds = read_until_lost(source, 30)
    source.close()
    assert seconds < LOST_WITHIN_S
    assert PASSWORD not in message


def test_a_server_that_falls_silent_is_lost_after_the_read_timeout() -> None:
    server = start()
    try:
        source = opened(server.url("red"))
        assert source.read() is not None
        server.process.send_signal(signal.SIGSTOP)
        _, seconds = read_until_lost(source, 30)
        source.close()
        assert seconds < LOST_WITHIN_S
    finally:
        stop(server)


def test_close_ends_a_read_of_another_thread(server: Server) -> None:
    source = opened(server.url("red"))
    ended = threading.Event()

    def read_all() -> None:
        while source.read() is not None:
            pass
        ended.set()

    threading.Thread(target=read_all, daemon=True).start()
    time.sleep(0.5)
    begun = time.monotonic()
    source.close()
    assert time.monotonic() - begun < 0.5
    assert ended.wait(LOST_WITHIN_S)


class WebCamera(BaseHTTPRequestHandler):
    """A camera that serves JPEGs one after the other, and beside it a recording."""

    recording: bytes = b""
    picture: bytes = b""
    frames = 60

    def do_GET(self) -> None:
        if self.path.startswith("/clip.avi"):
            self.send_response(200)
            self.send_header("Content-Type", "video/x-msvideo")
            self.send_header("Content-Length", str(len(self.recording)))
            self.end_headers()
            self._send(self.recording)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(self.picture)}\r\n\r\n".encode()
        for _ in range(self.frames):
            if not self._send(head + self.picture + b"\r\n"):
                return
            time.sleep(0.04)

    def _send(self, data: bytes) -> bool:
        try:
            self.wfile.write(data)
        except OSError:  # The reader left.
            return False
        return True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


@pytest.fixture(scope="module")
def web_camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    clip = tmp_path_factory.mktemp("web") / "clip.avi"
    picture = np.full((48, 64, 3), (200, 30, 30), np.uint8)
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for _ in range(20):
        writer.write(picture)
    writer.release()
    WebCamera.recording = clip.read_bytes()
    WebCamera.picture = cv2.imencode(".jpg", picture)[1].tobytes()
    web = ThreadingHTTPServer(("127.0.0.1", 0), WebCamera)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    thread.join(START_S)
    web.server_close()


def test_a_stream_of_jpegs_over_http(web_camera: str) -> None:
    source = opened(f"{web_camera}/stream.mjpg?token=s3cret")
    assert source.live
    frames = [source.read() for _ in range(5)]
    assert [frame.seq for frame in frames if frame] == list(range(5))
    assert frames[0] is not None
    blue, green, red = frames[0].pixels.reshape(-1, 3).mean(axis=0)
    assert blue > 150
    assert max(green, red) < 80
    assert source.uri == f"{web_camera}/stream.mjpg?token=***"
    message, _ = read_until_lost(source, 30)
    source.close()
    assert "stopped after" in message


def test_a_file_over_http_is_no_live_stream(web_camera: str) -> None:
    with pytest.raises(SourceError, match="is a file, not a live stream"):
        opened(f"{web_camera}/clip.avi")
