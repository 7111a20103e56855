"""The front ends against their definitions, written out with loops and sums in place of transforms and matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeinfer.mel import features

RATE_HZ = 16_000.0


@pytest.fixture(scope="module")
def noise():
    """A seventh of a second, with a tone in it."""
    time_s = np.arange(2300) / RATE_HZ
    return 0.1 * np.random.default_rng(0).standard_normal(time_s.size) + 0.3 * np.sin(2 * math.pi * 700 * time_s)


def spectrum(frame, size):
    """Magnitudes of a discrete Fourier transform, by its sum."""
    times = np.arange(len(frame))
    return np.array([abs(np.sum(frame * np.exp(-2j * math.pi * k * times / size))) for k in range(size // 2 + 1)])


def triangle(place, low, top, high):
    if low < place <= top:
        return (place - low) / (top - low)
    return (high - place) / (high - top) if top < place < high else 0.0


def htk(hertz):
    return 1127.0 * math.log(1 + hertz / 700.0)


def htk_energies(energies, size, bands, low_hz, high_hz):
    step = (htk(high_hz) - htk(low_hz)) / (bands + 1)
    edges = [htk(low_hz) + step * index for index in range(bands + 2)]
    return [
        sum(energies[k] * triangle(htk(k * RATE_HZ / size), *edges[band : band + 3]) for k in range(1, size // 2 + 1))
        for band in range(bands)
    ]


def test_mfcc(noise):
    found = features("mfcc", noise, RATE_HZ)
    assert found.shape == ((2300 - 480) // 320 + 1, 10)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 480) for n in range(480)]
    for index in (0, 3):
        frame = noise[320 * index : 320 * index + 480] / noise.max() * hann
        logs = [math.log(energy + 1e-6) for energy in htk_energies(spectrum(frame, 512), 512, 40, 20.0, 4000.0)]
        wanted = [
            2 * sum(log * math.cos(math.pi * c * (2 * b + 1) / 80) for b, log in enumerate(logs)) / math.sqrt(80)
            for c in range(10)
        ]
        assert found[index] == pytest.approx(wanted, abs=1e-6)


def test_filterbank(noise):
    found = features("filterbank", noise, RATE_HZ)
    assert found.shape == (3, 40)
    emphasised = [noise[0]] + [noise[n] - 31 / 32 * noise[n - 1] for n in range(1, noise.size)]
    hamming = np.array([0.54 - 0.46 * math.cos(2 * math.pi * n / 1023) for n in range(1024)])
    power = spectrum(np.array(emphasised[512 : 512 + 1024]) * hamming, 1024) ** 2 / 1024
    wanted = [
        min(max((10 * math.log10(max(energy, 1e-30)) + 52) / 64, 0.0), 1.0)
        for energy in htk_energies(power, 1024, 40, 0.0, 8000.0)
    ]
    assert found[1] == pytest.approx(wanted, abs=1e-6)


def test_log_mel(noise):
    found = features("log-mel", noise, RATE_HZ)
    assert found.shape == (3, 128)
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 1024) for n in range(1024)])
    power = spectrum(noise[1024 : 1024 + 1024] * hann, 1024) ** 2

    def hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    highest = 15 + 27 * math.log(8) / math.log(6.4)
    edges = [hertz(highest * index / 129) for index in range(130)]
    for band in (0, 1, 60, 127):
        low, top, high = edges[band : band + 3]
        energy = sum(power[k] * triangle(k * RATE_HZ / 1024, low, top, high) for k in range(513)) * 2 / (high - low)
        assert found[2][band] == pytest.approx(10 * math.log10(energy + 2.220446049250313e-16), abs=1e-6)


@pytest.mark.parametrize("front_end", ["mfcc", "filterbank", "log-mel"])
@pytest.mark.parametrize("level", [0.0, -1.0, 1e-30])
def test_silence_and_a_constant_give_finite_features(front_end, level):
    assert np.isfinite(features(front_end, np.full(2048, level), RATE_HZ)).all()
