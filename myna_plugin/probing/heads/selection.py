"""Select a head on validation, and score it on test once.

`select` never sees the test split, so nothing in it can depend on test; what it returns is fixed,
and its `score` is the only way to test scores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from myna_plugin.probing.heads.combining import ItemRows
from myna_plugin.probing.heads.early_stopping import PATIENCE, HeadScore
from myna_plugin.probing.heads.grid import GRID, Config, Grid, HeadConfig, LinearConfig
from myna_plugin.probing.heads.layers import build_head
from myna_plugin.probing.heads.linear import fit_heads
from myna_plugin.probing.heads.losses import BCE_OF_KNOWN, LOSSES
from myna_plugin.probing.heads.splits import HeadTask, Split, check_split
from myna_plugin.probing.heads.stack import TrainedHead, TrainingData
from myna_plugin.probing.heads.training import train_heads
from myna_plugin.probing.heads.validation import ValidationMetric


@dataclass(frozen=True)
class ProbeResult:
    """A selected head's scores on test.

    Attributes:
        scores: test scores by name, as `HeadTask.score` gave them.
        outputs: what they were computed from: logits of the test rows, or of items the combined
            predictions, shape (I, C).
        targets: of the same rows or items, (I,) or (I, C).
        items: names of the items, shape (I,); None where rows are items.
        selection: what was selected, and from what.
    """

    scores: dict[str, float]
    outputs: np.ndarray
    targets: np.ndarray
    items: np.ndarray | None
    selection: Selection


@dataclass(frozen=True)
class Selection:
    """The head that is best on validation.

    Attributes:
        task: what it was selected for.
        heads: score of every configuration on validation, in the order of the grid.
        winner: position in `heads` of the best one, the first of equals.
        head: the winner with the weights of its best evaluation, in evaluation mode.
        scaler: fitted on train; None if the winner takes features as they are.
        n_features: width D of the features.
        per_item: whether predictions are combined per item, by the rule `rule`.
        seed: of initial weights, batches and dropout.
    """

    task: HeadTask
    heads: tuple[HeadScore, ...]
    winner: int
    head: nn.Sequential
    scaler: StandardScaler | None
    n_features: int
    per_item: bool
    seed: int

    @property
    def config(self) -> Config:
        """The winner's configuration."""
        return self.heads[self.winner].config

    @property
    def valid_score(self) -> float:
        """The winner's score on validation."""
        return self.heads[self.winner].valid_score

    @property
    def rule(self) -> str | None:
        """How the winner's predictions are combined per item; None where rows are items."""
        return self.task.rules[self.heads[self.winner].rule] if self.per_item else None

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Logits of the winner.

        Args:
            features: embeddings, shape (N, D).

        Returns:
            Shape (N, C).
        """
        if self.scaler is not None:
            features = self.scaler.transform(features)
        parameter = next(self.head.parameters())
        return self.head(torch.tensor(features).to(parameter)).numpy()

    def score(self, test: Split) -> ProbeResult:
        """Score the winner on test.

        Args:
            test: the test split, per item if validation was.

        Raises:
            ValueError: the split cannot be scored; the message names the field.
        """
        check_split("test", test, self.task, self.n_features)
        if (test.items is not None) != self.per_item:
            raise ValueError("test.items: items must be given for valid and test, or for neither")
        outputs, targets, names = self.predict(test.features), test.targets, None
        if self.rule is not None and test.items is not None:
            items = ItemRows(test.items, torch.device("cpu"))
            logits = torch.from_numpy(outputs).unsqueeze(0)
            outputs = items.combine(logits, self.rule, LOSSES[self.task.loss])[0].numpy()
            targets, names = targets[items.first.numpy()], items.names
        scores = {name: float(value) for name, value in self.task.score(outputs, targets).items()}
        return ProbeResult(scores, outputs, targets, names, self)


def select(
    train: Split,
    valid: Split,
    task: HeadTask,
    grid: Grid = GRID,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    patience: int = PATIENCE,
    progress: bool = True,
    known: Sequence[TrainedHead] = (),
    on_stack: Callable[[Sequence[TrainedHead]], None] = lambda heads: None,
) -> Selection:
    """Train every configuration of a grid and keep the one that is best on validation.

    Deterministic for a seed on one machine; a head's result does not depend on what else is in the
    grid, but for rounding. Of a grid of `LinearConfig` each head is fitted to the end: neither seed
    nor patience makes a difference.

    Args:
        train: what to train on; standardisation is fitted on it.
        valid: what early stopping and selection go by.
        task: loss, metric and rules.
        grid: configurations, all of one kind.
        seed: of initial weights, batches and dropout.
        device: where to train.
        dtype: of training.
        patience: evaluations without a new best after which a head stops.
        progress: whether to show a progress bar.
        known: heads of an earlier call with the same arguments, from its `on_stack`; weights are
            needed of the best of them alone.
        on_stack: is given the heads of a stack once all of them have stopped.

    Raises:
        ValueError: a split cannot be used, the message names the field; an empty grid; no
            configuration ever had a finite score.

    Source: paper Appendix C, after JukeMIR: the metric is computed before the first step and after
    every eighth.
    """
    n_features = train.features.shape[-1]
    check_split("train", train, task, n_features, scored=False)
    check_split("valid", valid, task, n_features)
    if not grid:
        raise ValueError("grid: no configurations")
    data, scaler = prepare_data(train, valid, task, torch.device(device), dtype)
    done = {position for position, *_ in known}
    trained = _train(grid, data, seed, patience, progress, done)
    scores, winner, weights = _choose_best(known, trained, on_stack)
    return Selection(
        task=task,
        heads=tuple(scores[position] for position in range(len(grid))),
        winner=winner,
        head=_rebuild_head(grid[winner], n_features, task.n_outputs, weights),
        scaler=scaler if grid[winner].standardize else None,
        n_features=n_features,
        per_item=valid.items is not None,
        seed=seed,
    )


def _train(
    grid: Grid,
    data: TrainingData,
    seed: int,
    patience: int,
    progress: bool,
    done: Collection[int],
) -> Iterator[list[TrainedHead]]:
    """The heads of a grid, by the way of its kind."""
    linear = [config for config in grid if isinstance(config, LinearConfig)]
    stepped = [config for config in grid if isinstance(config, HeadConfig)]
    if linear and stepped:
        raise ValueError("grid: configurations of two kinds")
    if linear:
        return fit_heads(linear, data, progress, done)
    return train_heads(stepped, data, seed, patience, progress, done)


def _choose_best(
    known: Sequence[TrainedHead],
    trained: Iterable[Sequence[TrainedHead]],
    on_stack: Callable[[Sequence[TrainedHead]], None],
) -> tuple[dict[int, HeadScore], int, Mapping[str, Tensor]]:
    """Scores by position, the best one's position, and its weights, which alone are kept."""
    scores: dict[int, HeadScore] = {}
    # Of equal scores the configuration that comes first wins.
    best: tuple[float, int] = (-np.inf, 0)
    weights: Mapping[str, Tensor] = {}
    for stack in chain([known], trained):
        for position, score, parameters in stack:
            scores[position] = score
            if (score.valid_score, -position) > best:
                best, weights = (score.valid_score, -position), parameters
        if stack is not known:
            on_stack(stack)
    if not weights:
        raise ValueError(
            "train.features: the logits of every configuration overflowed; standardise or rescale"
        )
    return scores, -best[1], weights


