"""Score a HEAR module on a probe task, by the protocol of the Myna paper.

\b
    python -m myna_plugin.recipes.probe --task gtzan --root data/gtzan --check
    python -m myna_plugin.recipes.probe --task gtzan --root data/gtzan \\
        --model myna-hybrid.pth --out out/gtzan
    python -m myna_plugin.recipes.probe --task giantsteps --root data/giantsteps \\
        --module my_package.hear --model-options '{"size": "small"}' --out out/mine
    python -m myna_plugin.recipes.probe --task hear --root tasks/esc50-v2.0.0-full --out out/esc50

The data set is checked, its clips are embedded once (and kept in --cache: an interrupted run goes
on where it stopped), 216 heads are trained on the training split, the one that is best on
validation is scored on test. Of a hybrid Myna model the square, the vertical and both features are
probed, and the one that is best on validation is reported. OUT receives results.json, results.md
and figures/*.png; `python -m myna_plugin.recipes.report OUT …` makes a page of several.

--root holds the public data set, or JukeMIR's metadata or MARBLE's jsonl with the audio. For
--task hear it is a task folder in HEAR's format.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from myna_plugin.audio import AudioError
from myna_plugin.experiment import figures
from myna_plugin.experiment.cache import EmbeddingCache, folder_name
from myna_plugin.experiment.embeddings import digest_audio, digest_experiment, embed_items
from myna_plugin.experiment.modules import POOLS, ExperimentError, LoadedModule, load_module
from myna_plugin.experiment.probes import PartResult, probe_parts
from myna_plugin.experiment.results import (
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
from myna_plugin.experiment.tables import markdown, run_rows, task_rows
from myna_plugin.hear_eval.files import write_json
from myna_plugin.hear_eval.messages import BadInputError
from myna_plugin.hear_eval.parallel import available_cores
from myna_plugin.hear_eval.provenance import now, versions
from myna_plugin.probing import GRID, GRIDS
from myna_plugin.tasks import (
    HEAR,
    LAYOUTS,
    TASKS,
    Item,
    Layout,
    Task,
    TaskError,
    check,
    load_task,
    usable_items,
)
from myna_plugin.tasks.folders import write_text
from myna_plugin.tasks.loading import describe_sizes
from myna_plugin.tasks.task import validate_items

BAD_INPUT = (AudioError, TaskError, ExperimentError, BadInputError, OSError)
"""What is answered with one line and status 2."""


BATCH_SIZES = {"cpu": 8, "cuda": 32}


def cache_folder() -> Path:
    """Where embeddings are kept: $MYNA_PLUGIN_CACHE, else ~/.cache/myna_plugin/embeddings."""
    chosen = os.environ.get("MYNA_PLUGIN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "myna_plugin" / "embeddings"


def parse_options(text: str) -> dict[str, Any]:
    """Keyword arguments of `load_model` from JSON.

    Raises:
        ExperimentError: not a JSON object.

    >>> parse_options('{"embedding": "square"}')
    {'embedding': 'square'}
    """
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise ExperimentError(f"--model-options: not JSON ({error})") from error
    if not isinstance(options, dict):
        raise ExperimentError(f"--model-options: expected an object, got {text}")
    return options


def choose_device(name: str) -> str:
    """The torch device that --device means.

    Raises:
        ExperimentError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in BATCH_SIZES:
        raise ExperimentError(f"--device {name}: must be auto, cpu, cuda or cuda:N")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ExperimentError(f"--device {name}: cannot be used here ({reason})") from error
    return name


