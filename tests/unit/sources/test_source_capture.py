"""Closing from another thread never pulls the device from under a read."""

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

    def read(self) -> tuple[bool, np.ndarray]:
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
        def read(self) -> tuple[bool, np.ndarray]:
            raise cv2.error("(-215:Assertion failed) !_src.empty() in function 'cvtColor'")

    assert Capture(Raising()).read() is None  # type: ignore[arg-type]
