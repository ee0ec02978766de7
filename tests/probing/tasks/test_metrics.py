"""Metrics against other libraries and written-out definitions."""

import mir_eval.key
import numpy as np
import pytest
import torch
import torchmetrics.functional as reference

from myna_plugin.probing.tasks import TASKS, TaskError
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.metrics import METRICS, score_outputs, score_tracks

RNG = np.random.default_rng(0)


def one_hot(classes, count=24):
    return np.eye(count)[classes]


def score(name, outputs, targets, labels=KEYS):
    return METRICS[name](outputs, targets, labels)


def test_tag_metrics_agree_with_torchmetrics():
    outputs = RNG.normal(size=(200, 5))
    targets = (RNG.random((200, 5)) < 0.3).astype(np.float32)
    logits, truth = torch.tensor(outputs), torch.tensor(targets).int()
    options = {"num_labels": 5, "average": "macro"}
    auc = reference.classification.multilabel_auroc(logits, truth, **options)
    ap = reference.classification.multilabel_average_precision(logits, truth, **options)
    assert score("roc_auc_macro", outputs, targets, "abcde") == pytest.approx(float(auc), abs=1e-6)
    assert score("average_precision_macro", outputs, targets, "abcde") == pytest.approx(
        float(ap), abs=1e-6
    )


def test_r2_agrees_with_torchmetrics_and_is_the_mean_of_its_parts():
    outputs = RNG.normal(size=(50, 2)).astype(np.float32)
    targets = (outputs + RNG.normal(size=(50, 2))).astype(np.float32)
    labels = ("arousal", "valence")
    both = reference.r2_score(torch.tensor(outputs), torch.tensor(targets))
    assert score("r2", outputs, targets, labels) == pytest.approx(float(both), abs=1e-5)
    parts = [score(f"r2_{label}", outputs, targets, labels) for label in labels]
    assert np.mean(parts) == pytest.approx(float(both), abs=1e-5)
    assert parts[0] != pytest.approx(parts[1], abs=1e-3)


def test_heareval_scores_agree():
    """HEAR's scores of the same outputs, from heareval itself."""
    score_module = pytest.importorskip("heareval.score", reason="heareval is not installed")
    outputs, classes = RNG.normal(size=(60, 24)), RNG.integers(24, size=60)
    tags = (RNG.random((60, 24)) < 0.4).astype(np.float32)
    for theirs, ours, targets, truth in [
        ("top1_acc", "accuracy", classes, one_hot(classes)),
        ("chroma_acc", "chroma_accuracy", classes, one_hot(classes)),
        ("mAP", "average_precision_macro", tags, tags),
        ("aucroc", "roc_auc_macro", tags, tags),
        ("d_prime", "d_prime", tags, tags),
    ]:
        function = score_module.available_scores[theirs](label_to_idx={})
        assert score(ours, outputs, targets) == pytest.approx(function(outputs, truth))


@pytest.mark.parametrize("name", ["roc_auc_macro", "average_precision_macro", "d_prime"])
@pytest.mark.parametrize(("value", "which"), [(0, "none"), (1, "every one")])
def test_a_label_with_one_class_is_named(name, value, which):
    targets = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    targets[:, 1] = value
    with pytest.raises(TaskError, match=f"'harp' is on {which} of 3"):
        score(name, np.zeros((3, 2)), targets, ("guitar", "harp"))


# --- Keys


@pytest.mark.parametrize(
    ("reference_key", "estimate", "headline", "both"),
    [
        ("C major", "C major", 1.0, 1.0),
        ("C major", "G major", 0.5, 0.5),  # a fifth above
        ("C major", "F major", 0.0, 0.5),  # a fifth below
        ("A minor", "E minor", 0.5, 0.5),
        ("A minor", "D minor", 0.0, 0.5),
        ("C major", "A minor", 0.3, 0.3),  # relative
        ("A minor", "C major", 0.3, 0.3),
        ("C major", "C minor", 0.2, 0.2),  # parallel
        ("Db minor", "Db major", 0.2, 0.2),
        ("C major", "G minor", 0.0, 0.0),
        ("C major", "D major", 0.0, 0.0),
    ],
)
def test_key_scores(reference_key, estimate, headline, both):
    outputs, targets = one_hot([KEYS.index(estimate)]), np.array([KEYS.index(reference_key)])
    assert score("weighted_key_score", outputs, targets) == headline
    assert score("weighted_key_score_both_fifths", outputs, targets) == both


def test_key_score_is_mir_evals_for_every_pair():
    for i, ref in enumerate(KEYS):
        for j, est in enumerate(KEYS):
            got = score("weighted_key_score", one_hot([j]), np.array([i]))
            assert got == mir_eval.key.weighted_score(ref, est)


def test_the_order_of_labels_is_respected():
    shuffled = tuple(RNG.permutation(KEYS))
    outputs = one_hot([shuffled.index("G major")])
    assert (
        score("weighted_key_score", outputs, np.array([shuffled.index("C major")]), shuffled) == 0.5
    )


# --- Clips and tracks


def test_track_scores_count_tracks_not_clips():
    targets, tracks = np.array([0, 0, 0, 5]), ["a", "a", "a", "b"]
    outputs = one_hot([0, 0, 0, 3])
    assert score_tracks(TASKS["giantsteps"], outputs, targets, tracks, "vote")["accuracy"] == 0.5
    assert score_outputs(TASKS["giantsteps"], outputs, targets)["accuracy"] == 0.75


def test_unusable_outputs_are_refused():
    task, targets = TASKS["giantsteps"], np.array([0, 1])
    with pytest.raises(TaskError, match=r"shape \(2, 24\), got \(2, 23\)"):
        score_outputs(task, np.zeros((2, 23)), targets)
    with pytest.raises(TaskError, match="NaN"):
        score_outputs(task, np.full((2, 24), np.nan), targets)
    with pytest.raises(TaskError, match="track 'a' has clips of two classes"):
        score_tracks(task, np.zeros((2, 24)), targets, ["a", "a"], "vote")
