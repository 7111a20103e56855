"""The motion gate: is anything in the picture another way than in the frame that was inferred last?

Compared is with the last inferred frame and not with the last frame, so that slow motion adds up until it is seen.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeinfer.frame import Frame, Pixels

# Samples along the longer side; a cell is the mean of 2 x 2. An object of 1.5 % of the side covers 3 to 4 samples, and
# by the time it has moved by a third of its width one column of samples has changed on either side of it.
_SAMPLES = 240
# Levels, 0..255. What compression does to a scene without any noise.
_FLOOR = 4.0
# Above this, contrast that matters would be taken for noise: rather infer every frame of such a camera.
_CEILING = 48.0
# Of the mean difference between two frames: 4.8 standard deviations of Gaussian noise, which one of a million exceeds.
_TIMES_NOISE = 6.0
# A cell may be that much noisier than the picture. No more: else a busy road would be learned as noise.
_TIMES_PICTURE = 2.0
_NOISE_RISES, _NOISE_FALLS = 1 / 64, 1 / 8
_CELL_LEARNS = 1 / 16


class MotionGate:
    """Differences of a grid of cells, each held against the noise that this camera is seen to have there.

    The noise is learned from the differences between one frame and the next: of the whole picture, rising slowly and
    falling fast, so that motion is not taken for noise; and of each cell, within bounds set by the picture's. A light
    that is switched on or off is motion once, and then what is compared with. Nothing of the frame's size is allocated.
    """

    def __init__(self) -> None:
        self._cells: _Cells | None = None
        self._is_kept = False

    def is_still(self, frame: Frame) -> bool:
        if self._cells is None or self._cells.frame_size != (frame.width, frame.height):
            self._cells, self._is_kept = _Cells(frame.width, frame.height), False
        self._cells.look(frame.pixels)
        return self._is_kept and self._cells.is_as_kept()

    def keep(self) -> None:
        assert self._cells is not None, "a frame is looked at before it is kept"
        self._cells.keep()
        self._is_kept = True


class _Cells:
    """The grid for one size of frame, and what was learned of it; each colour of a cell is a cell of its own."""

    def __init__(self, width: int, height: int) -> None:
        self.frame_size = (width, height)
        columns, rows = _grid(width, height)
        self._samples: Pixels = np.empty((rows * 2, columns * 2, 3), np.uint8)
        self._now, self._before, self._kept = (np.empty((rows, columns, 3), np.uint8) for _ in range(3))
        self._difference, self._threshold = (np.empty((rows, columns, 3), np.uint8) for _ in range(2))
        self._noise = np.zeros((rows, columns, 3), np.float32)
        self._picture_noise: float | None = None
        self._has_before = False

    def look(self, pixels: Pixels) -> None:
        """Take the frame in, and learn."""
        self._now, self._before = self._before, self._now
        # Nearest: reads 1 of 64 pixels of a 1080p frame, where averaging all of them takes twenty times as long.
        _into(self._samples, pixels, cv2.INTER_NEAREST)
        _into(self._now, self._samples, cv2.INTER_AREA)
        if self._has_before:
            self._learn()
        self._has_before = True

    def is_as_kept(self) -> bool:
        cv2.absdiff(self._now, self._kept, dst=self._difference)
        # Saturating: what is below its threshold becomes 0.
        cv2.subtract(self._difference, self._threshold, dst=self._difference)
        return not self._difference.any()

    def keep(self) -> None:
        np.copyto(self._kept, self._now)

    def _learn(self) -> None:
        cv2.absdiff(self._now, self._before, dst=self._difference)
        known = self._picture_noise
        if known is not None:
            # What moves counts as little more than noise.
            np.minimum(self._difference, _levels(4.0 * known + 4.0), out=self._difference)
        # One channel as far as OpenCV is concerned; NumPy's mean takes six times as long.
        seen = cv2.mean(self._difference.reshape(1, -1))[0]
        if known is None:
            known = seen
            self._noise[...] = seen
        else:
            known += (seen - known) * (_NOISE_RISES if seen > known else _NOISE_FALLS)
        self._picture_noise = known
        cv2.accumulateWeighted(self._difference, self._noise, _CELL_LEARNS)
        usual = min(_CEILING, _FLOOR + _TIMES_NOISE * known)
        most = min(_CEILING, _TIMES_PICTURE * usual)
        cv2.convertScaleAbs(self._noise, dst=self._threshold, alpha=_TIMES_NOISE, beta=_FLOOR)
        np.clip(self._threshold, _levels(usual), _levels(most), out=self._threshold)


def _levels(difference: float) -> np.uint8:
    return np.uint8(min(255, round(difference)))


def _grid(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of cells for a frame of that size; at most one sample a pixel."""
    longer = max(width, height)
    samples = min(_SAMPLES, longer)
    return max(1, round(width * samples / longer / 2)), max(1, round(height * samples / longer / 2))


def _into(out: npt.NDArray[Any], pixels: npt.NDArray[Any], interpolation: int) -> None:
    written = cv2.resize(pixels, (out.shape[1], out.shape[0]), dst=out, interpolation=interpolation)
    # OpenCV quietly returns a new array where the given one does not fit.
    assert written is out, "OpenCV did not write into the given memory"
