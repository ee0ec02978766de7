"""Percussion under a passage: patterns of our own, with fills, entering and leaving."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipes.rendered.scores import Score

KICK, STICK, SNARE, CLAP = 36, 37, 38, 39
CLOSED_HAT, PEDAL_HAT, OPEN_HAT, CRASH, RIDE = 42, 44, 46, 49, 51
LOW_TOM, MID_TOM, HIGH_TOM = 45, 47, 50
TAMBOURINE, COWBELL, MARACAS, CLAVES = 54, 56, 70, 75
HIGH_BONGO, LOW_BONGO, OPEN_CONGA, LOW_CONGA = 60, 61, 63, 64

VELOCITIES = {".": 0, "-": 45, "o": 72, "x": 98, "X": 120}
"""What a letter of a pattern means."""

PATTERNS: dict[str, tuple[int, dict[int, str]]] = {
    "rock": (
        4,
        {KICK: "X.......X.X.....", SNARE: "....X.......X...", CLOSED_HAT: "x.o.x.o.x.o.x.o."},
    ),
    "half time": (
        4,
        {KICK: "X.....x.........", SNARE: "........X.......", RIDE: "x...o...x...o..."},
    ),
    "sixteenths": (
        4,
        {KICK: "X..x....X.x.....", SNARE: "....X..-....X-..", CLOSED_HAT: "x-o-x-o-x-o-x-o-"},
    ),
    "four on the floor": (
        4,
        {KICK: "X...X...X...X...", CLAP: "....x.......x...", OPEN_HAT: "..x...x...x...x."},
    ),
    "disco": (
        4,
        {KICK: "X...X...X...X...", SNARE: "....X.......X...", CLOSED_HAT: "xoxoxoxoxoxoxoxo"},
    ),
    "swing": (4, {RIDE: "x..x.ox..x.o", PEDAL_HAT: "...x.....x..", KICK: "-..-..-..-.."}),
    "shuffle": (4, {CLOSED_HAT: "x.ox.ox.ox.o", SNARE: "...X.....X..", KICK: "X....xX....."}),
    "bossa": (
        4,
        {KICK: "x..xx..xx..xx..x", STICK: "x..x..x...x..x..", CLOSED_HAT: "oooooooooooooooo"},
    ),
    "bolero": (4, {MARACAS: "x.oox.o.x.o.x.o.", LOW_BONGO: "x.....x.", HIGH_BONGO: "..o-..o-"}),
    "son": (
        4,
        {
            CLAVES: "X..X..X...X.X...",
            OPEN_CONGA: "......x.......xx",
            LOW_CONGA: "x.......x.......",
            COWBELL: "o...o...o...o...",
        },
    ),
    "reggae": (
        4,
        {STICK: "........X.......", KICK: "........X.......", CLOSED_HAT: "..x...x...x...xo"},
    ),
    "march": (4, {SNARE: "x.o-x.o-x.o-xxxx", KICK: "X...x...X...x..."}),
    "polka": (2, {KICK: "X...x...", SNARE: "..x...x.", CLOSED_HAT: "oooo"}),
    "two-step": (2, {KICK: "X..x", SNARE: "..X.", TAMBOURINE: "o.x."}),
    "waltz": (3, {KICK: "X.....", SNARE: "..o.o.", RIDE: "x.x.x."}),
    "jazz waltz": (3, {RIDE: "x..x.ox..", PEDAL_HAT: "...x.....", KICK: "x........"}),
    "mazurka": (3, {KICK: "x.....", TAMBOURINE: "..X.o.", SNARE: "..x.-."}),
    "slow three": (3, {KICK: "X.......x...", SNARE: "....x.......", CLOSED_HAT: "x.o.x.o.x.o."}),
    "tambourine": (1, {TAMBOURINE: "x-o-"}),
    "heartbeat": (1, {LOW_TOM: "x..."}),
}
"""Quarter notes of a bar, and for each drum (General MIDI key) its strokes, evenly over the bar."""

RANDOM = "random"
"""Name of patterns that are drawn stroke by stroke."""

KITS = (0, 8, 16, 24, 25, 32, 40, 48)
"""Programs of the drum channel; a soundfont without one plays its standard kit."""

FILL_DRUMS = (SNARE, HIGH_TOM, MID_TOM, LOW_TOM)


@dataclass(frozen=True)
class DrumTrack:
    """Percussion under a passage.

    Attributes:
        pattern: a name of `PATTERNS`, or `RANDOM`.
        kit: one of `KITS`.
        gain_db: level.
        seed: decides fills, variations, and where it enters and leaves.
    """

    pattern: str
    kit: int = 0
    gain_db: float = 0.0
    seed: int = 0


def draw_drums(score: Score, rng: np.random.Generator) -> DrumTrack:
    """Percussion whose bars fit the work's, as far as these are known or can be guessed."""
    beats = score.beats_per_bar or guess_bar(score)
    fitting = [name for name, (length, _) in PATTERNS.items() if beats % length == 0]
    return DrumTrack(
        pattern=str(rng.choice([*fitting, RANDOM, RANDOM])),
        kit=int(rng.choice(KITS)),
        gain_db=float(rng.uniform(-16.0, 2.0)),
        seed=int(rng.integers(2**31)),
    )


