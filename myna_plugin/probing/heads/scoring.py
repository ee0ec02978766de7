"""Validation metrics of many heads at once, on the device where they train.

They exist for speed alone: early stopping asks for the metric of every head after every eighth
step. Their values are those of scikit-learn and mir_eval. Test scores come from those libraries.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BatchedMetric = Callable[[Tensor], Tensor]
"""From the outputs of H heads for I items, (H, I, C), to H scores in float64."""


def accuracy(targets: Tensor) -> BatchedMetric:
    """Share of items whose greatest output (of equals, the first) is the target's.

    Args:
        targets: classes, shape (I,).
    """
    return lambda outputs: (outputs.argmax(-1) == targets).double().mean(-1)


def mean_pair_score(targets: Tensor, pair_scores: np.ndarray) -> BatchedMetric:
    """Mean of what each item's pair of target and predicted class is worth.

    Args:
        targets: classes, shape (I,).
        pair_scores: worth of predicting class j (column) where i (row) is right, shape (C, C).
    """
    worth = torch.from_numpy(pair_scores).double().to(targets.device)[targets]

    def score(outputs: Tensor) -> Tensor:
        predicted = outputs.argmax(-1, keepdim=True)
        return worth.expand(len(outputs), -1, -1).gather(-1, predicted).squeeze(-1).mean(-1)

    return score


class _RankedLabels:
    """Counts of how positives and negatives of each label are ordered, ties included.

    Only the positives are sorted: tags are rare, and the negatives need but their place among them.
    """

    def __init__(self, targets: Tensor) -> None:
        is_positive = targets.T > 0.5  # (C, I)
        self.is_negative = targets.T < 0.5  # what is NaN, not known, is neither
        self.n_positive = is_positive.sum(1)  # (C,)
        self.n_negative = self.is_negative.sum(1)
        longest = int(self.n_positive.max())
        # Positives first, in order of row; then cut to the commonest label's number.
        self.positives = is_positive.byte().argsort(dim=1, descending=True, stable=True)[
            :, :longest
        ]
        self.is_padding = (
            torch.arange(longest, device=targets.device) >= self.n_positive[:, None]
        )  # (C, P)

    def sort_positives(self, outputs: Tensor) -> Tensor:
        """Outputs of each label's positives in ascending order, then infinities, (H, C, P)."""
        positives = self.positives.expand(len(outputs), -1, -1)
        scores = outputs.gather(2, positives).masked_fill(self.is_padding, torch.inf)
        return scores.sort(-1).values

    def roc_auc(self, outputs: Tensor) -> Tensor:
        """Area under the ROC curve of each head and label, (H, C), from outputs (H, I, C)."""
        outputs = outputs.transpose(1, 2).contiguous()
        positives = self.sort_positives(outputs)
        below = torch.searchsorted(positives, outputs, out_int32=True)
        not_above = torch.searchsorted(positives, outputs, out_int32=True, side="right")
        # A pair in order counts 2, a tie 1: whole numbers, so no rounding hides an improvement.
        doubled = 2 * self.n_positive[:, None] - below - not_above
        pairs = 2 * self.n_positive * self.n_negative
        return (doubled * self.is_negative).sum(-1).double() / pairs

    def average_precision(self, outputs: Tensor) -> Tensor:
        """Average precision of each head and label, (H, C), from outputs (H, I, C)."""
        outputs = outputs.transpose(1, 2).contiguous()
        positives = self.sort_positives(outputs)
        n_positive = self.n_positive[:, None]
        positives_at_least = n_positive - torch.searchsorted(positives, positives)
        # A negative is at least as high as the first `places` positives.
        places = torch.searchsorted(positives, outputs, side="right")
        shape = (*positives.shape[:2], positives.shape[2] + 1)
        histogram = torch.zeros(shape, dtype=torch.int64, device=outputs.device)
        histogram.scatter_add_(2, places, self.is_negative.long().expand_as(places))
        negatives_at_least = histogram.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        precision = positives_at_least / (positives_at_least + negatives_at_least).double()
        return precision.masked_fill(self.is_padding, 0.0).sum(-1) / self.n_positive


def roc_auc_macro(targets: Tensor) -> BatchedMetric:
    """Area under the ROC curve, mean over labels.

    Args:
        targets: 0 or 1 per label, or NaN where it is not known, shape (I, C), both values in every
            column.
    """
    ranked = _RankedLabels(targets)
    return lambda outputs: ranked.roc_auc(outputs).mean(-1)


def average_precision_macro(targets: Tensor) -> BatchedMetric:
    """Average precision, mean over labels.

    Args:
        targets: 0 or 1 per label, or NaN where it is not known, shape (I, C), both values in every
            column.
    """
    ranked = _RankedLabels(targets)
    return lambda outputs: ranked.average_precision(outputs).mean(-1)


def d_prime(targets: Tensor) -> BatchedMetric:
    """Sensitivity index: sqrt(2) times the normal quantile of the ROC area, mean over labels.

    Args:
        targets: 0 or 1 per label, or NaN where it is not known, shape (I, C), both values in every
            column.
    """
    ranked = _RankedLabels(targets)
    return lambda outputs: math.sqrt(2.0) * torch.special.ndtri(ranked.roc_auc(outputs)).mean(-1)


def r2(targets: Tensor) -> BatchedMetric:
    """Coefficient of determination, mean over outputs.

    Args:
        targets: values, shape (I, C), none of the columns constant.
    """
    values = targets.double()
    total = (values - values.mean(0)).square().sum(0)

    def score(outputs: Tensor) -> Tensor:
        residual = (values - outputs.double()).square().sum(1)
        return (1.0 - residual / total).mean(-1)

    return score


METRICS: dict[str, dict[str, Callable[[Tensor], BatchedMetric]]] = {
    "cross_entropy": {"accuracy": accuracy},
    "bce": {
        "roc_auc_macro": roc_auc_macro,
        "average_precision_macro": average_precision_macro,
        "d_prime": d_prime,
    },
    "mse": {"r2": r2},
}
"""For each loss, its targets' metrics by name: from the items' targets to the batched metric."""


def tabulate_pair_scores(
    metric: Callable[[np.ndarray, np.ndarray], float], n_classes: int
) -> np.ndarray:
    """Ask a metric what each pair of target and predicted class is worth.

    It must be a mean over items of the worth of their pairs, as accuracy and the weighted key score
    are.

    Args:
        metric: from one item's outputs (1, C) and class (1,) to its score.
        n_classes: C.

    Returns:
        Worth of predicting class j (column) where i (row) is right, shape (C, C).

    >>> tabulate_pair_scores(lambda outputs, targets: (outputs.argmax(1) == targets).mean(), 2)
    array([[1., 0.],
           [0., 1.]])
    """
    certain = np.eye(n_classes)
    return np.array(
        [
            [float(metric(certain[[j]], np.array([i]))) for j in range(n_classes)]
            for i in range(n_classes)
        ]
    )
