"""heareval's predictions are read back clip by clip, and nothing else is unpickled."""

import json
import os
import pickle
import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from myna_plugin.probing.tasks import TaskError
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.hear_predictions import read_test_predictions
from myna_plugin.probing.tasks.key_scores import format_table, score_keys


def write_predictions(folder, estimate, task_name="giantsteps"):
    """What heareval leaves: labels by file, and tensors in its shuffled order.

    `estimate` gives the predicted class of a clip from its name and class.
    """
    folder.mkdir()
    splits = {
        split: {
            f"{track:07}-{i}.wav": [KEYS[(track * 5) % 24]] for track in tracks for i in range(4)
        }
        for split, tracks in (("train", range(9)), ("valid", range(9, 12)), ("test", range(12, 20)))
    }
    metadata = {
        "task_name": task_name,
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "trainvaltest",
        "sample_duration": 30.0,
        "evaluation": ["top1_acc"],
        "splits": list(splits),
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    lines = "".join(f"{i},{key}\n" for i, key in enumerate(KEYS))
    (folder / "labelvocabulary.csv").write_text("idx,label\n" + lines)
    generator = random.Random()
    generator.seed(0)
    for split, labels in splits.items():
        (folder / f"{split}.json").write_text(json.dumps(labels))
        order = list(labels)
        generator.shuffle(order)
    classes = [KEYS.index(splits["test"][name][0]) for name in order]
    estimates = [estimate(name, label) for name, label in zip(order, classes, strict=True)]
    logits = torch.nn.functional.one_hot(torch.tensor(estimates), 24).float()
    content = {
        "target": torch.nn.functional.one_hot(torch.tensor(classes), 24).float(),
        "prediction": logits.softmax(1),
        "prediction_logit": logits,
    }
    (folder / "test.predictions.pkl").write_bytes(pickle.dumps(content))
    return folder


def test_rows_find_their_clips(tmp_path):
    """Only clips ending in -0 are predicted wrongly, a fifth below."""

    def estimate(name, label):
        return label // 12 * 12 + (label + 5) % 12 if name.endswith("-0.wav") else label

    predictions = read_test_predictions(write_predictions(tmp_path / "gs", estimate))
    wrong = predictions.outputs.argmax(1) != predictions.targets
    assert {clip[-2:] for clip, bad in zip(predictions.clips, wrong, strict=True) if bad} == {"-0"}
    scores = score_keys(predictions)
    assert scores["clip"] == {
        "weighted_key_score": pytest.approx(0.75),
        "weighted_key_score_both_fifths": pytest.approx(0.875),
        "accuracy": pytest.approx(0.75),
    }
    assert scores["track"]["accuracy"] == 1.0
    assert "| track | 100.0 | 100.0 | 100.0 |" in format_table(scores)


def test_other_key_tasks_have_no_tracks(tmp_path):
    folder = write_predictions(tmp_path / "demo", lambda name, label: label, task_name="demo")
    assert set(score_keys(read_test_predictions(folder))) == {"clip"}


def test_an_order_that_does_not_fit_is_refused(tmp_path):
    folder = write_predictions(tmp_path / "gs", lambda name, label: label)
    path = folder / "test.predictions.pkl"
    content = pickle.loads(path.read_bytes())  # noqa: S301 - written above
    content["target"] = content["target"].flip(0)
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(TaskError, match="do not follow the order"):
        read_test_predictions(folder)


def predicted(logits, target):
    return pickle.dumps({"prediction_logit": logits, "target": target})


def test_damage_anywhere_is_refused_or_does_not_matter(tmp_path):
    folder = write_predictions(tmp_path / "gs", lambda name, label: label)
    path = folder / "test.predictions.pkl"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        for damaged in (whole[:place], whole[:place] + b"\xff" + whole[place + 1 :]):
            path.write_bytes(damaged)
            with suppress(TaskError):
                assert read_test_predictions(folder).outputs.shape == (32, 24)


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Attack()), "system is not part of a tensor"),
        (pickle.dumps({"prediction_logit": np.zeros(3)}), "not part of a tensor"),
        (b"junk", "not heareval's test predictions"),
        (b"", "not heareval's test predictions"),
        (pickle.dumps({}), "not the test predictions"),
        (pickle.dumps([]), "not the test predictions"),
        (predicted(torch.zeros(32), torch.zeros(32)), r"24 labels, got shapes \(32,\)"),
        (predicted(torch.zeros(32, 24), torch.zeros(31, 24)), "got shapes"),
        (predicted(torch.zeros(32, 99), torch.zeros(32, 99)), "got shapes"),
        (predicted(torch.full((32, 24), torch.nan), torch.zeros(32, 24)), "finite numbers"),
        (
            predicted(torch.zeros(2, 2).to_sparse(), torch.zeros(2, 2)),
            "not heareval's|not the test",
        ),
    ],
)
def test_foreign_pickles_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    folder = write_predictions(tmp_path / "gs", lambda name, label: label)
    (folder / "test.predictions.pkl").write_bytes(content)
    with pytest.raises(TaskError, match=message):
        read_test_predictions(folder)
    assert not (tmp_path / "attacked").exists()


def test_missing_predictions_say_what_to_run(tmp_path):
    folder = write_predictions(tmp_path / "gs", lambda name, label: label)
    (folder / "test.predictions.pkl").unlink()
    with pytest.raises(TaskError, match=r"test.predictions.pkl.*run the predictions first"):
        read_test_predictions(folder)
