"""Early stopping of many heads at once, without asking the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from myna_plugin.probing.heads.draws import PERIOD
from myna_plugin.probing.heads.grid import Config

PATIENCE = 256
"""Evaluations without a new best after which a head stops. Source: JukeMIR."""


@dataclass(frozen=True)
class HeadScore:
    """What training a head came to.

    Attributes:
        config: of the head.
        valid_score: best value of the metric on validation; minus infinity if it never was a
            number.
        best_step: training steps after which it was reached; of a linear head that was fitted to
            the end the iterations, 0 where none were needed.
        steps: training steps until the head stopped.
        rule: which of the task's rules gave the score, by number.
    """

    config: Config
    valid_score: float
    best_step: int
    steps: int
    rule: int


class EarlyStopping:
    """The best evaluation of each of H heads, and whether it is to stop.

    Attributes:
        active: which heads have not stopped, shape (H,).
    """

    def __init__(self, n_heads: int, patience: int, device: torch.device) -> None:
        """Start counting.

        Args:
            n_heads: H.
            patience: evaluations without a new best after which a head stops.
            device: of the scores.
        """
        self._patience = patience
        self.active = torch.ones(n_heads, dtype=torch.bool, device=device)
        self._best_score = torch.full((n_heads,), -torch.inf, dtype=torch.float64, device=device)
        counts = torch.zeros(4, n_heads, dtype=torch.int64, device=device)
        self._best_rule, self._best_evaluation, self._evaluations, self._stale = counts.unbind()

    def update(self, score: Tensor, rule: Tensor) -> Tensor:
        """Take in an evaluation.

        Args:
            score: of each head, the greater the better, shape (H,); NaN is never a best.
            rule: which rule gave it, shape (H,).

        Returns:
            Which heads have a new best, shape (H,).
        """
        improved = self.active & (score > self._best_score)
        for best, value in (
            (self._best_score, score),
            (self._best_rule, rule),
            (self._best_evaluation, self._evaluations),
        ):
            best.copy_(torch.where(improved, value, best))
        self._evaluations += self.active
        self._stale.add_(1).masked_fill_(improved, 0)
        self.active &= self._stale < self._patience
        return improved

    def keep(self, heads: Tensor) -> None:
        """Go on with the heads of these numbers alone."""
        self.active = self.active[heads]
        self._best_score = self._best_score[heads]
        self._best_rule = self._best_rule[heads]
        self._best_evaluation = self._best_evaluation[heads]
        self._evaluations = self._evaluations[heads]
        self._stale = self._stale[heads]

    def result(self, head: int, config: Config) -> HeadScore:
        """What one head came to."""
        return HeadScore(
            config=config,
            valid_score=float(self._best_score[head]),
            best_step=PERIOD * int(self._best_evaluation[head]),
            # The first evaluation is before the first step.
            steps=PERIOD * (int(self._evaluations[head]) - 1),
            rule=int(self._best_rule[head]),
        )
