"""The results file of a probe, read back with care."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna_plugin.probing.embeddings import Cost
from myna_plugin.probing.experiment import FILE, FORMAT
from myna_plugin.probing.heads import GRIDS, PATIENCE
from myna_plugin.probing.modules import ExperimentError

FIGURES = "figures"
"""Folder of figures, beside the file."""


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
        patience: evaluations without a new best after which a head stopped.
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
    patience: int
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
        patience=int(content["probe"].get("patience", PATIENCE)),
        n_missing=len(content["data"]["left_out"]),
        content=content,
    )
    for metric in result.metrics:
        if metric not in result.best:
            raise KeyError(metric)
    if result.grid not in GRIDS:
        raise ValueError(f"probe.grid is {result.grid!r}, not one of {', '.join(GRIDS)}")
    return result
