"""A module scored on a task, and all that is written of it: one folder of results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from myna_plugin.common.errors import say
from myna_plugin.common.files import write_text
from myna_plugin.probing.embeddings import Handling, open_cache
from myna_plugin.probing.experiment import Protocol, run, write_results
from myna_plugin.probing.modules import LoadedModule
from myna_plugin.probing.report.figures import draw_figures
from myna_plugin.probing.report.results import FIGURES, Result, read_result
from myna_plugin.probing.report.tables import describe_result
from myna_plugin.probing.tasks import CheckReport, Item, Task, TaskError
from myna_plugin.probing.tasks.checking import usable_items
from myna_plugin.probing.tasks.task_data import Folds, TaskData, find_data


@dataclass(frozen=True)
class Source:
    """Where a task's data are, and what was found there.

    Attributes:
        task: the task.
        folds: its clips for each fold that is to test.
        root: the data folder.
        report: what `check` found.
    """

    task: Task
    folds: Folds
    root: Path
    report: CheckReport


@dataclass(frozen=True)
class Means:
    """What scores do not depend on, beside the protocol, on which they do.

    Attributes:
        protocol: how heads are selected.
        cache: folder of all embeddings.
        handling: how clips are read and embedded.
        command: as a results file names it.
        started: when, by `time.monotonic`.
    """

    protocol: Protocol
    cache: Path
    handling: Handling
    command: str
    started: float = field(default_factory=time.monotonic)


def first(folds: Folds) -> list[Item]:
    """The clips as the first fold splits them: in every fold they are the same clips."""
    return list(next(iter(folds.values())))


def refuse_incomplete(sources: Sequence[Source], allow_missing: bool) -> None:
    """Stop before anything is computed if clips are faulty.

    Raises:
        TaskError: they are, and that is not allowed, or what is left cannot be scored; tells it
            of all data sets.
    """
    incomplete, useless = [], []
    for source in sources:
        report = source.report
        if not report.complete and not allow_missing:
            incomplete.append(next(f.reason for f in report.faults if f not in report.known))
            continue
        try:
            for items in source.folds.values():
                usable_items(source.task, items, report, allow_missing)
        except TaskError as error:
            useless.append(str(error))
    if incomplete:
        incomplete.append("the data set is incomplete: --allow-missing goes on")
    if told := [*useless, *incomplete]:
        raise TaskError("; ".join(told))


def read_data(source: Source, means: Means) -> TaskData:
    """The clips that can be used, with their files' digests.

    Raises:
        TaskError, AudioError: clips cannot be used, and that is not allowed.
    """
    return find_data(
        source.task,
        source.folds,
        source.report,
        allow_missing=means.handling.allow_missing,
        workers=means.handling.workers,
        progress=means.handling.progress,
    )


def score(
    source: Source, data: TaskData, module: LoadedModule, means: Means, out: Path, name: str
) -> Result:
    """Embed the clips, probe, and write results.json, results.md and figures.

    What an interrupted run computed is taken from the cache and from `out`.

    Args:
        source: of the data.
        data: from `read_data`.
        module: what embeds.
        means: how.
        out: folder of the results, held by `writing`.
        name: of the model, in tables.

    Raises:
        AudioError, TaskError, ExperimentError, OSError: it cannot be done.
    """
    experiment = run(
        data,
        module,
        open_cache(means.cache / data.task.name, module),
        means.protocol,
        means.handling,
        say=say,
        out=out,
    )
    content = experiment.describe(name, means.command, means.started)
    content["data"] |= {"root": str(source.root), "check": source.report.as_dict()}
    draw_figures(out / FIGURES, experiment)
    # Last, so that a folder with results in it is whole.
    write_results(out, content)
    result = read_result(out)
    write_text(out / "results.md", describe_result(result))
    return result
