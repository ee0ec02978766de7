"""CLMR's chain of augmentations: what masking replaces in Myna.

The chances and ranges are those of CLMR's release 2.0 (Spijkervet and Burgoyne 2021, section 3.2,
and its configuration): twenty-one numbers beside the crop.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.signal import fftconvolve

from myna_plugin.common.errors import MissingPackageError

Augmentation = Callable[..., np.ndarray]
"""samples, sample_rate=Hz -> samples: float32, shape (S,)."""

DELAYS_MS = range(200, 500, 50)
DELAYED_VOLUME = 0.5
LONGEST_REVERB_S = 1.5


def delay(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """The mean of a sound and its echo at half the volume, 200 to 450 ms later."""
    offset = random.choice(DELAYS_MS) * sample_rate // 1000
    echo = np.zeros_like(samples)
    echo[offset:] = samples[: len(samples) - offset]
    return (samples + np.float32(DELAYED_VOLUME) * echo) / 2


def reverb(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """A sound in a room: noise that dies away is its response.

    CLMR draws the reverberance, damping and size of SoX's reverb, which no kept library has; here
    are drawn the time until the response has fallen by 60 dB, and how much of it is heard. As loud
    as before.
    """
    seconds = random.uniform(0.1, LONGEST_REVERB_S)
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    response = np.random.standard_normal(len(time_s)) * 10 ** (-3 * time_s / seconds)
    wet = fftconvolve(samples, response)[: len(samples)]
    loudness, wet_loudness = (np.sqrt(np.mean(np.square(x))) for x in (samples, wet))
    share = random.random()
    mixed = (1 - share) * samples + share * wet * (loudness / max(wet_loudness, 1e-9))
    return mixed.astype(np.float32)


@cache
def build_chain() -> Augmentation:
    """The chain; it draws from `random` and from NumPy's own generator.

    Raises:
        MissingPackageError: audiomentations is not installed.
    """
    try:
        import audiomentations as steps
    except ImportError as error:
        raise MissingPackageError(
            "CLMR's augmentations need audiomentations: pip install --no-deps "
            "audiomentations numpy-minmax numpy-rms python-stretch"
        ) from error
    return steps.Compose(
        [
            steps.PolarityInversion(p=0.8),
            # A deviation of 0.0001 to 0.01 of the sound's own.
            steps.AddGaussianSNR(min_snr_db=40, max_snr_db=80, p=0.01),
            steps.Gain(min_gain_db=-20, max_gain_db=-1, p=0.3),
            steps.OneOf(
                [
                    steps.HighPassFilter(min_cutoff_freq=200, max_cutoff_freq=1200, p=1),
                    steps.LowPassFilter(min_cutoff_freq=2200, max_cutoff_freq=4000, p=1),
                ],
                p=0.8,
            ),
            steps.Lambda(transform=delay, p=0.3),
            steps.PitchShift(min_semitones=-7, max_semitones=7, p=0.6),
            steps.Lambda(transform=reverb, p=0.6),
        ]
    )
