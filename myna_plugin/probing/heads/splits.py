"""Embeddings and targets of train, validation and test, and what makes them unusable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from myna_plugin.probing.heads.combining import RULES
from myna_plugin.probing.heads.losses import LOSSES
from myna_plugin.probing.heads.scoring import METRICS


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        features: embeddings, float32, shape (N, D).
        targets: what `HeadTask.loss` takes: classes (N,), 0 or 1 per label or NaN where it is not
            known (N, C), or numbers (N, C).
        items: the item that each row is a part of, shape (N,), of any type that sorts: the clip of
            a chunk, or the track of a clip. Scores are then per item. None where each row is one.
    """

    features: np.ndarray
    targets: np.ndarray
    items: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", np.asarray(self.features, dtype=np.float32))
        object.__setattr__(self, "targets", np.asarray(self.targets))
        if self.items is not None:
            object.__setattr__(self, "items", np.asarray(self.items))


@dataclass(frozen=True)
class HeadTask:
    """What the probe has to know of a task.

    Attributes:
        loss: a key of `LOSSES`.
        n_outputs: classes, labels or values C.
        metric: what early stopping and selection go by, greater being better: one of the loss's
            in `METRICS`, or for classes the worth of each (target, prediction) pair, shape (C, C),
            whose mean is the metric (see `tabulate_pair_scores`).
        score: from outputs (I, C) and the items' targets to test scores by name.
        rules: keys of `RULES`; where rows are parts of items, the one that is best on validation
            combines them.

    Raises:
        ValueError: an unknown name, or pair scores of another shape.
    """

    loss: str
    n_outputs: int
    metric: str | np.ndarray
    score: Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
    rules: tuple[str, ...] = ("mean_probability",)

    def __post_init__(self) -> None:
        _require_known("loss", self.loss, LOSSES)
        for rule in self.rules:
            _require_known("rule", rule, RULES)
        if not self.rules:
            raise ValueError(f"rules are empty; known: {', '.join(RULES)}")
        if isinstance(self.metric, str):
            _require_known(f"metric for {self.loss}", self.metric, METRICS[self.loss])
        elif not LOSSES[self.loss].targets_are_classes:
            raise ValueError(f"metric: pair scores are for classes, not for {self.loss}")
        elif self.metric.shape != (self.n_outputs, self.n_outputs):
            raise ValueError(
                f"metric: pair scores must have shape {(self.n_outputs, self.n_outputs)}, "
                f"got {self.metric.shape}"
            )


def _require_known(field: str, name: str, table: Mapping[str, object]) -> None:
    if name not in table:
        raise ValueError(f"unknown {field} {name!r}; known: {', '.join(table)}")


def check_split(
    name: str, split: Split, task: HeadTask, n_features: int, scored: bool = True
) -> None:
    """Refuse rows that cannot be trained or scored on.

    Args:
        name: of the split, for the message.
        split: the rows.
        task: whose targets they should have.
        n_features: width D that the features should have.
        scored: whether a metric will be computed, so that the targets must vary.

    Raises:
        ValueError: naming the split and field: no rows; features of another width, or not finite;
            targets of another shape or range, or that do not vary; items that do not fit.
    """
    features, targets = split.features, split.targets
    if features.ndim != 2 or features.shape[1] != n_features:
        raise ValueError(
            f"{name}.features must have shape (rows, {n_features}), got {features.shape}"
        )
    if not len(features):
        raise ValueError(f"{name}.features: the split is empty")
    faulty = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(faulty):
        raise ValueError(
            f"{name}.features: {len(faulty)} of {len(features)} rows hold NaN or infinity, "
            f"the first is row {faulty[0]}"
        )
    _check_targets(name, targets, len(features), task)
    if split.items is not None:
        _check_items(name, split.items, targets)
    if scored:
        _require_variety(name, targets, task)


def _check_targets(name: str, targets: np.ndarray, n_rows: int, task: HeadTask) -> None:
    of_classes = LOSSES[task.loss].targets_are_classes
    shape = (n_rows,) if of_classes else (n_rows, task.n_outputs)
    if targets.shape != shape:
        raise ValueError(f"{name}.targets must have shape {shape}, got {targets.shape}")
    if of_classes:
        if not np.issubdtype(targets.dtype, np.integer):
            raise ValueError(f"{name}.targets must be class indices, got {targets.dtype}")
        valid, allowed = (targets >= 0) & (targets < task.n_outputs), f"0 to {task.n_outputs - 1}"
    elif task.loss == "bce":
        valid, allowed = np.isin(targets, (0, 1)) | np.isnan(targets), "0 or 1 (NaN: not known)"
    else:
        valid, allowed = np.isfinite(targets), "finite"
    if not valid.all():
        row = np.argwhere(~valid)[0][0]
        raise ValueError(f"{name}.targets must be {allowed}, got {targets[row]} in row {row}")


def _check_items(name: str, items: np.ndarray, targets: np.ndarray) -> None:
    if items.shape != (len(targets),):
        raise ValueError(f"{name}.items must have shape {(len(targets),)}, got {items.shape}")
    names, first, owner = np.unique(items, return_index=True, return_inverse=True)
    theirs = targets[first][owner]
    both_unknown = np.isnan(targets) & np.isnan(theirs)
    differs = ((targets != theirs) & ~both_unknown).reshape(len(targets), -1).any(axis=1)
    if differs.any():
        item = names.tolist()[owner[np.flatnonzero(differs)[0]]]
        raise ValueError(f"{name}.targets: the rows of item {item!r} have different targets")


def _require_variety(name: str, targets: np.ndarray, task: HeadTask) -> None:
    if LOSSES[task.loss].targets_are_classes:
        if len(np.unique(targets)) == 1:
            raise ValueError(f"{name}.targets: every row is of class {targets[0]}")
        return
    is_unknown = np.isnan(targets)
    least = np.where(is_unknown, np.inf, targets).min(axis=0)
    most = np.where(is_unknown, -np.inf, targets).max(axis=0)
    constant = np.flatnonzero(least >= most)
    if len(constant):
        raise ValueError(
            f"{name}.targets: column {constant[0]} is {least[constant[0]]:g} in every row, "
            "so that it cannot be scored"
        )
