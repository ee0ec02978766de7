"""A small composer: works in a known key, so that nothing but this repository is needed.

It knows functional harmony with cadences and loops of chords, ten styles, and the usual figures of
accompaniment. Nobody would pay to hear it; its keys, notes and styles are true by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from recipes.rendered.figures import BASSES, FIGURES, Chord, Row, Slot
from recipes.rendered.scores import MAJOR, MINOR, Score, split_of

LICENCE = "CC0"

SCALES: dict[str, tuple[int, tuple[int, ...]]] = {
    "major": (MAJOR, (0, 2, 4, 5, 7, 9, 11)),
    "mixolydian": (MAJOR, (0, 2, 4, 5, 7, 9, 10)),
    "harmonic minor": (MINOR, (0, 2, 3, 5, 7, 8, 11)),
    "melodic minor": (MINOR, (0, 2, 3, 5, 7, 9, 11)),
    "natural minor": (MINOR, (0, 2, 3, 5, 7, 8, 10)),
    "dorian": (MINOR, (0, 2, 3, 5, 7, 9, 10)),
}
"""Mode that a scale counts as, and its steps. Chords of the minor scales may differ, see below."""

COMMON = ("major", "major", "harmonic minor", "melodic minor")
MODAL = ("mixolydian", "dorian", "natural minor", "major")

FOLLOWS: dict[int, tuple[int, ...]] = {
    0: (3, 4, 1, 5, 3, 4, 2),
    1: (4, 4, 4, 6),
    2: (5, 3),
    3: (4, 4, 1, 0),
    4: (0, 0, 0, 5),
    5: (1, 3, 3, 4),
    6: (0,),
}
"""Degrees that may follow a degree (from 0), repeated where more likely."""

LOOPS: dict[int, tuple[tuple[int, ...], ...]] = {
    MAJOR: ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (0, 3, 0, 4), (0, 2, 3, 4), (0, 6, 3, 0)),
    MINOR: ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 6, 5, 6), (0, 0, 3, 0)),
}

FORMS = ("AABA", "AABB", "ABAB", "ABACA", "AAB", "ABCBA")


@dataclass(frozen=True)
class Style:
    """What a style allows.

    Attributes:
        meters: beats of a bar.
        tempo: slowest and fastest, beats a minute.
        steps: divisions of a beat that melodies move in.
        scales: names of `SCALES`.
        figures: accompaniments, names of `FIGURES`.
        basses: names of `BASSES`; empty for none.
        melodies: fewest and most melodic parts.
        chord_beats: beats that a chord lasts; 0 for a bar.
        sevenths: chance that a chord has one.
        looped: chords go round instead of towards cadences.
        syncopation: chance that a note of a melody comes a step early.
        density: chance that a melody moves on a step.
    """

    meters: tuple[int, ...]
    tempo: tuple[float, float]
    steps: tuple[int, ...]
    scales: tuple[str, ...]
    figures: tuple[str, ...]
    basses: tuple[str, ...] = ()
    melodies: tuple[int, int] = (1, 1)
    chord_beats: tuple[int, ...] = (0,)
    sevenths: float = 0.1
    looped: bool = False
    syncopation: float = 0.0
    density: float = 0.6


STYLES = {
    "hymn": Style((3, 4), (60, 100), (1, 2), COMMON, ("voices",), chord_beats=(1, 2), density=0.35),
    "waltz": Style((3,), (110, 195), (2,), COMMON, ("waltz", "waltz high"), ("root",), (1, 2)),
    "classical": Style(
        (2, 3, 4), (80, 160), (2, 4), COMMON, ("alberti", "repeated", "broken"), chord_beats=(0, 2)
    ),
    "ballad": Style(
        (4,), (52, 90), (2, 4), COMMON, ("arpeggio", "block"), ("root", "root fifth"), (1, 2),
        chord_beats=(0, 2), sevenths=0.5, density=0.45,
    ),
    "pop": Style(
        (4,), (84, 140), (2, 4), ("major", "natural minor"), ("comp", "block", "arpeggio"),
        ("eighths", "root fifth"), (1, 2), looped=True, syncopation=0.4,
    ),
    "riff": Style(
        (4,), (90, 190), (4, 2), MODAL, ("power", "riff"), ("eighths", "riff"), (0, 2),
        looped=True, syncopation=0.3,
    ),
    "stride": Style(
        (2, 4), (70, 130), (4,), ("major", "major", "harmonic minor"), ("stride",), (), (1, 1),
        sevenths=0.4, syncopation=0.5, density=0.8,
    ),
    "dance": Style(
        (2,), (84, 130), (3, 4), ("major", "major", *MODAL), ("drone", "block", "off beat"),
        ("root fifth",), (1, 2), density=0.9,
    ),
    "nocturne": Style(
        (3, 4), (48, 84), (2, 3, 4), COMMON, ("wide arpeggio",), (), (1, 1), chord_beats=(0, 2),
        sevenths=0.4, density=0.5,
    ),
    "counterpoint": Style(
        (3, 4), (64, 120), (2, 4), COMMON, (), ("walking",), (2, 3), chord_beats=(1, 2),
        density=0.75,
    ),
    "swing": Style(
        (4,), (96, 200), (3,), ("major", "dorian", "harmonic minor"), ("comp", "off beat"),
        ("walking",), (1, 2), chord_beats=(2, 0), sevenths=0.8, syncopation=0.5,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """Some bars that may come again.

    Attributes:
        tonic: of the section, pitch class.
        mode: `MAJOR` or `MINOR`.
        beats: length.
        parts: notes of each part.
    """

    tonic: int
    mode: int
    beats: float
    parts: tuple[list[Row], ...]


def compose_scores(n: int, seed: int) -> list[Score]:
    """Works in turn in all styles, keys and modes spread evenly by chance.

    >>> [score.style for score in compose_scores(3, seed=0)]
    ['hymn', 'waltz', 'classical']
    """
    names = list(STYLES)
    return [_compose(names[i % len(names)], seed, i) for i in range(n)]


def _compose(style_name: str, seed: int, number: int) -> Score:
    rng = np.random.default_rng([seed, number])
    style = STYLES[style_name]
    meter = int(rng.choice(style.meters))
    tempo = float(rng.uniform(*style.tempo))
    beat_s = 60 / tempo
    tonic, scale = int(rng.integers(12)), str(rng.choice(style.scales))
    writer = _Writer(style, meter, rng)
    form = str(rng.choice(FORMS))
    sections: dict[str, Section] = {}
    for letter in sorted(set(form)):
        key = (tonic, scale) if letter == "A" else _related_key(tonic, scale, rng)
        sections[letter] = writer.write_section(*key)
    target_beats = rng.uniform(60, 120) / beat_s
    while sum(sections[letter].beats for letter in form) < target_beats:
        form += form
    starts = [0.0, *accumulate(sections[letter].beats for letter in form)]
    rows = [
        (start + onset, beats, pitch, velocity, part)
        for start, letter in zip(starts, form, strict=False)
        for part, notes in enumerate(sections[letter].parts)
        for onset, beats, pitch, velocity in notes
    ]
    notes = np.array(sorted(rows), np.float32)
    notes[:, :2] *= beat_s
    work = f"{seed}-{number:05d}-{style_name}"
    return Score(
        notes=notes,
        work=work,
        corpus="composed",
        group=f"composed|{work}",
        split=split_of(f"composed|{work}"),
        style=style_name,
        licence=LICENCE,
        keys=_keys_of(form, sections, starts, beat_s),
        beat_s=beat_s,
        beats_per_bar=meter,
    )


def _keys_of(
    form: str, sections: dict[str, Section], starts: list[float], beat_s: float
) -> tuple[tuple[float, int, int], ...]:
    keys: list[tuple[float, int, int]] = []
    for start, letter in zip(starts, form, strict=False):
        section = sections[letter]
        if not keys or keys[-1][1:] != (section.tonic, section.mode):
            keys.append((start * beat_s, section.tonic, section.mode))
    return tuple(keys)


def _related_key(tonic: int, scale: str, rng: np.random.Generator) -> tuple[int, str]:
    """The same key as often as not, else the dominant, subdominant, relative or parallel."""
    draw = rng.random()
    if draw < 0.5:
        return tonic, scale
    if draw < 0.65:
        return (tonic + 7) % 12, scale
    if draw < 0.75:
        return (tonic + 5) % 12, scale
    if SCALES[scale][0] == MAJOR:
        return ((tonic - 3) % 12 if draw < 0.9 else tonic), "harmonic minor"
    return ((tonic + 3) % 12 if draw < 0.9 else tonic), "major"


class _Writer:
    """Writes the sections of one work, whose parts keep their figures and registers."""

    def __init__(self, style: Style, meter: int, rng: np.random.Generator) -> None:
        self.style, self.meter, self.rng = style, meter, rng
        self.steps = int(rng.choice(style.steps))
        self.chord_beats = int(rng.choice(style.chord_beats)) or meter
        self.figure = str(rng.choice(style.figures)) if style.figures else ""
        with_bass = bool(style.basses) and (not style.figures or rng.random() < 0.8)
        self.bass = str(rng.choice(style.basses)) if with_bass else ""
        self.n_melodies = int(rng.integers(style.melodies[0], style.melodies[1] + 1))
        self.doubled = bool(rng.random() < 0.2) and self.n_melodies == 1
        self.pad = bool(rng.random() < 0.15)
        self.centre = int(rng.integers(67, 80))
        self.low = int(rng.integers(46, 56))
        self.loudness = float(rng.uniform(65, 95))

    def write_section(self, tonic: int, scale: str) -> Section:
        """Eight bars, or sixteen, in one key."""
        mode, steps = SCALES[scale]
        bars = int(self.rng.choice([8, 8, 16]))
        beats = float(bars * self.meter)
        slots = self._harmony(bars, mode, steps)
        swell = self.rng.uniform(-8, 8)
        parts: list[list[Row]] = []
        motif = self._rhythm()
        for voice in range(self.n_melodies):
            delay = voice if not self.style.figures else 0
            parts.append(self._melody(slots, tonic, steps, bars, motif, 7 * voice, delay))
        if self.doubled:
            parts.append(_shift_by_scale(parts[0], tonic, steps, -2))
        if self.figure:
            parts.append(FIGURES[self.figure](slots, tonic, self.low, self.rng))
        if self.bass:
            parts.append(BASSES[self.bass](slots, tonic, self.low, self.rng))
        if self.pad:
            parts.append(FIGURES["block"](slots, tonic, self.low, self.rng))
        shaped = tuple([self._shape(row, beats, swell) for row in part] for part in parts)
        return Section(tonic, mode, beats, shaped)

    def _shape(self, row: Row, beats: float, swell: float) -> Row:
        onset, duration, pitch, accent = row
        arch = swell * math.sin(math.pi * onset / beats)
        strong = 6 if onset % self.meter == 0 else 0
        velocity = min(max(self.loudness + arch + strong + accent, 25.0), 120.0)
        return onset, duration, min(max(pitch, 21.0), 108.0), velocity

    def _harmony(self, bars: int, mode: int, scale: tuple[int, ...]) -> list[Slot]:
        n_slots = bars * self.meter // self.chord_beats
        if self.style.looped:
            loop = LOOPS[mode][int(self.rng.integers(len(LOOPS[mode])))]
            degrees = [loop[i % len(loop)] for i in range(n_slots - 1)] + [0]
        else:
            degrees = self._progression(n_slots)
        return [
            Slot(
                float(i * self.chord_beats),
                float(self.chord_beats),
                _chord(degree, scale, mode, bool(self.rng.random() < self.style.sevenths)),
            )
            for i, degree in enumerate(degrees)
        ]

    def _progression(self, n_slots: int) -> list[int]:
        """Phrases that begin on the tonic; every other ends in a half cadence."""
        n_phrases = max(n_slots // 8, 2) if n_slots >= 8 else 1
        length = n_slots // n_phrases
        degrees: list[int] = []
        for phrase in range(n_phrases):
            extra = n_slots - length * n_phrases if phrase == n_phrases - 1 else 0
            walk = [0]
            while len(walk) < length + extra:
                walk.append(int(self.rng.choice(FOLLOWS[walk[-1]])))
            if phrase % 2 == 0 and phrase < n_phrases - 1:
                walk[-1:] = [4]
            else:
                walk[-3:] = [int(self.rng.choice([1, 3])), 4, 0]
            degrees += walk
        return degrees

    def _rhythm(self) -> list[list[int]]:
        """Lengths, in steps, of the notes of two bars; the seed of a section's melody."""
        n_steps = self.meter * self.steps
        bars = []
        for _ in range(2):
            moves = self.rng.random(n_steps) < self.style.density
            on_beat = np.arange(n_steps) % self.steps == 0
            moves |= on_beat & (self.rng.random(n_steps) < 0.7)
            moves[0] = True
            starts = [*np.flatnonzero(moves).tolist(), n_steps]
            bars.append(np.diff(starts).tolist())
        return bars

    def _melody(
        self,
        slots: list[Slot],
        tonic: int,
        scale: tuple[int, ...],
        bars: int,
        motif: list[list[int]],
        below: int,
        delay: int,
    ) -> list[Row]:
        rng, rows = self.rng, []
        ladder = _ladder(tonic, scale)
        place = int(np.argmin(np.abs(ladder - (self.centre - below))))
        middle = place
        for bar in range(delay, bars):
            lengths = motif[(bar - delay) % 2] if rng.random() < 0.8 else self._rhythm()[0]
            if bar == bars - 1:
                lengths = [self.meter * self.steps]
            at = 0
            for length in lengths:
                onset = bar * self.meter + at / self.steps
                chord = _chord_at(slots, onset)
                place += int(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 4]))
                if abs(place - middle) > 6:
                    place += int(np.sign(middle - place)) * 3
                if at % self.steps == 0 or bar == bars - 1:
                    place = _nearest_chord_tone(ladder, place, chord, tonic)
                early = 1 / self.steps if rng.random() < self.style.syncopation and at else 0.0
                pitch = float(ladder[place])
                rest = rng.random() < 0.06 and bar < bars - 1
                if not rest:
                    rows.append((onset - early, 0.95 * length / self.steps, pitch, 8.0))
                at += length
        return rows


