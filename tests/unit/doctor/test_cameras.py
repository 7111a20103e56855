"""What is asked of a camera against what it offers; the offers as a driver of V4L2 gives them."""

from __future__ import annotations

import struct

import pytest

from edgeinfer.config import PipelineConfig
from edgeinfer.doctor.sources import judge
from edgeinfer.sources.v4l2 import Mode, modes_by

WEBCAM = (
    Mode("YUYV", 640, 480, 30.0),
    Mode("YUYV", 1280, 720, 10.0),
    Mode("MJPG", 640, 480, 30.0),
    Mode("MJPG", 1280, 720, 30.0),
)


class Driver:
    """Answers the three questions as a driver does, one entry for each index."""

    def __init__(
        self, offers: dict[str, list[tuple[int, int, list[tuple[int, int]]]]], *, planes: bool = False
    ) -> None:
        self.offers = offers
        self.kind = 9 if planes else 1

    def __call__(self, request: int, argument: bytes) -> bytes:
        words = list(struct.unpack(f"={len(argument) // 4}I", argument))
        try:
            if request == 0xC0405602:
                if words[1] != self.kind:
                    raise OSError(22, "Invalid argument")
                words[11] = int.from_bytes([*self.offers][words[0]].encode(), "little")
            else:
                sizes = self.offers[words[1].to_bytes(4, "little").decode()]
                if request == 0xC02C564A:
                    words[2:5] = 1, *sizes[words[0]][:2]
                else:
                    intervals = next(each[2] for each in sizes if each[:2] == (words[2], words[3]))
                    words[4:7] = 1, *intervals[words[0]]
        except IndexError:
            raise OSError(22, "Invalid argument") from None
        return struct.pack(f"={len(words)}I", *words)


@pytest.mark.parametrize("planes", [False, True])
def test_formats_sizes_and_the_highest_rate_are_read(planes):
    driver = Driver(
        {"YUYV": [(640, 480, [(1, 30), (1, 15)]), (1280, 720, [(1, 10)])], "MJPG": [(640, 480, [])]}, planes=planes
    )
    assert tuple(modes_by(driver)) == (
        Mode("YUYV", 640, 480, 30.0),
        Mode("YUYV", 1280, 720, 10.0),
        Mode("MJPG", 640, 480, None),
    )


def test_a_driver_that_gives_a_range_is_understood():
    def driver(request: int, argument: bytes) -> bytes:
        words = list(struct.unpack(f"={len(argument) // 4}I", argument))
        if words[0] > 0 or (request == 0xC0405602 and words[1] != 1):
            raise OSError(22, "Invalid argument")
        if request == 0xC0405602:
            words[11] = int.from_bytes(b"NV12", "little")
        elif request == 0xC02C564A:
            words[2:9] = 3, 32, 2592, 2, 32, 1944, 2
        else:
            words[4:7] = 2, 1, 120
        return struct.pack(f"={len(words)}I", *words)

    (mode,) = modes_by(driver)
    assert mode == Mode("NV12", 2592, 1944, 120.0, least=(32, 32))
    assert mode.holds(640, 480)
    assert not mode.holds(4096, 2160)


def test_a_driver_that_never_ends_is_left_after_a_while():
    def driver(request: int, argument: bytes) -> bytes:
        words = list(struct.unpack(f"={len(argument) // 4}I", argument))
        if request != 0xC0405602:
            raise OSError(25, "Inappropriate ioctl for device")
        return struct.pack(f"={len(words)}I", *words)

    assert tuple(modes_by(driver)) == ()


def judged(offered=WEBCAM, **asked):
    return list(judge(PipelineConfig(model="m", source="/dev/video0", **asked), offered))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"width": 640, "height": 480},
        {"width": 640, "height": 480, "fps": 30.0},
        {"width": 1280, "height": 720, "pixel_format": "MJPG"},
        {"width": 1280, "height": 720, "fps": 10.0},
    ],
)
def test_what_a_camera_offers_may_be_asked_of_it(asked):
    assert judged(**asked) == []


def test_a_format_that_it_does_not_offer_is_an_error_with_one_that_it_does():
    (finding,) = judged(pixel_format="NV12")
    assert (finding.severity, finding.what) == ("error", "/dev/video0 offers no NV12")
    assert finding.remedy == 'pixel_format = "YUYV" (it offers YUYV, MJPG)'


def test_a_size_that_it_does_not_offer_is_a_warning_with_the_nearest():
    (finding,) = judged(width=1920, height=1080)
    assert (finding.severity, finding.remedy) == ("warning", "width = 1280, height = 720")


def test_a_large_raw_picture_that_comes_slowly_is_a_warning_with_the_format_that_is_faster():
    (finding,) = judged(width=1280, height=720)
    assert finding.what == "/dev/video0 gives 1280x720 as YUYV at 10 fps only"
    assert finding.remedy == 'pixel_format = "MJPG", which comes at 30 fps'


def test_where_no_format_is_faster_a_smaller_size_is():
    (finding,) = judged(WEBCAM[:2], width=1280, height=720, fps=30.0)
    assert finding.remedy == "ask for a smaller width and height"


def test_a_bare_sensor_gives_no_pictures():
    (finding,) = judged((Mode("pBAA", 2592, 1944, None), Mode("RG10", 2592, 1944, None)))
    assert finding.severity == "error"
    assert "pBAA, RG10" in finding.what
    assert finding.remedy.startswith("libcamerify")
