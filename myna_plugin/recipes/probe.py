"""`myna probe`: a HEAR module scored on a probe task, by the protocol of the Myna paper."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from myna_plugin.cli.options import CACHE, MODEL_OPTIONS, MODULE
from myna_plugin.cli.task_options import ALLOW_MISSING, LAYOUT, METADATA, ROOT, SPLIT_FILE, TASK
from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import BAD_INPUT, ToldCommand, say
from myna_plugin.common.files import write_json, write_text
from myna_plugin.common.options import (
    DEVICE,
    FOLDER,
    NON_NEGATIVE_INT,
    POSITIVE_INT,
    WORKERS,
    Number,
)
from myna_plugin.common.provenance import now, versions
from myna_plugin.model.audio import AudioError
from myna_plugin.probing.cache import Cost, EmbeddingCache, folder_name
from myna_plugin.probing.embeddings import digest_audio, digest_experiment, embed_items
from myna_plugin.probing.heads import GRID, GRIDS
from myna_plugin.probing.modules import POOLS, ExperimentError, LoadedModule, load_module
from myna_plugin.probing.probes import PartResult, probe_parts
from myna_plugin.probing.report import figures
from myna_plugin.probing.report.results import (
    DISTRIBUTIONS,
    FIGURES,
    FILE,
    FORMAT,
    describe_module,
    describe_part,
    describe_scores,
    describe_task,
    read_result,
)
from myna_plugin.probing.report.tables import describe_deviations, markdown, run_rows, task_rows
from myna_plugin.probing.tasks import (
    CheckReport,
    Item,
    Layout,
    Task,
    TaskError,
    check,
    load_task,
    usable_items,
)
from myna_plugin.probing.tasks.loading import describe_sizes
from myna_plugin.probing.tasks.task import validate_items

EPILOG = """
Examples:

\b
  myna probe --task gtzan --root data/gtzan --check
  myna probe --task gtzan --root data/gtzan --model myna-hybrid --out out/gtzan
  myna probe --task giantsteps --root data/giantsteps \\
      --module my_package.hear --model-options '{"size": "small"}' --out out/mine
  myna probe --task hear --root tasks/esc50-v2.0.0-full --out out/esc50
"""

UNFINISHED = "unfinished-grids"
"""Folder beside the results that holds what an interrupted run had trained."""

BATCH_SIZES = {"cpu": 8, "cuda": 32}


def cache_folder() -> Path:
    """Where embeddings are kept: $MYNA_PLUGIN_CACHE, else ~/.cache/myna_plugin/embeddings."""
    chosen = os.environ.get("MYNA_PLUGIN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "myna_plugin" / "embeddings"


def draw_figures(
    folder: Path,
    task: Task,
    items: Sequence[Item],
    vectors: dict[str, np.ndarray],
    part: slice,
    result: PartResult,
) -> None:
    """Write the figures of a task: its embeddings, and the first run's test predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.png"):  # of an earlier run, which may have been of another task
        path.unlink()
    tsne = figures.draw_tsne(task, items, vectors, part)
    if tsne is not None:
        figures.save(tsne, folder / "tsne.png")
    for name, draw in figures.figures_of_test(task).items():
        figures.save(draw(task, result.folds[0][0]), folder / f"{name}.png")


def leave_out(task: Task, items: Sequence[Item], faults: dict[str, str]) -> list[Item]:
    """Items without those that turned out to be faulty.

    Raises:
        TaskError: what is left cannot be scored.
    """
    left = [item for item in items if item.clip_id not in faults]
    if faults:
        validate_items(task, left)
    return left


@dataclass(frozen=True)
class Settings:
    """The command's options, as `resolve` gives them."""

    task_name: str
    root: Path
    out: Path | None
    only_check: bool
    allow_missing: bool
    layout: Layout
    metadata: Path | None
    split_file: Path | None
    test_fold: int | None
    module_name: str
    model_file: str
    model_options: dict[str, Any]
    name: str | None
    pool: str
    chunk_seconds: float
    grid: str
    seeds: int
    device: str
    workers: int
    batch_size: int
    cache: Path
    progress: bool
    started: float = field(default_factory=time.monotonic)


Folds = dict[int, list[Item]]
"""A task's clips by the fold that tests: one entry, unless the task is k-fold."""


@dataclass(frozen=True)
class Embedded:
    """A task's clips with their vectors.

    Attributes:
        folds: the clips that have vectors.
        vectors: by clip_id, shape (K, D).
        digests: of the audio, by file.
        left_out: what is wrong with each clip that has none, by clip_id.
        cost: what embedding took.
    """

    folds: Folds
    vectors: dict[str, np.ndarray]
    digests: dict[Path, str]
    left_out: dict[str, str]
    cost: Cost | None