def _chord(degree: int, scale: tuple[int, ...], mode: int, seventh: bool) -> Chord:
    """Thirds piled on a degree. In minor the leading note sounds in the dominant alone."""
    if mode == MINOR:
        leading = degree in (4, 6) and 11 in scale
        scale = (0, 2, 3, 5, 7, 8 if scale[5] == 8 or leading else scale[5], 11 if leading else 10)
    n_notes = 4 if seventh else 3
    return tuple(scale[(degree + 2 * i) % 7] for i in range(n_notes))


def _chord_at(slots: list[Slot], beat: float) -> Chord:
    found = slots[0].chord
    for slot in slots:
        if slot.onset <= beat + 1e-6:
            found = slot.chord
    return found


def _ladder(tonic: int, scale: tuple[int, ...]) -> np.ndarray:
    """All pitches of a key, ascending."""
    return np.array([p for p in range(24, 104) if (p - tonic) % 12 in scale])


def _nearest_chord_tone(ladder: np.ndarray, place: int, chord: Chord, tonic: int) -> int:
    place = min(max(place, 4), len(ladder) - 5)
    for distance in (0, 1, -1, 2, -2, 3, -3, 4, -4):
        if (int(ladder[place + distance]) - tonic) % 12 in chord:
            return place + distance
    return place


def _shift_by_scale(rows: list[Row], tonic: int, scale: tuple[int, ...], by: int) -> list[Row]:
    """The same melody some steps of the scale away: in thirds, say."""
    ladder = _ladder(tonic, scale)
    return [
        (onset, beats, float(ladder[int(np.argmin(np.abs(ladder - pitch))) + by]), accent - 6)
        for onset, beats, pitch, accent in rows
    ]
