"""Banks of background noise and of what rooms ring with, made once a process from fixed seeds."""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy.signal import butter, oaconvolve, sosfilt

from myna_plugin.model.audio import SAMPLE_RATE

BANK_SAMPLES = 1 << 20
TAIL_BANK = 1 << 18


def tail_bank() -> tuple[np.ndarray, np.ndarray]:
    """Bass and treble parts of 16 s of white noise, float32."""
    white = np.random.default_rng(0).standard_normal(TAIL_BANK).astype(np.float32)
    treble = sosfilt(butter(1, 1500, "highpass", fs=SAMPLE_RATE, output="sos"), white)
    treble = treble.astype(np.float32)
    return white - treble, treble


def _coloured(rng: np.random.Generator, exponent: float) -> np.ndarray:
    """Noise whose power falls with frequency to an exponent, periodic, float32."""
    spectrum = scipy.fft.rfft(rng.standard_normal(BANK_SAMPLES).astype(np.float32))
    hz = np.maximum(np.arange(len(spectrum)) * (SAMPLE_RATE / BANK_SAMPLES), 20.0)
    return scipy.fft.irfft(spectrum * (hz ** (-exponent / 2)).astype(np.float32), BANK_SAMPLES)


def _slow(rng: np.random.Generator, hz: float) -> np.ndarray:
    """A smooth random curve in [0, 1] with about `hz` knots a second, (BANK_SAMPLES,)."""
    n_knots = max(round(BANK_SAMPLES / SAMPLE_RATE * hz), 4)
    knots = np.linspace(0, BANK_SAMPLES, n_knots)
    return np.interp(np.arange(BANK_SAMPLES), knots, rng.random(n_knots))


def _white(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, 0.0)


def _pink(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, 1.0)


def _brown(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, 2.0)


def _wind(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, 2.5) * _slow(rng, 0.7) ** 2


def _hum(rng: np.random.Generator, mains_hz: float = 50.0) -> np.ndarray:
    """Mains hum: harmonics of 50 Hz, each a little unsteady."""
    time = np.arange(BANK_SAMPLES) / SAMPLE_RATE
    sound = np.zeros(BANK_SAMPLES)
    for harmonic in (1, 2, 3, 4, 5, 6, 8, 10, 14, 20):
        phase = 2 * np.pi * (mains_hz * harmonic * time + rng.random())
        sound += np.sin(phase) * rng.uniform(0.2, 1) / harmonic * (0.5 + _slow(rng, 0.2))
    return sound


def _hum_60(rng: np.random.Generator) -> np.ndarray:
    return _hum(rng, 60.0)


def _crackle(rng: np.random.Generator) -> np.ndarray:
    """Clicks of a worn record, some 12 a second, over a faint hiss."""
    clicks = np.zeros(BANK_SAMPLES)
    n_clicks = round(12 * BANK_SAMPLES / SAMPLE_RATE)
    clicks[rng.integers(BANK_SAMPLES, size=n_clicks)] = rng.standard_cauchy(n_clicks).clip(-4, 4)
    clicks = sosfilt(butter(2, [800, 6000], "bandpass", fs=SAMPLE_RATE, output="sos"), clicks)
    return clicks / clicks.std() + 0.1 * rng.standard_normal(BANK_SAMPLES)


def _babble(rng: np.random.Generator) -> np.ndarray:
    """Like many people talking: bands of noise that swell at the rate of syllables."""
    sound = np.zeros(BANK_SAMPLES)
    pink = _coloured(rng, 1.0)
    for _ in range(12):
        centre = float(np.exp(rng.uniform(np.log(200), np.log(3500))))
        band = butter(1, [0.8 * centre, 1.25 * centre], "bandpass", fs=SAMPLE_RATE, output="sos")
        sound += sosfilt(band, pink) * _slow(rng, rng.uniform(3, 8)) ** 2
    return sound


def _audience(rng: np.random.Generator) -> np.ndarray:
    """Rustle and claps: bursts of treble, uneven."""
    bursts = np.zeros(BANK_SAMPLES)
    n_bursts = round(40 * BANK_SAMPLES / SAMPLE_RATE)
    bursts[rng.integers(BANK_SAMPLES, size=n_bursts)] = rng.exponential(1.0, n_bursts).clip(0, 3)
    fall = np.exp(-np.arange(800) / 160)
    envelope = oaconvolve(bursts * _slow(rng, 0.4) ** 2, fall)[:BANK_SAMPLES]
    treble = butter(1, 1200, "highpass", fs=SAMPLE_RATE, output="sos")
    return np.maximum(envelope, 0.0) * sosfilt(treble, rng.standard_normal(BANK_SAMPLES))


NOISES = {
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "wind": _wind,
    "hum 50 Hz": _hum,
    "hum 60 Hz": _hum_60,
    "crackle": _crackle,
    "babble": _babble,
    "audience": _audience,
}
"""Kinds of background noise; a recording names them."""


def noise_bank(kind: str) -> np.ndarray:
    """65 s of a kind of noise, float32, root mean square 1, the same in every process."""
    sound = NOISES[kind](np.random.default_rng(list(NOISES).index(kind)))
    sound = sound - sound.mean()
    return (sound / np.sqrt(np.mean(np.square(sound)))).astype(np.float32)
