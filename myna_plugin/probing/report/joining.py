"""Results of several models, tasks or runs as the sections of one page."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from myna_plugin.probing.modules import ExperimentError
from myna_plugin.probing.report.figures import DPI, draw_cost
from myna_plugin.probing.report.page import Image, Section, read_images
from myna_plugin.probing.report.results import FIGURES, Result, explain_marks, join_marks
from myna_plugin.probing.report.tables import (
    describe_deviations,
    format_score,
    other_rows,
    run_rows,
    summary_rows,
    task_rows,
)
from myna_plugin.probing.tasks import TASKS
from myna_plugin.probing.tasks.published import PublishedScores

CAPTIONS = {
    "tsne": "Embeddings of each split in one t-SNE plane",
    "confusion": "Annotated against predicted class on test",
    "key_circle": "Predicted keys round the circle of fifths, seen from the annotated key",
    "tag_areas": "Area under the ROC curve of each tag",
    "outputs": "Predicted and annotated values on test",
}


def name_apart(results: Sequence[Result]) -> list[Result]:
    """Runs of one model on one task, named apart by their folders.

    Raises:
        ExperimentError: a results file is given twice.
    """
    paths = Counter(result.path.resolve() for result in results)
    path, count = paths.most_common(1)[0]
    if count > 1:
        raise ExperimentError(f"{path}: given {count} times")
    seen = Counter((result.name, result.task) for result in results)
    repeated = {name for (name, _), number in seen.items() if number > 1}
    return [
        replace(result, name=f"{result.name} [{result.path.parent}]")
        if result.name in repeated
        else result
        for result in results
    ]


def sort_by_task(results: Sequence[Result]) -> list[Result]:
    """The paper's tasks in its order, then the others; models in the order given."""
    order = {name: i for i, name in enumerate(TASKS)}
    return sorted(results, key=lambda result: order.get(result.task, len(order)))


def describe(results: Sequence[Result], reference: PublishedScores) -> list[Section]:
    """The report's sections: summary, cost, then each result."""
    scored = any(result.columns for result in results)
    others = other_rows(results)
    cost = draw_cost(results)
    images = []
    if cost is not None:
        file = io.BytesIO()
        cost.savefig(file, format="png", dpi=DPI)
        images.append(Image(file.getvalue(), "Score beside the cost of embedding"))
    note = f"Percent; in brackets ours − {reference.model}'s, as published, where comparable."
    summary = Section(
        "All results",
        [note] if scored else [],
        [
            *([summary_rows(results, reference)] if scored else []),
            *([others] if len(others) > 1 else []),
            run_rows(results),
        ],
        images,
        explain_marks(join_marks(results)),
    )
    return [summary, *(_describe_result(result) for result in results)]


def _describe_result(result: Result) -> Section:
    score = format_score(*result.best[result.primary], result.marks)
    paragraphs = [
        f"{result.primary} {score} %, from the {result.reported} features, chosen on validation. "
        f"{result.path}, {result.content['date']}."
    ]
    if (deviations := describe_deviations(result)) is not None:
        paragraphs.append(deviations)
    legend = explain_marks(result.marks)
    images = read_images(result.path.parent / FIGURES, CAPTIONS)
    return Section(
        f"{result.title}: {result.name}", paragraphs, [task_rows(result)], images, legend
    )
