"""Scores as Markdown tables, beside the published ones and with the differences."""

from __future__ import annotations

from collections.abc import Sequence

from myna_plugin.probing.heads import PATIENCE
from myna_plugin.probing.modules import ExperimentError
from myna_plugin.probing.report.results import Result, explain_marks, find_marks, join_marks
from myna_plugin.probing.tasks.published import COLUMNS, PUBLISHED, PublishedScores, average_columns

AVERAGE = "Average"

REFERENCE = "Myna-Hybrid"
"""The published row that differences are taken from, unless another is asked for."""

ABSENT = ""

Rows = list[list[str]]


def markdown(rows: Rows) -> str:
    """Rows, the first of them the header, as a Markdown table.

    >>> print(markdown([["model", "score"], ["a|b", "1"]]))
    | model | score |
    |---|---|
    | a\\|b | 1 |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def with_legend(table: str, legend: str) -> str:
    """A table in Markdown, and beneath it what its signs stand for, where it has some."""
    return "\n\n".join(filter(None, (table, legend)))


def find_reference(model: str) -> PublishedScores:
    """A published row by its model's name.

    Raises:
        ExperimentError: there is none.
    """
    for row in PUBLISHED:
        if row.model == model:
            return row
    known = ", ".join(row.model for row in PUBLISHED)
    raise ExperimentError(f"--against {model}: no published row; there are {known}")


def task_rows(result: Result) -> Rows:
    """One task: every part of ours, then the published rows and how far ours is from each.

    How far is not told of a score that was reached by another protocol.
    Tasks that the paper has no column for have ours alone.
    """
    columns = {
        metric: result.reported_as.get(metric, f"{metric}, percent") for metric in result.metrics
    }
    compared = {column: 100.0 * result.best[m][0] for m, column in columns.items()}
    header = ["model", "validation", *columns.values()]
    published = [row for row in PUBLISHED if any(c in row.scores for c in columns.values())]
    apart = [c for c in columns.values() if c in COLUMNS and result.is_comparable]
    if published:
        header += [f"ours − theirs, {c}" for c in apart]
    blank = [ABSENT] * (len(header) - 2 - len(columns))
    rows = [header]
    for part, scores in result.scores.items():
        reported = " (reported)" if part == result.reported and len(result.scores) > 1 else ""
        rows.append(
            [
                f"{result.name}, {part}{reported}",
                f"{100.0 * result.valid_scores[part]:.1f}",
                *(format_score(*scores[metric], result.marks) for metric in columns),
                *blank,
            ]
        )
    for part, scores in result.neighbours.items():
        voted = [_format_vote(result, scores[metric]) for metric in columns]
        rows.append([f"{result.name}, {part}, nearest neighbours", ABSENT, *voted, *blank])
    for row in published:
        rows.append(
            [
                published_name(row),
                ABSENT,
                *(format_number(row.scores.get(column)) for column in columns.values()),
                *(_difference(compared[column], row.scores.get(column)) for column in apart),
            ]
        )
    return rows


def summary_rows(results: Sequence[Result], reference: PublishedScores) -> Rows:
    """All models over the paper's columns: ours with differences, then the published rows."""
    rows = [["model", *COLUMNS, AVERAGE]]
    for name, of_model in _by_name(results).items():
        columns = {c: value for result in of_model for c, value in result.columns.items()}
        if not columns:
            continue
        whole = len(columns) == len(COLUMNS)
        average = average_columns(columns) if whole else None
        alike = {c for result in of_model if result.is_comparable for c in result.columns}
        theirs = {c: reference.scores.get(c) for c in alike}
        marks = {c: result.marks for result in of_model for c in result.columns}
        cells = [with_difference(columns.get(c), theirs.get(c), marks.get(c, "")) for c in COLUMNS]
        compared = reference.average if len(alike) == len(COLUMNS) else None
        rows.append([name, *cells, with_difference(average, compared, join_marks(of_model))])
    for row in PUBLISHED:
        scores = [format_number(row.scores.get(column)) for column in COLUMNS]
        rows.append([published_name(row), *scores, format_number(row.average)])
    return rows


