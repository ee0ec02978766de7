"""`myna probe`: a HEAR module scored on a probe task, by the protocol of the Myna paper."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from myna_plugin.cli.options import CACHE, MODEL_OPTIONS, SCENE_LAYERS, SCENE_POOLING, TOKENS
from myna_plugin.cli.task_options import (
    ALLOW_MISSING,
    BATCH_SIZE,
    GRID,
    LAYOUT,
    METADATA,
    PATIENCE_OPTION,
    ROOT,
    SPLIT_FILE,
    TASK,
    make_means,
)
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import BAD_INPUT, ToldCommand, say
from myna_plugin.common.files import check_disk
from myna_plugin.common.options import (
    DEVICE,
    FOLDER,
    NON_NEGATIVE_INT,
    POSITIVE_INT,
    WORKERS,
    Number,
)
from myna_plugin.probing.experiment import FILE, Protocol, writing
from myna_plugin.probing.heads import NEIGHBOURS
from myna_plugin.probing.modules import POOLS, ExperimentError, load_module, name_of
from myna_plugin.probing.report.results import FIGURES
from myna_plugin.probing.report.tables import describe_result
from myna_plugin.probing.scoring import Means, Source, first, read_data, refuse_incomplete, score
from myna_plugin.probing.tasks import TASKS, Layout, TaskError, check, load_folds
from myna_plugin.probing.tasks.loading import describe_sizes

EPILOG = """
Examples:

\b
  myna probe --task gtzan --root data/gtzan --check
  myna probe --task gtzan --root data/gtzan --model myna-hybrid --out out/gtzan
  myna probe --task gtzan --root data/gtzan --scene-layers 4,8,12 --out out/layers
  myna probe --task giantsteps --root data/giantsteps \\
      --module my_package.hear --model-options '{"size": "small"}' --out out/mine
  myna probe --task tinysol_pitch --root data/TinySOL --grid fast --neighbours --out out/tinysol
  myna probe --task hear --root tasks/esc50-v2.0.0-full --out out/esc50

Exit status: 0 done, 1 failed, 2 bad input, or --check found the data set incomplete, 130 stopped by
Ctrl-C, 143 by SIGTERM; the same command goes on.
"""


@dataclass(frozen=True)
class ProbeOptions:
    """The command's options, as `resolve` gives them."""

    task_name: str
    root: Path
    out: Path | None
    only_check: bool
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
    means: Means


def resolve(options: Mapping[str, Any]) -> ProbeOptions:
    """ProbeOptions from the command's options, with the defaults that depend on the machine.

    Raises:
        DeviceError: there is no such device.
        ExperimentError: several seeds of a grid with nothing random.
    """
    given = dict(options)
    device = choose_device(given.pop("device"))
    names = ("grid", "seeds", "patience", "neighbours")
    protocol = Protocol(**{name: given.pop(name) for name in names}, device=device)
    shared = ("cache", "batch_size", "workers", "allow_missing")
    means = make_means("probe", protocol, **{name: given.pop(name) for name in shared})
    return ProbeOptions(**given, means=means)


def read_source(settings: ProbeOptions) -> Source:
    """The task, and its clips for each fold that is to test, checked.

    Raises:
        TaskError: it cannot be loaded.
    """
    fold = settings.test_fold
    task, folds = load_folds(
        settings.task_name,
        settings.root,
        settings.layout,
        settings.metadata,
        settings.split_file,
        fold,
    )
    if fold is not None and task.folds == 1:
        raise TaskError(f"--test-fold {fold}: {task.name} is not a k-fold task")
    handling = settings.means.handling
    report = check(task, first(folds), handling.workers, progress=handling.progress)
    return Source(task, folds, settings.root, report)


def score_module(settings: ProbeOptions, out: Path, source: Source) -> str:
    """Embed the clips, probe, and write all results; the Markdown of them.

    Raises:
        AudioError, TaskError, ExperimentError, InputError, OSError: it cannot be done.
    """
    module = load_module(
        settings.module_name,
        settings.model_file,
        settings.model_options,
        pool=settings.pool,
        chunk_s=settings.chunk_seconds,
        device=settings.means.protocol.device,
    )
    for warning in module.warnings:
        say(f"{module.name}: {warning}")
    means = settings.means
    data = read_data(source, means)
    click.echo(f"{source.task.name}: {describe_sizes(data.items)}; {module.width} features")
    name = settings.name or name_of(settings.module_name, settings.model_file)
    return describe_result(score(source, data, module, means, out, name))


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
@click.option(
    "--module",
    "module_name",
    default="myna_plugin",
    show_default=True,
    help="HEAR module: an import path, or a name that `hear-eval --list` shows.",
)
@click.option("--model", "model_file", default="", help="Weights, as load_model takes them.")
@MODEL_OPTIONS
@SCENE_LAYERS
@SCENE_POOLING
@TOKENS
@click.option(
    "--name", help="What to call the model in tables.  [default: the module and its weights]"
)
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    default="clip",
    show_default=True,
    help="Probe a vector of each clip, or its chunks, whose predictions are averaged.",
)
@click.option(
    "--chunk-seconds",
    type=Number(float, 0.1),
    default=3.0,
    show_default=True,
    help="With --pool chunk: windows of modules that do not cut chunks themselves.",
)
@GRID
@click.option(
    "--seeds",
    type=POSITIVE_INT,
    default=1,
    show_default=True,
    help="Runs of the full grid to average.",
)
@PATIENCE_OPTION
@click.option(
    "--neighbours",
    is_flag=True,
    help=f"Score the {NEIGHBOURS} nearest training clips' vote as well (classes).",
)
@DEVICE
@WORKERS
@BATCH_SIZE
@CACHE
def probe(
    scene_layers: tuple[int, ...] | None,
    scene_pooling: str | None,
    tokens: float | None,
    **options: Any,
) -> None:
    """Score a HEAR module on a probe task, by the protocol of the Myna paper.

    The data set is checked, its clips are embedded once (and kept in --cache), 216 heads are
    trained on the training split, the one that is best on validation is scored on test. Of a hybrid
    Myna model the square, the vertical and both features are probed, with --scene-layers of each of
    these blocks and of all together, and the one that is best on validation is reported. OUT
    receives results.json, results.md and figures/*.png; `myna report` makes a page of several.

    A run that was interrupted goes on where it stopped when it is started again: clips that were
    embedded and stacks of heads that were trained (in OUT/unfinished-grids) are kept.

    --root holds the public data set, or JukeMIR's metadata or MARBLE's jsonl with the audio. For
    --task hear it is a task folder in HEAR's format; of a k-fold task each fold tests in turn, and
    the mean and deviation over folds are reported, as heareval does.
    """
    scene = {"scene_layers": scene_layers, "scene_pooling": scene_pooling, "tokens": tokens}
    given = {name: value for name, value in scene.items() if value is not None}
    options["model_options"] = {**options["model_options"], **given}
    settings = resolve(options)
    if settings.out is None and not settings.only_check:
        raise ExperimentError("--out: say where the results go (or --check to look only)")
    if settings.out is not None:
        check_disk(settings.out, 0)
    if settings.task_name in TASKS and not settings.only_check:
        settings.means.protocol.check(TASKS[settings.task_name])
    source = read_source(settings)
    click.echo(source.report.text())
    if settings.out is None or settings.only_check:
        sys.exit(0 if source.report.complete else BAD_INPUT)
    refuse_incomplete([source], settings.means.handling.allow_missing)
    with writing(settings.out):
        click.echo(score_module(settings, settings.out, source))
    click.echo(f"{settings.out / FILE}: written, with {FIGURES}")