def draw_figures(
    folder: Path,
    task: Task,
    items: Sequence[Item],
    vectors: dict[str, np.ndarray],
    part: slice,
    result: PartResult,
) -> None:
    """Write the figures of a task: its embeddings, and the first seed's test predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.png"):  # of an earlier run, which may have been of another task
        path.unlink()
    tsne = figures.draw_tsne(task, items, vectors, part)
    if tsne is not None:
        figures.save(tsne, folder / "tsne.png")
    for name, draw in figures.figures_of_test(task).items():
        figures.save(draw(task, result.runs[0]), folder / f"{name}.png")


def leave_out(task: Task, items: Sequence[Item], faults: dict[str, str]) -> list[Item]:
    """Items without those that turned out to be faulty.

    Raises:
        TaskError: what is left cannot be scored.
    """
    left = [item for item in items if item.clip_id not in faults]
    if faults:
        validate_items(task, left)
    return left


@click.command(help=__doc__)
@click.option("--task", "task_name", required=True, help=f"{', '.join((*TASKS, HEAR))}.")
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Data folder.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--check", "only_check", is_flag=True, help="Look at the data set, and stop.")
@click.option("--allow-missing", is_flag=True, help="Score what there is of the data set.")
@click.option("--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True)
@click.option("--metadata", type=click.Path(path_type=Path), help="JukeMIR's metadata file.")
@click.option("--split-file", type=click.Path(path_type=Path), help="Splits to use, as JSON.")
@click.option(
    "--test-fold",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Which fold of a k-fold HEAR task tests.",
)
@click.option(
    "--module", "module_name", default="myna_plugin", show_default=True, help="HEAR module."
)
@click.option("--model", "model_file", default="", help="Weights, as load_model takes them.")
@click.option("--model-options", default="{}", help="load_model's keyword arguments, as JSON.")
@click.option("--name", help="What to call the model in tables. Default: module and weights.")
@click.option("--pool", type=click.Choice(POOLS), default="clip", show_default=True)
@click.option(
    "--chunk-seconds",
    type=click.FloatRange(min=0.1),
    default=3.0,
    show_default=True,
    help="With --pool chunk: windows of modules that do not cut chunks themselves.",
)
@click.option("--grid", type=click.Choice(list(GRIDS)), default="full", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Files to decode at a time. Default: cores."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Clips of one length to embed together. Default: 8 on a CPU, 32 on CUDA.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder of embeddings. Default: $MYNA_PLUGIN_CACHE, or ~/.cache/myna_plugin/embeddings.",
)
def main(
    task_name: str,
    root: Path,
    out: Path | None,
    only_check: bool,
    allow_missing: bool,
    layout: Layout,
    metadata: Path | None,
    split_file: Path | None,
    test_fold: int,
    module_name: str,
    model_file: str,
    model_options: str,
    name: str | None,
    pool: str,
    chunk_seconds: float,
    grid: str,
    seeds: int,
    device: str,
    workers: int | None,
    batch_size: int | None,
    cache: Path | None,
) -> None:
    start = time.monotonic()
    workers = workers or available_cores()
    progress = sys.stderr.isatty()  # a log would fill with bars
    try:
        if out is None and not only_check:
            raise ExperimentError("--out: say where the results go (or --check to look only)")
        options, device = parse_options(model_options), choose_device(device)
        task, items = load_task(task_name, root, layout, metadata, split_file, test_fold)
        report = check(task, items, workers, progress=progress)
        click.echo(report.text())
        if out is None or only_check:
            raise SystemExit(0 if report.complete else 2)
        if not report.complete and not allow_missing:
            first = next(f for f in report.faults if f not in report.known)
            raise TaskError(f"{first.reason}; the data set is incomplete: --allow-missing goes on")
        items = usable_items(task, items, report, allow_missing)
        out.mkdir(parents=True, exist_ok=True)
        module = load_module(
            module_name, model_file, options, pool=pool, chunk_s=chunk_seconds, device=device
        )
        for warning in module.warnings:
            click.echo(f"{module.name}: {warning}", err=True)
        left_out = {fault.clip_id: fault.reason for fault in report.faults}
        embeddings = open_cache((cache or cache_folder()) / task.name, module)
        digests, unreadable = digest_audio(items, workers, progress=progress)
        if unreadable and not allow_missing:
            raise AudioError(next(iter(unreadable.values())))
        faults = {i.clip_id: unreadable[i.path] for i in items if i.path in unreadable}
        vectors, undecodable = embed_items(
            leave_out(task, items, faults),
            module,
            embeddings,
            digests,
            workers=workers,
            batch_size=batch_size or BATCH_SIZES[torch.device(device).type],
            allow_missing=allow_missing,
            progress=progress,
        )
        left_out |= faults | undecodable
        items = leave_out(task, items, faults | undecodable)
        click.echo(f"{task.name}: {describe_sizes(items)}; {module.width} features")
        reported, results = probe_parts(
            task,
            items,
            vectors,
            module.parts,
            GRIDS[grid],
            seeds=seeds,
            device=device,
            progress=progress,
        )
        content = {
            "format": FORMAT,
            "name": name or _default_name(module_name, model_file),
            "task": {**describe_task(task, items), "test_fold": test_fold},
            "module": describe_module(module, embeddings.cost()),
            "probe": {
                "grid": grid,
                "configurations": len(GRIDS[grid]),
                "seeds": seeds,
                "device": device,
            },
            "reported": reported,
            "scores": describe_scores(results[reported].scores),
            "parts": {part: describe_part(result) for part, result in results.items()},
            "data": {
                "root": str(root),
                "digest": digest_experiment(items, digests),
                "check": report.as_dict(),
                "left_out": left_out,
            },
            "versions": versions(DISTRIBUTIONS),
            "date": now(),
            "duration_s": round(time.monotonic() - start, 1),
            "command": shlex.join(["python", "-m", "myna_plugin.recipes.probe", *sys.argv[1:]]),
        }
        draw_figures(out / FIGURES, task, items, vectors, module.parts[reported], results[reported])
        # Last, so that a folder with results in it is whole.
        write_json(out / FILE, content)
        text = describe_result(out)
        write_text(out / "results.md", text)
    except BAD_INPUT as error:
        message = error.format_message() if isinstance(error, BadInputError) else str(error)
        click.echo(f"Error: {message}", err=True)
        raise SystemExit(2) from error
    click.echo(text)
    click.echo(f"{out / FILE}: written, with {FIGURES}")


def open_cache(folder: Path, module: LoadedModule) -> EmbeddingCache:
    """The cache of a module's embeddings; damaged blocks are reported and embedded anew."""
    cache = EmbeddingCache(folder / folder_name(module.identity()), module.identity())
    for path in cache.damaged:
        click.echo(f"{path}: damaged; its clips are embedded again", err=True)
    return cache


def describe_result(out: Path) -> str:
    """The Markdown that stands beside a results file."""
    result = read_result(out)
    notes = [f"Test scores in percent; selected on validation by {result.primary}."]
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


if __name__ == "__main__":
    main()
