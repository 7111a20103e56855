"""Reduced pictures against the full ones, made smaller afterwards."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeinfer.sources.picture import BadPicture, decode
from edgeinfer.sources.reduced import can_be_reduced, factor_for, from_nv12

WIDTH, HEIGHT = 160, 96


@pytest.fixture
def picture() -> np.ndarray:
    """Soft colours with a white box: no detail finer than some pixels, none that YUV cannot hold."""
    coarse = np.random.default_rng(3).integers(90, 170, (6, 10, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    cv2.rectangle(picture, (40, 24), (103, 71), (255, 255, 255), cv2.FILLED)
    return picture


def nv12_of(bgr: np.ndarray) -> np.ndarray:
    yuv = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    quarter = HEIGHT // 4
    colour = np.stack([yuv[HEIGHT : HEIGHT + quarter].ravel(), yuv[HEIGHT + quarter :].ravel()], axis=1)
    return np.vstack([yuv[:HEIGHT], colour.reshape(HEIGHT // 2, WIDTH)])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_reduced_picture_is_the_full_one_made_smaller(picture, factor):
    found = from_nv12(nv12_of(picture), WIDTH, HEIGHT, factor)
    expected = cv2.resize(picture, (WIDTH // factor, HEIGHT // factor), interpolation=cv2.INTER_AREA)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 4
    # Where the box is, to the pixel.
    box = (found.min(axis=2) > 200).nonzero()
    assert [box[0].min() * factor, box[0].max() * factor + factor] == [24, 72]
    assert [box[1].min() * factor, box[1].max() * factor + factor] == [40, 104]


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_jpeg_is_decoded_at_the_reduced_size(picture, factor):
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    found = decode(data, factor=factor)
    expected = cv2.resize(picture, (WIDTH // factor, HEIGHT // factor), interpolation=cv2.INTER_AREA)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 6


def test_a_picture_cut_off_is_bad():
    with pytest.raises(BadPicture, match="came with 100 bytes"):
        from_nv12(np.zeros(100, np.uint8), WIDTH, HEIGHT, 2)


@pytest.mark.parametrize(
    ("size", "enough", "factor"),
    [
        ((1280, 720), (300, 300), 2),
        ((1920, 1080), (224, 224), 4),
        ((1920, 1080), (128, 128), 8),
        ((640, 480), (320, 240), 2),
        ((640, 480), (321, 240), 1),
        ((640, 480), (640, 640), 1),
        ((100, 100), (1, 1), 8),
    ],
)
def test_the_factor_leaves_what_is_enough(size, enough, factor):
    assert factor_for(*size, enough) == factor


def test_only_known_formats_and_sides_without_a_remainder_are_reduced():
    assert can_be_reduced("NV12", 640, 480, 4)
    assert not can_be_reduced("NV12", 642, 480, 2)
    assert not can_be_reduced("YUYV", 640, 480, 2)
