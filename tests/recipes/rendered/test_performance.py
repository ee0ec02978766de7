from dataclasses import replace

import numpy as np
import pytest

from recipes.rendered.performance import PROGRAMS, draw_performance, draw_start
from recipes.rendered.scores import Score

pytest_plugins = ("rendered_fixtures",)


def test_a_score_of_rests_has_no_passage():
    notes = np.array([[t, 0.1, 60, 80, 0] for t in range(40)], np.float32)
    rng = np.random.default_rng(0)
    assert draw_start(Score(notes, "staccato"), 10.0, rng) is None
    assert draw_performance(Score(notes, "staccato"), 10.0, rng) is None


def test_passages_of_one_key_are_of_one_key(scale):
    rng = np.random.default_rng(0)
    changing = replace(scale, keys=((0.0, 0, 0), (20.0, 7, 0)))
    for _ in range(20):
        start = draw_start(changing, 10.0, rng, constant_key=True)
        assert start is not None
        assert start + 10.0 <= 20.0 or start >= 20.0
    assert draw_start(replace(scale, keys=()), 10.0, rng, constant_key=True) is None


def test_drawn_performances_vary_within_their_bounds(scale):
    rng = np.random.default_rng(0)
    drawn = [draw_performance(scale, 10.0, rng) for _ in range(300)]
    performances = [p for p in drawn if p is not None]
    assert len(performances) > 290
    assert {p.transposition for p in performances} == set(range(-6, 6))
    assert all(0.8 <= p.tempo <= 1.25 and abs(p.tuning_cents) <= 20 for p in performances)
    assert {program for p in performances for program in p.programs} == set(PROGRAMS)
    assert np.mean([p.drums is not None for p in performances]) == pytest.approx(0.5, abs=0.1)
