"""The motion gate on drawn scenes: what it lets through, what it holds back, and that noise does not blind it."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest

from edgeinfer.frame import Frame
from edgeinfer.pipeline.motion import MotionGate

WIDTH, HEIGHT = 960, 540
OBJECT_PX = 15  # 1.5 % of the width.


def frame(pixels):
    return Frame(pixels, 0, 0, 0, "test:")


@pytest.fixture(scope="module")
def scene():
    """A street of drawn blocks, smooth in parts and textured in others."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(40, 200, (27, 48, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    picture[300:] = np.clip(picture[300:].astype(int) + rng.integers(-30, 30, picture[300:].shape), 0, 255)
    return picture


@pytest.fixture(scope="module")
def noises():
    """Gaussian noise of deviation 1, of which a camera takes another part each time."""
    return np.random.default_rng(6).normal(0, 1, (HEIGHT + 64, WIDTH + 64, 1)).astype(np.float32)


def noisy(scene, noises, index, sigma):
    rng = np.random.default_rng(index)
    top, left = rng.integers(0, 64, 2)
    noise = noises[top : top + HEIGHT, left : left + WIDTH] * (sigma * rng.choice([-1, 1]))
    return np.clip(scene + noise, 0, 255).astype(np.uint8)


def passed(gate, pictures):
    """The numbers of the pictures that the model would have to look at."""
    numbers = []
    for number, picture in enumerate(pictures):
        if not gate.is_still(frame(picture)):
            gate.keep()
            numbers.append(number)
    return numbers


@pytest.mark.parametrize("sigma", [0, 2, 5, 10])
def test_a_static_scene_is_inferred_once_whatever_the_noise_of_the_camera(scene, noises, sigma):
    gate = MotionGate()
    pictures = (noisy(scene, noises, index, sigma) for index in range(50))
    # The first has nothing to be compared with, and the second shows the noise for the first time.
    assert passed(gate, pictures) in ([0], [0, 1])


def test_compression_is_not_motion(scene, noises):
    def compressed(index):
        return cv2.imdecode(cv2.imencode(".jpg", noisy(scene, noises, index, 3), [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1)

    assert len(passed(MotionGate(), (compressed(index) for index in range(40)))) <= 3


def with_object(scene, left_px, contrast):
    picture = scene.copy()
    part = picture[200 : 200 + OBJECT_PX, left_px : left_px + OBJECT_PX].astype(int)
    picture[200 : 200 + OBJECT_PX, left_px : left_px + OBJECT_PX] = np.clip(part + contrast, 0, 255)
    return picture


@pytest.mark.parametrize("sigma", [0, 2])
def test_a_small_object_that_creeps_is_seen_before_its_box_is_wrong(scene, noises, sigma):
    gate = MotionGate()
    assert passed(gate, (noisy(scene, noises, index, sigma) for index in range(20)))[-1] <= 1
    kept_px = None
    for step in range(60):
        left_px = 300 + step
        if not gate.is_still(frame(noisy(with_object(scene, left_px, 50), noises, 100 + step, sigma))):
            gate.keep()
            kept_px = left_px
        assert kept_px is not None, "the object came, and nobody saw it"
        # An object of 15 pixels that moved by 5 still overlaps with where it was by half.
        assert left_px - kept_px <= 5


def test_what_is_slower_than_any_frame_shows_adds_up_until_it_is_seen(scene):
    gate = MotionGate()
    # The light of one corner fades in by half a level a frame: no two frames in a row differ by more than one.
    pictures = []
    for index in range(80):
        picture = scene.copy()
        picture[:100, :100] = np.clip(picture[:100, :100].astype(int) + index // 2, 0, 255)
        pictures.append(picture)
    assert 4 <= len(passed(gate, pictures)) <= 16


@pytest.mark.parametrize("change", [40, -40])
def test_a_light_that_is_switched_is_motion_once(scene, noises, change):
    gate = MotionGate()
    before = [noisy(scene, noises, index, 2) for index in range(20)]
    switched = np.clip(scene.astype(int) + change, 0, 255).astype(np.uint8)
    after = [noisy(switched, noises, 100 + index, 2) for index in range(20)]
    assert [number for number in passed(gate, before + after) if number > 1] == [20]


def test_a_busy_road_is_not_learned_as_noise(scene):
    gate = MotionGate()
    cars = []
    for index in range(150):
        picture = scene.copy()
        for lane in range(4):
            left = (index * 19 + lane * 250) % (WIDTH - 100)
            picture[150 + 75 * lane : 200 + 75 * lane, left : left + 100] = (30, 30, 200)
        cars.append(picture)
    assert len(passed(gate, cars)) == 150
    # Once the road is empty, and after all that traffic, the small object is still seen.
    assert passed(gate, [scene] * 5) == [0]
    assert passed(gate, [with_object(scene, 300, 50)]) == [0]


def test_a_camera_too_noisy_for_the_gate_has_every_frame_inferred(scene, noises):
    assert len(passed(MotionGate(), (noisy(scene, noises, index, 60) for index in range(30)))) == 30


@pytest.mark.parametrize("size", [(640, 480), (1081, 1921), (33, 47), (1, 1), (2000, 3)])
def test_any_size_and_a_change_of_size_are_a_new_scene(size):
    gate = MotionGate()
    first, other = np.full((48, 64, 3), 90, np.uint8), np.full((*size, 3), 90, np.uint8)
    assert passed(gate, [first, first, other, other, first, first]) == [0, 2, 4]


def test_nothing_of_the_size_of_a_frame_is_allocated(scene):
    gate = MotionGate()
    pictures = [scene, scene.copy()]
    passed(gate, pictures)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    passed(gate, pictures)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < scene.nbytes / 50
