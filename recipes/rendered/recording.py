"""Recordings: what a room, a microphone and what lies behind it do to a sound, drawn at random.

All of it is synthetic; nothing is measured from a real room. `recording_chain` applies it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipes.rendered.noises import NOISES

SEGMENT_S = (2.0, 6.0)
"""Shortest and longest time that conditions hold where they change."""

EQ_HZ = np.array([30.0, 60.0, 120.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0])
"""Frequencies at which a microphone's gain is drawn."""


@dataclass(frozen=True)
class Conditions:
    """Room, microphone, noise and level that hold for a while.

    Attributes:
        rt60_s: seconds in which the reverberation falls by 60 dB; 0 for no room.
        reverberant_db: level of the reverberation against the direct sound.
        damping: factor from the decay time of the bass to that of the treble, in (0, 1].
        eq_db: gain of the microphone at `EQ_HZ`.
        low_cut_hz: below, the microphone falls by 12 dB an octave; 0 for none.
        high_cut_hz: above, likewise; 0 for none.
        noises: kinds of background noise (see `NOISES`) and their shares.
        snr_db: level of the music against the noise.
        compression: ratio above the threshold; 1 for none.
        threshold_db: level relative to the music's from which it is compressed.
        drive: soft clipping: gain before a tanh, relative to the peak; 0 for none.
        low_pass_hz: steep cut as of lossy coding, noise included; 0 for none.
        peak_db: peak level, dB below full scale.
        seed: decides reflections and the noise itself.
    """

    rt60_s: float = 0.0
    reverberant_db: float = 0.0
    damping: float = 0.5
    eq_db: tuple[float, ...] = (0.0,) * len(EQ_HZ)
    low_cut_hz: float = 0.0
    high_cut_hz: float = 0.0
    noises: tuple[tuple[str, float], ...] = ()
    snr_db: float = 60.0
    compression: float = 1.0
    threshold_db: float = 0.0
    drive: float = 0.0
    low_pass_hz: float = 0.0
    peak_db: float = -6.0
    seed: int = 0


@dataclass(frozen=True)
class Recording:
    """Conditions one after the other.

    Attributes:
        conditions: at least one.
        borders_s: where one gives way to the next, seconds, ascending; one fewer.
    """

    conditions: tuple[Conditions, ...]
    borders_s: tuple[float, ...] = ()


def draw_conditions(rng: np.random.Generator) -> Conditions:
    """Some conditions, from an anechoic line to a noisy phone in a church."""
    walk = np.cumsum(rng.normal(0.0, rng.uniform(0.5, 4.0), len(EQ_HZ)))
    curve = np.clip(walk - walk.mean() + rng.uniform(-1.5, 1.5) * np.arange(-4, 5), -14, 14)
    kinds = rng.choice(list(NOISES), rng.integers(1, 4), replace=False)
    shares = rng.dirichlet(np.ones(len(kinds)))
    return Conditions(
        rt60_s=float(0.1 + 1.7 * rng.random() ** 1.3) if rng.random() < 0.75 else 0.0,
        reverberant_db=float(rng.uniform(-18.0, 4.0)),
        damping=float(rng.uniform(0.25, 1.0)),
        eq_db=tuple(curve.tolist()),
        low_cut_hz=float(np.exp(rng.uniform(np.log(20), np.log(250)))) * (rng.random() < 0.6),
        high_cut_hz=float(np.exp(rng.uniform(np.log(1800), np.log(8000)))) * (rng.random() < 0.4),
        noises=tuple(zip(kinds.tolist(), shares.tolist(), strict=True)),
        snr_db=float(rng.uniform(8.0, 45.0)),
        compression=float(rng.uniform(1.2, 5.0)) if rng.random() < 0.35 else 1.0,
        threshold_db=float(rng.uniform(-12.0, 3.0)),
        drive=float(rng.uniform(0.3, 2.5)) if rng.random() < 0.25 else 0.0,
        low_pass_hz=float(rng.uniform(3400.0, 7600.0)) if rng.random() < 0.2 else 0.0,
        peak_db=float(rng.uniform(-35.0, -1.0)),
        seed=int(rng.integers(2**31)),
    )


def draw_recording(
    rng: np.random.Generator, seconds: float, *, changing: bool = False
) -> Recording:
    """A recording of some length.

    Args:
        rng: source of chance.
        seconds: its length.
        changing: draw the conditions anew every 2 to 6 seconds, at random moments, so that nothing
            of the recording stays the same over a clip; otherwise once.
    """
    borders: list[float] = []
    if changing:
        # The first may come at once: a border is no nearer to the clip's ends than elsewhere.
        border = float(rng.uniform(0.0, SEGMENT_S[1]))
        while border < seconds:
            borders.append(border)
            border += float(rng.uniform(*SEGMENT_S))
    conditions = tuple(draw_conditions(rng) for _ in range(len(borders) + 1))
    return Recording(conditions, tuple(borders))
