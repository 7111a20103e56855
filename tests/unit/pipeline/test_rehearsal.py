"""A rehearsal runs a real pipeline: `fake` as the device, drawn pictures as the source."""

from __future__ import annotations

import pytest

from edgeinfer.bundle import Bundle, load_bundle
from edgeinfer.errors import RuntimeFailed
from edgeinfer.model import Model
from edgeinfer.pipeline.rehearsal import REEL_HEIGHT, REEL_WIDTH, Reel, Rehearsed, rehearse
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.fake import open_fake
from edgeinfer.sources import open_source


@pytest.fixture
def bundle() -> Bundle:
    return load_bundle("blood-cells")


def model(bundle: Bundle, **driver: str) -> Model:
    return Model(bundle, open_fake(bundle.file, "", RuntimeOptions(driver=driver)))


def test_it_measures_frames_after_the_first_ones(bundle):
    measured = rehearse(model(bundle, latency_ms="5"), Reel, seconds=0.1)
    assert len(measured.latency_ms) >= 4
    assert min(measured.latency_ms) >= 5
    assert 0 < measured.fps <= 200


def test_a_source_that_ends_begins_anew(bundle):
    opened = []

    def open_short():
        opened.append(open_source("synthetic://test-card?frames=2&width=64&height=48"))
        return opened[-1]

    measured = rehearse(model(bundle), open_short, seconds=0.01)
    assert len(opened) > 2
    assert len(measured.latency_ms) >= 4


def test_a_device_that_fails_is_an_error(bundle):
    with pytest.raises(RuntimeFailed, match="as asked"):
        rehearse(model(bundle, fail_at="3"), Reel, seconds=0.1)


def test_the_reel_gives_pictures_of_an_hd_camera():
    reel = Reel()
    first, second = reel.read(), reel.read()
    assert first.pixels.shape == (REEL_HEIGHT, REEL_WIDTH, 3)
    assert (first.seq, second.seq) == (0, 1)
    assert first.pixels.std() > 20
    assert first.pixels is not second.pixels


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5.0), (0.9, 9.0), (0.91, 10.0), (1.0, 10.0), (0.01, 1.0)])
def test_a_percentile_is_the_nearest_rank(share, expected):
    assert Rehearsed(1.0, tuple(float(number) for number in range(10, 0, -1))).percentile_ms(share) == expected
