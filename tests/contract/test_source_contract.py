"""What every source promises, whatever it reads from."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinfer.errors import SourceError
from edgeinfer.frame import Frame
from edgeinfer.sources import SOURCES, Source, open_source
from edgeinfer.sources.camera import probe

ENOUGH = 6


def _camera(_folder: Path) -> str:
    for node in sorted(Path("/dev").glob("video*")):
        try:
            probe(node, str(node))
        except SourceError:
            continue
        return str(node)
    pytest.skip("no camera on this machine; the vm test has one")


def _rtsp(_folder: Path) -> str:
    pytest.skip("no stream on this machine; acceptance/test_rtsp.py serves one")


def _video(folder: Path) -> str:
    path = folder / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for index in range(ENOUGH + 4):
        writer.write(np.full((48, 64, 3), 20 * index, np.uint8))
    writer.release()
    return str(path)


def _images(folder: Path) -> str:
    for index in range(ENOUGH + 4):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((48, 64, 3), 20 * index, np.uint8))
    return str(folder)


def _synthetic(_folder: Path) -> str:
    return "synthetic://test-card?width=64&height=48&fps=100"


WORDS: dict[str, Callable[[Path], str]] = {
    "camera": _camera,
    "rtsp": _rtsp,
    "video": _video,
    "images": _images,
    "synthetic": _synthetic,
}


# What they promise stands in unit/sources: their readings are no frames.
OF_SAMPLES = frozenset({"serial", "mic", "wav", "csv", "jsonl", "sqlite", "stdin", "mqtt"})


@pytest.fixture(params=[name for name in SOURCES.names() if name not in OF_SAMPLES])
def word(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param not in WORDS:
        pytest.skip(f"no word known here for the plugin {request.param!r}")
    return WORDS[request.param](tmp_path)


@pytest.fixture
def source(word: str):
    opened = open_source(word)
    yield opened
    opened.close()


def take(source: Source, count: int = ENOUGH) -> list[Frame]:
    return [frame for frame in (source.read() for _ in range(count)) if frame is not None]


def test_it_says_what_it_is(source: Source, word: str) -> None:
    assert source.uri == word
    assert isinstance(source.live, bool)
    assert source.fps is None or source.fps > 0
    assert isinstance(source.skipped, Mapping)


def test_frames_are_blue_green_red_bytes(source: Source) -> None:
    frames = take(source)
    assert len(frames) == ENOUGH
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.ndim == 3
        assert frame.pixels.shape[2] == 3
        assert frame.pixels.flags["C_CONTIGUOUS"]


def test_frames_are_the_callers_to_keep(source: Source) -> None:
    frames = take(source)
    copies = [frame.pixels.copy() for frame in frames]
    take(source, 2)
    assert all(np.array_equal(frame.pixels, copy) for frame, copy in zip(frames, copies, strict=True))
    assert not any(np.shares_memory(a.pixels, b.pixels) for a, b in itertools.combinations(frames, 2))


def test_frames_count_from_zero_without_gaps(source: Source) -> None:
    assert [frame.seq for frame in take(source)] == list(range(ENOUGH))


def test_frames_say_when_they_were_taken(source: Source) -> None:
    for _ in range(ENOUGH):
        before_ns, before_unix_ns = time.monotonic_ns(), time.time_ns()
        frame = source.read()
        assert frame is not None
        assert before_ns <= frame.captured_ns <= time.monotonic_ns()
        assert before_unix_ns - 1_000_000_000 <= frame.captured_unix_ns <= time.time_ns() + 1_000_000_000


def test_only_files_have_positions_and_they_never_go_back(source: Source) -> None:
    positions = [frame.position_s for frame in take(source)]
    if source.live:
        assert positions == [None] * ENOUGH
    else:
        known = [position for position in positions if position is not None]
        assert known == sorted(known)


def test_closed_it_gives_nothing_and_may_be_closed_again(source: Source) -> None:
    assert source.read() is not None
    source.close()
    assert source.read() is None
    source.close()


def test_closed_by_another_thread_the_read_ends(source: Source) -> None:
    ended = threading.Event()

    def read_all() -> None:
        while source.read() is not None:
            pass
        ended.set()

    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    time.sleep(0.05)
    source.close()
    assert ended.wait(10)
    reader.join(10)


def test_the_word_opens_again(word: str) -> None:
    for _ in range(2):
        source = open_source(word)
        frame = source.read()
        source.close()
        assert frame is not None
        assert frame.seq == 0
