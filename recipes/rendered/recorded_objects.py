"""Drum kits of struck objects: for each drum something that sounds like it, drawn by chance."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.rendered.recorded_notes import RATE, BankError, read_note

HEARD_S = 2.0
LONGEST_RISE_S = 0.06
FALL_DB = 30.0
JITTER = 0.4
"""Chance in the choice: a factor of about 1.5 in frequency or duration."""

LIKE: dict[int, tuple[float, float]] = {
    **{35: (80, 0.25), 36: (100, 0.2), 37: (1500, 0.06), 38: (700, 0.2), 39: (1300, 0.15)},
    **{40: (900, 0.18), 41: (110, 0.4), 42: (7000, 0.06), 43: (140, 0.4), 44: (6000, 0.08)},
    **{45: (180, 0.35), 46: (6500, 0.5), 47: (230, 0.3), 48: (280, 0.3), 49: (4500, 1.2)},
    **{50: (340, 0.25), 51: (4000, 0.8), 52: (3500, 1.0), 53: (3000, 0.8), 54: (7000, 0.2)},
    **{55: (5000, 0.7), 56: (900, 0.3), 57: (4200, 1.2), 59: (4500, 0.9), 60: (500, 0.12)},
    **{61: (350, 0.15), 62: (450, 0.1), 63: (330, 0.2), 64: (220, 0.25), 65: (700, 0.3)},
    **{66: (500, 0.35), 67: (1500, 0.3), 68: (1100, 0.3), 69: (7500, 0.15), 70: (8000, 0.08)},
    **{73: (3000, 0.1), 74: (3000, 0.3), 75: (2300, 0.06), 76: (1200, 0.08), 77: (850, 0.09)},
    **{80: (5500, 0.15), 81: (5500, 1.0)},
}
"""Mean frequency (Hz) and time in which it falls by `FALL_DB` of the usual drum, by key."""


@dataclass(frozen=True)
class Struck:
    """A sound of one stroke: mean frequency (Hz, geometric), and seconds to fall by `FALL_DB`."""

    path: Path
    hz: float
    seconds: float


def choose_objects(folder: Path, words: Sequence[str], number: int) -> dict[int, Path]:
    """A recording of a struck object for each of the drums in `LIKE`, each another one.

    Args:
        folder: of the recordings.
        words: a recording's name has one of them.
        number: of the kit, from 1; what kits before it have is left out.

    Raises:
        BankError: there are too few.
    """
    left = list(_struck_sounds(folder, tuple(words)))
    if len(left) < number * len(LIKE):
        needed = number * len(LIKE)
        raise BankError(f"{folder}: {len(left)} struck sounds of {needed}; download it whole")
    for kit in range(1, number + 1):
        rng = np.random.default_rng(kit)
        chosen = {key: _take_likest(left, key, rng) for key in rng.permutation(list(LIKE)).tolist()}
    return chosen


def _take_likest(left: list[Struck], key: int, rng: np.random.Generator) -> Path:
    """Take a sound that is like a drum out of those that are left."""
    hz, seconds = LIKE[key]
    unlikeness = [
        abs(np.log(sound.hz / hz)) + 0.5 * abs(np.log(sound.seconds / seconds)) for sound in left
    ]
    jitter = JITTER * rng.exponential(size=len(left))
    return left.pop(int(np.argmin(np.array(unlikeness) + jitter))).path


@functools.lru_cache(maxsize=2)
def _struck_sounds(folder: Path, words: tuple[str, ...]) -> tuple[Struck, ...]:
    named = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.resolve().is_relative_to(folder.resolve())
        and any(word in path.stem.lower() for word in words)
    ]
    heard = [describe_stroke(path) for path in named]
    return tuple(sound for sound in heard if sound is not None)


def describe_stroke(path: Path) -> Struck | None:
    """Measure a stroke; None if a sound is none: it swells, or does not fall soon enough."""
    sound = read_note(path, None, HEARD_S, lasting=False).samples
    step = RATE // 200
    whole = len(sound) // step * step
    if not whole:
        return None
    level = 10 * np.log10(np.square(sound[:whole].reshape(-1, step)).mean(1) + 1e-12)
    loudest = int(level.argmax())
    if loudest * step > LONGEST_RISE_S * RATE:
        return None
    louder = np.flatnonzero(level > level[loudest] - FALL_DB)
    seconds = (int(louder[-1]) + 1 - loudest) * step / RATE
    if seconds > 0.9 * HEARD_S:
        return None
    power = np.abs(np.fft.rfft(sound)) ** 2
    hz = np.fft.rfftfreq(len(sound), 1 / RATE)[1:]
    mean = float(np.exp(np.sum(power[1:] * np.log(hz)) / np.sum(power[1:])))
    return Struck(path, mean, seconds)
