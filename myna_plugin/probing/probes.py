"""Probes of a task on each part of an embedding, the part to report chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from myna_plugin.probing.heads import (
    METRICS,
    RULES,
    HeadConfig,
    ProbeResult,
    ProbeTask,
    Selection,
    Split,
    select,
    summarize_scores,
    tabulate_pair_scores,
)
from myna_plugin.probing.modules import ExperimentError
from myna_plugin.probing.records import GridRecord, digest_grid
from myna_plugin.probing.tasks import Item, Task, encode_targets
from myna_plugin.probing.tasks.metrics import METRICS as TASK_METRICS
from myna_plugin.probing.tasks.metrics import score_outputs


@dataclass(frozen=True)
class PartResult:
    """What one part of an embedding came to.

    Attributes:
        width: D.
        folds: for each way to split the data, one result a seed; one way but for a k-fold task.
    """

    width: int
    folds: tuple[tuple[ProbeResult, ...], ...]

    @property
    def valid_score(self) -> float:
        """Mean over folds and seeds of the winners' scores on validation."""
        return float(np.mean([run.selection.valid_score for runs in self.folds for run in runs]))

    @property
    def scores(self) -> dict[str, tuple[float, float]]:
        """Mean and deviation of each test score: over seeds, or where there are folds over folds.

        Source: heareval reports k-fold tasks by mean and sample standard deviation over folds.
        """
        of_folds = [summarize_scores([run.scores for run in runs]) for runs in self.folds]
        if len(of_folds) == 1:
            return of_folds[0]
        return summarize_scores(
            [{name: mean for name, (mean, _) in scores.items()} for scores in of_folds]
        )


def build_probe_task(task: Task) -> ProbeTask:
    """A task as the probe sees it: selection by the primary metric, all its metrics on test.

    Predictions of a track's clips are combined by the rule that is best on validation; those of a
    clip's chunks are averaged.
    """

    def score(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return score_outputs(task, outputs, targets)

    metric: str | np.ndarray = task.primary
    if metric not in METRICS[task.loss]:
        primary = TASK_METRICS[task.primary]
        metric = tabulate_pair_scores(
            lambda outputs, targets: primary(outputs, targets, task.labels), len(task.labels)
        )
    rules = tuple(RULES) if task.clip_rule.per_track else ("mean_probability",)
    return ProbeTask(task.loss, len(task.labels), metric, score, rules)


def build_split(
    task: Task, items: Sequence[Item], vectors: Mapping[str, np.ndarray], split: str, part: slice
) -> Split:
    """Rows of one split.

    Args:
        task: its targets, and whether scores are per track.
        items: clips of all splits.
        vectors: by clip_id, shape (K, D).
        split: "train", "valid" or "test".
        part: of the features.

    Returns:
        One row for each vector of each clip.
    """
    chosen = [item for item in items if item.split == split]
    counts = [len(vectors[item.clip_id]) for item in chosen]
    rows = np.concatenate([vectors[item.clip_id] for item in chosen])
    targets = np.repeat(encode_targets(task, chosen), counts, axis=0)
    names = None
    if task.clip_rule.per_track:
        names = np.repeat([item.track_id for item in chosen], counts)
    elif max(map(len, vectors.values())) > 1:  # in any split: all are scored alike
        names = np.repeat([item.clip_id for item in chosen], counts)
    return Split(rows[:, part], targets, names)


def probe_parts(
    task: Task,
    folds: Sequence[Sequence[Item]],
    vectors: Mapping[str, np.ndarray],
    parts: Mapping[str, slice],
    grid: Sequence[HeadConfig],
    *,
    seeds: int = 1,
    device: str = "cpu",
    progress: bool = False,
    records: Path | None = None,
) -> tuple[str, dict[str, PartResult]]:
    """Probe each part of an embedding; the winners are scored on test once all are chosen.

    Args:
        task: the task.
        folds: its clips; of a k-fold task, once for each way to split them. Each has a grid of its
            own: heareval searches on the first alone and trains its winner on the others, whose
            test fold the search has then seen.
        vectors: by clip_id, shape (K, D).
        parts: slice of the features, by name.
        grid: configurations.
        seeds: number of seeds, from 0.
        device: where to train.
        progress: show a progress bar for each grid.
        records: folder in which unfinished grids are kept, and looked for; None for nowhere.

    Returns:
        The part with the best score on validation, the first of equals, and the results of all.

    Raises:
        ExperimentError: features or targets cannot be used; the message names the field.
        OSError: a record cannot be written.

    Source: paper §4.3, which does not say by which split the part is chosen; here by validation.
    """
    probe_task = build_probe_task(task)

    def split(items: Sequence[Item], name: str, part: slice) -> Split:
        return build_split(task, items, vectors, name, part)

    def choose(items: Sequence[Item], part: slice) -> list[Selection]:
        train, valid = split(items, "train", part), split(items, "valid", part)
        return [
            _select(train, valid, probe_task, grid, seed, device, progress, records)
            for seed in range(seeds)
        ]

    try:
        chosen = {name: [choose(items, part) for items in folds] for name, part in parts.items()}
        results = {}
        for name, part in parts.items():
            tests = [split(items, "test", part) for items in folds]
            results[name] = PartResult(
                part.stop - part.start,
                tuple(
                    tuple(selection.score(test) for selection in selections)
                    for selections, test in zip(chosen[name], tests, strict=True)
                ),
            )
    except ValueError as error:
        raise ExperimentError(f"{task.name}: {error}") from error
    return max(results, key=lambda name: results[name].valid_score), results


def _select(
    train: Split,
    valid: Split,
    task: ProbeTask,
    grid: Sequence[HeadConfig],
    seed: int,
    device: str,
    progress: bool,
    records: Path | None,
) -> Selection:
    """As `select`, from where an interrupted run had come to."""
    if records is None:
        return select(train, valid, task, grid, seed=seed, device=device, progress=progress)
    record = GridRecord(records / f"{digest_grid(train, valid, task, grid, seed, device)}.npz")
    return select(
        train,
        valid,
        task,
        grid,
        seed=seed,
        device=device,
        progress=progress,
        known=tuple(record.heads),
        on_stack=record.add,
    )
