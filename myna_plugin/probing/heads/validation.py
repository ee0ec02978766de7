"""What early stopping and selection go by: the metric of many heads on the validation split."""

from __future__ import annotations

import torch
from torch import Tensor

from myna_plugin.probing.heads.combining import ItemRows
from myna_plugin.probing.heads.losses import LOSSES
from myna_plugin.probing.heads.scoring import METRICS, BatchedMetric, mean_pair_score
from myna_plugin.probing.heads.splits import HeadTask, Split


class ValidationMetric:
    """A task's metric on its validation items, under the best of its rules."""

    def __init__(self, valid: Split, task: HeadTask, device: torch.device) -> None:
        """Prepare what does not change between evaluations.

        Args:
            valid: the validation split, checked.
            task: which metric, and which rules.
            device: where logits will be.
        """
        self._loss = LOSSES[task.loss]
        self._rules = task.rules
        self._items = None if valid.items is None else ItemRows(valid.items, device)
        targets = torch.tensor(valid.targets, device=device)
        if self._items is not None:
            targets = targets[self._items.first]
        self._metric = _build_metric(task, targets)

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score heads.

        Args:
            logits: of the validation rows, shape (H, N, C).

        Returns:
            Scores in float64, shape (H,), NaN where a head's logits are not finite; and which of
            the task's rules gave them, shape (H,), the first of equals.
        """
        items = self._items
        if items is None:
            scores = self._metric(logits).unsqueeze(0)
        else:
            combined = (items.combine(logits, rule, self._loss) for rule in self._rules)
            scores = torch.stack([self._metric(outputs) for outputs in combined])
        best, rule = scores.max(0)
        finite = logits.isfinite().all(-1).all(-1)
        return best.masked_fill(~finite, torch.nan), rule


def _build_metric(task: HeadTask, targets: Tensor) -> BatchedMetric:
    if isinstance(task.metric, str):
        return METRICS[task.loss][task.metric](targets)
    return mean_pair_score(targets, task.metric)
