"""One picture from a source, or one window of samples, and when it was taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outline:
    """A zone or line of a rule, to be drawn over a picture. points: 0..1 of it; closed: the last goes to the first."""

    name: str
    points: tuple[tuple[float, float], ...]
    closed: bool


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
    outlines: what an annotated picture shows beside the result.
    stretch: another number than that of the frame before where nothing may be kept of that one; see Recurrence.
    """

    pixels: Pixels
    seq: int
    captured_ns: int
    captured_unix_ns: int
    uri: str
    position_s: float | None = None
    full_size: tuple[int, int] | None = None
    outlines: tuple[Outline, ...] = ()
    stretch: int = 0

    @property
    def width(self) -> int:
        """Of the picture as it was taken."""
        return int(self.pixels.shape[1]) if self.full_size is None else self.full_size[0]

    @property
    def height(self) -> int:
        """Of the picture as it was taken."""
        return int(self.pixels.shape[0]) if self.full_size is None else self.full_size[1]

    @property
    def size_bytes(self) -> int:
        """Of its pixels in memory."""
        return self.pixels.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Samples of sound or of a sensor, at even distances.

    values: (samples, channels) float32, all finite, in the units of the source (sound: -1..1); read-only by convention.
    seq: counts the windows that the source delivered, from 0, without gaps.
    captured_ns: `time.monotonic_ns()` when its last sample was there. captured_unix_ns: the wall clock of that sample.
    uri: the source. rate_hz: samples a second. channels: the name of each channel.
    position_s: for a file, the place of its first sample in it, in seconds; None for a live source.
    filled: which share of its numbers, 0..1, was made up for samples that were missing.
    follows: whether no time lies between this window and what the one before it covered, so that a state may be kept.
    """

    values: Samples
    seq: int
    captured_ns: int
    captured_unix_ns: int
    uri: str
    rate_hz: float
    channels: tuple[str, ...]
    position_s: float | None = None
    filled: float = 0.0
    follows: bool = True

    @property
    def size_bytes(self) -> int:
        """Of its numbers in memory."""
        return self.values.nbytes


Input = Frame | Window
"""What a source gives, and a model takes, one after the other."""
