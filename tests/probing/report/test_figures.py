"""Figures: what is drawn where. How they look was looked at."""

from types import SimpleNamespace

import numpy as np
import pytest

from myna_plugin.probing.experiment import Protocol
from myna_plugin.probing.report import figures
from myna_plugin.probing.report.results import explain_marks
from myna_plugin.probing.tasks import TASKS, Item

KEYS = TASKS["giantsteps"].labels


def certain(predicted: list[int], n_classes: int) -> np.ndarray:
    return np.eye(n_classes)[predicted]


def test_keys_stand_in_fifths_beside_their_relatives():
    assert sorted(figures.FIFTHS) == sorted(figures.CIRCLE) == sorted(KEYS)
    assert figures.FIFTHS[:4] == ("C major", "G major", "D major", "A major")
    assert figures.FIFTHS[12:14] == ("C minor", "G minor")
    assert figures.CIRCLE[-2:] == ("F major", "D minor")


@pytest.mark.parametrize(
    ("annotated", "predicted", "panel", "step", "colour"),
    [
        ("C major", "C major", 0, 0, 0),
        ("C major", "G major", 0, 1, 0),
        ("C major", "F major", 0, 11, 0),
        ("C major", "A minor", 0, 0, 1),
        ("C major", "C minor", 0, 9, 1),
        ("A minor", "C major", 1, 0, 1),
        ("A minor", "E minor", 1, 1, 0),
        ("Gb minor", "A major", 1, 0, 1),
    ],
)
def test_key_circle(annotated, predicted, panel, step, colour):
    run = SimpleNamespace(
        targets=np.array([KEYS.index(annotated)]), outputs=certain([KEYS.index(predicted)], 24)
    )
    figure = figures.draw_key_circle(TASKS["giantsteps"], run)
    bars = figure.axes[panel].patches
    heights = np.array([bar.get_height() for bar in bars]).reshape(2, 12)
    expected = np.zeros((2, 12))
    expected[colour, step] = 10.0  # the root of 100 percent
    np.testing.assert_allclose(heights, expected)


def test_classes_that_are_not_there_have_no_room():
    task = TASKS["nsynth_pitch"]
    run = SimpleNamespace(targets=np.array([60, 60, 67]), outputs=certain([60, 72, 67], 128))
    axes = figures.draw_confusion(task, run).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["60", "67", "72"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["60 (2)", "67 (1)", "72 (0)"]
    run = SimpleNamespace(targets=np.array([0, 1]), outputs=certain([0, 1], 24))
    axes = figures.draw_confusion(TASKS["giantsteps"], run).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(figures.FIFTHS)


def test_tsne_of_equal_vectors_is_left_out(tmp_path):
    task = TASKS["gtzan"]
    items = [Item(str(i), str(i), tmp_path, "rock", "train") for i in range(20)]
    same = {item.clip_id: np.ones((1, 3), np.float32) for item in items}
    assert figures.draw_tsne(task, items, same, slice(0, 3)) is None


@pytest.mark.parametrize(
    ("protocol", "left_out", "expected"),
    [
        (Protocol("fast"), {}, "†"),
        (Protocol("full", patience=3), {"a": "gone"}, "‡§"),
        (Protocol("full"), {"jazz.00054": "known to be faulty"}, ""),
    ],
)
def test_figures_of_a_run_say_what_its_scores_are_not(
    tmp_path, monkeypatch, protocol, left_out, expected
):
    drawn = []
    monkeypatch.setattr(figures, "draw_tsne", lambda *given: None)
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    run = SimpleNamespace(targets=np.array([0, 1]), outputs=certain([0, 1], 10))
    probed = SimpleNamespace(
        parts={"scene": slice(0, 1)},
        reported="scene",
        vectors={},
        results={"scene": SimpleNamespace(folds=[[run]])},
    )
    data = SimpleNamespace(task=TASKS["gtzan"], items=[], left_out=left_out)
    experiment = SimpleNamespace(data=data, probed=probed, protocol=protocol)
    figures.draw_figures(tmp_path / "figures", experiment)
    (figure,) = drawn
    assert figure.get_supxlabel().replace("\n", " ") == explain_marks(expected)
