"""Drawn pictures: the same each time, paced when live, and the drills."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources import SourceOptions, open_source
from edgeinfer.sources.smear import BloodSmear
from edgeinfer.sources.synthetic import SyntheticSource, card_box, read_script


class FakeTime:
    """A clock that only moves when somebody waits."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.waits_s: list[float] = []
        self.clock = Clock(monotonic_ns=lambda: self.now_ns, unix_ns=lambda: self.now_ns)

    def wait(self, seconds: float) -> bool:
        self.waits_s.append(seconds)
        self.now_ns += round(seconds * 1e9)
        return False


def source_of(word: str, fake: FakeTime, *, read_timeout_s: float = 5.0) -> SyntheticSource:
    script = read_script(word, SourceOptions())
    return SyntheticSource(word, script, fake.clock, read_timeout_s=read_timeout_s, wait=fake.wait)


def test_with_frames_it_is_a_file_without_waiting() -> None:
    fake = FakeTime()
    source = source_of("synthetic://test-card?frames=50&fps=25", fake)
    frames = list(iter(source.read, None))
    assert not source.live
    assert [frame.seq for frame in frames] == list(range(50))
    assert [frame.position_s for frame in frames] == pytest.approx([index / 25 for index in range(50)])
    assert fake.waits_s == []
    assert source.read() is None


def test_without_frames_it_is_a_camera_that_keeps_its_rate() -> None:
    fake = FakeTime()
    source = source_of("synthetic://test-card?fps=10", fake)
    frames = [source.read() for _ in range(31)]
    assert source.live
    assert all(frame is not None and frame.position_s is None for frame in frames)
    assert fake.now_ns - 1_000_000_000 == pytest.approx(3_000_000_000)
    assert max(fake.waits_s) == pytest.approx(0.1)


def test_a_late_reader_is_not_given_a_burst() -> None:
    fake = FakeTime()
    source = source_of("synthetic://test-card?fps=10", fake)
    source.read()
    fake.now_ns += 5_000_000_000
    begun_ns = fake.now_ns
    for _ in range(12):
        source.read()
    assert fake.now_ns - begun_ns >= 1_000_000_000


def test_live_may_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_script("synthetic://noise?frames=3&live=1", SourceOptions()).live
    assert not read_script("synthetic://noise?live=0", SourceOptions()).live


def test_the_box_of_the_card_is_where_it_is_said_to_be() -> None:
    source = open_source("synthetic://test-card?frames=120&width=320&height=200")
    for index in range(120):
        frame = source.read()
        assert frame is not None
        white = (frame.pixels == 255).all(axis=2)
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert seen == card_box(index, 320, 200)
    assert len({card_box(index, 320, 200) for index in range(120)}) > 100


def test_the_smear_is_the_drawn_one() -> None:
    source = open_source("synthetic://blood-smear?frames=3&width=160&height=120&seed=4")
    smear = BloodSmear(160, 120, seed=4)
    for index in range(3):
        frame = source.read()
        assert frame is not None
        assert np.array_equal(frame.pixels, smear.draw(index / 30.0))


def test_noise_differs_by_frame_and_seed_and_nothing_else() -> None:
    def first_two(seed: int) -> list[np.ndarray]:
        source = open_source(f"synthetic://noise?frames=2&seed={seed}&width=64&height=64")
        return [frame.pixels for frame in iter(source.read, None)]

    one, other = first_two(1), first_two(2)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], other[0])
    assert np.array_equal(one[0], first_two(1)[0])


def test_options_hold_where_the_query_is_silent() -> None:
    options = SourceOptions(width=320, height=240, fps=5.0)
    script = read_script("synthetic://noise?width=64", options)
    assert (script.width, script.height, script.fps) == (64, 240, 5.0)


def test_lost_after_some_frames_and_again_when_asked_again() -> None:
    source = open_source("synthetic://test-card?lose_after=3&fps=1000")
    assert [source.read() is not None for _ in range(3)] == [True] * 3
    for _ in range(2):
        with pytest.raises(SourceLost, match="lost after 3 frames"):
            source.read()


@pytest.mark.parametrize(("query", "before"), [("stall_after=2", 2), ("silent=1", 0)])
def test_a_stalled_source_is_lost_when_the_read_times_out(query: str, before: int) -> None:
    fake = FakeTime()
    source = source_of(f"synthetic://test-card?{query}", fake, read_timeout_s=7.0)
    for _ in range(before):
        assert source.read() is not None
    with pytest.raises(SourceLost, match="for 7 s"):
        source.read()
    assert fake.waits_s[-1] == 7.0


@pytest.mark.parametrize("word", ["synthetic://test-card?silent=1", "synthetic://test-card?fps=0.05"])
def test_close_wakes_a_waiting_read(word: str) -> None:
    source = open_source(word, SourceOptions(read_timeout_s=60.0))
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.extend([source.read(), source.read()]))
    reader.start()
    time.sleep(0.1)
    begun = time.monotonic()
    source.close()
    reader.join(5)
    assert time.monotonic() - begun < 1
    assert got[-1] is None
    assert source.read() is None
    source.close()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("synthetic://blood-smaer", "did you mean 'blood-smear'"),
        ("synthetic://", "known: blood-smear, noise, test-card"),
        ("synthetic://noise?frmes=3", "did you mean 'frames'"),
        ("synthetic://noise?frames=0", "frames=0"),
        ("synthetic://noise?live=2", "live=2"),
        ("synthetic://noise?width=8", "8x480"),
        ("synthetic://noise?width=16000&height=16000", "cannot be drawn"),
        ("synthetic://noise?fps=0", "fps 0"),
        ("synthetic://noise?format=MJPG", "unknown option 'format'"),
        ("synthetic://noise?silent=1&lose_after=3", "two faults"),
        ("synthetic://noise?seed=x", "seed=x"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused(word: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        open_source(word)


def test_a_pixel_format_is_refused() -> None:
    with pytest.raises(SourceError, match="format cannot be chosen"):
        open_source("synthetic://noise", SourceOptions(pixel_format="MJPG"))


def test_a_burst_comes_at_once_and_keeps_the_mean_rate() -> None:
    fake = FakeTime()
    source = source_of("synthetic://test-card?fps=10&burst=5", fake)
    captured_s = [(frame.captured_ns - 1_000_000_000) / 1e9 for frame in (source.read() for _ in range(20)) if frame]
    assert captured_s == pytest.approx([0.5 * (index // 5) for index in range(20)])


def test_the_size_changes_as_often_as_asked_for() -> None:
    source = source_of("synthetic://test-card?frames=8&width=65&height=48&resize_every=3", FakeTime())
    frames = list(iter(source.read, None))
    assert [(frame.width, frame.height) for frame in frames] == [(65, 48)] * 3 + [(33, 24)] * 3 + [(65, 48)] * 2
    assert all(frame.pixels.flags.c_contiguous for frame in frames)
