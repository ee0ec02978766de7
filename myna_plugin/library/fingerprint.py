"""Whether two files hold the same recording, told from how it sounds and not from its bytes.

A fingerprint is 16 bits for every 128 ms of a track's first minute: whether the difference in
energy between neighbouring bands grew since the moment before. Encoders and loudness hardly change
it; another take, mix or pitch does.

Source: J. Haitsma, T. Kalker, "A Highly Robust Audio Fingerprinting System", ISMIR 2002, §4, with
16 bands' worth of bits and longer steps, since whole tracks are compared and no excerpts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from myna_plugin.model.audio import SAMPLE_RATE

SECONDS = 60
"""Audio that is listened to, from the beginning."""

WINDOW = 8192
HOP = 2048
"""Samples at 16 kHz: half a second, every 128 ms."""

BANDS_HZ = (300.0, 2_000.0)
"""Range of the 17 bands, of equal width in octaves."""

N_BITS = 16

LEAST_STEPS = 24
"""Of shorter audio, three seconds, there is no fingerprint."""

LEAST_CHANGE = 0.1
"""Share of ones, and of zeros, that a fingerprint has at least: hums and silence have none."""

LEAST_GROWTH = 1e-6
"""Of a band's mean energy; what is below it is noise of rounding or coding."""

LARGEST_OFFSET = 16
"""Steps that one of two files may begin later: two seconds."""

LEAST_OVERLAP = 0.75
"""Share of the shorter fingerprint that is compared."""

LARGEST_ERROR = 0.25
"""Share of different bits up to which two recordings are one; of strangers half of them differ."""

LARGEST_DIFFERENCE_S = 3.0
"""How far the lengths of two files of one recording may be apart."""


def fingerprint(samples: np.ndarray) -> bytes:
    """The fingerprint of mono audio at 16 kHz.

    Args:
        samples: float32, shape (S,); those beyond the first `SECONDS` do not count.

    Returns:
        Two bytes a step, little-endian; none where the audio is too short or nothing changes in it.
    """
    samples = samples[: SECONDS * SAMPLE_RATE]
    if len(samples) < WINDOW + LEAST_STEPS * HOP:
        return b""
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW).astype(np.float32))) ** 2
    edges = np.geomspace(*BANDS_HZ, N_BITS + 2) * WINDOW / SAMPLE_RATE
    energy = np.add.reduceat(power, edges.astype(int), axis=1)[:, :-1]
    least = LEAST_GROWTH * energy.mean(axis=1, keepdims=True)
    bits = np.diff(np.diff(energy, axis=1), axis=0) > least[1:]
    if not LEAST_CHANGE <= bits.mean() <= 1 - LEAST_CHANGE:
        return b""
    return np.packbits(bits, axis=1, bitorder="little").tobytes()


def difference(a: bytes, b: bytes) -> float:
    """The share of bits in which two fingerprints differ, shifted so that it is smallest.

    Returns:
        0 to 1; 1 where one is empty, or too little of them lies side by side.
    """
    first, second = (np.frombuffer(text, "<u2") for text in (a, b))
    least, enough = 1.0, max(LEAST_OVERLAP * min(len(first), len(second)), LEAST_STEPS)
    for offset in range(-LARGEST_OFFSET, LARGEST_OFFSET + 1):
        x, y = first[max(offset, 0) :], second[max(-offset, 0) :]
        length = min(len(x), len(y))
        if length >= enough:
            n_different = _count_ones()[x[:length] ^ y[:length]].sum(dtype=np.int64)
            least = min(least, float(n_different) / (N_BITS * length))
    return least


@lru_cache
def _count_ones() -> np.ndarray:
    """How many ones each number of 16 bits has, uint8."""
    every = np.arange(1 << N_BITS, dtype="<u2").view(np.uint8)
    return np.unpackbits(every).reshape(-1, N_BITS).sum(1, dtype=np.uint8)


def are_one(a: bytes, b: bytes) -> bool:
    """Whether two fingerprints are of one recording."""
    return difference(a, b) <= LARGEST_ERROR
