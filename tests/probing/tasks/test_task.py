"""Targets: parsing, vocabulary, encoding."""

from pathlib import Path

import numpy as np
import pytest

from myna_plugin.probing.tasks import TASKS, Item, TaskError, encode_targets
from myna_plugin.probing.tasks.task import parse_target, validate_items


def items_of(*targets, split="train"):
    return [Item(str(i), str(i), Path(f"{i}.wav"), t, split) for i, t in enumerate(targets)]


def test_labels_are_ordered_as_the_vocabulary():
    task = TASKS["magnatagatune"]
    assert parse_target(task, ["choral", "guitar"]) == ("guitar", "choral")
    assert parse_target(task, []) == ()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gtzan", None, "expected a label"),
        ("gtzan", ["rock"], "expected a label"),
        ("gtzan", "polka", "'polka' is not one of the 10"),
        ("magnatagatune", "guitar", "expected a list of labels"),
        ("magnatagatune", ["guitar", 3], "expected a list of labels"),
        ("magnatagatune", ["gitar"], "'gitar' is not one of the 50"),
        ("emomusic", [0.1], "arousal, valence"),
        ("emomusic", [0.1, float("nan")], "finite"),
        ("emomusic", ["a", "b"], "finite"),
        ("giantsteps", "H major", "not a key"),
    ],
)
def test_wrong_targets_are_refused(name, value, message):
    with pytest.raises(TaskError, match=message):
        parse_target(TASKS[name], value)


def test_encoding():
    genres = encode_targets(TASKS["gtzan"], items_of("blues", "rock"))
    assert genres.dtype == np.int64
    assert genres.tolist() == [0, 9]
    tags = encode_targets(TASKS["magnatagatune"], items_of(("guitar", "slow"), ()))
    assert tags.dtype == np.float32
    assert tags.shape == (2, 50)
    assert np.flatnonzero(tags[0]).tolist() == [0, 2]
    assert not tags[1].any()
    emotions = encode_targets(TASKS["emomusic"], items_of((0.5, -1.0)))
    assert emotions.dtype == np.float32
    assert emotions.tolist() == [[0.5, -1.0]]


def test_items_of_no_use_are_refused():
    with pytest.raises(TaskError, match="no clips in split 'train'"):
        validate_items(TASKS["gtzan"], [])
    with pytest.raises(TaskError, match="clip '0': no such split: 'dev'"):
        validate_items(TASKS["gtzan"], items_of("rock", split="dev"))
    with pytest.raises(TaskError, match="clip '0': target 'polka'"):
        validate_items(TASKS["gtzan"], items_of("polka"))
    with pytest.raises(TaskError, match="clip '0': target"):
        validate_items(TASKS["emomusic"], items_of((1.0, float("inf"))))
