"""Video files: every frame in order, its time, and an end that comes too early."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.frame import Frame
from edgeinfer.sources import SourceOptions, open_source
from edgeinfer.sources.capture import open_capture
from edgeinfer.sources.video import VideoSource

MEDIA = Path(__file__).parents[3] / "../shared/testdata/media"
MADE = [("clip.mp4", "mp4v"), ("clip.mov", "mp4v"), ("clip.mkv", "mp4v"), ("clip.avi", "MJPG"), ("clip.ts", "mp4v")]


def frames_of(word: Path) -> list[Frame]:
    source = open_source(str(word))
    try:
        return list(iter(source.read, None))
    finally:
        source.close()


def frames_before_error(word: Path) -> tuple[list[Frame], str]:
    source = open_source(str(word))
    frames = []
    try:
        while (frame := source.read()) is not None:
            frames.append(frame)
    except SourceError as error:
        return frames, str(error)
    finally:
        source.close()
    pytest.fail("ended without an error")


@pytest.mark.parametrize(("name", "codec"), MADE)
def test_every_frame_in_order_with_its_time(make_video, name: str, codec: str) -> None:
    frames = frames_of(make_video(name, codec=codec, frames=40, fps=20.0))
    assert [frame.seq for frame in frames] == list(range(40))
    assert [frame.pixels.shape for frame in frames] == [(48, 64, 3)] * 40
    for index, frame in enumerate(frames):
        assert abs(float(frame.pixels.mean()) - 5 * index) < 4
        assert frame.position_s == pytest.approx(index / 20.0, abs=0.002)
    assert all(a.captured_ns < b.captured_ns for a, b in itertools.pairwise(frames))


def test_frames_are_the_callers_to_keep(make_video) -> None:
    frames = frames_of(make_video())
    assert len({frame.pixels.ctypes.data for frame in frames}) == len(frames)


def test_a_video_is_lossless_and_knows_its_rate(make_video) -> None:
    path = make_video(fps=12.5)
    source = open_source(str(path))
    assert not source.live
    assert source.fps == pytest.approx(12.5)
    assert source.uri == str(path)
    source.close()


@pytest.mark.parametrize(("name", "codec"), [("clip.mkv", "mp4v"), ("clip.avi", "MJPG")])
def test_a_video_cut_off_is_an_error_after_all_that_can_be_read(make_video, name: str, codec: str) -> None:
    path = make_video(name, codec=codec, frames=100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames, message = frames_before_error(path)
    assert len(frames) > 10
    assert f"ended after {len(frames)} of 100 frames" in message


def test_an_mp4_without_its_index_is_no_video(make_video) -> None:
    path = make_video()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SourceError, match="no video that can be read"):
        open_source(str(path))


def test_a_real_video_cut_in_the_middle(tmp_path: Path) -> None:
    film = MEDIA / "video/one-by-one-person-detection.mp4"
    if not film.is_file():
        pytest.skip("no test data beside the checkout")
    data = film.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 8])
    frames, message = frames_before_error(cut)
    assert len(frames) > 50
    assert f"ended after {len(frames)} of 1394 frames" in message


def test_real_videos_end_without_an_error() -> None:
    film = MEDIA / "video/traffic_hd_short.mp4"
    if not film.is_file():
        pytest.skip("no test data beside the checkout")
    frames = frames_of(film)
    assert len(frames) == 20
    assert frames[-1].position_s == pytest.approx(0.6333, abs=0.001)


def test_a_header_without_a_rate_does_not_break(make_video) -> None:
    path = make_video("clip.avi", codec="MJPG")
    data = bytearray(path.read_bytes())
    main, stream = data.index(b"avih") + 8, data.index(b"strh") + 8
    struct.pack_into("<I", data, main, 0)  # Microseconds per frame.
    struct.pack_into("<II", data, stream + 20, 0, 0)  # Scale and rate.
    path.write_bytes(data)
    frames = frames_of(path)
    assert len(frames) == 40
    positions = [frame.position_s for frame in frames]
    assert all(a <= b for a, b in itertools.pairwise(positions))


def test_text_renamed_is_refused_before_ffmpeg_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    with pytest.raises(SourceError, match="is text, not a video"):
        open_source(str(path))


def test_noise_renamed_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(20_000))
    with pytest.raises(SourceError, match="no video that can be read"):
        open_source(str(path))


def test_options_without_effect_are_refused(make_video) -> None:
    with pytest.raises(SourceError, match="fps cannot be chosen for a video file"):
        open_source(str(make_video()), SourceOptions(fps=5.0))


def test_closed_by_another_thread_while_read(make_video) -> None:
    source = open_source(str(make_video(frames=50)))
    source.read()
    reader = threading.Thread(target=lambda: [source.read() for _ in range(2000)])
    reader.start()
    source.close()
    reader.join(10)
    assert not reader.is_alive()
    assert source.read() is None
    source.close()


READ_ALL = """
import sys
from edgeinfer.errors import SourceError
from edgeinfer.sources import open_source
for word in sys.argv[1:]:
    try:
        source = open_source(word)
        while source.read() is not None:
            pass
    except SourceError as error:
        print(error)
