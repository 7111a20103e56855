"""Closing from another thread never pulls the device from under a read; memory of pictures is used again."""

from __future__ import annotations

import threading

import cv2
import numpy as np

from edgeinfer.sources.capture import Capture


class Device:
    """A cv2.VideoCapture whose read takes until a test lets it go on."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.go_on = threading.Event()
        self.busy = False
        self.released_while_busy = False
        self.releases = 0

    def read(self, image: np.ndarray | None = None) -> tuple[bool, np.ndarray]:
        self.busy = True
        self.reading.set()
        assert self.go_on.wait(10)
        self.busy = False
        return True, np.zeros((2, 2, 3), np.uint8)

    def release(self) -> None:
        self.releases += 1
        self.released_while_busy |= self.busy


def test_closed_while_idle_is_released_at_once() -> None:
    device = Device()
    capture = Capture(device)  # type: ignore[arg-type]
    capture.close()
    assert device.releases == 1
    assert capture.read() is None


def test_closed_while_read_is_released_by_the_reader() -> None:
    device = Device()
    capture = Capture(device)  # type: ignore[arg-type]
    reader = threading.Thread(target=capture.read)
    reader.start()
    assert device.reading.wait(10)
    capture.close()
    assert device.releases == 0
    device.go_on.set()
    reader.join(10)
    assert device.releases == 1
    assert not device.released_while_busy


def test_a_driver_that_raises_is_a_failed_read() -> None:
    class Raising(Device):
        def read(self, image: np.ndarray | None = None) -> tuple[bool, np.ndarray]:
            raise cv2.error("(-215:Assertion failed) !_src.empty() in function 'cvtColor'")

    assert Capture(Raising()).read() is None  # type: ignore[arg-type]


class Film:
    """A cv2.VideoCapture whose pictures are of one value each, 1, 2, 3, …, written into the memory it is given."""

    def __init__(self) -> None:
        self.shape = (4, 6, 3)
        self._count = 0

    def read(self, image: np.ndarray | None = None) -> tuple[bool, np.ndarray]:
        self._count += 1
        if image is None or image.shape != self.shape:
            image = np.empty(self.shape, np.uint8)
        image[...] = self._count
        return True, image

    def release(self) -> None:
        pass


def memory_of(pixels: np.ndarray) -> int:
    return pixels.ctypes.data


def test_memory_that_nobody_holds_is_used_again() -> None:
    capture = Capture(Film())  # type: ignore[arg-type]
    assert len({memory_of(capture.read()) for _ in range(10)}) == 1


def test_a_picture_that_somebody_holds_is_left_alone() -> None:
    capture = Capture(Film())  # type: ignore[arg-type]
    kept = [capture.read() for _ in range(3)]
    for _ in range(10):
        capture.read()
    assert [int(pixels.max()) for pixels in kept] == [1, 2, 3]


def test_a_view_of_a_picture_holds_its_memory() -> None:
    capture = Capture(Film())  # type: ignore[arg-type]
    corner = capture.read()[1:2, 1:2][0]
    for _ in range(10):
        capture.read()
    assert (corner == 1).all()


def test_pictures_of_another_size_get_memory_of_that_size() -> None:
    film = Film()
    capture = Capture(film)  # type: ignore[arg-type]
    capture.read()
    film.shape = (8, 2, 3)
    assert capture.read().shape == (8, 2, 3)
    assert len({memory_of(capture.read()) for _ in range(10)}) == 1


def test_who_keeps_very_many_gets_memory_of_their_own() -> None:
    capture = Capture(Film())  # type: ignore[arg-type]
    kept = [capture.read() for _ in range(50)]
    assert [int(pixels.max()) for pixels in kept] == list(range(1, 51))
    assert len(capture._buffers._owners) <= 8
