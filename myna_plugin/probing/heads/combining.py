"""From the rows of an item to the item: chunks of a clip, or clips of a track."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from myna_plugin.probing.heads.losses import Loss

# Each rule takes logits (H, I, K, C), which of the K places are rows (I, K, 1), and the loss.
Rule = Callable[[Tensor, Tensor, Loss], Tensor]


def _vote(logits: Tensor, present: Tensor, loss: Loss) -> Tensor:
    votes = functional.one_hot(logits.argmax(-1), logits.shape[-1])
    return (votes * present).sum(-2).to(logits.dtype)


def _max(logits: Tensor, present: Tensor, loss: Loss) -> Tensor:
    return logits.masked_fill(~present, -torch.inf).amax(-2)


def _mean_logit(logits: Tensor, present: Tensor, loss: Loss) -> Tensor:
    return (logits * present).sum(-2) / present.sum(-2)


def _mean_probability(logits: Tensor, present: Tensor, loss: Loss) -> Tensor:
    return _mean_logit(loss.activate(logits), present, loss)


RULES: dict[str, Rule] = {
    "vote": _vote,
    "max": _max,
    "mean_logit": _mean_logit,
    "mean_probability": _mean_probability,
}
"""How the predictions of an item's rows become the item's. Source: JukeMIR.

"vote" counts the rows' greatest outputs (of equals, the first class wins); "max" and "mean_logit"
are over logits; "mean_probability" is over what the loss's activation gives. For a regression both
means are the mean of the values.
"""


class ItemRows:
    """Which rows belong to which item.

    Attributes:
        names: the I items, in ascending order.
        rows: rows of each item, padded with 0, shape (I, K).
        present: which of `rows` are rows, shape (I, K, 1).
        first: first row of each item, shape (I,).
    """

    def __init__(self, items: np.ndarray, device: torch.device) -> None:
        """Group rows.

        Args:
            items: the item of each row, shape (N,).
            device: where predictions will be.
        """
        self.names, first, owner, counts = np.unique(
            items, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(owner, kind="stable")
        place = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.zeros((len(counts), counts.max()), dtype=np.int64)
        rows[owner[order], place] = order
        present = np.arange(counts.max()) < counts[:, None]
        self.rows = torch.from_numpy(rows).to(device)
        self.present = torch.from_numpy(present[:, :, None]).to(device)
        self.first = torch.from_numpy(first).to(device)

    def combine(self, logits: Tensor, rule: str, loss: Loss) -> Tensor:
        """Predictions per item.

        Args:
            logits: of rows, shape (H, N, C).
            rule: a key of `RULES`.
            loss: whose activation makes probabilities of logits.

        Returns:
            Shape (H, I, C): the greater, the more likely; for a regression, the values.
        """
        return RULES[rule](logits[:, self.rows], self.present, loss)