def resolve(options: Mapping[str, Any]) -> Settings:
    """Settings from the command's options, with the defaults that depend on the machine.

    Raises:
        DeviceError: there is no such device.
    """
    device = choose_device(options["device"])
    found = {
        "device": device,
        "workers": options["workers"] or available_cores(),
        "batch_size": options["batch_size"] or BATCH_SIZES[torch.device(device).type],
        "cache": options["cache"] or cache_folder(),
    }
    # A log would fill with bars.
    return Settings(**{**options, **found}, progress=sys.stderr.isatty())


def load_folds(settings: Settings) -> tuple[Task, Folds]:
    """The task, and its clips for each fold that is to test.

    Raises:
        TaskError: it cannot be loaded.
    """

    def load(fold: int) -> tuple[Task, list[Item]]:
        return load_task(
            settings.task_name,
            settings.root,
            settings.layout,
            settings.metadata,
            settings.split_file,
            fold,
        )

    task, items = load(settings.test_fold or 0)
    if settings.test_fold is not None:
        if task.folds == 1:
            raise TaskError(f"--test-fold {settings.test_fold}: {task.name} is not a k-fold task")
        return task, {settings.test_fold: items}
    return task, {0: items} | {fold: load(fold)[1] for fold in range(1, task.folds)}


def first(folds: Folds) -> list[Item]:
    """The clips as the first fold splits them: in every fold they are the same clips."""
    return next(iter(folds.values()))


def refuse_incomplete(report: CheckReport, allow_missing: bool) -> None:
    """Stop before anything is computed if clips are faulty.

    Raises:
        TaskError: they are, and that is not allowed.
    """
    if not report.complete and not allow_missing:
        fault = next(f for f in report.faults if f not in report.known)
        raise TaskError(f"{fault.reason}; the data set is incomplete: --allow-missing goes on")


def score(settings: Settings, out: Path, task: Task, folds: Folds, report: CheckReport) -> str:
    """Embed the clips, probe, and write all results; the Markdown of them.

    Raises:
        AudioError, TaskError, ExperimentError, InputError, OSError: it cannot be done.
    """
    out.mkdir(parents=True, exist_ok=True)
    module = load_module(
        settings.module_name,
        settings.model_file,
        settings.model_options,
        pool=settings.pool,
        chunk_s=settings.chunk_seconds,
        device=settings.device,
    )
    for warning in module.warnings:
        say(f"{module.name}: {warning}")
    data = embed(settings, task, folds, report, module)
    click.echo(f"{task.name}: {describe_sizes(first(data.folds))}; {module.width} features")
    reported, results = probe_parts(
        task,
        list(data.folds.values()),
        data.vectors,
        module.parts,
        GRIDS[settings.grid],
        seeds=settings.seeds,
        device=settings.device,
        progress=settings.progress,
        records=out / UNFINISHED,
    )
    content = describe(settings, task, report, module, data, reported, results)
    part = module.parts[reported]
    draw_figures(out / FIGURES, task, first(data.folds), data.vectors, part, results[reported])
    # Last, so that a folder with results in it is whole.
    write_json(out / FILE, content)
    text = describe_result(out)
    write_text(out / "results.md", text)
    if (out / UNFINISHED).is_dir():
        shutil.rmtree(out / UNFINISHED)
    return text


def embed(
    settings: Settings, task: Task, folds: Folds, report: CheckReport, module: LoadedModule
) -> Embedded:
    """Vectors of the clips that can be used, from the cache where it has them.

    Raises:
        AudioError, TaskError: a clip cannot be used, and that is not allowed.
        ExperimentError: the module failed.
    """
    workers, allow_missing = settings.workers, settings.allow_missing
    folds = {n: usable_items(task, items, report, allow_missing) for n, items in folds.items()}
    items = first(folds)
    cache = open_cache(settings.cache / task.name, module)
    digests, unreadable = digest_audio(items, workers, progress=settings.progress)
    if unreadable and not allow_missing:
        raise AudioError(next(iter(unreadable.values())))
    faults = {i.clip_id: unreadable[i.path] for i in items if i.path in unreadable}
    vectors, undecodable = embed_items(
        leave_out(task, items, faults),
        module,
        cache,
        digests,
        workers=workers,
        batch_size=settings.batch_size,
        allow_missing=allow_missing,
        progress=settings.progress,
    )
    faults |= undecodable
    return Embedded(
        {number: leave_out(task, items, faults) for number, items in folds.items()},
        vectors,
        digests,
        {fault.clip_id: fault.reason for fault in report.faults} | faults,
        cache.cost(),
    )


