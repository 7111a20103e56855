"""Pictures on a topic of their own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeinfer.frame import Frame
from edgeinfer.uplink.snapshot import Snapshots, snapshot
from edgeinfer.uplink.topics import Topics


def frame(seq: int = 0, *, width: int = 640, height: int = 480, at_s: float = 0.0) -> Frame:
    left_is_blue = np.zeros((height, width, 3), np.uint8)
    left_is_blue[:, : width // 2] = (255, 0, 0)
    return Frame(left_is_blue, seq, round(at_s * 1e9), 1_795_000_000_000_000_000, "test:")


def decoded(payload: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)


def test_the_first_frame_is_taken_and_then_one_each_so_many_seconds():
    snapshots = Snapshots(2.0)
    assert [seq for seq in range(70) if snapshots.takes(frame(seq, at_s=seq / 10))] == [0, 20, 40, 60]


def test_after_a_silence_there_is_one_and_not_all_that_were_missed():
    snapshots = Snapshots(1.0)
    assert [snapshots.takes(frame(at_s=at_s)) for at_s in (0.0, 100.0, 100.1, 100.9, 101.0)] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_it_is_a_jpeg_that_the_broker_keeps_and_that_says_when_it_was_taken():
    sent = snapshot(frame(7), "door", Topics("pi-7"), "synced")
    assert (sent.topic, sent.qos, sent.retain) == ("edgeinfer/v1/pi-7/snapshots/door", 0, True)
    assert sent.content_type == "image/jpeg"
    assert dict(sent.user) == {"captured_at": "2026-11-18T11:06:40.000000Z", "clock": "synced", "seq": "7"}
    assert sent.payload.startswith(b"\xff\xd8\xff")


def test_a_small_picture_keeps_its_size_and_colours():
    picture = decoded(snapshot(frame(), "door", Topics("pi-7"), "synced").payload)
    assert picture.shape == (480, 640, 3)
    assert picture[240, 100] == pytest.approx((255, 0, 0), abs=6)
    assert picture[240, 500] == pytest.approx((0, 0, 0), abs=6)


@pytest.mark.parametrize(("width", "height", "size"), [(1920, 1080, (1280, 720)), (4000, 3, (1280, 1))])
def test_a_large_one_is_made_1280_wide(width, height, size):
    picture = decoded(snapshot(frame(width=width, height=height), "door", Topics("pi-7"), "synced").payload)
    assert picture.shape[1::-1] == size
