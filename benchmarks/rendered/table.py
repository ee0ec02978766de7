"""Probe models and baselines on the rendered tasks, and print one table.

\b
    python -m benchmarks.rendered.table out/rendered --weights myna.safetensors --out out/table
    python -m benchmarks.rendered.table out/rendered --weights mine=run/last.pt mae=run2/last.pt \\
        --baselines mel_statistics,chroma --device cuda --seeds 3 --out out/table

TASKS is a folder that `benchmarks.rendered.tasks` has made. Each model embeds the clips once; the
tasks share the embeddings. 216 heads are trained for each task and seed on the training split, the
one that is best on validation is scored on test. Of a hybrid model the square, the vertical and
both features are probed, and the one that is best on validation is the model's score.

--grid fast trains 32 heads and --grid linear 4: quicker by far, and a little lower.

OUT receives table.md, results.json with all seeds, and OUT/MODEL/TASK/results.json for each score;
scores that are there already are kept if nothing that they depend on has changed. --notes also runs
heareval on the notes task, which takes many minutes a model.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.rendered.contestants import (
    BASELINES,
    TEMPLATES,
    Contestant,
    choose_folders,
    load_contestant,
    parse_baselines,
    parse_weights,
)
from benchmarks.rendered.reading import TaskData, read_tasks
from benchmarks.rendered.rows import (
    NOTES_TASK,
    UNPROBED,
    table_rows,
)
from myna_plugin.cli.options import CACHE, MODEL_OPTIONS
from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.files import read_json, write_json, write_text
from myna_plugin.common.options import DEVICE, FOLDER, PATH, POSITIVE_INT, WORKERS
from myna_plugin.common.provenance import now, versions
from myna_plugin.probing.cache import EmbeddingCache, folder_name
from myna_plugin.probing.embeddings import embed_items
from myna_plugin.probing.heads import GRIDS as PROBE_GRIDS
from myna_plugin.probing.heads import HeadConfig, build_grid
from myna_plugin.probing.modules import ExperimentError, LoadedModule
from myna_plugin.probing.probes import probe_parts
from myna_plugin.probing.report.results import (
    DISTRIBUTIONS,
    FILE,
    FORMAT,
    describe_module,
    describe_part,
    describe_scores,
    describe_task,
)
from myna_plugin.probing.report.tables import markdown
from myna_plugin.probing.tasks import encode_targets
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.loading import describe_sizes
from myna_plugin.probing.tasks.metrics import score_outputs
from myna_plugin.probing.tasks.task import SPLITS
from myna_plugin.recipes.probe import UNFINISHED, cache_folder

LINEAR_GRID = build_grid(
    standardize=(True,),
    hidden_units=(0,),
    batch_size=(64,),
    learning_rate=(1e-3,),
    dropout=(0.25, 0.75),
    l2=(0.0, 1e-3),
)
"""Four linear heads: seconds on a CPU, for a quick look."""

GRIDS: dict[str, tuple[HeadConfig, ...]] = {**PROBE_GRIDS, "linear": LINEAR_GRID}

BATCH_SIZES = {"cpu": 16, "cuda": 256}
"""Clips embedded together."""

HEAR_EVAL = "import sys; from myna_plugin.hear_eval.cli import main; sys.exit(main())"

Scores = dict[str, dict[str, float | None]]
"""By metric, the mean over seeds and the deviation, None for one seed."""


def score_untrained(data: TaskData, vectors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Test scores of embeddings that are outputs of a head themselves, in the order of labels."""
    items = [item for item in data.items if item.split == "test"]
    outputs = np.concatenate([vectors[item.clip_id] for item in items])
    return score_outputs(data.task, outputs, encode_targets(data.task, items))


