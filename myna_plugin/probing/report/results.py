"""The results file of a probe: what it holds, writing it, and reading it back with care."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from myna_plugin.probing.cache import Cost
from myna_plugin.probing.heads import GRIDS, ProbeResult
from myna_plugin.probing.modules import ExperimentError, LoadedModule
from myna_plugin.probing.probes import PartResult
from myna_plugin.probing.tasks import Item, Task
from myna_plugin.probing.tasks.task import SPLITS

FILE = "results.json"

FIGURES = "figures"

FORMAT = 1

DISTRIBUTIONS = (
    *("torch", "numpy", "scikit-learn", "mir_eval", "soundfile", "soxr", "nnAudio", "torchmetrics"),
)
"""What embeddings and scores may depend on."""


def describe_task(task: Task, items: Sequence[Item]) -> dict[str, Any]:
    """A task as a results file names it."""
    return {
        "name": task.name,
        "title": task.title,
        "loss": task.loss,
        "metrics": list(task.metrics),
        "primary": task.primary,
        "reported_as": dict(task.reported_as),
        "split_rule": task.split_rule,
        "clip_rule": task.clip_rule.summary,
        "clips": {split: sum(item.split == split for item in items) for split in SPLITS},
        "clips_when_whole": dict(task.split_sizes),
    }


def describe_module(module: LoadedModule, cost: Cost | None) -> dict[str, Any]:
    """What embedded, and what it took."""
    return {
        "name": module.name,
        **module.identity(),
        "distribution": module.distribution,
        "model": module.model_file,
        "warnings": list(module.warnings),
        "cost": None
        if cost is None
        else {"seconds_per_hour": cost.seconds_per_hour, "device": cost.device},
    }


def describe_part(part: PartResult, folds: Sequence[int]) -> dict[str, Any]:
    """Scores of one part of an embedding: means, then every run by its fold and seed."""
    return {
        "width": part.width,
        "valid_score": part.valid_score,
        "scores": describe_scores(part.scores),
        "runs": [
            {"fold": fold, **_describe_run(run)}
            for fold, runs in zip(folds, part.folds, strict=True)
            for run in runs
        ],
    }


def describe_scores(scores: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Mean and deviation by metric; None for the deviation of a single run."""
    return {
        name: {"mean": mean, "deviation": deviation if np.isfinite(deviation) else None}
        for name, (mean, deviation) in scores.items()
    }


def _describe_run(run: ProbeResult) -> dict[str, Any]:
    selection = run.selection
    rules = selection.task.rules if selection.per_item else ()
    return {
        "seed": selection.seed,
        "winner": selection.config.to_dict(),
        "valid_score": selection.valid_score,
        "rule": selection.rule,
        "scores": run.scores,
        "heads": [
            {
                **head.config.to_dict(),
                # JSON has no infinity: a head whose metric never was a number has no score.
                "valid_score": head.valid_score if np.isfinite(head.valid_score) else None,
                "best_step": head.best_step,
                "steps": head.steps,
                "rule": rules[head.rule] if rules else None,
            }
            for head in selection.heads
        ],
    }


@dataclass(frozen=True)
class Result:
    """What a report needs of a results file.

    Attributes:
        path: the file.
        name: of the model.
        task: task's name.
        title: task's title.
        metrics: of the task.
        primary: which of them selects.
        reported_as: column of the paper's table by metric.
        reported: the part that was best on validation.
        scores: by part, then metric: mean and deviation over folds or seeds, None for a single run.
        valid_scores: by part.
        cost: seconds of computing for an hour of audio, and the device; None if not known.
        grid: name of the grid.
        n_missing: clips left out.
        content: all of the file.
    """

    path: Path
    name: str
    task: str
    title: str
    metrics: tuple[str, ...]
    primary: str
    reported_as: dict[str, str]
    reported: str
    scores: dict[str, dict[str, tuple[float, float | None]]]
    valid_scores: dict[str, float]
    cost: Cost | None
    grid: str
    n_missing: int
    content: dict[str, Any]

    @property
    def best(self) -> dict[str, tuple[float, float | None]]:
        """Scores of the reported part."""
        return self.scores[self.reported]

    @property
    def columns(self) -> dict[str, float]:
        """Percent in the paper's columns."""
        return {column: 100.0 * self.best[metric][0] for metric, column in self.reported_as.items()}


def read_result(path: Path) -> Result:
    """Read a results file, or the one in a folder.

    Raises:
        ExperimentError: it is missing, not JSON, or not such a file; names the field.
    """
    path = path / FILE if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise ExperimentError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ExperimentError(f"{path}: no results of a probe (field 'format' is not {FORMAT})")
    try:
        return _parse(path, content)
    except KeyError as error:
        raise ExperimentError(f"{path}: no field {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ExperimentError(f"{path}: {error}") from error


def _parse(path: Path, content: dict[str, Any]) -> Result:
    task, cost = content["task"], content["module"]["cost"]
    scores = {
        name: {
            metric: (float(score["mean"]), score["deviation"])
            for metric, score in part["scores"].items()
        }
        for name, part in content["parts"].items()
    }
    result = Result(
        path=path,
        name=str(content["name"]),
        task=str(task["name"]),
        title=str(task["title"]),
        metrics=tuple(task["metrics"]),
        primary=str(task["primary"]),
        reported_as=dict(task["reported_as"]),
        reported=content["reported"],
        scores=scores,
        valid_scores={name: part["valid_score"] for name, part in content["parts"].items()},
        cost=Cost(float(cost["seconds_per_hour"]), str(cost["device"])) if cost else None,
        grid=str(content["probe"]["grid"]),
        n_missing=len(content["data"]["left_out"]),
        content=content,
    )
    for metric in result.metrics:
        if metric not in result.best:
            raise KeyError(metric)
    if result.grid not in GRIDS:
        raise ValueError(f"probe.grid is {result.grid!r}, not one of {', '.join(GRIDS)}")
    return result
