"""Weighted key scores of a key task that heareval has scored.

heareval knows accuracy only. Its test predictions, which it leaves beside the embeddings, are
scored here with mir_eval's weighted score, with both readings of the fifth, per clip and
(GiantSteps) per track. Which rule combines the clips of a track is chosen on validation elsewhere;
heareval leaves no validation predictions, so it is the mean of probabilities here.
"""

from __future__ import annotations

import re
from dataclasses import replace

from myna_plugin.probing.tasks import giantsteps
from myna_plugin.probing.tasks.hear_predictions import TestPredictions
from myna_plugin.probing.tasks.metrics import score_outputs, score_tracks

TRACK_RULE = "mean_probability"

CLIP_NAME = re.compile(r"(.+)-\d+")
"""GiantSteps' clips are named by their track and a number."""


def score_keys(predictions: TestPredictions) -> dict[str, dict[str, float]]:
    """Scores of a key task's test predictions.

    Args:
        predictions: labels are keys, in any order and spelling.

    Returns:
        "clip", and "track" where the clips' names tell their tracks: score by metric.

    Raises:
        TaskError: the labels are not keys.
    """
    keys = tuple(giantsteps.parse_key(label) for label in predictions.labels)
    task = replace(giantsteps.TASK, labels=keys)
    scores = {"clip": score_outputs(task, predictions.outputs, predictions.targets)}
    names = [CLIP_NAME.fullmatch(clip) for clip in predictions.clips]
    if predictions.task_name == giantsteps.TASK.name and all(names):
        tracks = [name.group(1) for name in names if name]
        scores["track"] = score_tracks(
            task, predictions.outputs, predictions.targets, tracks, TRACK_RULE
        )
    return scores


def format_table(scores: dict[str, dict[str, float]]) -> str:
    """Scores as a Markdown table, in percent.

    >>> print(format_table({"clip": {"accuracy": 0.5}}))
    | per | accuracy |
    |---|---|
    | clip | 50.0 |
    """
    metrics = list(next(iter(scores.values())))
    rows = [
        f"| {unit} | " + " | ".join(f"{100 * row[name]:.1f}" for name in metrics) + " |"
        for unit, row in scores.items()
    ]
    return "\n".join(
        ["| per | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|", *rows]
    )
