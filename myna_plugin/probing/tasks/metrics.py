"""Metrics of the probe tasks, from scikit-learn and mir_eval, and the rules from clip to track.

Which reading of the fifth is the headline: `weighted_key_score` is what every released mir_eval
(to 0.8.2) computes, where only an estimate a fifth *above* the reference earns 0.5. JukeMIR,
MARBLE and the papers compared with here report that number. The MIREX task's own text counts a
"distance of perfect fifth" both ways, and mir_eval's development version offers that as
`allow_descending_fifths`; it stands beside as `weighted_key_score_both_fifths`, and is never
lower.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import mir_eval.key
import numpy as np
import torch
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    r2_score,
    recall_score,
    roc_auc_score,
)

from myna_plugin.probing.heads import LOSSES
from myna_plugin.probing.heads.combining import ItemRows
from myna_plugin.probing.tasks.task import Task, TaskError

Metric = Callable[[np.ndarray, np.ndarray, Sequence[str]], float]
"""From a head's outputs (N, C), targets as `encode_targets` gives them, and labels to a score.

Higher is better for all of them.
"""


def accuracy(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """Share of rows whose greatest output is the target's."""
    return float(accuracy_score(targets, outputs.argmax(axis=1)))


def class_mean_accuracy(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """Accuracy of each class that is there, mean over them: what rare classes count as much in."""
    return float(
        recall_score(targets, outputs.argmax(axis=1), labels=np.unique(targets), average="macro")
    )


def chroma_accuracy(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """Accuracy of the pitch class, classes being semitones: HEAR's `chroma_acc`."""
    return float(accuracy_score(targets % 12, outputs.argmax(axis=1) % 12))


def roc_auc_macro(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """Area under the ROC curve, mean over labels.

    Raises:
        TaskError: a label is on none of the rows, or on all of them.
    """
    return float(label_scores(roc_auc_score, outputs, targets, labels).mean())


def average_precision_macro(
    outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]
) -> float:
    """Average precision, mean over labels.

    Raises:
        TaskError: a label is on none of the rows, or on all of them.
    """
    return float(label_scores(average_precision_score, outputs, targets, labels).mean())


def d_prime(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """Sensitivity index sqrt(2) · Phi^-1(AUC), mean over labels: HEAR's `d_prime`.

    Raises:
        TaskError: a label is on none of the rows, or on all of them.
    """
    areas = label_scores(roc_auc_score, outputs, targets, labels)
    return float(np.mean(np.sqrt(2.0) * norm.ppf(areas)))


def label_scores(
    score: Callable[[np.ndarray, np.ndarray], float],
    outputs: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
) -> np.ndarray:
    """A score of each label, over the clips of which it is known; shape (C,)."""
    scores = []
    for label, found, wanted in zip(labels, outputs.T, targets.T, strict=True):
        is_known = ~np.isnan(wanted)
        n_known, count = is_known.sum(), np.nansum(wanted)
        if count in (0, n_known):
            which = "none" if count == 0 else "every one"
            raise TaskError(f"label {label!r} is on {which} of {n_known} clips: no ROC curve")
        scores.append(score(wanted[is_known], found[is_known]))
    return np.array(scores)


def weighted_key_score(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """mir_eval's weighted key score, mean over rows; a fifth below the reference earns nothing."""
    return float(_key_scores(tuple(labels), False)[targets, outputs.argmax(axis=1)].mean())


def weighted_key_score_both_fifths(
    outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]
) -> float:
    """The weighted key score where a fifth below the reference earns 0.5 as well."""
    return float(_key_scores(tuple(labels), True)[targets, outputs.argmax(axis=1)].mean())


@cache
def _key_scores(keys: tuple[str, ...], both_fifths: bool) -> np.ndarray:
    """mir_eval's score of every reference (row) and estimate (column).

    All relations but the fifth are mutual, so counting it both ways is the greater of the scores
    with the two keys either way round.
    """
    # A coming release of mir_eval changes the default; this argument keeps its old meaning.
    named = "allow_descending_fifths" in inspect.signature(mir_eval.key.weighted_score).parameters
    options = {"allow_descending_fifths": False} if named else {}
    scores = np.array(
        [[mir_eval.key.weighted_score(ref, est, **options) for est in keys] for ref in keys]
    )
    return np.maximum(scores, scores.T) if both_fifths else scores


def r2(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """Coefficient of determination, mean over outputs."""
    return float(r2_score(targets, outputs))


def r2_arousal(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """Coefficient of determination of the output named "arousal"."""
    column = labels.index("arousal")
    return float(r2_score(targets[:, column], outputs[:, column]))


def r2_valence(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> float:
    """Coefficient of determination of the output named "valence"."""
    column = labels.index("valence")
    return float(r2_score(targets[:, column], outputs[:, column]))


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "class_mean_accuracy": class_mean_accuracy,
    "chroma_accuracy": chroma_accuracy,
    "roc_auc_macro": roc_auc_macro,
    "average_precision_macro": average_precision_macro,
    "d_prime": d_prime,
    "weighted_key_score": weighted_key_score,
    "weighted_key_score_both_fifths": weighted_key_score_both_fifths,
    "r2": r2,
    "r2_arousal": r2_arousal,
    "r2_valence": r2_valence,
}


def score_outputs(task: Task, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """All metrics of a task.

    Args:
        task: names the metrics and labels.
        outputs: a head's outputs, logits or anything in the same order, shape (N, C).
        targets: as `encode_targets` gives them.

    Returns:
        Score by metric, in the task's order.

    Raises:
        TaskError: outputs of another shape, or NaN; a metric that these targets do not define.
    """
    if outputs.shape != (len(targets), len(task.labels)):
        raise TaskError(
            f"{task.name}: expected outputs of shape {(len(targets), len(task.labels))}, "
            f"got {outputs.shape}"
        )
    if not np.isfinite(outputs).all():
        raise TaskError(f"{task.name}: outputs hold NaN or infinity")
    return {name: METRICS[name](outputs, targets, task.labels) for name in task.metrics}


def score_tracks(
    task: Task, outputs: np.ndarray, targets: np.ndarray, tracks: Sequence[str], rule: str
) -> dict[str, float]:
    """All metrics of a task per track, from the combined predictions of its clips.

    Args:
        task: a single-label task.
        outputs: logits of clips, shape (N, C).
        targets: classes of clips, shape (N,).
        tracks: the track of each clip.
        rule: a name in `heads.RULES`.

    Raises:
        TaskError: two clips of a track have different targets; or see `score_outputs`.
    """
    rows = ItemRows(np.asarray(tracks), torch.device("cpu"))
    logits = torch.from_numpy(outputs).unsqueeze(0)
    combined = rows.combine(logits, rule, LOSSES[task.loss])[0].numpy()
    of_track: dict[str, int] = {}
    for track, target in zip(tracks, targets.tolist(), strict=True):
        if of_track.setdefault(track, target) != target:
            raise TaskError(f"{task.name}: track {track!r} has clips of two classes")
    return score_outputs(task, combined, np.array([of_track[name] for name in rows.names]))


def mean_of_tasks(scores: Mapping[str, Mapping[str, float]]) -> float:
    """The mean over tasks of the mean over each task's scores.

    >>> mean_of_tasks({"tags": {"AUC": 91.0, "AP": 39.8}, "genre": {"accuracy": 77.9}})
    71.65
    """
    return float(np.mean([np.mean(list(metrics.values())) for metrics in scores.values()]))
