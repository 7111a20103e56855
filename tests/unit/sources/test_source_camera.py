"""The camera driver without a camera: what it says, what it remembers, when it gives up."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources import SourceOptions, camera, open_source
from edgeinfer.sources.camera import CameraSource, Taken, device_of, differs, probe, stable_link


@pytest.fixture(autouse=True)
def _forget():
    camera.MEMORY.clear()
    yield
    camera.MEMORY.clear()


class Sensor:
    """Stands in for a capture: a list of pictures, None for a failed read; each read takes some time."""

    def __init__(self, pictures: list[np.ndarray | None], *, read_ns: int = 10_000_000) -> None:
        self.closed = False
        self.now_ns = 0
        self.pauses = 0
        self.was_set: dict[int, float] = {}
        self.takes_settings = True
        self._pictures = itertools.chain(pictures, itertools.repeat(None))
        self._read_ns = read_ns

    def read(self) -> np.ndarray | None:
        self.now_ns += self._read_ns
        return next(self._pictures)

    def wait_closed(self, seconds: float) -> bool:
        self.pauses += 1
        self.now_ns += round(seconds * 1e9)
        return self.closed

    def set(self, prop: int, value: float) -> bool:
        self.was_set[prop] = value
        return self.takes_settings

    def close(self) -> None:
        self.closed = True


def source_of(
    sensor: Sensor,
    node: Path,
    *,
    compressed: bool = False,
    pixel_format: str = "YUYV",
    read_timeout_s: float = 5.0,
) -> CameraSource:
    clock = Clock(monotonic_ns=lambda: sensor.now_ns)
    taken = Taken(64, 48, 30.0, "MJPG" if compressed else pixel_format, compressed)
    return CameraSource("/dev/video0", node, sensor, taken, read_timeout_s, clock)  # type: ignore[arg-type]


GRAY = np.full((48, 64, 3), 90, np.uint8)


def encoded(pixels: np.ndarray) -> np.ndarray:
    return cv2.imencode(".jpg", pixels)[1].reshape(1, -1)


def test_frames_count_from_zero_and_say_when(tmp_path: Path) -> None:
    source = source_of(Sensor([GRAY, GRAY, GRAY]), tmp_path)
    frames = [source.read() for _ in range(3)]
    assert [(frame.seq, frame.captured_ns, frame.position_s) for frame in frames if frame] == [
        (0, 10_000_000, None),
        (1, 20_000_000, None),
        (2, 30_000_000, None),
    ]


def test_a_single_failed_read_is_tried_again(tmp_path: Path) -> None:
    source = source_of(Sensor([GRAY, None, None, GRAY]), tmp_path)
    assert [frame.seq for frame in (source.read(), source.read()) if frame] == [0, 1]


def test_failing_at_once_again_and_again_is_lost_and_does_not_spin(tmp_path: Path) -> None:
    sensor = Sensor([GRAY], read_ns=1000)
    source = source_of(sensor, tmp_path)
    source.read()
    with pytest.raises(SourceLost, match="failed 10 times in a row, after 1 frames"):
        source.read()
    assert sensor.pauses == 10


def test_silence_is_lost_after_the_read_timeout(tmp_path: Path) -> None:
    sensor = Sensor([GRAY], read_ns=1_000_000_000)
    source = source_of(sensor, tmp_path, read_timeout_s=3.0)
    source.read()
    with pytest.raises(SourceLost, match="gave no frame for"):
        source.read()
    assert 4 <= sensor.now_ns / 1e9 < 6


def test_a_node_that_is_gone_is_lost_at_once(tmp_path: Path) -> None:
    sensor = Sensor([])
    with pytest.raises(SourceLost, match="is gone after 0 frames"):
        source_of(sensor, tmp_path / "video0").read()
    assert sensor.pauses == 1


def test_a_closed_camera_gives_nothing(tmp_path: Path) -> None:
    source = source_of(Sensor([GRAY]), tmp_path)
    source.close()
    source.close()
    assert source.read() is None


def test_pictures_cut_off_are_passed_over_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = encoded(GRAY)
    source = source_of(Sensor([whole, whole[:, :-30], whole[:, :-30], whole]), tmp_path, compressed=True)
    frames = [source.read(), source.read()]
    assert [frame.seq for frame in frames if frame] == [0, 1]
    assert all(frame and np.abs(frame.pixels.astype(int) - 90).max() < 4 for frame in frames)
    assert source.skipped == {"damaged pictures": "2, the last: a JPEG that was cut off"}
    assert len(caplog.records) == 1


def test_pictures_are_decoded_smaller_where_that_suffices(tmp_path: Path) -> None:
    source = source_of(Sensor([encoded(GRAY)] * 2), tmp_path, compressed=True)
    source.suffice(32, 24)
    frame = source.read()
    assert frame is not None
    assert frame.pixels.shape == (24, 32, 3)
    assert (frame.width, frame.height) == (64, 48)


@pytest.mark.parametrize("enough", [(33, 24), (64, 48), (640, 480)])
def test_pictures_are_as_they_were_where_the_model_needs_them(tmp_path: Path, enough: tuple[int, int]) -> None:
    source = source_of(Sensor([encoded(GRAY)]), tmp_path, compressed=True)
    source.suffice(*enough)
    frame = source.read()
    assert frame is not None
    assert frame.pixels.shape == (48, 64, 3)
    assert frame.full_size is None


def test_raw_pictures_are_reduced_before_they_are_converted(tmp_path: Path) -> None:
    sensor = Sensor([np.full((72, 64), 128, np.uint8)])
    source = source_of(sensor, tmp_path, pixel_format="NV12")
    source.suffice(16, 12)
    assert sensor.was_set == {cv2.CAP_PROP_CONVERT_RGB: 0}
    frame = source.read()
    assert frame is not None
    assert frame.pixels.shape == (12, 16, 3)
    assert (frame.width, frame.height) == (64, 48)


def test_a_camera_that_gives_nothing_raw_is_read_as_before(tmp_path: Path) -> None:
    sensor = Sensor([GRAY])
    sensor.takes_settings = False
    source = source_of(sensor, tmp_path, pixel_format="NV12")
    source.suffice(16, 12)
    frame = source.read()
    assert frame is not None
    assert frame.pixels.shape == (48, 64, 3)


def test_nothing_but_damaged_pictures_is_lost(tmp_path: Path) -> None:
    cut = encoded(GRAY)[:, :-30]
    with pytest.raises(SourceLost, match="failed 10 times"):
        source_of(Sensor([cut] * 100), tmp_path, compressed=True).read()


@pytest.mark.parametrize(
    ("word", "device", "query"),
    [
        ("/dev/video2", "/dev/video2", None),
        ("/dev/v4l/by-id/cam-index0", "/dev/v4l/by-id/cam-index0", None),
        ("camera://0", "/dev/video0", ""),
        ("camera://03/?fps=5", "/dev/video3", "fps=5"),
    ],
)
def test_a_word_names_a_device(word: str, device: str, query: str | None) -> None:
    assert device_of(word) == (Path(device), query)


@pytest.mark.parametrize("word", ["camera://", "camera://front", "camera://-1", "camera://1234"])
def test_a_word_that_names_no_device_is_refused(word: str) -> None:
    with pytest.raises(SourceError, match="names no camera"):
        open_source(word)


def test_an_absent_camera_is_one_line() -> None:
    if Path("/dev/video63").exists():
        pytest.skip("this machine has a /dev/video63")
    with pytest.raises(SourceError, match="there is no /dev/video63"):
        open_source("/dev/video63")
    with pytest.raises(SourceError, match="did you mean 'width'"):
        open_source("camera://63?widht=640")


def test_a_file_or_another_device_is_no_camera(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for node in (tmp_path / "file", Path("/dev/null")):
        with pytest.raises(SourceError, match="is no video device"):
            probe(node, "/dev/video0")


def test_a_camera_that_may_not_be_opened_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceError, match=r"no permission .* group video"):
        probe(tmp_path, "/dev/video0")


def test_the_stable_link_is_found_by_serial_before_plug(tmp_path: Path) -> None:
    node, other = tmp_path / "video0", tmp_path / "video1"
    node.touch()
    other.touch()
    by_id, by_path = tmp_path / "by-id", tmp_path / "by-path"
    for folder in (by_id, by_path):
        folder.mkdir()
        (folder / "cam-index0").symlink_to(node)
        (folder / "aaa-index0").symlink_to(other)
    assert stable_link(node, (by_id, by_path)) == by_id / "cam-index0"
    (by_id / "cam-index0").unlink()
    assert stable_link(node, (by_id, by_path)) == by_path / "cam-index0"
    assert stable_link(tmp_path / "video2", (by_id, by_path, tmp_path / "none")) is None


def test_a_camera_is_found_again_under_another_number(tmp_path: Path) -> None:
    link, device, renumbered = tmp_path / "link", tmp_path / "video0", tmp_path / "video1"
    renumbered.touch()
    camera.MEMORY.put(device, camera._Known(link, "Cam (usb-1)"))
    assert camera._find(device, "/dev/video0") == device  # Not back yet: the word as it stands.
    link.symlink_to(renumbered)
    assert camera._find(device, "/dev/video0") == renumbered
    assert camera._find(tmp_path / "video5", "/dev/video5") == tmp_path / "video5"


def test_the_memory_is_bounded() -> None:
    for number in range(200):
        camera.MEMORY.put(Path(f"/dev/video{number}"), camera._Known(None, str(number)))
    assert camera.MEMORY.get(Path("/dev/video0")) is None
    known = camera.MEMORY.get(Path("/dev/video199"))
    assert known is not None
    assert known.identity == "199"


def test_what_was_not_taken_as_asked_is_noticed() -> None:
    taken = Taken(640, 480, 29.97, "YUYV", compressed=False)
    assert not differs(SourceOptions(), taken)
    assert not differs(SourceOptions(width=640, height=480, fps=30.0, pixel_format="YUYV"), taken)
    for other in (
        SourceOptions(width=1280),
        SourceOptions(height=720),
        SourceOptions(fps=60.0),
        SourceOptions(pixel_format="MJPG"),
    ):
        assert differs(other, taken)
