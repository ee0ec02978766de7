"""Instrument families: the tags of the instruments task, as groups of General MIDI programs."""

from __future__ import annotations

import numpy as np

from recipes.rendered.performance import N_PARTS, PROGRAMS

GROUPS: dict[str, tuple[int, ...]] = {
    "piano": (0, 1, 2, 3),
    "electric piano": (4, 5),
    "harpsichord": (6, 7),
    "mallets": (8, 11, 12, 13, 108),
    "bells": (9, 10, 14),
    "organ": (16, 17, 18, 19, 20),
    "accordion": (21, 22, 23),
    "acoustic guitar": (24, 25),
    "electric guitar": (26, 27, 28, 29, 30, 31),
    "bass": (32, 33, 34, 35, 36, 37, 38, 39),
    "bowed strings": (40, 41, 42, 43, 44, 110),
    "plucked strings": (15, 45, 46, 104, 105, 106, 107),
    "string ensemble": (48, 49, 50, 51),
    "choir": (52, 53, 54, 91),
    "brass": (56, 57, 58, 59, 60, 61, 62, 63),
    "saxophone": (64, 65, 66, 67),
    "reeds": (68, 69, 70, 71, 109, 111),
    "flutes": (72, 73, 74, 75, 76, 77, 78, 79),
    "synth lead": (80, 81, 82, 83, 84, 85, 86, 87),
    "synth pad": (88, 89, 90, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102, 103),
}
"""General MIDI programs (from 0) by how they sound, which the standard's own families do not
follow everywhere: its ethnic instruments are plucked, bowed and blown."""

TAGS = tuple(GROUPS)

PLAYED: dict[str, tuple[int, ...]] = {
    tag: tuple(program for program in programs if program in PROGRAMS)
    for tag, programs in GROUPS.items()
}
"""Of each group, the programs that the renderer gives to parts."""

TAG_OF: dict[int, str] = {program: tag for tag, group in GROUPS.items() for program in group}

SOUNDING_S = 0.5
"""A tag holds if the notes of its instruments sound this long in a clip, added up."""


def draw_programs(rng: np.random.Generator) -> tuple[int, ...]:
    """A program for each part: first the tag, then the program, so that no tag is rare."""
    tags = rng.choice(len(TAGS), N_PARTS)
    return tuple(int(rng.choice(PLAYED[TAGS[tag]])) for tag in tags)


def sounding_tags(notes: np.ndarray, seconds: float) -> tuple[str, ...]:
    """Tags of the instruments that are heard in a clip.

    Args:
        notes: of a `render.Clip`: onset and offset in seconds, pitch, program; shape (n, 4).
        seconds: length of the clip.

    Returns:
        In the order of `TAGS`.

    >>> notes = np.array([[-1.0, 0.3, 60, 73], [0.5, 0.9, 62, 73], [9.7, 12.0, 64, 0]])
    >>> sounding_tags(notes, 10.0)
    ('flutes',)
    """
    heard_s = np.minimum(notes[:, 1], seconds) - np.maximum(notes[:, 0], 0.0)
    total: dict[str, float] = dict.fromkeys(TAGS, 0.0)
    for program, duration in zip(notes[:, 3].astype(int).tolist(), heard_s.tolist(), strict=True):
        total[TAG_OF[program]] += max(duration, 0.0)
    return tuple(tag for tag, duration in total.items() if duration >= SOUNDING_S)
