"""Soundfonts of self-made instruments: additive tones on General MIDI's programs, and drums.

No sound is taken from anywhere: every tone is a sum of drawn partials with a burst of noise at its
beginning, every drum is noise and a falling tone. Another seed gives other instruments, which keep
to their families: struck and plucked ones decay, blown and bowed ones last.

\b
Example:
  python -m recipes.rendered.soundfont_writer own1.sf2 --seed 1

Exit status: 0 done, 2 bad input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from scipy.signal import butter, sosfilt

from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.files import replacing
from myna_plugin.common.options import FILE, SEED
from recipes.rendered.sf2_file import (
    ATTACK,
    DECAY,
    DRUM_BANK,
    FILTER_HZ,
    FINE_TUNE,
    KEY_RANGE,
    KEY_TO_DECAY,
    MOD_DECAY,
    MOD_ENVELOPE_TO_FILTER,
    MOD_SUSTAIN,
    RELEASE,
    ROOT_KEY,
    SAMPLE_MODE,
    SUSTAIN,
    VIBRATO_DELAY,
    VIBRATO_RATE,
    VIBRATO_TO_PITCH,
    Generators,
    Instrument,
    Tone,
    soundfont_file,
    timecents,
)

RATE = 32_000
ATTACK_S = 0.12
LOOP_S = 0.1
ZONE_TOPS = (42, 54, 66, 78, 127)
"""Highest key of each zone of an instrument; a zone's tone is made six semitones below."""


@dataclass(frozen=True)
class Family:
    """What the instruments of a General MIDI family have in common.

    Attributes:
        roll_off: least and greatest exponent with which partials fall.
        even: least and greatest factor on even partials; small for a clarinet's hollow tone.
        inharmonicity: greatest stiffness of strings; 0 for none.
        noise: least and greatest level of the burst at the beginning.
        attack_s: shortest and longest rise.
        decay_s: shortest and longest time to silence; None for a tone that lasts.
        vibrato: greatest depth, cents.
        unison: chance that two of it play together, out of tune.
        metal: the partials are those of bars and bells.
    """

    roll_off: tuple[float, float]
    attack_s: tuple[float, float]
    decay_s: tuple[float, float] | None = None
    even: tuple[float, float] = (0.6, 1.0)
    inharmonicity: float = 0.0
    noise: tuple[float, float] = (0.0, 0.1)
    vibrato: float = 0.0
    unison: float = 0.0
    metal: bool = False


FAMILIES = (
    Family((0.9, 1.9), (0.001, 0.004), (3, 12), inharmonicity=4e-4, noise=(0.02, 0.2)),  # piano
    Family((0.8, 1.8), (0.001, 0.003), (0.8, 6), noise=(0.05, 0.4), metal=True),  # mallets
    Family((0.3, 1.4), (0.004, 0.02), noise=(0.0, 0.1), vibrato=8, unison=0.3),  # organ
    Family((0.8, 1.8), (0.001, 0.004), (2, 8), inharmonicity=2e-4, noise=(0.05, 0.3)),  # guitar
    Family((1.0, 2.2), (0.002, 0.01), (2, 8), inharmonicity=1e-4, noise=(0.02, 0.2)),  # bass
    Family((0.7, 1.4), (0.02, 0.12), noise=(0.02, 0.15), vibrato=30),  # strings
    Family((0.8, 1.6), (0.03, 0.2), noise=(0.0, 0.1), vibrato=15, unison=0.9),  # ensemble
    Family((0.5, 1.2), (0.01, 0.06), noise=(0.01, 0.1), vibrato=12),  # brass
    Family((0.6, 1.4), (0.01, 0.05), even=(0.1, 0.9), noise=(0.02, 0.15), vibrato=15),  # reed
    Family((1.4, 2.6), (0.02, 0.08), even=(0.4, 1.0), noise=(0.1, 0.5), vibrato=25),  # pipe
    Family((0.6, 1.2), (0.002, 0.02), even=(0.0, 1.0), vibrato=20, unison=0.4),  # synth lead
    Family((0.9, 1.8), (0.05, 0.4), vibrato=12, unison=0.9),  # synth pad
    Family((0.8, 2.0), (0.01, 0.3), (3, 12), vibrato=20, unison=0.5),  # synth effects
    Family((0.6, 1.6), (0.001, 0.01), (1, 5), inharmonicity=2e-4, noise=(0.05, 0.4)),  # ethnic
    Family((0.9, 2.0), (0.001, 0.003), (0.3, 2), noise=(0.2, 0.8), metal=True),  # percussive
    Family((0.3, 1.0), (0.01, 0.3), (1, 4), noise=(0.5, 1.0), unison=0.5),  # sound effects
)
"""General MIDI's families, eight programs each, in order."""

