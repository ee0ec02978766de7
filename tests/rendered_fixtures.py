"""Fixtures: a soundfont of our own, and small scores."""

import numpy as np
import pytest

from recipes.rendered.scores import Score
from recipes.rendered.soundfont_writer import write_soundfont


@pytest.fixture(scope="session")
def soundfont(tmp_path_factory):
    """Path of a soundfont with all General MIDI programs."""
    return str(write_soundfont(tmp_path_factory.mktemp("soundfonts") / "drawn.sf2", seed=0))


@pytest.fixture
def scale():
    """A scale of C major, a note a second, for 40 s, in two parts an octave apart."""
    steps = np.array([0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2])
    rows = [
        (float(beat), 1.0, 60 + steps[beat % len(steps)] - 12 * part, 80, part)
        for beat in range(40)
        for part in (0, 1)
    ]
    return Score(
        np.array(rows, np.float32),
        "scale",
        corpus="tests",
        group="scale",
        keys=((0.0, 0, 0),),
        beat_s=1.0,
        beats_per_bar=4,
    )
