"""Classes by the nearest training clips, with nothing trained and nothing chosen.

Of each clip the ten training clips of greatest cosine vote for their classes, each with its share
of a softmax over the ten cosines at temperature 0.07. Features are taken as they are.

Source: Caron et al., "Emerging properties in self-supervised vision transformers", 2021, whose rule
and numbers are those of X-ARES (`KNN` of `xares/trainer.py`, github.com/jimbozhang/xares). There,
training features are divided not by each clip's norm but by each feature's over all training clips,
a matrix being transposed first: scores differ.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax
from sklearn.neighbors import KNeighborsClassifier

from myna_plugin.probing.heads.combining import ItemRows
from myna_plugin.probing.heads.losses import LOSSES
from myna_plugin.probing.heads.splits import HeadTask, Split, check_split

NEIGHBOURS = 10

TEMPERATURE = 0.07


def score_neighbours(train: Split, test: Split, task: HeadTask) -> dict[str, float]:
    """Scores of the rule on test.

    Args:
        train: the training split; all its rows where it has fewer than ten.
        test: the test split. Shares of the votes of an item's rows are averaged.
        task: of classes; its `score` is asked.

    Returns:
        Test scores by name.

    Raises:
        ValueError: a task of another kind, or a split that cannot be used; names the field.
    """
    if not LOSSES[task.loss].targets_are_classes:
        raise ValueError(f"loss: neighbours vote for classes, not for {task.loss}")
    check_split("train", train, task, train.features.shape[1], scored=False)
    check_split("test", test, task, train.features.shape[1])
    shares, targets = count_votes(train, test.features, task.n_outputs), test.targets
    if test.items is not None:
        items = ItemRows(test.items, torch.device("cpu"))
        stacked = torch.from_numpy(shares).unsqueeze(0)
        shares = items.combine(stacked, "mean_logit", LOSSES[task.loss])[0].numpy()
        targets = targets[items.first.numpy()]
    return {name: float(value) for name, value in task.score(shares, targets).items()}


def count_votes(train: Split, features: np.ndarray, n_classes: int) -> np.ndarray:
    """Share of the votes for each class.

    Args:
        train: rows that vote.
        features: of the rows in question, shape (N, D).
        n_classes: C.

    Returns:
        Shape (N, C), adding up to 1 in each row.
    """
    voters = KNeighborsClassifier(
        min(NEIGHBOURS, len(train.features)),
        weights=lambda distances: softmax((1.0 - distances) / TEMPERATURE, axis=1),
        metric="cosine",
        algorithm="brute",
    ).fit(train.features, train.targets)
    shares = np.zeros((len(features), n_classes))
    shares[:, voters.classes_] = voters.predict_proba(features)
    return shares
