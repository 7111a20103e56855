"""Real files for the tests of sources, made once per run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

MakeVideo = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Write a video whose frame i is gray 5 * i, modulo 256."""

    def make(name: str = "clip.mp4", *, codec: str = "mp4v", frames: int = 40, fps: float = 20.0) -> Path:
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (64, 48))
        assert writer.isOpened()
        for index in range(frames):
            writer.write(np.full((48, 64, 3), 5 * index % 256, np.uint8))
        writer.release()
        return path

    return make


@pytest.fixture
def picture() -> np.ndarray:
    """48 x 64, blue left and red right, so that colours and turns can be told."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32, 0] = 255
    pixels[:, 32:, 2] = 255
    return pixels