def other_rows(results: Sequence[Result]) -> Rows:
    """Scores that the paper's table has no column for, a line for each model, task and metric.

    Nearest neighbours' too, of the part that is reported.
    """
    rows = [["task", "metric", "model", "score, percent"]]
    for result in results:
        for metric in result.metrics:
            if metric not in result.reported_as:
                score = format_score(*result.best[metric], result.marks)
                rows.append([result.title, metric, result.name, score])
        for metric, voted in result.neighbours.get(result.reported, {}).items():
            told = f"{metric}, nearest neighbours"
            rows.append([result.title, told, result.name, _format_vote(result, voted)])
    return rows


def run_rows(results: Sequence[Result]) -> Rows:
    """How each score was reached: part, grid, seeds, cost, and what was left out."""
    rows = [
        ["model", "task", "part", "pool", "grid", "folds", "seeds", "s / h of audio", "left out"]
    ]
    for result in results:
        probe, module = result.content["probe"], result.content["module"]
        cost = result.cost
        stopped = f", patience {result.patience}" if result.patience < PATIENCE else ""
        rows.append(
            [
                result.name,
                result.title,
                result.reported,
                str(module["pool"]),
                f"{result.grid}{stopped}",
                str(probe["folds"]),
                str(probe["seeds"]),
                f"{cost.seconds_per_hour:.3g} ({cost.device})" if cost else ABSENT,
                str(result.n_left_out),
            ]
        )
    return rows


def format_score(mean: float, deviation: float | None, marks: str = "") -> str:
    """A score between 0 and 1 in percent, its deviation over seeds where there is one, its marks.

    >>> format_score(0.7834, None), format_score(0.7834, 0.004, "†")
    ('78.3', '78.3 ± 0.4†')
    """
    spread = f" ± {100 * deviation:.1f}" if deviation is not None else ""
    return f"{100 * mean:.1f}{spread}{marks}"


def _format_vote(result: Result, score: tuple[float, float | None]) -> str:
    """A score of nearest neighbours, to whom the grid is nothing."""
    return format_score(*score, find_marks("full", PATIENCE, result.n_missing))


def describe_deviations(result: Result) -> str | None:
    """What stands after ± in a result's tables, if anything does."""
    if all(deviation is None for _, deviation in result.best.values()):
        return None
    probe = result.content["probe"]
    over, count = ("folds", probe["folds"]) if probe["folds"] > 1 else ("seeds", probe["seeds"])
    return f"Means and, after ±, sample standard deviations over {count} {over}."


def _by_name(results: Sequence[Result]) -> dict[str, list[Result]]:
    grouped: dict[str, list[Result]] = {}
    for result in results:
        grouped.setdefault(result.name, []).append(result)
    return grouped


def published_name(row: PublishedScores) -> str:
    """A published model's name, with its source."""
    return f"{row.model} ({row.source}{'; ' + row.note if row.note else ''})"


def format_number(value: float | None) -> str:
    """Percent; "" for none."""
    return ABSENT if value is None else f"{value:.1f}"


def _difference(ours: float, theirs: float | None) -> str:
    # Rounded first: what is shown is the difference of what is shown.
    return ABSENT if theirs is None else f"{round(ours, 1) - theirs:+.1f}"


def with_difference(ours: float | None, theirs: float | None, marks: str = "") -> str:
    """A score in percent with its marks, and in brackets how far it is above another's.

    "" for none.
    """
    if ours is None:
        return ABSENT
    return f"{ours:.1f}{marks}" + (f" ({_difference(ours, theirs)})" if theirs is not None else "")


def describe_result(result: Result) -> str:
    """The Markdown that stands beside a results file."""
    notes = [f"Test scores in percent; selected on validation by {result.primary}."]
    if (deviations := describe_deviations(result)) is not None:
        notes.append(deviations)
    return (
        f"# {result.title}: {result.name}\n\n"
        f"{' '.join(notes)}\n\n"
        f"{with_legend(markdown(task_rows(result)), explain_marks(result.marks))}\n\n"
        f"{markdown(run_rows([result]))}\n"
    )
