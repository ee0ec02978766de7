"""Sounds of known pitch, as files in the layouts of recorded notes."""

import numpy as np
import soundfile

FILE_RATE = 44_100


def hz_of(pitch):
    return 440 * 2 ** ((pitch - 69) / 12)


def tone(pitch, seconds=1.5, partials=(1.0, 0.5, 0.25), decay_s=None, rate=FILE_RATE):
    time = np.arange(round(seconds * rate)) / rate
    sound = sum(
        strength * np.sin(2 * np.pi * hz_of(pitch) * (i + 1) * time)
        for i, strength in enumerate(partials)
    )
    if decay_s is not None:
        sound = sound * np.exp(-time / decay_s)
    return 0.3 * sound * np.minimum(1, time / 0.003)


def save(path, sound, rate=FILE_RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, **options)


def strike(hz, seconds, rate=FILE_RATE, seed=0):
    time = np.arange(round(1.5 * rate)) / rate
    noise = np.random.default_rng(seed).normal(size=len(time))
    return (0.5 * np.sin(2 * np.pi * hz * time) + 0.02 * noise) * np.exp(-time / seconds)
