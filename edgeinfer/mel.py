"""Sound -> the features that a model was trained on: energies in bands of the mel scale, or their cosine transform.

A front end repeats the one that a model's training used to the last detail, since the model has learnt these details.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgeinfer.bundle.facts import FrontEnd
from edgeinfer.bundle.front_ends import FRONT_ENDS

Real = npt.NDArray[np.float64]

_LOG_FLOOR = 1e-6
_POWER_FLOOR = 1e-30
_PREEMPHASIS = 1 - 2**-5
_FILTERBANK_OFFSET_DB, _FILTERBANK_SPAN_DB = 52.0, 64.0
_MFCC_BANDS, _MFCC_LOW_HZ, _MFCC_HIGH_HZ = 40, 20.0, 4000.0
# Where the mel scale of Slaney's Auditory Toolbox turns from linear to logarithmic, and how steep it is on each side.
_SLANEY_KNEE_HZ, _SLANEY_HZ_EACH, _SLANEY_LOG_STEP = 1000.0, 200.0 / 3, np.log(6.4) / 27


def mfcc(sound: Real, rate_hz: float, coefficients: int) -> Real:
    """(frames, coefficients): those of MLPerf Tiny's keyword spotting, as TensorFlow's `tf.signal` computes them.

    The sound is scaled by its highest sample; frames of 30 ms every 20 ms under a periodic Hann window, magnitudes in
    40 bands from 20 to 4000 Hz, their natural logarithm, and a cosine transform, orthonormal but for its first term.
    """
    length, hop = FRONT_ENDS["mfcc"].sizes(rate_hz)
    peak = float(sound.max())
    frames = _frames(sound / peak if peak > 0 else sound, length, hop) * _periodic_hann(length)
    size = _power_of_two(length)
    magnitudes = np.abs(np.fft.rfft(frames, size))
    bands = magnitudes @ _htk_bands(_MFCC_BANDS, size // 2 + 1, rate_hz, _MFCC_LOW_HZ, _MFCC_HIGH_HZ)
    return np.asarray(np.log(bands + _LOG_FLOOR) @ _cosines(_MFCC_BANDS, coefficients))


def filterbank(sound: Real, rate_hz: float, bands: int) -> Real:
    """(frames, bands) in 0..1: those of MLPerf Tiny's streaming wakeword.

    Preemphasis by 31/32, frames of 64 ms every 32 ms under a symmetric Hamming window, power in bands up to half the
    rate; -52 dB is 0 and 12 dB is 1.
    """
    length, hop = FRONT_ENDS["filterbank"].sizes(rate_hz)
    emphasised = sound - _PREEMPHASIS * np.concatenate((np.zeros(1), sound[:-1]))
    size = _power_of_two(length)
    power = np.abs(np.fft.rfft(_frames(emphasised, length, hop) * np.hamming(length), size)) ** 2 / length
    energies = np.maximum(power, _POWER_FLOOR) @ _htk_bands(bands, size // 2 + 1, rate_hz, 0.0, rate_hz / 2)
    # The lowest band lies between two bins of the spectrum and may hold nothing at all.
    decibels = 10 * np.log10(np.maximum(energies, _POWER_FLOOR))
    return np.asarray(np.clip((decibels + _FILTERBANK_OFFSET_DB) / _FILTERBANK_SPAN_DB, 0.0, 1.0))


def log_mel(sound: Real, rate_hz: float, bands: int) -> Real:
    """(frames, bands) in decibels: those of MLPerf Tiny's anomaly detection (and DCASE 2020), as librosa computes them.

    Frames of 64 ms every 32 ms under a periodic Hann window, power in Slaney's bands of equal area up to half the rate.
    """
    length, hop = FRONT_ENDS["log-mel"].sizes(rate_hz)
    power = np.abs(np.fft.rfft(_frames(sound, length, hop) * _periodic_hann(length))) ** 2
    energies = power @ _slaney_bands(bands, length, rate_hz)
    return np.asarray(10 * np.log10(energies + np.finfo(np.float64).eps))


_COMPUTE: Mapping[FrontEnd, Callable[[Real, float, int], Real]] = {
    "mfcc": mfcc,
    "filterbank": filterbank,
    "log-mel": log_mel,
}


def features(front_end: FrontEnd, sound: Real, rate_hz: float) -> Real:
    """(frames, bands) of as many frames as fit. sound: (samples,) in -1..1."""
    return _COMPUTE[front_end](sound, rate_hz, FRONT_ENDS[front_end].bands)


def _frames(sound: Real, length: int, hop: int) -> Real:
    return np.lib.stride_tricks.sliding_window_view(sound, length)[::hop]


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


@lru_cache(maxsize=8)
def _periodic_hann(length: int) -> Real:
    return np.asarray(np.hanning(length + 1)[:-1])


@lru_cache(maxsize=8)
def _htk_bands(bands: int, bins: int, rate_hz: float, low_hz: float, high_hz: float) -> Real:
    """(bins, bands) triangles, straight in mel = 1127 ln(1 + f / 700); without the constant part of the spectrum."""
    edges = np.linspace(_htk_mel(low_hz), _htk_mel(high_hz), bands + 2)
    mels = _htk_mel(np.linspace(0.0, rate_hz / 2, bins))
    weights = _triangles(mels, edges)
    weights[0] = 0.0
    return weights


@lru_cache(maxsize=8)
def _slaney_bands(bands: int, length: int, rate_hz: float) -> Real:
    """(bins, bands) triangles of equal area, straight in hertz."""
    edges = _slaney_hz(np.linspace(0.0, _slaney_mel(rate_hz / 2), bands + 2))
    return np.asarray(
        _triangles(np.linspace(0.0, rate_hz / 2, length // 2 + 1), edges) * (2 / (edges[2:] - edges[:-2]))
    )


def _triangles(places: Real, edges: Real) -> Real:
    """(places, bands): each band rises from an edge to the next and falls to the one after."""
    lower, middle, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (places[:, None] - lower) / (middle - lower)
    falling = (upper - places[:, None]) / (upper - middle)
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)))


def _htk_mel(hertz: float | Real) -> Real:
    return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0))


def _slaney_mel(hertz: float) -> float:
    knee = _SLANEY_KNEE_HZ / _SLANEY_HZ_EACH
    if hertz < _SLANEY_KNEE_HZ:
        return hertz / _SLANEY_HZ_EACH
    return float(knee + np.log(hertz / _SLANEY_KNEE_HZ) / _SLANEY_LOG_STEP)


def _slaney_hz(mels: Real) -> Real:
    knee = _SLANEY_KNEE_HZ / _SLANEY_HZ_EACH
    curved = _SLANEY_KNEE_HZ * np.exp(_SLANEY_LOG_STEP * (mels - knee))
    return np.asarray(np.where(mels < knee, mels * _SLANEY_HZ_EACH, curved))


@lru_cache(maxsize=8)
def _cosines(bands: int, coefficients: int) -> Real:
    """(bands, coefficients) of a cosine transform of the second kind, times sqrt(2 / bands)."""
    angles = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(coefficients)
    return np.asarray(np.cos(angles) * np.sqrt(2 / bands))
