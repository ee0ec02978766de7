"""A small synthesiser: notes, six families of instruments, drums, and a room to record them in.

Everything is drawn from a generator; no recording of anybody is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from scipy.signal import butter, fftconvolve, sosfilt

from myna_plugin.model.audio import SAMPLE_RATE


@dataclass(frozen=True)
class Note:
    """A note: start and length in seconds, MIDI pitch, loudness in (0, 1]."""

    start: float
    seconds: float
    pitch: int
    velocity: float = 1.0

    @property
    def end(self) -> float:
        """Where it is released, seconds."""
        return self.start + self.seconds


Voice = Callable[[float, float], np.ndarray]
"""(frequency in Hz, held seconds) -> samples, release included."""

RELEASE_S = 0.06


def envelope(n_samples: int, attack_s: float) -> np.ndarray:
    """Linear attack, level one, raised-cosine release over the last 60 ms."""
    shape = np.minimum(1.0, np.arange(n_samples) / (attack_s * SAMPLE_RATE))
    release = int(RELEASE_S * SAMPLE_RATE)
    shape[-release:] *= 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, release))
    return shape


def note_times(held_s: float) -> np.ndarray:
    """Sample times of a note held for `held_s`, release included, seconds."""
    return np.arange(int((held_s + RELEASE_S) * SAMPLE_RATE)) / SAMPLE_RATE


def partials(
    frequency: float,
    held_s: float,
    *,
    level: Callable[[np.ndarray], np.ndarray],
    attack_s: float,
    decay: tuple[float, float] = (0.0, 0.0),
    inharmonicity: float = 0.0,
    vibrato: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Sum of sinusoidal partials below 7.5 kHz.

    Args:
        frequency: fundamental, Hz.
        held_s: seconds until the release.
        level: partial numbers (from 1) -> amplitudes.
        attack_s: seconds until full level.
        decay: (a, b): partial k falls as exp(-(a + b k) t).
        inharmonicity: B of a stiff string: partial k sounds at k f sqrt(1 + B k²).
        vibrato: (rate in Hz, depth as a share of the frequency).
    """
    t = note_times(held_s)
    k = np.arange(1, max(2, int(7_500 / frequency) + 1))
    ratios = k * np.sqrt(1 + inharmonicity * k**2)
    rate, depth = vibrato
    wobble = depth * np.sin(2 * np.pi * rate * t) / (2 * np.pi * rate) if rate else 0.0
    phase = 2 * np.pi * frequency * (t + wobble)
    amplitudes = np.where(frequency * ratios < 7_500, level(k), 0.0)
    fall = np.exp(-(decay[0] + decay[1] * k)[:, None] * t)
    samples = (amplitudes[:, None] * fall * np.sin(ratios[:, None] * phase)).sum(0)
    return samples * envelope(len(t), attack_s)


def organ(rng: Generator) -> Voice:
    """Drawbars: a few harmonics of random strength, sustained."""
    drawbars = dict(zip((1, 2, 3, 4, 6, 8), rng.uniform(0.1, 1.0, 6), strict=True))
    level = np.vectorize(lambda k: drawbars.get(int(k), 0.0))
    return partial(partials, level=level, attack_s=0.012)


def plucked(rng: Generator) -> Voice:
    """A string plucked at a random place; high partials die first."""
    place, tilt = rng.uniform(0.08, 0.4), rng.uniform(0.8, 1.4)
    return partial(
        partials,
        level=lambda k: np.sin(np.pi * k * place) / k**tilt,
        attack_s=0.003,
        decay=(rng.uniform(1.0, 3.0), rng.uniform(0.2, 0.6)),
    )


def struck(rng: Generator) -> Voice:
    """A stiff string struck by a hammer: stretched partials."""
    tilt = rng.uniform(1.0, 1.7)
    return partial(
        partials,
        level=lambda k: k**-tilt,
        attack_s=0.006,
        decay=(rng.uniform(0.5, 1.5), rng.uniform(0.1, 0.3)),
        inharmonicity=rng.uniform(1e-4, 6e-4),
    )


def bowed(rng: Generator) -> Voice:
    """Two detuned sawtooths with vibrato and a slow attack."""
    cents, attack = rng.uniform(2, 8), rng.uniform(0.03, 0.07)
    vibrato = (rng.uniform(4.5, 6.5), rng.uniform(0.001, 0.006))
    one = partial(partials, level=lambda k: 1 / k, attack_s=attack, vibrato=vibrato)

    def pair(frequency: float, held_s: float) -> np.ndarray:
        return one(frequency * 2 ** (cents / 1200), held_s) + one(
            frequency * 2 ** (-cents / 1200), held_s
        )

    return pair


def reed(rng: Generator) -> Voice:
    """Mostly odd harmonics, sustained."""
    tilt, even = rng.uniform(0.8, 1.5), rng.uniform(0.0, 0.3)
    return partial(
        partials,
        level=lambda k: np.where(k % 2 == 1, 1.0, even) / k**tilt,
        attack_s=rng.uniform(0.01, 0.03),
        vibrato=(rng.uniform(4, 6), rng.uniform(0, 0.003)),
    )