def _rebuild_head(
    config: Config, n_features: int, n_outputs: int, weights: Mapping[str, Tensor]
) -> nn.Sequential:
    with torch.device("meta"):  # no weights are drawn, which would use up global random numbers
        head = build_head(config, n_features, n_outputs).eval()
    head.load_state_dict(weights, assign=True)
    return head.requires_grad_(False)


def prepare_data(
    train: Split, valid: Split, task: HeadTask, device: torch.device, dtype: torch.dtype
) -> tuple[TrainingData, StandardScaler]:
    """Bring what heads are trained and evaluated on to a device.

    Args:
        train: checked split.
        valid: checked split.
        task: loss, metric and rules.
        device: where to train.
        dtype: of training.

    Returns:
        The data, and the standardisation, fitted on train.
    """
    scaler = StandardScaler().fit(train.features)
    loss = LOSSES[task.loss]
    if task.loss == "bce" and np.isnan(train.targets).any():
        loss = BCE_OF_KNOWN

    def both(features: np.ndarray) -> dict[bool, torch.Tensor]:
        return {
            standardize: torch.tensor(values, device=device, dtype=dtype)
            for standardize, values in ((False, features), (True, scaler.transform(features)))
        }

    data = TrainingData(
        train=both(train.features),
        targets=loss.encode(torch.tensor(train.targets, device=device), task.n_outputs, dtype),
        valid=both(valid.features),
        metric=ValidationMetric(valid, task, device),
        loss=loss,
    )
    return data, scaler


def summarize_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of test scores over seeds, or over folds.

    Args:
        scores: by name, of the same task, one mapping a seed or fold.

    Returns:
        By name of the score, mean and sample standard deviation; NaN deviation for a single one.

    >>> summarize_scores([{"accuracy": 0.5}, {"accuracy": 0.7}])["accuracy"][0]
    0.6
    """
    summary = {}
    for name in scores[0]:
        values = np.array([one[name] for one in scores])
        deviation = values.std(ddof=1) if len(values) > 1 else np.nan
        summary[name] = (float(values.mean()), float(deviation))
    return summary
