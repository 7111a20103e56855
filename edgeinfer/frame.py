"""One picture from a source, and when it was taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture.

    pixels: (height, width, 3) uint8, blue-green-red, C-contiguous; read-only by convention.
    seq: counts the frames that the source delivered, from 0, without gaps.
    captured_ns: `time.monotonic_ns()` right after the picture was there; for ages and latencies.
    captured_unix_ns: the wall clock at that moment; for people and other machines only.
    uri: where the picture came from: the source, or for a folder of images the image.
    position_s: for a file, the place in it, in seconds; None for a live source.
    full_size: width and height of the picture as it was taken, where `pixels` is a reduced one.
    """

    pixels: Pixels
    seq: int
    captured_ns: int
    captured_unix_ns: int
    uri: str
    position_s: float | None = None
    full_size: tuple[int, int] | None = None

    @property
    def width(self) -> int:
        """Of the picture as it was taken."""
        return int(self.pixels.shape[1]) if self.full_size is None else self.full_size[0]

    @property
    def height(self) -> int:
        """Of the picture as it was taken."""
        return int(self.pixels.shape[0]) if self.full_size is None else self.full_size[1]