def describe(
    settings: Settings,
    task: Task,
    report: CheckReport,
    module: LoadedModule,
    data: Embedded,
    reported: str,
    results: dict[str, PartResult],
) -> dict[str, Any]:
    """What the results file holds."""
    items, folds = first(data.folds), list(data.folds)
    return {
        "format": FORMAT,
        "name": settings.name or _default_name(settings.module_name, settings.model_file),
        "task": {**describe_task(task, items), "test_folds": folds},
        "module": describe_module(module, data.cost),
        "probe": {
            "grid": settings.grid,
            "configurations": len(GRIDS[settings.grid]),
            "folds": len(folds),
            "seeds": settings.seeds,
            "device": settings.device,
        },
        "reported": reported,
        "scores": describe_scores(results[reported].scores),
        "parts": {part: describe_part(result, folds) for part, result in results.items()},
        "data": {
            "root": str(settings.root),
            "digest": digest_experiment(items, data.digests),
            "check": report.as_dict(),
            "left_out": data.left_out,
        },
        "versions": versions(DISTRIBUTIONS),
        "date": now(),
        "duration_s": round(time.monotonic() - settings.started, 1),
        "command": shlex.join(["python", "-m", "myna_plugin.recipes.probe", *sys.argv[1:]]),
    }


def open_cache(folder: Path, module: LoadedModule) -> EmbeddingCache:
    """The cache of a module's embeddings; damaged blocks are reported and embedded anew."""
    cache = EmbeddingCache(folder / folder_name(module.identity()), module.identity())
    for path in cache.damaged:
        say(f"{path}: damaged; its clips are embedded again")
    return cache


def describe_result(out: Path) -> str:
    """The Markdown that stands beside a results file."""
    result = read_result(out)
    notes = [f"Test scores in percent; selected on validation by {result.primary}."]
    if (deviations := describe_deviations(result)) is not None:
        notes.append(deviations)
    if result.n_missing:
        notes.append(f"{result.n_missing} clips were left out, so the score is of the rest.")
    if GRIDS[result.grid] != GRID:
        notes.append(f"The {result.grid} grid is for a quick look: not comparable with the paper.")
    return (
        f"# {result.title}: {result.name}\n\n"
        f"{' '.join(notes)}\n\n"
        f"{markdown(task_rows(result))}\n\n{markdown(run_rows([result]))}\n"
    )


def _default_name(module: str, model_file: str) -> str:
    return f"{module} {Path(model_file).stem}" if model_file else module


@click.command("probe", cls=ToldCommand, epilog=EPILOG)
@TASK
@ROOT
@click.option("--out", type=FOLDER, help="Folder for the results.")
@click.option("--check", "only_check", is_flag=True, help="Look at the data set, and stop.")
@ALLOW_MISSING
@LAYOUT
@METADATA
@SPLIT_FILE
@click.option(
    "--test-fold",
    type=NON_NEGATIVE_INT,
    help="Test on this fold of a k-fold HEAR task alone.  [default: on each in turn, for the mean]",
)
@MODULE
@click.option("--model", "model_file", default="", help="Weights, as load_model takes them.")
@MODEL_OPTIONS
@click.option(
    "--name", help="What to call the model in tables.  [default: the module and its weights]"
)
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    default="clip",
    show_default=True,
    help="chunk: the mean over a clip's chunks, as the paper has it.",
)
@click.option(
    "--chunk-seconds",
    type=Number(float, 0.1),
    default=3.0,
    show_default=True,
    help="With --pool chunk: windows of modules that do not cut chunks themselves.",
)
@click.option(
    "--grid",
    type=click.Choice(list(GRIDS)),
    default="full",
    show_default=True,
    help="Heads to choose from.",
)
@click.option(
    "--seeds", type=POSITIVE_INT, default=1, show_default=True, help="Runs of the probe to average."
)
@DEVICE
@WORKERS
@click.option(
    "--batch-size",
    type=POSITIVE_INT,
    help="Clips of one length to embed together.  [default: 8 on a CPU, 32 on CUDA]",
)
@CACHE
def main(**options: Any) -> None:
    """Score a HEAR module on a probe task, by the protocol of the Myna paper.

    The data set is checked, its clips are embedded once (and kept in --cache), 216 heads are
    trained on the training split, the one that is best on validation is scored on test. Of a hybrid
    Myna model the square, the vertical and both features are probed, and the one that is best on
    validation is reported. OUT receives results.json, results.md and figures/*.png; `myna report`
    makes a page of several.

    A run that was interrupted goes on where it stopped when it is started again: clips that were
    embedded and stacks of heads that were trained (in OUT/unfinished-grids) are kept.

    --root holds the public data set, or JukeMIR's metadata or MARBLE's jsonl with the audio. For
    --task hear it is a task folder in HEAR's format; of a k-fold task each fold tests in turn, and
    the mean and deviation over folds are reported, as heareval does.
    """
    settings = resolve(options)
    if settings.out is None and not settings.only_check:
        raise ExperimentError("--out: say where the results go (or --check to look only)")
    task, folds = load_folds(settings)
    report = check(task, first(folds), settings.workers, progress=settings.progress)
    click.echo(report.text())
    if settings.out is None or settings.only_check:
        sys.exit(0 if report.complete else BAD_INPUT)
    refuse_incomplete(report, settings.allow_missing)
    click.echo(score(settings, settings.out, task, folds, report))
    click.echo(f"{settings.out / FILE}: written, with {FIGURES}")


if __name__ == "__main__":
    main()