def score_contestant(
    contestant: Contestant,
    tasks: Sequence[TaskData],
    out: Path,
    *,
    grid: Sequence[HeadConfig],
    grid_name: str,
    seeds: int,
    device: str,
    workers: int,
    batch_size: int,
    cache: Path,
    command: str,
    progress: bool,
) -> dict[str, Path]:
    """Score a contestant on all tasks, but for what is there already.

    Args:
        contestant: what to score.
        tasks: on what.
        out: its folder.
        grid: configurations of the probe.
        grid_name: what the grid is called in the results.
        seeds: of the probe, from 0.
        device: where to embed and to train.
        workers: files to decode at a time.
        batch_size: clips to embed together.
        cache: folder of embeddings.
        command: for the record.
        progress: show progress bars.

    Returns:
        The results files by task.
    """
    module = load_contestant(contestant, device)
    for warning in module.warnings:
        click.echo(f"{contestant.name}: {warning}", err=True)
    embeddings = EmbeddingCache(cache / folder_name(module.identity()), module.identity())
    probe = {
        "grid": grid_name,
        "configurations": len(grid),
        "folds": 1,
        "seeds": seeds,
        "device": device,
    }
    paths = {}
    for data in tasks:
        start = time.monotonic()
        path = paths[data.task.name] = out / data.task.name / FILE
        if is_current(read_json(path, None), module, data, probe):
            click.echo(f"{contestant.name}, {data.task.name}: kept from {path}", err=True)
            continue
        vectors, _ = embed_items(
            data.items,
            module,
            embeddings,
            data.digests,
            workers=workers,
            batch_size=batch_size,
            progress=progress,
        )
        embedded_s = time.monotonic() - start
        reported, results = probe_parts(
            data.task,
            [data.items],
            vectors,
            module.parts,
            grid,
            seeds=seeds,
            device=device,
            progress=progress,
            records=path.parent / UNFINISHED,
        )
        is_template = contestant.module.endswith(f".{TEMPLATES}") and data.task.labels == KEYS
        duration_s = time.monotonic() - start
        content = {
            "format": FORMAT,
            "name": contestant.name,
            "task": {**describe_task(data.task, data.items), "test_folds": [0]},
            "module": describe_module(module, embeddings.cost()),
            "probe": probe,
            "reported": reported,
            "scores": describe_scores(results[reported].scores),
            "parts": {part: describe_part(result, [0]) for part, result in results.items()},
            UNPROBED: score_untrained(data, vectors) if is_template else None,
            "data": {"digest": data.digest, "left_out": {}},
            "versions": versions(DISTRIBUTIONS),
            "date": now(),
            "duration_s": round(duration_s, 1),
            "command": command,
        }
        write_json(path, content)
        if (path.parent / UNFINISHED).is_dir():
            shutil.rmtree(path.parent / UNFINISHED)
        click.echo(
            f"{contestant.name}, {data.task.name}: embedded in {embedded_s:.1f} s, "
            f"probed in {duration_s - embedded_s:.1f} s",
            err=True,
        )
    return paths


