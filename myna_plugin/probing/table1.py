"""The paper's Table 1, measured: modules × tasks, each scored into a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from myna_plugin.common.errors import InputError, say
from myna_plugin.common.files import fault_of_place
from myna_plugin.common.registry import list_models, resolve
from myna_plugin.model.layouts import SUFFIXES
from myna_plugin.model.sources import PACKAGED_FILES, is_here
from myna_plugin.model.sources import PUBLISHED as CHECKPOINTS
from myna_plugin.probing.embeddings import Handling
from myna_plugin.probing.experiment import FILE, is_current, writing
from myna_plugin.probing.modules import (
    ExperimentError,
    LoadedModule,
    import_module,
    load_module,
    name_of,
)
from myna_plugin.probing.report.results import Result, read_result
from myna_plugin.probing.scoring import Means, Source, first, read_data, refuse_incomplete, score
from myna_plugin.probing.tasks import TASKS, TaskError, check, load_folds
from myna_plugin.probing.tasks.marble import jsonl_folder
from myna_plugin.probing.tasks.published import COLUMNS, PAPER, PUBLISHED, PublishedScores
from myna_plugin.probing.tasks.task_data import TaskData

OURS = "myna_plugin"
"""The HEAR module that loads a Myna."""

PARTS_OF_OURS = "myna_plugin.hear."
"""Modules that embed with one patching: what `myna` is probed with anyway."""

TABLE_TASKS = tuple(dict.fromkeys(COLUMNS.values()))
"""The tasks of the paper's table, in its order."""


@dataclass(frozen=True)
class Entrant:
    """A module that is to be scored, with its weights; "" for its own.

    Attributes:
        module: registered name, or import path.
        weights: as `load_model` takes them.
        path: the module's import path.
    """

    module: str
    weights: str
    path: str

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return name_of(self.module, self.weights)

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        return re.sub(r"[^\w.+-]", "_", self.name)

    @property
    def published(self) -> PublishedScores | None:
        """The paper's row of the same system.

        A Myna is known by its weights' name, any other by its module's.
        """
        is_ours = self.path == OURS or self.path.startswith(PARTS_OF_OURS)
        name = Path(self.weights).stem if is_ours else self.module
        rows = (row for row in PUBLISHED if row.source == PAPER)
        return next((row for row in rows if row.model.casefold() == name.casefold()), None)


@dataclass
class Row:
    """An entrant, and what became of it.

    Attributes:
        entrant: what was to be scored.
        results: by task.
        faults: why something of it could not be scored; empty if all was.
    """

    entrant: Entrant
    results: dict[str, Result] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def list_entrants() -> list[Entrant]:
    """The published checkpoints that are here, and every HEAR module that is registered."""
    ours = [_entrant("myna", name) for name in CHECKPOINTS if is_here(name)]
    names = [
        model.name
        for model in list_models()
        if not model.fault and not model.module.startswith(PARTS_OF_OURS)
    ]
    return [*ours, *map(_entrant, names)]


def parse_entrants(text: str) -> list[Entrant]:
    """Entrants from NAME or NAME=WEIGHTS, separated by commas.

    Raises:
        InputError: a name that nothing has, or two of a name.
    """
    entrants = [_entrant(*part.strip().split("=", 1)) for part in text.split(",")]
    folders = [entrant.folder for entrant in entrants]
    for entrant in entrants:
        if folders.count(entrant.folder) > 1:
            raise InputError(f"--modules: {entrant.name} twice; rename one of the weights' files")
    return entrants


def check_entrants(entrants: Sequence[Entrant]) -> None:
    """Refuse what cannot be right before anything is read; what only loading tells is not found.

    Raises:
        InputError: modules that cannot be imported or are no HEAR modules, or weights' files that
            are not there: all of them.
    """
    faults = []
    for entrant in entrants:
        try:
            import_module(entrant.path)
        except ExperimentError as error:
            faults.append(str(error))
        file = Path(entrant.weights).expanduser()
        if file.name.endswith(SUFFIXES) and "://" not in entrant.weights and not file.exists():
            faults.append(f"{file}: {fault_of_place(file)}")
        if entrant.module in CHECKPOINTS and not entrant.weights:
            say(f"{entrant.module}: the authors' weights of that name are myna={entrant.module}")
    if faults:
        raise InputError(f"--modules: {'; '.join(faults)}")


