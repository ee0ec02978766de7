"""The three losses, as heads trained together need them: by activation and gradient.

For each of them the gradient of the mean loss with respect to the logits is the difference between
the activated logits and the targets, times a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Loss:
    """A loss averaged over the rows (and outputs) of a batch.

    Attributes:
        activate: from logits (..., C) to class probabilities, label probabilities or values.
        total: from logits and encoded targets (B, C) to the loss summed over both.
        factor: from (rows, outputs) to the constant in the gradient.
        targets_are_classes: whether targets are class indices rather than numbers per output.
        of_known: whether targets may be NaN, not known: those count as no error.
    """

    activate: Callable[[Tensor], Tensor]
    total: Callable[[Tensor, Tensor], Tensor]
    factor: Callable[[int, int], float]
    targets_are_classes: bool = False
    of_known: bool = False

    def errors(self, logits: Tensor, targets: Tensor) -> Tensor:
        """How far activated logits are from the targets, 0 where a target is not known.

        Args:
            logits: shape (…, B, C).
            targets: as `encode` gives them, shape (B, C).

        Returns:
            A new tensor of the logits' shape.
        """
        errors = self.activate(logits) - targets
        return errors.masked_fill_(targets.isnan(), 0.0) if self.of_known else errors

    def gradient(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Gradient of each head's mean loss with respect to its logits.

        Args:
            logits: shape (H, B, C).
            targets: as `encode` gives them, shape (B, C).

        Returns:
            Shape (H, B, C).
        """
        return self.errors(logits, targets).mul_(self.factor(*targets.shape))

    def encode(self, targets: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """Targets as numbers per output, (N, C): one-hot for class indices."""
        if self.targets_are_classes:
            return functional.one_hot(targets.long(), outputs).to(dtype)
        return targets.to(dtype)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _identity(logits: Tensor) -> Tensor:
    return logits


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(
        _softmax,
        partial(functional.cross_entropy, reduction="sum"),
        lambda rows, outputs: 1.0 / rows,
        targets_are_classes=True,
    ),
    "bce": Loss(
        torch.sigmoid,
        partial(functional.binary_cross_entropy_with_logits, reduction="sum"),
        lambda rows, outputs: 1.0 / (rows * outputs),
    ),
    "mse": Loss(
        _identity,
        partial(functional.mse_loss, reduction="sum"),
        lambda rows, outputs: 2.0 / (rows * outputs),
    ),
}
"""Cross-entropy (one class), independent binary cross-entropy (tags), mean squared error."""


def _total_of_known(logits: Tensor, targets: Tensor) -> Tensor:
    known = ~targets.isnan()
    return LOSSES["bce"].total(logits[known], targets[known])


BCE_OF_KNOWN = replace(LOSSES["bce"], total=_total_of_known, of_known=True)
"""Of tags where some are not known of every clip. Its mean is over all, known or not."""
