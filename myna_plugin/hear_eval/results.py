"""The scores that heareval wrote, as a table for the reader and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from myna_plugin.common.files import read_json_object
from myna_plugin.probing.tasks.hear_folder import HearFolder

SCORES = "test.predicted-scores.json"
"""What heareval's predictions runner leaves in the task's embeddings folder."""

AGGREGATE = "aggregated_scores"
Status = Literal["scored", "embedded", "failed"]


@dataclass(frozen=True)
class Score:
    """One metric on the test data.

    Attributes:
        metric: heareval's name for it.
        value: the score; for k-fold the mean over folds. None where heareval has NaN.
        std: standard deviation over the folds (n - 1); None without folds.
    """

    metric: str
    value: float | None
    std: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "nan"
        return f"{self.value:.4f}" + (f" ± {self.std:.4f}" if self.std is not None else "")


@dataclass
class TaskResult:
    """What came of one task.

    Attributes:
        task: its name.
        status: how far it came.
        scores: for each of its metrics; the first is the one heareval selects by.
        seconds: that embedding and predicting took, when they were done.
        reason: why it failed, in one line.
        log: where heareval's output is.
        folds: all that heareval reports for each test split.
        made: for each stage, when and with which versions it was made, if known.
    """

    task: str
    status: Status = "failed"
    scores: list[Score] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    log: str | None = None
    folds: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; NaN, which JSON lacks, becomes null."""
        return without_nan({**asdict(self), "total_seconds": self.total_seconds})


def read_scores(task: HearFolder, folder: Path) -> tuple[list[Score], dict[str, dict[str, Any]]]:
    """Read what heareval's predictions runner left for a task.

    Args:
        task: the task.
        folder: its embeddings folder.

    Returns:
        One score for each of the task's metrics, and everything reported for each test split.
    """
    report = read_json_object(folder / SCORES)
    folds = {
        name: values
        for name, values in report.items()
        if name != AGGREGATE and isinstance(values, dict) and "validation_score" in values
    }
    return [_read_score(report, folds, metric) for metric in task.metrics], folds


def format_table(results: Iterable[TaskResult]) -> str:
    """All results as aligned text: task, metric, score, seconds.

    >>> print(format_table([TaskResult("beehive", "scored", [Score("aucroc", 0.75)])]))
    task     metric   score  seconds
    beehive  aucroc  0.7500      0.0
    """
    rows = [("task", "metric", "score", "seconds")]
    for result in results:
        seconds = f"{result.total_seconds:.1f}"
        if result.status != "scored":
            rows.append((result.task, "-", result.status, seconds))
        for number, score in enumerate(result.scores if result.status == "scored" else ()):
            rows.append((result.task, score.metric, str(score), "" if number else seconds))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(_format_row(row, widths) for row in rows)


def without_nan(value: Any) -> Any:
    """`value` with every float that JSON has no word for (NaN, infinities) replaced by None.

    >>> without_nan({"a": [float("nan"), 1.0]})
    {'a': [None, 1.0]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def _read_score(report: dict[str, Any], folds: dict[str, dict[str, Any]], metric: str) -> Score:
    if AGGREGATE in report:
        aggregate = report[AGGREGATE]
        mean, std = aggregate[f"test_{metric}_mean"], aggregate[f"test_{metric}_std"]
        return Score(metric, without_nan(mean), without_nan(std))
    (only,) = folds.values()
    return Score(metric, without_nan(only[f"test_{metric}"]))


def _format_row(row: Sequence[str], widths: Sequence[int]) -> str:
    task, metric, score, seconds = row
    return (
        f"{task:<{widths[0]}}  {metric:<{widths[1]}}  {score:>{widths[2]}}  {seconds:>{widths[3]}}"
    ).rstrip()