def _entrant(module: str, weights: str = "") -> Entrant:
    try:
        return Entrant(module, weights, resolve(module, list_models()).module)
    except InputError as error:
        names = {*CHECKPOINTS, *filter(None, PACKAGED_FILES)}
        if weights or not (module in names or module.endswith(SUFFIXES)):
            raise
        told = f"--modules: {module} is weights, not a module: write myna={module}"
        raise InputError(told) from error


def parse_tasks(text: str) -> list[str]:
    """Names of tasks, separated by commas, in the table's order.

    Raises:
        InputError: one that the paper's table has no column for.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in TABLE_TASKS:
            known = ", ".join(TABLE_TASKS)
            raise InputError(f"--tasks: {name!r} is no column of the paper's table, {known} are")
    return [name for name in TABLE_TASKS if name in names]


def find_sources(data: Path, names: Sequence[str], handling: Handling) -> list[Source]:
    """The tasks' data, checked: in `data/NAME`, or `data` itself where MARBLE's lists are there.

    Raises:
        TaskError: some tasks' data cannot be used; says which, before any file is looked at.
    """
    found, faults = [], []
    for name in names:
        folder = data / name
        if not folder.exists() and jsonl_folder(TASKS[name], data) is not None:
            folder = data
        if not folder.exists():
            faults.append(f"{folder}: no such folder")
            continue
        try:
            found.append((*load_folds(name, folder), folder))
        except TaskError as error:
            faults.append(str(error))
    if faults:
        told = "put the data there (docs/probe.md), or leave the task out of --tasks"
        raise TaskError(f"{'; '.join(faults)}; {told}")
    workers, progress = handling.workers, handling.progress
    return [
        Source(task, folds, folder, check(task, first(folds), workers, progress=progress))
        for task, folds, folder in found
    ]


def measure(
    entrants: Sequence[Entrant],
    sources: Sequence[Source],
    means: Means,
    out: Path,
    told: Callable[[str], None],
) -> Iterator[list[Row]]:
    """Score every entrant on every task; what `out` has of the same run is taken from there.

    What cannot be loaded, or fails on a clip, is a row that says so.

    Args:
        entrants: to score.
        sources: the tasks' data.
        means: how.
        out: receives a folder for each entrant, with one for each task in it.
        told: is given a line on each step.

    Yields:
        The rows so far, after each entrant.

    Raises:
        TaskError, AudioError: data sets are incomplete, or a file of one cannot be read.
        OSError: something cannot be written.
    """
    refuse_incomplete(sources, means.handling.allow_missing)
    data = {source.task.name: read_data(source, means) for source in sources}
    rows: list[Row] = []
    for entrant in entrants:
        rows.append(_measure_one(entrant, sources, data, means, out, told))
        yield rows


def _measure_one(
    entrant: Entrant,
    sources: Sequence[Source],
    data: dict[str, TaskData],
    means: Means,
    out: Path,
    told: Callable[[str], None],
) -> Row:
    row = Row(entrant)
    try:
        module = load_module(entrant.module, entrant.weights, device=means.protocol.device)
    except ExperimentError as error:
        row.faults.append(str(error))
        told(f"{entrant.name}: left out: {error}")
        return row
    for warning in module.warnings:
        say(f"{entrant.name}: {warning}")
    for source in sources:
        task = source.task.name
        folder = out / entrant.folder / task
        result = _finished(folder, data[task], module, means)
        if result is not None:
            told(f"{entrant.name}: {task}: is there")
        else:
            told(f"{entrant.name}: {task} …")
            try:
                with writing(folder):
                    result = score(source, data[task], module, means, folder, entrant.name)
            except ExperimentError as error:
                row.faults.append(f"{task}: {error}")
                told(f"{entrant.name}: {task}: left out: {error}")
                continue
        row.results[task] = result
    return row


def _finished(folder: Path, data: TaskData, module: LoadedModule, means: Means) -> Result | None:
    """The result that is in a folder, if it is of these."""
    if not (folder / FILE).is_file():
        return None
    try:
        result = read_result(folder)
    except InputError:  # it is written anew
        return None
    return result if is_current(result.content, data, module, means.protocol) else None
