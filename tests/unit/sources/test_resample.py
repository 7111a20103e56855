"""The resampler against sines, which are known at every rate."""

from __future__ import annotations

import numpy as np
import pytest

from edgeinfer.sources.resample import Resampler

RATES = [(44100, 16000), (48000, 16000), (22050, 16000), (8000, 16000), (16000, 44100)]


def sine(frequency_hz: float, rate_hz: int, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(samples) / rate_hz).astype(np.float32)


def resampled(sound: np.ndarray, from_hz: int, to_hz: int, pieces: int = 1) -> np.ndarray:
    resampler = Resampler(from_hz, to_hz)
    made = [resampler.feed(piece) for piece in np.array_split(sound, pieces)]
    return np.concatenate([*made, resampler.finish()])


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_what_the_lower_rate_carries_is_the_same_at_the_other_rate(from_hz: int, to_hz: int, share: float) -> None:
    frequency_hz = share * min(from_hz, to_hz) / 2
    made = resampled(sine(frequency_hz, from_hz, from_hz), from_hz, to_hz)
    assert made.size == to_hz
    middle = slice(400, -400)  # At the ends it meets silence.
    assert np.abs(made - sine(frequency_hz, to_hz, to_hz))[middle].max() < 1e-4


@pytest.mark.parametrize(("from_hz", "to_hz"), [rates for rates in RATES if rates[0] > rates[1]])
@pytest.mark.parametrize("share", [1.02, 1.2])
def test_what_would_fold_over_is_taken_away(from_hz: int, to_hz: int, share: float) -> None:
    made = resampled(sine(share * to_hz / 2, from_hz, from_hz), from_hz, to_hz)
    assert np.abs(made[400:-400]).max() < 10 ** (-85 / 20)


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_pieces_are_those_of_the_whole(from_hz: int, to_hz: int) -> None:
    noise = np.random.default_rng(5).uniform(-1, 1, 5000).astype(np.float32)
    whole = resampled(noise, from_hz, to_hz)
    np.testing.assert_allclose(resampled(noise, from_hz, to_hz, pieces=311), whole, atol=1e-6)


def test_the_same_rate_changes_no_bit_and_a_constant_stays() -> None:
    noise = np.random.default_rng(5).uniform(-1, 1, 999).astype(np.float32)
    assert np.array_equal(resampled(noise, 16000, 16000, pieces=7), noise)
    assert np.abs(resampled(np.full(4000, 0.25, np.float32), 44100, 16000)[200:-200] - 0.25).max() < 1e-6
