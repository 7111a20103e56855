"""Network streams as far as they go without a server: addresses, and that no password is shown."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources import SourceOptions, open_source
from edgeinfer.sources.rtsp import RtspSource, hide_credentials


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://host:554/x", "rtsp://host:554/x"),
        ("rtsp://user:s3cret@host:554/x", "rtsp://***@host:554/x"),
        ("rtsps://user@host/x", "rtsps://***@host/x"),
        ("rtsp://user:s3cret@more@host/x", "rtsp://***@host/x"),
        ("rtsp://user:s3/cret@host/x", "rtsp://***@host/x"),
        ("rtsp://user:554/s3cret@host/x", "rtsp://***@host/x"),
        ("rtsp://host/user=admin&password=s3cret&channel=1", "rtsp://host/user=***&password=***&channel=1"),
        ("http://host/x?Token=s3cret&size=1", "http://host/x?Token=***&size=1"),
    ],
)
def test_credentials_are_hidden(url: str, shown: str) -> None:
    assert hide_credentials(url) == shown


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def mute_port() -> Iterator[int]:
    """Somebody who accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                return

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        accepting.join()  # Or it may still take one in, which nobody closes.
        for connection in held:
            connection.close()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_nobody_there(scheme: str, closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as caught:
        open_source(f"{scheme}://user:s3cret@127.0.0.1:{closed_port}/x?token=t0ken")
    assert f"{scheme}://***@127.0.0.1:{closed_port}/x" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    for hidden in ("s3cret", "user:", "t0ken"):
        assert hidden not in str(caught.value) + caplog.text


def test_a_host_that_never_answers_is_given_up(mute_port: int, capfd: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    with pytest.raises(SourceError, match="answers, but gives no stream"):
        open_source(f"rtsp://user:s3cret@127.0.0.1:{mute_port}/x", SourceOptions(open_timeout_s=1.0))
    assert time.monotonic() - begun < 5
    assert "s3cret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "word", ["rtsp://", "rtsp:///x", "rtsp://host:99999/x", "rtsp://user:s3/cret@host/x", "http://[x/y"]
)
def test_what_is_no_address_is_refused(word: str) -> None:
    with pytest.raises(SourceError, match=r"names no host|is no address") as caught:
        open_source(word)
    assert "s3" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(SourceError, match="width cannot be chosen for a network stream"):
        open_source("rtsp://user:s3cret@host/x", SourceOptions(width=640))


class Stream:
    """Stands in for a capture: after how many milliseconds each frame comes; then None."""

    closed = False

    def __init__(self, waits_ms: list[float]) -> None:
        self.now_ns = 0
        self.reads = 0
        self._waits_ms = waits_ms

    def get(self, prop: int) -> float:
        return 25.0 if prop == cv2.CAP_PROP_FPS else 0.0

    def read(self) -> np.ndarray | None:
        if self.reads >= len(self._waits_ms):
            return None
        self.now_ns += round(self._waits_ms[self.reads] * 1e6)
        self.reads += 1
        return np.full((2, 2, 3), self.reads, np.uint8)


def stream_of(waits_ms: list[float]) -> tuple[Stream, RtspSource]:
    stream = Stream(waits_ms)
    clock = Clock(monotonic_ns=lambda: stream.now_ns)
    return stream, RtspSource("rtsp://host/x", stream, 5.0, clock)  # type: ignore[arg-type]


def shown(source: RtspSource) -> list[int]:
    frames = []
    try:
        while (frame := source.read()) is not None:
            frames.append(frame)
    except SourceLost:
        assert [frame.seq for frame in frames] == list(range(len(frames)))
        return [int(frame.pixels[0, 0, 0]) for frame in frames]
    pytest.fail("ended without being lost")


def test_frames_held_back_while_connecting_are_let_go() -> None:
    _, source = stream_of([1] * 30 + [40] * 5)
    assert shown(source) == [31, 32, 33, 34, 35]


def test_a_stream_faster_than_its_rate_is_not_skipped_for_ever() -> None:
    _, source = stream_of([10] * 1000)
    frame = source.read()
    assert frame is not None
    assert frame.captured_ns < 3_000_000_000


def test_the_only_frame_of_a_stream_is_given() -> None:
    _, source = stream_of([1])
    assert shown(source) == [1]


def test_a_frame_flushed_by_the_timeout_is_not_passed_as_fresh() -> None:
    stream, source = stream_of([40] * 4 + [5000, 5000])
    assert shown(source) == [1, 2, 3, 4]
    assert stream.reads == 5
