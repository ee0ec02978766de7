import numpy as np
import pytest

from recipes.rendered.percussion import (
    PATTERNS,
    RANDOM,
    DrumTrack,
    draw_drums,
    drum_notes,
    guess_bar,
)

pytest_plugins = ("rendered_fixtures",)


@pytest.mark.parametrize("tempo", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("name", [*PATTERNS, RANDOM])
def test_strokes_keep_the_beats_of_the_score(scale, name, tempo):
    """Every stroke lies on a twelfth or sixteenth of the score's beats, but for some unevenness."""
    start_s = 7.3
    strokes = [
        drum_notes(DrumTrack(name, seed=seed), scale, start_s, 20.0, tempo) for seed in range(5)
    ]
    beats = (np.concatenate(strokes)[:, 0] * tempo + start_s) / scale.beat_s
    off = np.minimum(
        abs(beats * 3 - np.rint(beats * 3)) / 3, abs(beats * 4 - np.rint(beats * 4)) / 4
    )
    assert len(beats) > 20
    assert off.max() < 0.03


def test_bars_begin_where_the_score_has_them(scale):
    """The waltz's low drum sounds on every third beat of the score alone."""
    strokes = drum_notes(DrumTrack("waltz", seed=4), scale, 5.0, 20.0, 1.0)
    kicks = strokes[strokes[:, 2] == 36, 0] + 5.0
    assert len(kicks) >= 4
    assert np.abs(kicks / 3 - np.rint(kicks / 3)).max() < 0.02


def test_drawn_patterns_fit_the_bar(scale):
    rng = np.random.default_rng(0)
    assert guess_bar(scale) in (3, 4)
    names = {draw_drums(scale, rng).pattern for _ in range(400)}
    assert names == {n for n, (beats, _) in PATTERNS.items() if beats != 3} | {RANDOM}