METAL_RATIOS = (1.0, 2.0, 2.76, 4.0, 5.4, 6.8, 8.93)


@dataclass(frozen=True)
class Drum:
    """A drum: noise between two frequencies, and a tone that falls.

    Attributes:
        noise_hz: band of the noise; None for none.
        noise_s: time in which it falls by 60 dB.
        tone_hz: pitch of the tone; 0 for none.
        tone_s: time in which it falls by 60 dB.
        bend: factor by which the tone begins higher.
    """

    noise_hz: tuple[float, float] | None
    noise_s: float = 0.1
    tone_hz: float = 0.0
    tone_s: float = 0.2
    bend: float = 1.0


DRUMS: dict[int, Drum] = {
    35: Drum((60, 2000), 0.03, 46, 0.5, 2.5),
    36: Drum((100, 4000), 0.03, 55, 0.4, 3.0),
    37: Drum((1000, 7000), 0.06, 900, 0.05),
    38: Drum((400, 9000), 0.25, 190, 0.2, 1.3),
    39: Drum((800, 6000), 0.2),
    40: Drum((600, 11000), 0.2, 230, 0.15, 1.3),
    41: Drum((100, 1500), 0.05, 80, 0.7, 1.6),
    42: Drum((6000, 14000), 0.08),
    43: Drum((100, 1500), 0.05, 100, 0.6, 1.6),
    44: Drum((5000, 13000), 0.1),
    45: Drum((100, 2000), 0.05, 120, 0.6, 1.6),
    46: Drum((5500, 14000), 0.6),
    47: Drum((100, 2000), 0.05, 150, 0.5, 1.6),
    48: Drum((100, 2500), 0.05, 180, 0.5, 1.6),
    49: Drum((3000, 14000), 1.6),
    50: Drum((100, 2500), 0.05, 220, 0.45, 1.6),
    51: Drum((4000, 14000), 0.9, 3100, 0.6),
    52: Drum((2000, 12000), 1.2),
    53: Drum((5000, 12000), 0.5, 2300, 0.8),
    54: Drum((5000, 14000), 0.2, 7000, 0.15),
    55: Drum((4000, 14000), 0.8),
    56: Drum((500, 4000), 0.05, 560, 0.3),
    57: Drum((2500, 14000), 1.5),
    59: Drum((4000, 13000), 1.0, 2800, 0.5),
    60: Drum((400, 5000), 0.03, 420, 0.2, 1.1),
    61: Drum((300, 4000), 0.03, 310, 0.25, 1.1),
    62: Drum((300, 5000), 0.05, 300, 0.12, 1.1),
    63: Drum((300, 4000), 0.04, 260, 0.35, 1.1),
    64: Drum((200, 3000), 0.04, 190, 0.4, 1.1),
    69: Drum((5000, 13000), 0.12),
    70: Drum((5000, 13000), 0.06),
    75: Drum(None, tone_hz=2500, tone_s=0.08),
    76: Drum(None, tone_hz=1100, tone_s=0.08),
    77: Drum(None, tone_hz=800, tone_s=0.09),
    81: Drum(None, tone_hz=5200, tone_s=1.2),
}
"""Drums by General MIDI key."""


