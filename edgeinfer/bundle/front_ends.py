"""How the front ends of sound cut it up; `edgeinfer.mel` computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeinfer.bundle.facts import FrontEnd


@dataclass(frozen=True, slots=True)
class SoundFrames:
    """Frames of so many seconds, one after each hop, of `bands` features each."""

    length_s: float
    hop_s: float
    bands: int

    def sizes(self, rate_hz: float) -> tuple[int, int]:
        """Length and hop in samples."""
        return round(self.length_s * rate_hz), max(round(self.hop_s * rate_hz), 1)

    def samples(self, frames: int, rate_hz: float) -> int:
        """How many samples so many frames take."""
        length, hop = self.sizes(rate_hz)
        return (frames - 1) * hop + length


FRONT_ENDS: Mapping[FrontEnd, SoundFrames] = {
    "mfcc": SoundFrames(0.030, 0.020, 10),
    "filterbank": SoundFrames(0.064, 0.032, 40),
    "log-mel": SoundFrames(0.064, 0.032, 128),
}
