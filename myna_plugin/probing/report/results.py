"""The results file of a probe, read back with care."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna_plugin.common.files import read_json_object
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
        neighbours: as scores, of the rule of nearest neighbours; empty where it was not asked.
        valid_scores: by part.
        cost: seconds of computing for an hour of audio, and the device; None if not known.
        parameters: that the model has learned; None if not known.
        grid: name of the grid.
        patience: evaluations without a new best after which a head stopped.
        n_left_out: clips that were left out.
        n_missing: those of them that are not known to be faulty in the public data.
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
    neighbours: dict[str, dict[str, tuple[float, float | None]]]
    valid_scores: dict[str, float]
    cost: Cost | None
    parameters: int | None
    grid: str
    patience: int
    n_left_out: int
    n_missing: int
    content: dict[str, Any]

    @property
    def best(self) -> dict[str, tuple[float, float | None]]:
        """Scores of the reported part."""
        return self.scores[self.reported]

    @property
    def marks(self) -> str:
        """Signs that stand beside its scores; "" for those of the whole protocol."""
        return find_marks(self.grid, self.patience, self.n_missing)

    @property
    def is_comparable(self) -> bool:
        """Whether it was reached by the protocol of the published scores."""
        return self.grid == "full" and self.patience >= PATIENCE

    @property
    def columns(self) -> dict[str, float]:
        """Percent in the paper's columns."""
        return {column: 100.0 * self.best[metric][0] for metric, column in self.reported_as.items()}


MARKS = {
    "†": "The fast grid is for a quick look: not comparable with full scores, nor the paper's.",
    "‡": "Heads stopped early (--patience): not comparable with full scores, nor the paper's.",
    "§": "Some clips were left out: the score is of the rest.",
}
"""What a sign beside a score stands for."""


def find_marks(grid: str, patience: int, n_missing: int) -> str:
    """Signs for scores that were reached so.

    >>> find_marks("full", PATIENCE, 0), find_marks("fast", PATIENCE, 2)
    ('', '†§')
    """
    # The fast grid's heads are fitted to the end.
    protocol = "†" if grid != "full" else "‡" if patience < PATIENCE else ""
    return protocol + ("§" if n_missing else "")


def join_marks(results: Collection[Result]) -> str:
    """Signs of a score that several results go into, each once."""
    return "".join(sign for sign in MARKS if any(sign in result.marks for result in results))


def explain_marks(marks: str) -> str:
    """A line that says what signs stand for, each once; "" where there are none."""
    return " ".join(f"{sign} {told}" for sign, told in MARKS.items() if sign in marks)


def read_result(path: Path) -> Result:
    """Read a results file, or the one in a folder.

    Raises:
        InputError: it is missing, not JSON, or not such a file; names the field.
    """
    path = path / FILE if path.is_dir() else path
    content = read_json_object(path)
    if content.get("format") != FORMAT:
        raise ExperimentError(f"{path}: no results of a probe (field 'format' is not {FORMAT})")
    try:
        return _parse(path, content)
    except KeyError as error:
        raise ExperimentError(f"{path}: no field {error}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ExperimentError(f"{path}: {error}") from error


def _parse(path: Path, content: dict[str, Any]) -> Result:
    task, cost = content["task"], content["module"]["cost"]
    parameters = content["module"].get("parameters")  # not in files of older versions
    parts = content["parts"]
    left_out = content["data"]["left_out"]
    # Not in files of benchmarks, which check nothing.
    known = {fault["clip_id"] for fault in content["data"].get("check", {}).get("known", ())}
    scores = {name: _parse_scores(part["scores"]) for name, part in parts.items()}
    neighbours = {
        name: _parse_scores(part["neighbours"])
        for name, part in parts.items()
        if "neighbours" in part
    }
    result = Result(
        path=path,
        name=str(content["name"]),
        task=str(task["name"]),
        title=str(task["title"]),
        metrics=tuple(map(str, task["metrics"])),
        primary=str(task["primary"]),
        reported_as={metric: str(column) for metric, column in task["reported_as"].items()},
        reported=str(content["reported"]),
        scores=scores,
        neighbours=neighbours,
        valid_scores={
            name: _number(part["valid_score"]) for name, part in content["parts"].items()
        },
        cost=Cost(_number(cost["seconds_per_hour"]), str(cost["device"])) if cost else None,
        parameters=None if parameters is None else int(parameters),
        grid=str(content["probe"]["grid"]),
        patience=int(content["probe"].get("patience", PATIENCE)),
        n_left_out=len(left_out),
        n_missing=len(left_out.keys() - known),
        content=content,
    )
    for part in (result.best, *scores.values(), *neighbours.values()):
        for metric in (*result.metrics, result.primary, *result.reported_as):
            if metric not in part:
                raise KeyError(metric)
    if result.grid not in GRIDS:
        raise ValueError(f"probe.grid is {result.grid!r}, not one of {', '.join(GRIDS)}")
    for field in ("folds", "seeds"):
        _number(content["probe"][field])
    for place, field in ((content, "date"), (content["module"], "pool")):
        if field not in place:
            raise KeyError(field)
    return result


def _parse_scores(scores: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Mean and deviation by metric."""
    return {
        metric: (
            _number(score["mean"]),
            None if score["deviation"] is None else _number(score["deviation"]),
        )
        for metric, score in scores.items()
    }


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} stands where a finite number must")
    return float(value)
