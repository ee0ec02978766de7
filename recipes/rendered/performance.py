"""Performances: what players choose about a score, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipes.rendered.percussion import DrumTrack, draw_drums
from recipes.rendered.scores import DRUMS, Score

MIN_SOUNDING = 0.6
"""Least share of a clip in which some note sounds."""

START_TRIALS = 24

N_PARTS = 8
"""Instruments drawn for a performance; further parts share them."""

Range = tuple[int, int]

FAMILY_RANGES: dict[str, Range] = {
    "piano": (33, 96),
    "chromatic percussion": (53, 98),
    "organ": (36, 90),
    "guitar": (40, 84),
    "bass": (26, 60),
    "strings": (40, 90),
    "ensemble": (36, 86),
    "brass": (40, 82),
    "reed": (44, 86),
    "pipe": (57, 96),
    "synth lead": (40, 90),
    "synth pad": (36, 88),
    "synth effects": (40, 88),
    "ethnic": (43, 86),
}
"""Comfortable MIDI pitches of General MIDI's families, eight programs each, in order."""

PROGRAM_RANGES: dict[int, Range] = {
    9: (72, 103),  # glockenspiel
    10: (60, 96),  # music box
    14: (55, 84),  # tubular bells
    28: (40, 79),  # muted guitar
    31: (45, 80),  # guitar harmonics
    40: (55, 98),  # violin
    41: (48, 88),  # viola
    42: (36, 74),  # cello
    43: (26, 60),  # double bass
    46: (31, 98),  # harp
    56: (52, 84),  # trumpet
    57: (38, 72),  # trombone
    58: (26, 60),  # tuba
    60: (40, 76),  # horn
    64: (56, 88),  # soprano saxophone
    65: (49, 80),  # alto saxophone
    67: (36, 70),  # baritone saxophone
    68: (58, 90),  # oboe
    69: (52, 80),  # English horn
    70: (34, 74),  # bassoon
    71: (50, 92),  # clarinet
    72: (74, 103),  # piccolo
    78: (57, 73),  # whistle
}

# Timpani and hits carry no pitch that a score could ask for; the fifths lead, soundtrack and
# goblins sound a fifth, or several notes, for one.
_UNSUITABLE = {47, 55, 86, 97, 101}

FAMILIES = tuple(FAMILY_RANGES)

PROGRAMS: dict[int, Range] = {
    program: PROGRAM_RANGES.get(program, FAMILY_RANGES[FAMILIES[program // 8]])
    for program in range(8 * len(FAMILIES))
    if program not in _UNSUITABLE
}
"""Comfortable range of every General MIDI program (from 0) that a part may be given."""


@dataclass(frozen=True)
class Performance:
    """What players choose.

    Attributes:
        start_s: where in the score the clip begins, seconds of the score.
        transposition: semitones.
        tempo: factor; 1.1 is a tenth faster.
        programs: General MIDI program (from 0) of each part; parts beyond these begin anew.
        gains_db: level of each part, likewise.
        tuning_cents: offset of the whole from A = 440 Hz.
        timing_s: standard deviation of onsets around the score's, seconds.
        velocity_spread: standard deviation of velocities, in steps of 1/127.
        articulation: factor on the durations of notes.
        drums: percussion, or None.
        seed: decides the players' unevenness.
    """

    start_s: float = 0.0
    transposition: int = 0
    tempo: float = 1.0
    programs: tuple[int, ...] = (0,)
    gains_db: tuple[float, ...] = (0.0,)
    tuning_cents: float = 0.0
    timing_s: float = 0.0
    velocity_spread: float = 0.0
    articulation: float = 1.0
    drums: DrumTrack | None = None
    seed: int = 0


def sounding_share(notes: np.ndarray, start_s: float, stop_s: float) -> float:
    """Share of a span in which at least one note sounds.

    >>> notes = np.array([[0, 1, 60, 0, 0], [0.5, 1, 64, 0, 0], [3, 9, 67, 0, 0]], np.float32)
    >>> sounding_share(notes, 0.0, 4.0)
    0.625
    """
    inside = notes[(notes[:, 0] < stop_s) & (notes[:, 0] + notes[:, 1] > start_s)]
    if not len(inside):
        return 0.0
    onsets = np.maximum(inside[:, 0], start_s)
    ends = np.minimum(inside[:, 0] + inside[:, 1], stop_s)
    reached = np.maximum.accumulate(ends)
    # What each note adds beyond all before it; onsets are sorted.
    added = reached - np.maximum(onsets, np.concatenate([[start_s], reached[:-1]]))
    return float(np.maximum(added, 0).sum() / (stop_s - start_s))


def draw_start(
    score: Score, span_s: float, rng: np.random.Generator, *, constant_key: bool = False
) -> float | None:
    """Where a passage begins of which at least 60 % sounds; None if none was found.

    Args:
        score: the work.
        span_s: length of the passage, seconds of the score.
        rng: source of chance.
        constant_key: take only passages with one known key throughout.
    """
    latest = max(score.duration_s - span_s, 0.0)
    for start in rng.uniform(0.0, latest, START_TRIALS).tolist():
        if constant_key and score.key_during(start, start + span_s) is None:
            continue
        if sounding_share(score.notes, start, start + span_s) >= MIN_SOUNDING:
            return start
    return None


def octave_shift(pitches: np.ndarray, program: int) -> int:
    """Semitones, a multiple of 12, that bring most pitches into a program's range.

    >>> octave_shift(np.array([60, 64, 67]), 43), octave_shift(np.array([60, 64, 67]), 0)
    (-12, 0)
    """
    low, high = PROGRAMS.get(program, (0, 127))

    def misfit(shift: int) -> tuple[float, int]:
        moved = pitches + shift
        outside = np.maximum(low - moved, 0) + np.maximum(moved - high, 0)
        return float(outside.sum()), abs(shift)

    return min(range(-60, 61, 12), key=misfit)


def draw_instruments(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """General MIDI programs and levels (dB) of `N_PARTS` parts, whatever the music is."""
    programs = rng.choice(list(PROGRAMS), N_PARTS).tolist()
    return tuple(programs), tuple(rng.uniform(-9.0, 3.0, N_PARTS).tolist())


def draw_performance(
    score: Score,
    seconds: float,
    rng: np.random.Generator,
    *,
    percussion: float = 0.5,
    constant_key: bool = False,
) -> Performance | None:
    """A performance of some passage; None if the score has no passage that sounds enough.

    Args:
        score: the work.
        seconds: length of the clip.
        rng: source of chance.
        percussion: share of performances with percussion; none is added to a score that has some.
        constant_key: take only passages with one known key throughout.
    """
    tempo = float(rng.uniform(0.8, 1.25))
    start_s = draw_start(score, seconds * tempo, rng, constant_key=constant_key)
    if start_s is None:
        return None
    programs, gains_db = draw_instruments(rng)
    with_drums = rng.random() < percussion and DRUMS not in score.parts
    return Performance(
        start_s=start_s,
        transposition=int(rng.integers(-6, 6)),
        tempo=tempo,
        programs=programs,
        gains_db=gains_db,
        tuning_cents=float(rng.uniform(-20.0, 20.0)),
        timing_s=float(rng.uniform(0.0, 0.02)),
        velocity_spread=float(rng.uniform(2.0, 14.0)),
        articulation=float(rng.uniform(0.6, 1.15)),
        drums=draw_drums(score, rng) if with_drums else None,
        seed=int(rng.integers(2**31)),
    )
