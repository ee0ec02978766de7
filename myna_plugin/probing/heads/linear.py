"""Linear heads at the least of their penalised loss: nothing random, no steps, no patience.

Values are fitted in closed form (ridge regression), classes and tags by L-BFGS (logistic
regression, multinomial or one tag against the rest). Both work in the principal axes of the
training features, of which there are no more than rows: there the ridge's solution is a division
for each axis, and the axes scaled by their curvature leave L-BFGS a well-conditioned problem.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from myna_plugin.probing.heads.early_stopping import HeadScore
from myna_plugin.probing.heads.grid import LinearConfig
from myna_plugin.probing.heads.losses import LOSSES
from myna_plugin.probing.heads.stack import (
    Parameters,
    TrainedHead,
    TrainingData,
    compute_logits,
)

MAX_ITERATIONS = 300
"""Of L-BFGS for one head; most need some tens."""

HISTORY = 10
"""Iterations from which L-BFGS makes up the next one's direction."""

TOLERANCE = 1e-4
"""Greatest slope, along a scaled axis, at which L-BFGS stops."""

WORTH_THREADS = 100_000_000
"""Multiplications of a product below which one thread is faster than several that wait for each
other: a tenth of a second a step where the cores have other work, too."""

RESOLUTION = 1e-12
"""Share of all features' squares below which an axis is rounding, and is left out."""


def fit_heads(
    configs: Sequence[LinearConfig], data: TrainingData, progress: bool, done: Collection[int] = ()
) -> Iterator[list[TrainedHead]]:
    """Fit every head.

    Args:
        configs: the grid.
        data: what to fit and evaluate on.
        progress: whether to show a progress bar.
        done: positions of heads that need no fit; those of one standardisation are left out if all
            of them are.

    Yields:
        The heads with and those without standardisation, each the same whatever is left out.
    """
    groups: dict[bool, list[int]] = defaultdict(list)
    for position, config in enumerate(configs):
        groups[config.standardize].append(position)
    waiting = {s: positions for s, positions in groups.items() if not set(positions) <= set(done)}
    n_done = len(configs) - sum(map(len, waiting.values()))
    with tqdm(
        total=len(configs), initial=n_done, unit="head", desc="probing", disable=not progress
    ) as bar:
        for standardize, positions in waiting.items():
            with _threads_for(data):
                # What overflowed gives no finite logits, which `_score` tells.
                axes = PrincipalAxes(data.train[standardize].nan_to_num())
                head = axes.variances.new_zeros(data.targets.shape[1], len(axes.variances) + 1)
                heads = []
                # From the strongest penalty on, each from where the one before ended.
                for position in sorted(positions, key=lambda place: -configs[place].penalty):
                    config = configs[position]
                    head, steps = _fit(axes, data, config.penalty, head)
                    parameters = axes.of_features(head)
                    heads.append((position, _score(config, parameters, data, steps), parameters))
                    bar.update()
            yield heads


@contextmanager
def _threads_for(data: TrainingData) -> Iterator[None]:
    """One thread while heads are fitted to few rows, all of them otherwise."""
    n_threads = torch.get_num_threads()
    n_rows, n_features = data.train[True].shape
    size = n_rows * min(n_rows, n_features) * data.targets.shape[1]
    try:
        torch.set_num_threads(n_threads if size >= WORTH_THREADS else 1)
        yield
    finally:
        torch.set_num_threads(n_threads)


class PrincipalAxes:
    """Training features, without their mean, along their principal axes.

    Attributes:
        rows: features along the axes, shape (N, R), R at most N and D.
        variances: mean square of each, in float64, shape (R,).
        scale: root mean variance of a feature, which penalties are relative to.
    """

    def __init__(self, features: Tensor) -> None:
        """Find the axes.

        Args:
            features: shape (N, D).
        """
        values = features.double()
        least = RESOLUTION * values.square().sum()
        self._mean = values.mean(0)
        values = values - self._mean
        n_rows, n_features = values.shape
        is_wide = n_features > n_rows
        squares, vectors = torch.linalg.eigh(values @ values.T if is_wide else values.T @ values)
        squares, vectors = squares[squares > least], vectors[:, squares > least]
        self._axes = values.T @ vectors / squares.sqrt() if is_wide else vectors  # (D, R)
        self.variances = squares / n_rows
        self.scale = float(values.square().mean().sqrt())
        self.rows = (values @ self._axes).to(features)

    def of_features(self, head: Tensor) -> Parameters:
        """A head on these axes as one on features.

        Args:
            head: weights and, last, bias of each output, shape (C, R + 1).
        """
        weights = head[:, :-1] @ self._axes.T
        bias = head[:, -1] - weights @ self._mean
        return {
            "output.weight": weights.to(self.rows).cpu(),
            "output.bias": bias.to(self.rows).cpu(),
        }


def _fit(
    axes: PrincipalAxes, data: TrainingData, penalty: float, start: Tensor
) -> tuple[Tensor, int]:
    """A head at the least of its loss, and the steps that took.

    The loss is summed over outputs and averaged over rows; to it comes half of `penalty` times the
    squares of the weights, in units in which a feature's mean variance is 1.

    Args:
        axes: of the training features.
        data: whose targets to fit.
        penalty: of the head.
        start: head to start from, shape (C, R + 1), weights and bias.
    """
    penalty *= axes.scale**2
    n_rows = len(data.targets)
    targets = data.targets.double()
    if data.loss is LOSSES["mse"]:
        bias = targets.mean(0)
        weights = (targets - bias).T @ axes.rows.double() / n_rows / (axes.variances + penalty)
        return torch.cat([weights, bias[:, None]], 1), 0
    # No logit bends the loss by more than a quarter.
    bends = (axes.variances / 4 + penalty).sqrt()
    units = torch.cat([bends, bends.new_ones(1)])
    rows = (axes.rows / bends).to(axes.rows)
    shrink = penalty / bends.square()

    head = torch.nn.Parameter(start * units)
    optimiser = torch.optim.LBFGS(
        [head],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=TOLERANCE,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def find_slope() -> float:
        weights = head[:, :-1]
        logits = (rows @ weights.to(rows).T).double() + head[:, -1]
        loss = data.loss.total(logits, targets) / n_rows
        loss += (shrink * weights.square()).sum() / 2
        errors = data.loss.errors(logits, targets) / n_rows
        of_weights = (errors.to(rows).T @ rows).double() + shrink * weights
        head.grad = torch.cat([of_weights, errors.sum(0)[:, None]], 1)
        return float(loss)

    optimiser.step(find_slope)
    return head.detach() / units, optimiser.state[head]["n_iter"]


def _score(
    config: LinearConfig, parameters: Parameters, data: TrainingData, steps: int
) -> HeadScore:
    """What a head comes to on validation; minus infinity if its logits are not finite."""
    stacked = {name: value.to(data.targets).unsqueeze(0) for name, value in parameters.items()}
    logits, _ = compute_logits(stacked, data.valid[config.standardize].unsqueeze(0))
    scores, rules = data.metric(logits)
    score = float(scores[0])
    return HeadScore(config, -np.inf if np.isnan(score) else score, steps, steps, int(rules[0]))