def guess_bar(score: Score) -> int:
    """Quarter notes in a bar, 3 or 4: after which the weight of the beats repeats better.

    >>> onsets = np.arange(24, dtype=np.float32)
    >>> notes = np.stack([onsets, np.where(onsets % 3, 0.2, 2.0), 0 * onsets, onsets, onsets], 1)
    >>> guess_bar(Score(notes, "waltz", beat_s=1.0))
    3
    """
    beats = score.notes[:, 0] / score.beat_s
    nearest = np.rint(beats)
    on_beat = np.abs(beats - nearest) < 0.1
    weights = np.bincount(nearest[on_beat].astype(int), score.notes[on_beat, 1])
    weights = weights - (weights.mean() if len(weights) else 0)

    def likeness(lag: int) -> float:
        return float(weights[:-lag] @ weights[lag:]) / max(len(weights) - lag, 1)

    return 3 if len(weights) > 4 and likeness(3) > likeness(4) else 4


def drum_notes(
    track: DrumTrack, score: Score, start_s: float, seconds: float, tempo: float
) -> np.ndarray:
    """Strokes of a track during a clip.

    Args:
        track: what is played.
        score: the work that it accompanies, whose beats it keeps.
        start_s: where the clip begins, seconds of the score.
        seconds: length of the clip.
        tempo: factor.

    Returns:
        float64 (n, 5) as `render_notes` takes them: onset in seconds of the clip, duration, General
        MIDI key, velocity, part 0.
    """
    rng = np.random.default_rng(track.seed)
    if track.pattern == RANDOM:
        beats = score.beats_per_bar or guess_bar(score)
        rows = _random_rows(beats, rng)
    else:
        beats, rows = PATTERNS[track.pattern]
    fills = rng.random() < 0.6
    bar_s = beats * score.beat_s
    # Counted from where the passage begins: not every clip has its fill at the same place.
    first, n_bars = int(start_s // bar_s), int(seconds * tempo // bar_s) + 2
    enters = int(rng.integers(n_bars)) if rng.random() < 0.35 else 0
    leaves = int(rng.integers(enters + 1, n_bars + 1)) if rng.random() < 0.25 else n_bars
    strokes: list[tuple[float, int, float]] = []
    for bar in range(enters, leaves):
        is_fill = fills and beats > 1 and bar % 4 == 3
        length = beats - 1 if is_fill else beats
        for drum, row in rows.items():
            step = beats / len(row)
            strokes += [
                (bar * beats + i * step, drum, VELOCITIES[letter])
                for i, letter in enumerate(row)
                if letter != "." and i * step < length and rng.random() > 0.03
            ]
        if is_fill:
            drums = np.sort(rng.choice(FILL_DRUMS, 4))[::-1]
            strokes += [(bar * beats + length + i / 4, int(d), 100) for i, d in enumerate(drums)]
        elif fills and bar % 4 == 0 and bar > enters:
            strokes.append((bar * beats, CRASH, 100))
    if not strokes:
        return np.zeros((0, 5))
    at, keys, velocities = np.array(strokes, float).T
    onsets = ((first * beats + at) * score.beat_s - start_s) / tempo
    onsets += rng.normal(0.0, 0.004, len(at))
    velocities = np.clip(velocities + rng.normal(0.0, 8.0, len(at)), 15, 127)
    notes = np.stack([onsets, np.full(len(at), 0.2), keys, velocities, np.zeros(len(at))], 1)
    return notes[(onsets > -0.2) & (onsets < seconds)]


def _random_rows(beats: int, rng: np.random.Generator) -> dict[int, str]:
    """A pattern drawn stroke by stroke: one or two low drums, one or two others, one steady."""
    steps = beats * int(rng.choice([2, 3, 4]))
    low = rng.choice([KICK, LOW_TOM, LOW_CONGA], rng.integers(1, 3), replace=False)
    others = rng.choice(
        [SNARE, STICK, CLAP, HIGH_BONGO, OPEN_CONGA, CLAVES], rng.integers(1, 3), replace=False
    )
    steady = rng.choice([CLOSED_HAT, RIDE, TAMBOURINE, MARACAS, COWBELL])

    def draw_row(density: float) -> str:
        letters = rng.choice(list("-oxX"), steps)
        return "".join(np.where(rng.random(steps) < density, letters, "."))

    rows = {int(drum): draw_row(0.25) for drum in (*low, *others)}
    every = int(rng.integers(1, 3))
    rows[int(steady)] = "".join("o" if i % every == 0 else "." for i in range(steps))
    return rows