"""


class AtRead:
    """A pace that wants more threads after that read, the first being 1, and finds what it is shown worth it or not."""

    is_settled = False

    def __init__(self, wanted_at: int, *, finds_it_worth: bool = True) -> None:
        self._wanted_at = wanted_at
        self._finds_it_worth = finds_it_worth
        self.asked = 0
        self.shown_ns: list[float] = []

    def wants_more(self, begun_ns: int, decoded_ns: int, ended_ns: int) -> bool:
        assert begun_ns <= decoded_ns <= ended_ns
        self.asked += 1
        return self.asked == self._wanted_at

    def is_worth(self, decode_ns: float) -> bool:
        self.shown_ns.append(decode_ns)
        return self._finds_it_worth


def opened_with(path: Path, pace: AtRead, open_faster) -> VideoSource:
    capture = open_capture(str(path), cv2.CAP_FFMPEG, (cv2.CAP_PROP_N_THREADS, 1))
    assert capture is not None
    return VideoSource(str(path), capture, path.read_bytes()[:16], Clock(), open_faster=open_faster, pace=pace)


@pytest.mark.parametrize("wanted_at", [1, 2, 17])
@pytest.mark.parametrize(("name", "codec"), MADE)
def test_with_more_threads_it_goes_on_with_the_next_frame(make_video, name: str, codec: str, wanted_at: int) -> None:
    path = make_video(name, codec=codec, frames=100)
    opened = []

    def open_faster():
        opened.append(open_capture(str(path), cv2.CAP_FFMPEG))
        return opened[-1]

    pace = AtRead(wanted_at)
    source = opened_with(path, pace, open_faster)
    slower = source._capture
    frames = list(iter(source.read, None))
    expected = frames_of(path)
    assert [(frame.seq, frame.position_s) for frame in frames] == [(each.seq, each.position_s) for each in expected]
    assert all((frame.pixels == each.pixels).all() for frame, each in zip(frames, expected, strict=True))
    assert pace.asked == wanted_at, "it is asked no more"
    assert len(pace.shown_ns) == 1
    assert source._capture is opened[0]
    assert slower.closed
    source.close()
    assert opened[0].closed


def test_where_it_is_not_worth_it_or_the_end_is_near_the_first_is_read_on(make_video) -> None:
    path = make_video(frames=40)
    opened = []

    def open_faster():
        opened.append(open_capture(str(path), cv2.CAP_FFMPEG))
        return opened[-1]

    source = opened_with(path, AtRead(5, finds_it_worth=False), open_faster)
    assert len(list(iter(source.read, None))) == 40
    assert opened[0].closed
    source.close()
    source = opened_with(path, AtRead(9), open_faster)
    assert len(list(iter(source.read, None))) == 40
    assert len(opened) == 1, "a fifth of the file would have been decoded twice"
    source.close()


def test_a_file_is_opened_with_one_thread_and_again_where_its_pace_says_so(make_video, monkeypatch) -> None:
    path = make_video(frames=40)
    pace = AtRead(3)
    monkeypatch.setattr("edgeinfer.sources.video.DecoderPace", lambda: pace)
    source = open_source(str(path))
    assert source._capture.get(cv2.CAP_PROP_N_THREADS) == 1
    slower = source._capture
    assert [frame.seq for frame in iter(source.read, None)] == list(range(40))
    assert source._capture is not slower
    assert slower.closed
    source.close()


def test_where_the_file_is_another_one_now_the_first_is_read_on(make_video) -> None:
    path, other = make_video(frames=130), make_video("other.mp4", frames=10)
    expected = frames_of(path)
    opened = []

    def open_faster():
        opened.append(open_capture(str(other), cv2.CAP_FFMPEG))
        return opened[-1]

    for wanted_at in (5, 20):  # Of the other one that frame is another, or not there.
        if wanted_at == 5:
            writer = cv2.VideoWriter(str(other), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
            for _ in range(10):
                writer.write(np.full((48, 64, 3), 200, np.uint8))
            writer.release()
        source = opened_with(path, AtRead(wanted_at), open_faster)
        frames = list(iter(source.read, None))
        assert len(frames) == 130
        assert all((frame.pixels == each.pixels).all() for frame, each in zip(frames, expected, strict=True))
        assert opened[-1].closed
        source.close()
    source = opened_with(path, AtRead(5), lambda: None)  # Or it cannot be opened.
    assert len(list(iter(source.read, None))) == 130
    source.close()


@pytest.mark.parametrize("when", ["opened", "passed over", "compared"])
def test_closed_while_it_is_opened_with_more_threads_both_are_closed(make_video, monkeypatch, when: str) -> None:
    path = make_video(frames=40)
    opened = []
    grabs = 0

    def open_faster():
        nonlocal grabs
        faster = open_capture(str(path), cv2.CAP_FFMPEG)
        opened.append(faster)
        grab, retrieve = faster.grab, faster.retrieve

        def counted_grab():
            nonlocal grabs
            grabs += 1
            if when == "passed over":
                source.close()
            return grab()

        def closing_retrieve():
            picture = retrieve()
            if when == "compared":
                source.close()
            return picture

        faster.grab, faster.retrieve = counted_grab, closing_retrieve
        if when == "opened":
            source.close()
        return faster

    source = opened_with(path, AtRead(5), open_faster)
    slower = source._capture
    assert len(list(iter(source.read, None))) == 5
    assert grabs == {"opened": 0, "passed over": 1, "compared": 5}[when], "nobody waits for what is closed"
    assert slower.closed
    assert opened[0].closed


def test_ffmpeg_says_nothing_on_stderr(tmp_path: Path, make_video) -> None:
    path = make_video("clip.mkv", frames=100)
    path.write_bytes(path.read_bytes()[:3000])
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(20_000))
    # A process of its own: FFmpeg takes its level once, and the writer of the test's video came first here.
    ran = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path), str(noise)], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(ran.stdout.splitlines()) == 2
    assert ran.stderr == ""


class Tape:
    """Stands in for a capture whose timestamps a test writes."""

    closed = False

    def __init__(self, stamps_ms: list[float], *, fps: float, count: float) -> None:
        self._stamps_ms = iter(stamps_ms)
        self._now_ms = 0.0
        self._said = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}

    def read(self) -> np.ndarray | None:
        self._now_ms = next(self._stamps_ms, -1.0)
        return None if self._now_ms == -1.0 else np.zeros((2, 2, 3), np.uint8)

    def get(self, prop: int) -> float:
        return self._said.get(prop, self._now_ms)


def positions(stamps_ms: list[float], *, fps: float, count: float = 0, head: bytes = b"") -> list[float | None]:
    source = VideoSource("x", Tape(stamps_ms, fps=fps, count=count), head, Clock())  # type: ignore[arg-type]
    return [frame.position_s for frame in iter(source.read, None)]


def test_times_that_stand_still_or_go_back_are_replaced_by_the_rate() -> None:
    assert positions([0, 40, 40, 20, 160], fps=25) == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert positions([0, 0, 0, 0], fps=10) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert positions([0, 0, 100], fps=0) == pytest.approx([0, 0, 0.1])
    assert positions([float("nan"), float("nan")], fps=10) == pytest.approx([0, 0.1])


MP4, MKV, OTHER = b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3", b"G" * 12


@pytest.mark.parametrize(
    ("head", "count", "read", "fps", "complete"),
    [
        (MP4, 1000, 1000, 25, True),
        (MP4, 1000, 980, 25, True),  # An edit list may hide up to a group of pictures.
        (MP4, 1000, 950, 25, False),
        (MP4, 20, 17, 25, True),
        (MP4, 20, 16, 25, False),
        (MP4, 0, 5, 25, True),
        (MP4, -9.2e18, 5, 25, True),
        (MP4, 9.2e18, 5, 25, True),
        (MKV, 1000, 970, 25, True),  # Sound may be longer than the picture.
        (MKV, 1000, 900, 25, False),
        (OTHER, 1000, 10, 25, True),
    ],
)
def test_when_an_end_is_too_early(head: bytes, count: float, read: int, fps: float, complete: bool) -> None:
    stamps = [1000.0 * index / fps for index in range(read)]
    if complete:
        assert len(positions(stamps, fps=fps, count=count, head=head)) == read
    else:
        with pytest.raises(SourceError, match=f"ended after {read} of"):
            positions(stamps, fps=fps, count=count, head=head)


def test_a_varying_rate_in_matroska_is_no_early_end() -> None:
    # The header says 60 per second for ten seconds; one in six was there.
    assert len(positions([100.0 * index for index in range(100)], fps=60, count=600, head=MKV)) == 100


def test_a_video_of_no_frames_is_an_error() -> None:
    with pytest.raises(SourceError, match="holds no frame"):
        positions([], fps=25, count=10, head=MP4)