def is_current(
    content: Any, module: LoadedModule, data: TaskData, probe: Mapping[str, Any]
) -> bool:
    """Whether a results file is of this module, data and probe."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return False
    identity = module.identity()
    made_by = content["module"]
    return (
        {name: made_by.get(name) for name in identity} == identity
        and content["data"]["digest"] == data.digest
        and content["probe"] == dict(probe)
    )


def score_notes(
    contestant: Contestant, out: Path, device: str, tasks: Path, grid: str, points: int
) -> Scores:
    """Score timestamp embeddings on the notes task with heareval.

    Raises:
        ExperimentError: hear-eval failed; the message is its last line.
    """
    results = out / "hear-eval.json"
    command = [sys.executable, "-c", HEAR_EVAL, "--module", contestant.module]
    if contestant.model_file:
        command += ["--model", contestant.model_file]
    command += ["--model-options", json.dumps(dict(contestant.options)), "--device", device]
    command += ["--tasks-dir", str(tasks), "--task", NOTES_TASK, "--results", str(results)]
    command += ["--embeddings-dir", str(out / "hear-eval"), "--grid", grid]
    command += ["--grid-points", str(points)]
    # The baselines are found from the repository's root, as this program was.
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ExperimentError(f"{contestant.name}: hear-eval failed: {lines[-1]}")
    (task,) = json.loads(results.read_text(encoding="utf-8"))["tasks"]
    return {
        score["metric"]: {"mean": score["value"], "deviation": None} for score in task["scores"]
    }


def describe_table(
    results: Mapping[str, Mapping[str, Any]], tasks: Sequence[TaskData], grid: str, seeds: int
) -> str:
    """The Markdown of a table, with what it is of."""
    sizes = "; ".join(f"{data.task.name}: {describe_sizes(data.items)}" for data in tasks)
    return (
        "# Rendered benchmark\n\n"
        f"Test scores, mean ± deviation over {seeds} seed{'s' * (seeds > 1)} of the probe, "
        f"{grid} grid ({len(GRIDS[grid])} heads). Chosen on validation: the head, and of a model "
        "with several patchings the part (*). "
        f"{sizes}.\n\n{markdown(table_rows(results))}\n"
    )


def read_results(paths: Mapping[str, Path]) -> dict[str, Any]:
    """Contents of results files by task, without the scores of every head."""
    contents = {}
    for task, path in paths.items():
        content = json.loads(path.read_text(encoding="utf-8"))
        for part in content["parts"].values():
            for run in part["runs"]:
                del run["heads"]
        contents[task] = content
    return contents


@click.command("benchmarks.rendered.table", cls=ToldCommand, help=__doc__)
@click.argument("tasks", type=PATH)
@click.option("--out", required=True, type=FOLDER, help="Results folder.")
@click.option("--weights", multiple=True, help="FILE or NAME=FILE; may be repeated.")
@click.option("--module", default="myna_plugin", show_default=True, help="HEAR module of weights.")
@MODEL_OPTIONS
@click.option(
    "--baselines",
    default="all",
    show_default=True,
    help=f"all, none, or some of {','.join(BASELINES)}.",
)
@click.option("--grid", type=click.Choice(list(GRIDS)), default="full", show_default=True)
@click.option("--seeds", type=POSITIVE_INT, default=3, show_default=True)
@DEVICE
@WORKERS
@click.option(
    "--batch-size",
    type=POSITIVE_INT,
    help="Clips to embed together. Default: 16 on a CPU, 256 on CUDA.",
)
@click.option("--notes", is_flag=True, help="Score the notes task with heareval, too.")
@click.option(
    "--notes-grid",
    type=click.Choice(["default", "fast", "faster"]),
    default="faster",
    show_default=True,
    help="heareval's grid of predictors.",
)
@click.option("--notes-grid-points", type=POSITIVE_INT, default=2, show_default=True)
@CACHE
def main(
    tasks: Path,
    out: Path,
    weights: tuple[str, ...],
    module: str,
    model_options: dict[str, Any],
    baselines: str,
    grid: str,
    seeds: int,
    device: str,
    workers: int | None,
    batch_size: int | None,
    notes: bool,
    notes_grid: str,
    notes_grid_points: int,
    cache: Path | None,
) -> None:
    command = shlex.join(["python", "-m", "benchmarks.rendered.table", *sys.argv[1:]])
    device = choose_device(device)
    contestants = [parse_weights(text, module, model_options) for text in weights]
    contestants += parse_baselines(baselines)
    if not contestants:
        raise ExperimentError("nothing to score: give --weights or --baselines")
    workers, progress = workers or available_cores(), sys.stderr.isatty()
    text = make_table(
        contestants,
        read_tasks(tasks, workers, progress),
        out,
        grid=grid,
        seeds=seeds,
        device=device,
        workers=workers,
        batch_size=batch_size or BATCH_SIZES[device.partition(":")[0]],
        cache=cache or cache_folder() / "rendered",
        notes=(tasks, notes_grid, notes_grid_points) if notes else None,
        command=command,
        progress=progress,
    )
    click.echo(text)


def make_table(
    contestants: Sequence[Contestant],
    tasks: Sequence[TaskData],
    out: Path,
    *,
    grid: str,
    seeds: int,
    device: str,
    workers: int,
    batch_size: int,
    cache: Path,
    notes: tuple[Path, str, int] | None = None,
    command: str = "",
    progress: bool = False,
) -> str:
    """Score contestants on tasks and write table and results.

    Args:
        contestants: in the order of the table.
        tasks: from `read_tasks`.
        out: where results go.
        grid: a name in `GRIDS`.
        seeds: of the probe, from 0.
        device: where to embed and to train.
        workers: files to decode at a time.
        batch_size: clips to embed together.
        cache: folder of embeddings.
        notes: to score the notes task, the folder it is in, heareval's grid and its points.
        command: for the record.
        progress: show progress bars.

    Returns:
        The Markdown.
    """
    folders = choose_folders(contestants, out)
    results: dict[str, dict[str, Any]] = {}
    for contestant, folder in zip(contestants, folders, strict=True):
        paths = score_contestant(
            contestant,
            tasks,
            folder,
            grid=GRIDS[grid],
            grid_name=grid,
            seeds=seeds,
            device=device,
            workers=workers,
            batch_size=batch_size,
            cache=cache,
            command=command,
            progress=progress,
        )
        results[contestant.name] = read_results(paths)
        if notes is not None and not contestant.module.endswith(f".{TEMPLATES}"):
            scores = score_notes(contestant, folder, device, *notes)
            results[contestant.name][NOTES_TASK] = {"scores": scores}
        # After each model, so that a run that is stopped leaves a table of what it did.
        text = describe_table(results, tasks, grid, seeds)
        write_json(
            out / "results.json",
            {"command": command, "date": now(), "splits": list(SPLITS), "models": results},
        )
        write_text(out / "table.md", text)
    return text


if __name__ == "__main__":
    main()
