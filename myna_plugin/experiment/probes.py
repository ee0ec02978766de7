"""Probes of a task on each part of an embedding, the part to report chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from myna_plugin.experiment.modules import ExperimentError
from myna_plugin.probing import (
    METRICS,
    RULES,
    HeadConfig,
    ProbeResult,
    ProbeTask,
    Selection,
    Split,
    select,
    summarize_seeds,
    tabulate_pair_scores,
)
from myna_plugin.tasks import Item, Task, encode_targets
from myna_plugin.tasks.metrics import METRICS as TASK_METRICS
from myna_plugin.tasks.metrics import score_outputs
from myna_plugin.tasks.task import SPLITS


@dataclass(frozen=True)
class PartResult:
    """What one part of an embedding came to.

    Attributes:
        width: D.
        runs: one result a seed.
    """

    width: int
    runs: tuple[ProbeResult, ...]

    @property
    def valid_score(self) -> float:
        """Mean over seeds of the winners' scores on validation."""
        return float(np.mean([run.selection.valid_score for run in self.runs]))

    @property
    def scores(self) -> dict[str, tuple[float, float]]:
        """Mean and deviation over seeds of each test score."""
        return summarize_seeds(self.runs)


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
    items: Sequence[Item],
    vectors: Mapping[str, np.ndarray],
    parts: Mapping[str, slice],
    grid: Sequence[HeadConfig],
    *,
    seeds: int = 1,
    device: str = "cpu",
    progress: bool = False,
) -> tuple[str, dict[str, PartResult]]:
    """Probe each part of an embedding; the winners are scored on test once all are chosen.

    Args:
        task: the task.
        items: its clips.
        vectors: by clip_id, shape (K, D).
        parts: slice of the features, by name.
        grid: configurations.
        seeds: number of seeds, from 0.
        device: where to train.
        progress: show a progress bar for each grid.

    Returns:
        The part with the best score on validation, the first of equals, and the results of all.

    Raises:
        ExperimentError: features or targets cannot be used; the message names the field.

    Source: paper §4.3, which does not say by which split the part is chosen; here by validation.
    """
    probe_task = build_probe_task(task)
    selections: dict[str, list[Selection]] = {}
    try:
        splits = {
            name: {split: build_split(task, items, vectors, split, part) for split in SPLITS}
            for name, part in parts.items()
        }
        for name in parts:
            selections[name] = [
                select(
                    splits[name]["train"],
                    splits[name]["valid"],
                    probe_task,
                    grid,
                    seed=seed,
                    device=device,
                    progress=progress,
                )
                for seed in range(seeds)
            ]
        results = {
            name: PartResult(
                parts[name].stop - parts[name].start,
                tuple(chosen.score(splits[name]["test"]) for chosen in selections[name]),
            )
            for name in parts
        }
    except ValueError as error:
        raise ExperimentError(f"{task.name}: {error}") from error
    return max(results, key=lambda name: results[name].valid_score), results