def electric_piano(rng: Generator) -> Voice:
    """Two-operator frequency modulation with a whole ratio and a falling index."""
    ratio, index = int(rng.integers(1, 5)), rng.uniform(0.8, 3.0)
    index_fall, fall = rng.uniform(2, 8), rng.uniform(0.5, 2)

    def voice(frequency: float, held_s: float) -> np.ndarray:
        t = note_times(held_s)
        # Carson's rule keeps the sidebands below the Nyquist frequency.
        depth = min(index, max(0.0, 7_500 / (ratio * frequency) - 1 - 1 / ratio))
        modulator = depth * np.exp(-index_fall * t) * np.sin(2 * np.pi * ratio * frequency * t)
        carrier = np.sin(2 * np.pi * frequency * t + modulator)
        return carrier * np.exp(-fall * t) * envelope(len(t), 0.004)

    return voice


INSTRUMENTS: dict[str, Callable[[Generator], Voice]] = {
    "organ": organ,
    "plucked": plucked,
    "struck": struck,
    "bowed": bowed,
    "reed": reed,
    "electric_piano": electric_piano,
}


def draw_voice(rng: Generator) -> Voice:
    """A random instrument with random settings."""
    return INSTRUMENTS[str(rng.choice(list(INSTRUMENTS)))](rng)


def add(mix: np.ndarray, samples: np.ndarray, start_s: float) -> None:
    """Add `samples` into `mix` from `start_s` on, cut at the end of the mix."""
    first = int(start_s * SAMPLE_RATE)
    length = min(len(samples), len(mix) - first)
    mix[first : first + length] += samples[:length]


def render(notes: Iterable[Note], voice: Voice, seconds: float, cents: float) -> np.ndarray:
    """Play notes on one instrument, tuned `cents` from A = 440 Hz; RMS 1 unless there are none."""
    mix = np.zeros(round(seconds * SAMPLE_RATE))
    for note in notes:
        frequency = 440 * 2 ** ((note.pitch - 69) / 12 + cents / 1200)
        samples = voice(frequency, note.seconds)
        add(mix, note.velocity * samples / np.sqrt(np.mean(samples**2)), note.start)
    return mix / max(np.sqrt(np.mean(mix**2)), 1e-9)


def kick(rng: Generator) -> np.ndarray:
    """A falling sine of 0.2 s."""
    t = np.arange(int(0.2 * SAMPLE_RATE)) / SAMPLE_RATE
    sweep = rng.uniform(40, 60) * t - rng.uniform(3, 6) * np.exp(-30 * t)
    return np.sin(2 * np.pi * sweep) * np.exp(-18 * t)


def noise_hit(rng: Generator, low_hz: float, seconds: float) -> np.ndarray:
    """High-passed noise that dies away: a snare or a hi-hat."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = rng.standard_normal(len(t)) * np.exp(-5 * t / seconds)
    return 0.5 * sosfilt(butter(2, low_hz, "highpass", fs=SAMPLE_RATE, output="sos"), noise)


def drums(rng: Generator, beat_s: float, seconds: float) -> np.ndarray:
    """A pattern of kick, snare and hi-hat in eighths; RMS 1."""
    mix = np.zeros(round(seconds * SAMPLE_RATE))
    pattern = {
        "kick": rng.random(8) < (0.9, 0.1, 0.3, 0.2, 0.7, 0.1, 0.3, 0.2),
        "snare": rng.random(8) < (0.0, 0.05, 0.8, 0.1, 0.0, 0.1, 0.8, 0.2),
        "hat": rng.random(8) < rng.uniform(0.3, 0.95),
    }
    hits = {
        "kick": kick,
        "snare": lambda rng: noise_hit(rng, 1_200, 0.15),
        "hat": lambda rng: 0.5 * noise_hit(rng, 5_000, 0.06),
    }
    for eighth in range(int(2 * seconds / beat_s)):
        for name, hit in hits.items():
            if pattern[name][eighth % 8]:
                add(mix, hit(rng), eighth * beat_s / 2)
    return mix / max(np.sqrt(np.mean(mix**2)), 1e-9)


def produce(mix: np.ndarray, rng: Generator) -> np.ndarray:
    """Room, tone control, background noise and level: the dry mix as a recording, float32."""
    decay_s = rng.uniform(0.05, 0.25)
    t = np.arange(int(4 * decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    room = rng.standard_normal(len(t)) * np.exp(-t / decay_s)
    wet = fftconvolve(mix, room / np.sqrt(np.sum(room**2)))[: len(mix)]
    mix = mix + rng.uniform(0.0, 0.35) * wet
    cutoff = rng.uniform(2_500, 7_500)
    mix = sosfilt(butter(1, cutoff, fs=SAMPLE_RATE, output="sos"), mix)
    hiss = np.cumsum(rng.standard_normal(len(mix)))
    hiss = sosfilt(butter(1, 200, "highpass", fs=SAMPLE_RATE, output="sos"), hiss)
    snr_db = rng.uniform(25, 50)
    mix += hiss * np.sqrt(np.mean(mix**2) / np.mean(hiss**2)) * 10 ** (-snr_db / 20)
    peak = 10 ** (rng.uniform(-9, -1) / 20)
    return (mix * peak / np.abs(mix).max()).astype(np.float32)