def write_soundfont(path: str | Path, seed: int, programs: Sequence[int] = range(128)) -> Path:
    """Write a soundfont of drawn instruments, atomically.

    Args:
        path: of the new file, `.sf2`.
        seed: decides the instruments.
        programs: General MIDI programs (from 0) to make; each is the same whichever others are.

    Returns:
        The path.
    """
    path = Path(path)
    instruments = [_draw_instrument(program, seed) for program in programs]
    instruments.append(_draw_drums(seed))
    with replacing(path) as partial:
        partial.write_bytes(soundfont_file(instruments, f"Drawn instruments {seed}"))
    return path


def _draw_instrument(program: int, seed: int) -> Instrument:
    rng = np.random.default_rng([seed, program])
    family = FAMILIES[program // 8]
    partials = _Partials(family, rng)
    common = _envelope(family, rng)
    unison = rng.random() < family.unison
    detune = int(rng.integers(4, 14))
    zones: list[tuple[Generators, Tone]] = []
    low = 0
    for top in ZONE_TOPS:
        root = min(top, 96) - 6
        tone = partials.tone(f"p{program} k{root}", root, rng)
        key_range: Generators = [(KEY_RANGE, top << 8 | low)]
        for cents in (-detune, detune) if unison else (0,):
            tuned = [(FINE_TUNE, cents & 0xFFFF)] if cents else []
            zones.append(([*key_range, *common, *tuned, (SAMPLE_MODE, 1)], tone))
        low = top + 1
    return Instrument(f"Program {program}", 0, program, zones)


class _Partials:
    """Strengths and places of an instrument's partials."""

    def __init__(self, family: Family, rng: np.random.Generator) -> None:
        self.family = family
        self.roll_off = rng.uniform(*family.roll_off)
        self.even = rng.uniform(*family.even)
        self.stiffness = rng.uniform(0, family.inharmonicity)
        self.noise = rng.uniform(*family.noise)
        self.noise_s = rng.uniform(0.005, 0.04)
        # Resonances of the body, at the same frequencies whatever the note.
        self.knots_hz = np.geomspace(60, 16000, 12)
        self.body_db = rng.normal(0, rng.uniform(1, 6), len(self.knots_hz))
        self.uneven_db = rng.normal(0, 2.5, 64)
        self.ratios = np.array(METAL_RATIOS) * np.append(1, rng.uniform(0.96, 1.04, 6))
        self.ratios[1] = 2.0

    def tone(self, name: str, root: int, rng: np.random.Generator) -> Tone:
        """The tone of a zone: a beginning with noise, then a loop of whole periods."""
        hz = 440 * 2 ** ((root - 69) / 12)
        periods = max(round(LOOP_S * hz), 1)
        loop = round(periods * RATE / hz)
        grid = RATE / loop
        fundamental = periods * grid
        orders = self._orders(fundamental)
        # On the grid of the loop, so that the loop has no seam.
        partial_hz = np.rint(orders * fundamental / grid) * grid
        strengths = self._strengths(orders, partial_hz)
        attack = round(ATTACK_S * RATE)
        time = np.arange(attack + loop) / RATE
        phases = rng.uniform(0, 2 * np.pi, len(orders))
        sound = np.zeros(len(time))
        for strength, frequency, phase in zip(strengths, partial_hz, phases, strict=True):
            sound += strength * np.sin(2 * np.pi * frequency * time + phase)
        sound /= np.sqrt(np.mean(sound**2))
        burst = rng.standard_normal(attack) * np.exp(-np.arange(attack) / (self.noise_s * RATE))
        band = butter(1, [min(hz, 4000.0), 12_000], "bandpass", fs=RATE, output="sos")
        sound[:attack] += 2 * self.noise * sosfilt(band, burst)
        samples = np.rint(sound / np.abs(sound).max() * 30_000).astype("<i2")
        # The beginning once more: interpolation reads past the end of the loop.
        samples = np.concatenate([samples, samples[attack : attack + 16]])
        exact_root = 69 + 12 * np.log2(fundamental / 440)
        return Tone(name, samples, RATE, float(exact_root), (attack, attack + loop))

    def _orders(self, fundamental: float) -> np.ndarray:
        if self.family.metal:
            orders = self.ratios
        else:
            k = np.arange(1, 49)
            orders = k * np.sqrt((1 + self.stiffness * k**2) / (1 + self.stiffness))
        return orders[orders * fundamental < 0.45 * RATE]

    def _strengths(self, orders: np.ndarray, hz: np.ndarray) -> np.ndarray:
        strengths = orders**-self.roll_off
        if not self.family.metal:
            strengths[1::2] *= self.even
        body = np.interp(np.log(hz), np.log(self.knots_hz), self.body_db)
        return strengths * 10 ** ((body + self.uneven_db[: len(orders)]) / 20)


def _envelope(family: Family, rng: np.random.Generator) -> Generators:
    attack = rng.uniform(*family.attack_s)
    generators: Generators = [(ATTACK, timecents(attack))]
    if family.decay_s is None:
        generators += [
            (DECAY, timecents(0.4)),
            (SUSTAIN, int(rng.integers(0, 60))),
            (RELEASE, timecents(rng.uniform(0.08, 0.5))),
        ]
    else:
        decay = rng.uniform(*family.decay_s)
        # Brightness dies before loudness.
        opening = int(rng.integers(1200, 4800))
        generators += [
            (DECAY, timecents(decay)),
            (SUSTAIN, 1000),
            (RELEASE, timecents(rng.uniform(0.15, 0.8))),
            (KEY_TO_DECAY, int(rng.integers(10, 40))),
            (FILTER_HZ, int(rng.integers(8000, 11500))),
            (MOD_ENVELOPE_TO_FILTER, opening),
            (MOD_DECAY, timecents(decay / 3)),
            (MOD_SUSTAIN, 1000),
        ]
    if family.vibrato:
        generators += [
            (VIBRATO_TO_PITCH, int(rng.uniform(0, family.vibrato))),
            (VIBRATO_RATE, round(1200 * np.log2(rng.uniform(4, 7) / 8.176)) & 0xFFFF),
            (VIBRATO_DELAY, timecents(rng.uniform(0.05, 0.5))),
        ]
    return generators


def _draw_drums(seed: int) -> Instrument:
    rng = np.random.default_rng([seed, 128])
    zones = []
    for key, drum in DRUMS.items():
        generators: Generators = [
            (KEY_RANGE, key << 8 | key),
            (RELEASE, timecents(1.0)),
            (SAMPLE_MODE, 0),
            (ROOT_KEY, key),
        ]
        zones.append((generators, Tone(f"drum {key}", _strike(drum, rng), RATE, float(key))))
    return Instrument("Drums", DRUM_BANK, 0, zones)


def _strike(drum: Drum, rng: np.random.Generator) -> np.ndarray:
    vary = float(np.exp(rng.normal(0, 0.15)))
    longest = max(drum.noise_s if drum.noise_hz else 0.0, drum.tone_s if drum.tone_hz else 0.0)
    time = np.arange(round(1.1 * vary * longest * RATE)) / RATE
    fall = -np.log(1000) / vary
    sound = np.zeros(len(time))
    if drum.noise_hz is not None:
        # Some draws would put the upper edge above half the sample rate, where no filter is.
        edges = np.minimum(np.array(drum.noise_hz) * vary**0.5, 0.499 * RATE)
        band = butter(2, edges, "bandpass", fs=RATE, output="sos")
        noise = sosfilt(band, rng.standard_normal(len(time)))
        sound += noise / max(noise.std(), 1e-9) * np.exp(fall * time / drum.noise_s) * 0.5
    if drum.tone_hz:
        sweep = 1 + (drum.bend - 1) * np.exp(-time / 0.03)
        phase = 2 * np.pi * np.cumsum(drum.tone_hz * vary * sweep) / RATE
        sound += np.sin(phase) * np.exp(fall * time / drum.tone_s)
    sound[-64:] *= np.linspace(1, 0, 64)
    return np.rint(sound / np.abs(sound).max() * 30_000).astype("<i2")


@click.command("soundfont_writer", cls=ToldCommand, help=__doc__)
@click.argument("path", metavar="OUT.sf2", type=FILE)
@SEED
def main(path: Path, seed: int) -> None:
    path = write_soundfont(path, seed)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
