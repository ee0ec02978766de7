"""Figures of accompaniment and of the bass: what the composer's players do with chords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Chord = tuple[int, ...]
"""Pitch classes relative to the tonic, root first."""

Row = tuple[float, float, float, float]
"""Onset in beats, duration in beats, MIDI pitch, velocity."""


@dataclass(frozen=True)
class Slot:
    """A chord and how long it lasts, beats."""

    onset: float
    beats: float
    chord: Chord


def _close_position(chord: Chord, tonic: int, above: int) -> list[int]:
    """The notes of a chord, ascending, each the lowest at or above a pitch."""
    return sorted(above + (tonic + note - above) % 12 for note in chord)


def _root(slot: Slot, tonic: int, above: int = 36) -> int:
    return above + (tonic + slot.chord[0] - above) % 12


def _fifth(slot: Slot, tonic: int, above: int = 36) -> int:
    return above + (tonic + slot.chord[2] - above) % 12


Figure = Callable[[list[Slot], int, int, np.random.Generator], list[Row]]
"""Given chords, the tonic, the pitch from which the figure's chords are stacked, and chance."""


def _pattern(offsets: tuple[float, ...], length: float) -> Figure:
    """A figure that strikes the whole chord at certain beats of every slot's bars."""

    def write(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
        return [
            (slot.onset + beat, length, float(pitch), -6.0)
            for slot in slots
            for beat in offsets
            if beat < slot.beats
            for pitch in _close_position(slot.chord, tonic, low)
        ]

    return write


def _sequence(order: tuple[int, ...], per_beat: int, octaves: int = 1) -> Figure:
    """A figure that plays the notes of the chord one after the other."""

    def write(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
        rows: list[Row] = []
        for slot in slots:
            base = low - (12 if octaves > 1 else 0)
            notes = _close_position(slot.chord, tonic, base)[:3]
            notes = [note + 12 * octave for octave in range(octaves) for note in notes]
            for i in range(round(slot.beats * per_beat)):
                pitch = notes[order[i % len(order)] % len(notes)]
                rows.append((slot.onset + i / per_beat, 1.0 / per_beat, float(pitch), -10.0))
        return rows

    return write


def _block(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
    return [
        (slot.onset, 0.98 * slot.beats, float(pitch), -10.0)
        for slot in slots
        for pitch in _close_position(slot.chord, tonic, low)
    ]


def _voices(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
    """Three voices under a melody, the bass on the root, the others moving little."""
    rows: list[Row] = []
    for slot in slots:
        bass = _root(slot, tonic, 38)
        inner = _close_position(slot.chord, tonic, 52 + int(rng.integers(3)))[:2]
        rows += [(slot.onset, 0.98 * slot.beats, float(pitch), -2.0) for pitch in (bass, *inner)]
    return rows


def _waltz(
    slots: list[Slot], tonic: int, low: int, rng: np.random.Generator, lift: int = 0
) -> list[Row]:
    rows: list[Row] = []
    for slot in slots:
        rows.append((slot.onset, 0.9, float(_root(slot, tonic)), 2.0))
        for beat in range(1, round(slot.beats)):
            chord = _close_position(slot.chord, tonic, low + lift)
            rows += [(slot.onset + beat, 0.7, float(pitch), -10.0) for pitch in chord]
    return rows


def _waltz_high(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
    return _waltz(slots, tonic, low, rng, lift=7)


def _stride(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
    """Bass octave and chord in turn, two of each in a beat's time of ragtime."""
    rows: list[Row] = []
    for slot in slots:
        for i in range(round(2 * slot.beats)):
            onset = slot.onset + i / 2
            if i % 2:
                chord = _close_position(slot.chord, tonic, low + 4)
                rows += [(onset, 0.4, float(pitch), -8.0) for pitch in chord]
            else:
                bass = _root(slot, tonic, 31) if i % 4 == 0 else _fifth(slot, tonic, 29)
                rows += [(onset, 0.45, float(bass + octave), 0.0) for octave in (0, 12)]
    return rows


def _power(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
    """Roots and fifths, struck in a rhythm that the whole section keeps."""
    strokes = [0.0, *(0.5 * np.flatnonzero(rng.random(7) < 0.55) + 0.5)]
    rows: list[Row] = []
    for slot in slots:
        root = _root(slot, tonic, 40)
        for beat in strokes:
            if beat < slot.beats:
                # The third is heard once a bar, or the mode could not be.
                notes = (root, root + 7, root + 12)
                third = (root + (slot.chord[1] - slot.chord[0]) % 12 + 12,) if beat == 0 else ()
                rows += [(slot.onset + beat, 0.45, float(pitch), 4.0) for pitch in notes + third]
    return rows


def _riff(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
    """One short figure, begun anew on every chord."""
    n_notes = int(rng.integers(4, 9))
    picks = rng.integers(0, 4, n_notes).tolist()
    at = np.sort(rng.choice(np.arange(1, 16), n_notes - 1, replace=False)) / 4
    onsets = [0.0, *at.tolist()]
    rows: list[Row] = []
    for slot in slots:
        notes = _close_position(slot.chord, tonic, low - 6)
        notes = [*notes[:3], notes[0] + 12]
        rows += [
            (slot.onset + beat, 0.3, float(notes[pick]), 2.0)
            for beat, pick in zip(onsets, picks, strict=True)
            if beat < slot.beats
        ]
    return rows


def _drone(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
    """The tonic and its fifth throughout, as of a bagpipe."""
    root = 43 + (tonic - 43) % 12
    end = slots[-1].onset + slots[-1].beats
    return [
        (float(beat), 4.0, float(root + above), -12.0)
        for beat in np.arange(0, end, 4)
        for above in (0, 7)
    ]


def _roots(beats: tuple[float, ...], fifths: bool) -> Figure:
    """A bass that plays the root at certain beats of a chord, and its fifth in turn."""

    def write(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
        rows: list[Row] = []
        for slot in slots:
            played = [beat for beat in beats if beat < slot.beats]
            ends = [*played[1:], slot.beats]
            for i, (beat, end) in enumerate(zip(played, ends, strict=True)):
                use_fifth = fifths and i % 2 == 1
                pitch = _fifth(slot, tonic, 31) if use_fifth else _root(slot, tonic, 33)
                rows.append((slot.onset + beat, 0.9 * (end - beat), float(pitch), 0.0))
        return rows

    return write


def _walking(slots: list[Slot], tonic: int, low: int, rng: np.random.Generator) -> list[Row]:
    """A note a beat: the root, then chord notes, the last leading into the next root."""
    rows: list[Row] = []
    for i, slot in enumerate(slots):
        tones = _close_position(slot.chord, tonic, 36)
        upcoming = _root(slots[(i + 1) % len(slots)], tonic, 33)
        for beat in range(round(slot.beats)):
            pitch = int(rng.choice(tones)) if beat else _root(slot, tonic, 33)
            if beat and beat == round(slot.beats) - 1 and rng.random() < 0.4:
                pitch = upcoming + int(rng.choice([-2, -1, 1, 2]))
            rows.append((slot.onset + beat, 0.92, float(pitch), 0.0))
    return rows


EVERY_HALF = tuple(0.5 * i for i in range(16))

FIGURES: dict[str, Figure] = {
    "block": _block,
    "voices": _voices,
    "waltz": _waltz,
    "waltz high": _waltz_high,
    "alberti": _sequence((0, 2, 1, 2), 2),
    "broken": _sequence((0, 1, 2), 3),
    "repeated": _pattern(EVERY_HALF, 0.45),
    "arpeggio": _sequence((0, 1, 2, 3, 4, 3, 2, 1), 2, octaves=2),
    "wide arpeggio": _sequence((0, 2, 4, 5, 7, 5, 4, 2), 3, octaves=3),
    "comp": _pattern((0.0, 1.5, 2.5, 3.0), 0.7),
    "off beat": _pattern((0.5, 1.5, 2.5, 3.5), 0.3),
    "power": _power,
    "riff": _riff,
    "stride": _stride,
    "drone": _drone,
}
"""Figures of accompaniment."""

BASSES: dict[str, Figure] = {
    "root": _roots((0.0,), fifths=False),
    "root fifth": _roots((0.0, 1.0, 2.0, 3.0), fifths=True),
    "eighths": _roots(EVERY_HALF, fifths=False),
    "walking": _walking,
    "riff": _riff,
}
"""Figures of the bass."""
