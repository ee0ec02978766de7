import numpy as np
import pytest

from recipes.rendered.composer import SCALES, STYLES, compose_scores
from recipes.rendered.scores import MAJOR


@pytest.fixture(scope="module")
def works():
    return compose_scores(4 * len(STYLES), seed=1)


def spans(score):
    """Each key of a work with the notes that begin while it holds."""
    ends = [onset for onset, _, _ in score.keys[1:]] + [np.inf]
    for (onset, tonic, mode), end in zip(score.keys, ends, strict=True):
        begun = (score.notes[:, 0] >= onset - 1e-3) & (score.notes[:, 0] < end - 0.2)
        yield tonic, mode, score.notes[begun]


def test_notes_are_of_the_key_that_is_told(works):
    """Nearly all sounding time lies in a scale of the mode, and in the wrong keys less does."""
    for score in works:
        for tonic, mode, notes in spans(score):
            heard = np.bincount((notes[:, 2].astype(int) - tonic) % 12, notes[:, 1], 12)
            scales = [steps for of_mode, steps in SCALES.values() if of_mode == mode]
            share = max(heard[list(steps)].sum() for steps in scales) / heard.sum()
            assert share > 0.85, (score.work, tonic, mode)


def test_the_mode_is_heard(works):
    """The third above the tonic that belongs to the mode sounds longer than the other."""
    right = [
        heard[4 if mode == MAJOR else 3] > heard[3 if mode == MAJOR else 4]
        for score in works
        for tonic, mode, notes in spans(score)
        for heard in [np.bincount((notes[:, 2].astype(int) - tonic) % 12, notes[:, 1], 12)]
    ]
    assert np.mean(right) > 0.97


def test_a_work_does_not_depend_on_how_many_there_are(works):
    few = compose_scores(3, seed=1)
    for one, other in zip(few, works, strict=False):
        assert one.work == other.work
        np.testing.assert_array_equal(one.notes, other.notes)
