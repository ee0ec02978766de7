"""Published scores, in percent, to stand beside ours; and the paper's average of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from myna_plugin.probing.tasks.metrics import mean_of_tasks
from myna_plugin.probing.tasks.task import TaskError

COLUMNS: dict[str, str] = {
    "MTT AUC": "magnatagatune",
    "MTT AP": "magnatagatune",
    "GTZAN": "gtzan",
    "GS": "giantsteps",
    "Emo A": "emomusic",
    "Emo V": "emomusic",
}
"""Columns of the paper's Table 1, and the task that each belongs to."""

PAPER = "Myna paper, Table 1"


@dataclass(frozen=True)
class PublishedScores:
    """One row of a published table.

    Attributes:
        model: its name there.
        source: where the row is from.
        scores: column of `COLUMNS` -> score in percent; columns that were not reported are absent.
        average: as printed, percent; None where it was not.
        note: what differs from the paper's protocol.
        parameters: millions; None where they are not told.
        gpus: that it was pre-trained on; None where that is not told.
    """

    model: str
    source: str
    scores: Mapping[str, float]
    average: float | None = None
    note: str = ""
    parameters: float | None = None
    gpus: int | None = None


def _paper_row(
    model: str, parameters: float, *numbers: float, note: str = "", gpus: int | None = None
) -> PublishedScores:
    """A row of Table 1; `gpus` is from the paper's abstract and §3.6."""
    *scores, average = numbers
    columns = dict(zip(COLUMNS, scores, strict=True))
    return PublishedScores(model, PAPER, columns, average, note, parameters, gpus)


PUBLISHED: tuple[PublishedScores, ...] = (
    _paper_row("Myna-Base", 22, 90.8, 39.5, 78.3, 63.5, 73.5, 55.8, 67.9, gpus=1),
    _paper_row("Myna-Vertical", 22, 90.1, 37.4, 75.9, 68.6, 66.5, 45.9, 66.1, gpus=1),
    _paper_row("Myna-Hybrid", 22, 91.0, 39.8, 77.9, 68.0, 70.8, 55.2, 68.6, gpus=1),
    _paper_row("MAE", 32, 88.9, 35.6, 75.5, 53.6, 69.7, 50.2, 62.8),
    _paper_row("MULE", 62, 91.2, 40.1, 75.5, 64.9, 73.1, 60.7, 68.2, gpus=16),
    _paper_row("MERT-95M", 95, 91.0, 39.3, 78.6, 63.5, 76.4, 60.0, 68.9, gpus=64),
    _paper_row("MERT-330M", 330, 91.3, 40.2, 79.3, 65.6, 74.7, 61.2, 69.7),
    _paper_row("Jukebox", 5000, 91.5, 41.4, 79.7, 66.7, 72.1, 61.7, 69.9),
    _paper_row("MusiCNN", 7, 90.6, 38.3, 79.0, 12.8, 70.3, 46.6, 53.7),
    _paper_row("CLMR", 3, 89.4, 36.1, 68.6, 14.9, 67.8, 45.8, 50.8, note="pre-trained on MTT"),
    _paper_row("MERT-95M-public", 95, 90.7, 38.4, 72.8, 67.3, 72.5, 59.7, 67.7),
    PublishedScores(
        "MuQ-iter",
        "arXiv 2501.01108",
        {"GTZAN": 85.6, "GS": 65.0, "Emo A": 76.1, "Emo V": 62.8, "MTT AUC": 91.4, "MTT AP": 40.1},
        note="MARBLE's protocol",
    ),
    PublishedScores(
        "KeyMyna",
        "arXiv 2604.10021",
        {"GS": 75.9},
        note="vertical features over 100,000 samples, wide MLP",
    ),
)


def average_columns(scores: Mapping[str, float]) -> float:
    """The paper's average: within a task, then over the four tasks.

    Args:
        scores: every column of `COLUMNS`, all in the same unit.

    Raises:
        TaskError: a column is absent: an average of fewer tasks is not the paper's.

    >>> hybrid = next(row for row in PUBLISHED if row.model == "Myna-Hybrid")
    >>> round(average_columns(hybrid.scores), 1)
    68.6
    """
    absent = [column for column in COLUMNS if column not in scores]
    if absent:
        raise TaskError(f"the average needs all columns; absent: {', '.join(absent)}")
    by_task: dict[str, dict[str, float]] = defaultdict(dict)
    for column, task in COLUMNS.items():
        by_task[task][column] = scores[column]
    return mean_of_tasks(by_task)
