"""Measured rows of the paper's Table 1 beside the printed ones, and its Figure 1."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from myna_plugin.probing.report.figures import DPI, add_legend, name_point
from myna_plugin.probing.report.page import Image, Section
from myna_plugin.probing.report.results import Result, explain_marks, join_marks
from myna_plugin.probing.report.tables import (
    ABSENT,
    AVERAGE,
    Rows,
    format_number,
    published_name,
    run_rows,
    with_difference,
)
from myna_plugin.probing.tasks.metrics import mean_of_tasks
from myna_plugin.probing.tasks.published import COLUMNS, PUBLISHED, PublishedScores, average_columns

NOTE = (
    "Percent; in brackets measured − printed, of the same system, where the protocol is the "
    "paper's. The average is the paper's: of a task's metrics first, then of the four tasks."
)

CAPTION = (
    "The paper's Figure 1: the mean of {} against parameters, against what an hour of audio takes "
    "to embed, and against the GPUs of pre-training, where they are told. Hollow: as printed. "
    "Baselines without parameters are not in the first panel, means below 0 in none."
)


@dataclass(frozen=True)
class Measured:
    """A row of ours.

    Attributes:
        name: of the model.
        published: the paper's row of the same system.
        results: by task.
        faults: why something of it could not be scored.
    """

    name: str
    published: PublishedScores | None
    results: Mapping[str, Result]
    faults: Sequence[str]

    @property
    def columns(self) -> dict[str, float]:
        """Percent in the paper's columns."""
        return {c: value for result in self.results.values() for c, value in result.columns.items()}

    @property
    def marks(self) -> str:
        """Signs of what all its scores together come to."""
        return join_marks(self.results.values())

    @property
    def parameters(self) -> float | None:
        """Millions."""
        known = [r.parameters for r in self.results.values() if r.parameters is not None]
        return known[0] / 1e6 if known else None

    @property
    def seconds_per_hour(self) -> float | None:
        """The median over tasks of what an hour of audio takes to embed."""
        known = [r.cost.seconds_per_hour for r in self.results.values() if r.cost is not None]
        return float(np.median(known)) if known else None


def describe(rows: Sequence[Measured], tasks: Sequence[str]) -> list[Section]:
    """The page: the table, Figure 1, and how each score was reached."""
    results = [result for row in rows for result in row.results.values()]
    titles = ", ".join(dict.fromkeys(result.title for result in results))
    file = io.BytesIO()
    draw_figure_1(rows, tasks).savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    image = Image(file.getvalue(), CAPTION.format(titles or "the tasks"))
    legend = explain_marks(join_marks(results))
    table = Section("Table 1", [NOTE], [table_rows(rows)], [image], legend)
    return [table, Section("How each score was reached", [], [run_rows(results)])]


def table_rows(rows: Sequence[Measured]) -> Rows:
    """The paper's rows, each with the measured ones of its system below; then what has no such."""
    table = [["model", "parameters", *COLUMNS, AVERAGE, "note"]]
    for published in PUBLISHED:
        scores = [format_number(published.scores.get(column)) for column in COLUMNS]
        size = format_millions(published.parameters)
        name = published_name(published)
        table.append([name, size, *scores, format_number(published.average), ABSENT])
        table += [_measured_row(row) for row in rows if row.published is published]
    return table + [_measured_row(row) for row in rows if row.published is None]


def _measured_row(row: Measured) -> list[str]:
    columns = row.columns
    average = average_columns(columns) if len(columns) == len(COLUMNS) else None
    alike = {c for result in row.results.values() if result.is_comparable for c in result.columns}
    printed = row.published.scores if row.published else {}
    theirs = {c: printed.get(c) for c in alike}
    whole = row.published.average if row.published and len(alike) == len(COLUMNS) else None
    marks = {c: result.marks for result in row.results.values() for c in result.columns}
    cells = [with_difference(columns.get(c), theirs.get(c), marks.get(c, "")) for c in COLUMNS]
    left_out = [f"{r.task}: {r.n_left_out} left out" for r in row.results.values() if r.n_left_out]
    return [
        f"{row.name}, measured",
        format_millions(row.parameters),
        *cells,
        with_difference(average, whole, row.marks),
        "; ".join([*row.faults, *left_out]),
    ]


def format_millions(parameters: float | None) -> str:
    """Millions of parameters as the paper's table writes them.

    >>> format_millions(21.5), format_millions(5000), format_millions(0), format_millions(None)
    ('22M', '5B', '0', '')
    """
    if parameters is None:
        return ABSENT
    if not parameters:
        return "0"
    return f"{parameters / 1000:.0f}B" if parameters >= 1000 else f"{max(parameters, 1):.0f}M"


def draw_figure_1(rows: Sequence[Measured], tasks: Sequence[str]) -> Figure:
    """Score against parameters, seconds of embedding, and GPUs of pre-training (paper, Figure 1).

    Args:
        rows: measured.
        tasks: whose mean is drawn; rows that lack one are not.
    """
    figure = Figure(figsize=(16, 7), layout="constrained")
    parameters, seconds, gpus = figure.subplots(1, 3, sharey=True, width_ratios=[2, 1, 1])
    printed = [(row, mean) for row in PUBLISHED if (mean := _mean_of(row.scores, tasks))]
    ours = [(row, mean) for row in rows if (mean := _mean_of(row.columns, tasks)) is not None]
    _draw(parameters, [(row.model, row.parameters, mean) for row, mean in printed], hollow=True)
    _draw(parameters, [(row.name + row.marks, row.parameters, mean) for row, mean in ours])
    _draw(seconds, [(row.name + row.marks, row.seconds_per_hour, mean) for row, mean in ours])
    _draw(gpus, [(row.model, row.gpus, mean) for row, mean in printed], hollow=True)
    # R² has no lowest value: one bad fit would press all others together.
    means = [mean for _, mean in (*printed, *ours) if mean >= 0]
    if means:
        parameters.set_ylim(max(min(means) - 5, 0), max(means) + 5)
    parameters.set_ylabel("mean over the tasks, percent")
    parameters.set_xlabel("parameters, millions")
    seconds.set_xlabel("seconds of computing for an hour of audio")
    gpus.set_xlabel("GPUs of pre-training, as published")
    add_legend(figure, explain_marks("".join(row.marks for row, _ in ours)))
    return figure


def _mean_of(columns: Mapping[str, float], tasks: Sequence[str]) -> float | None:
    """As the paper's average, over these tasks alone; None where a column is absent."""
    wanted = [column for column, task in COLUMNS.items() if task in tasks]
    if not all(column in columns for column in wanted):
        return None
    return mean_of_tasks({t: {c: columns[c] for c in wanted if COLUMNS[c] == t} for t in tasks})


def _draw(
    panel: Axes, points: Sequence[tuple[str, float | None, float]], hollow: bool = False
) -> None:
    shown = sorted((x, y, name) for name, x, y in points if x)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    panel.margins(0.2)
    if not shown:
        return
    places = [x for x, *_ in shown]
    colour = "grey" if hollow else "tab:red"
    panel.scatter(
        places, [y for _, y, _ in shown], edgecolors=colour, facecolors="none" if hollow else colour
    )
    for i, (x, y, name) in enumerate(shown):  # neighbours' names on different sides
        name_point(panel, name, x, y, to_left=x > places[0] and (i % 2 == 0 or x == places[-1]))
