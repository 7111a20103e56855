"""Sound at one rate -> the same sound at another, what the new rate cannot carry left out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

Sound = npt.NDArray[np.float32]

# Of the windowed sinc: zero crossings to each side, and Kaiser's beta for 90 dB (Oppenheim and Schafer, Discrete-Time
# Signal Processing, 7.6.1: beta = 0.1102 (A - 8.7); the slope is (A - 8) / (2.285 taps) wide, 0.09 of half the rate).
_CROSSINGS = 64
_BETA = 0.1102 * (90 - 8.7)
_CUTOFF = 1 - 0.09 / 2  # Of half the lower rate; the slope ends at that half.
_OUTPUTS_AT_ONCE = 2048
_DENOMINATOR_MAX = 1000


class Resampler:
    """Takes sound in pieces; the pieces it gives are those of the whole. Polyphase filter with a Kaiser window.

    What comes out lies exactly where it lay in time: the filter's delay is taken away, and for it the last 4 ms (at
    16 kHz) wait for what follows. Up to 0.91 of half the lower rate passes, within 0.01 %; what would fold over is
    90 dB down.
    """

    def __init__(self, from_hz: float, to_hz: float) -> None:
        ratio = Fraction(to_hz).limit_denominator(_DENOMINATOR_MAX) / Fraction(from_hz).limit_denominator(
            _DENOMINATOR_MAX
        )
        self._up, self._down = ratio.numerator, ratio.denominator
        self._half, self._phases = _filters(self._up, self._down)
        self.restart()

    def restart(self) -> None:
        """What comes next has nothing to do with what came."""
        # The filter reaches before the beginning, where there is silence.
        self._held: Sound = np.zeros(self._half, np.float32)
        self._held_from = -self._half
        self._next = 0

    def feed(self, sound: Sound) -> Sound:
        """(samples,) -> (samples,), as far as the filter's reach allows."""
        if self._up == self._down:
            return sound
        held = np.concatenate([self._held, sound])
        held_to = self._held_from + held.size
        # Output k lies at input k * down / up, and needs `half` inputs to each side of it.
        end = max(self._next, -(-(held_to - self._half) * self._up // self._down))
        begins = range(self._next, end, _OUTPUTS_AT_ONCE)
        made = [self._make(held, begin, min(begin + _OUTPUTS_AT_ONCE, end)) for begin in begins]
        self._next = end
        keep_from = end * self._down // self._up - self._half + 1
        self._held = held[max(0, keep_from - self._held_from) :].copy()
        self._held_from = max(self._held_from, keep_from)
        return np.concatenate(made) if made else np.empty(0, np.float32)

    def finish(self) -> Sound:
        """What was still waiting, as if silence followed."""
        return self.feed(np.zeros(0 if self._up == self._down else self._half, np.float32))

    def _make(self, held: Sound, begin: int, end: int) -> Sound:
        at = np.arange(begin, end, dtype=np.int64) * self._down
        first = at // self._up - self._half + 1 - self._held_from
        reach = np.lib.stride_tricks.sliding_window_view(held, 2 * self._half)
        made: Sound = np.einsum("ij,ij->i", reach[first], self._phases[at % self._up])
        return made


def _filters(up: int, down: int) -> tuple[int, Sound]:
    """How many inputs to each side are needed, and the weights (up, 2 * that) for each place between two inputs.

    Row p weighs the inputs around one that lies p / up of the way from an input to the next: from `half - 1` before the
    former to `half` after it.
    """
    # In units of the input's distance: sinc at the lower of both rates.
    cutoff = _CUTOFF * min(1.0, up / down)
    half = int(np.ceil(_CROSSINGS / min(1.0, up / down)))
    place = np.arange(up)[:, None] / up
    distance = np.arange(1 - half, half + 1)[None, :] - place
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, 1))) / np.i0(_BETA)
    weights = cutoff * np.sinc(cutoff * distance) * window
    # Silence stays silence and a constant stays that constant, whatever the place.
    weights /= weights.sum(axis=1, keepdims=True)
    return half, weights.astype(np.float32)
