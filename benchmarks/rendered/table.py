"""Probe models and baselines on the rendered tasks, and print one table.

\b
    python -m benchmarks.rendered.table out/rendered --weights myna.safetensors --out out/table
    python -m benchmarks.rendered.table out/rendered --weights mine=run/final.safetensors \\
        --weights mae=run2/final.safetensors --baselines mel-statistics,chroma --device cuda \\
        --seeds 3 --out out/table

TASKS is a folder that `benchmarks.rendered.tasks` has made. Each model embeds the clips once; the
tasks share the embeddings. 216 heads are trained for each task and seed on the training split, the
one that is best on validation is scored on test. Of a hybrid model the square, the vertical and
both features are probed, and the one that is best on validation is the model's score.

--grid fast fits linear heads to the end: quicker by far; it has nothing random, so say --seeds 1.

OUT receives table.md, results.json with all seeds, and OUT/MODEL/TASK/results.json for each score;
scores that are there already are kept if nothing that they depend on has changed. --notes also runs
heareval on the notes task, which takes many minutes a model.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.contestants import (
    MODULE,
    TEMPLATES,
    WEIGHTS,
    Contestant,
    baselines_option,
    choose_folders,
    load_contestant,
    parse_baselines,
    parse_weights,
)
from benchmarks.rendered.reading import read_tasks
from benchmarks.rendered.rows import (
    NOTES_TASK,
    UNPROBED,
    table_rows,
)
from myna_plugin.cli.options import CACHE, MODEL_OPTIONS
from myna_plugin.cli.task_options import PATIENCE_OPTION
from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.files import read_json, write_json, write_text
from myna_plugin.common.options import DEVICE, FOLDER, PATH, POSITIVE_INT, WORKERS
from myna_plugin.common.provenance import now
from myna_plugin.probing.embeddings import Handling, cache_folder, open_cache
from myna_plugin.probing.experiment import FILE, Protocol, is_current, run, write_results
from myna_plugin.probing.heads import GRIDS
from myna_plugin.probing.modules import ExperimentError
from myna_plugin.probing.report.tables import markdown
from myna_plugin.probing.tasks import encode_targets
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.loading import describe_sizes
from myna_plugin.probing.tasks.metrics import score_outputs
from myna_plugin.probing.tasks.task import SPLITS
from myna_plugin.probing.tasks.task_data import TaskData

BATCH_SIZES = {"cpu": 16, "mps": 16, "cuda": 256}
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
    protocol: Protocol,
    *,
    cache: Path,
    command: str,
    handling: Handling,
) -> dict[str, Path]:
    """Score a contestant on all tasks, but for what is there already.

    Args:
        contestant: what to score.
        tasks: on what.
        out: its folder.
        protocol: how heads are selected; its device embeds, too.
        cache: folder of embeddings.
        command: for the record.
        handling: how clips are embedded.

    Returns:
        The results files by task.
    """
    module = load_contestant(contestant, protocol.device)
    for warning in module.warnings:
        click.echo(f"{contestant.name}: {warning}", err=True)
    embeddings = open_cache(cache, module)
    paths = {}
    for data in tasks:
        path = paths[data.task.name] = out / data.task.name / FILE
        if is_current(read_json(path, None), data, module, protocol):
            click.echo(f"{contestant.name}, {data.task.name}: kept from {path}", err=True)
            continue
        began = time.monotonic()
        experiment = run(data, module, embeddings, protocol, handling, out=path.parent)
        content = experiment.describe(contestant.name, command, began)
        is_template = contestant.module.endswith(f".{TEMPLATES}") and data.task.labels == KEYS
        vectors = experiment.probed.vectors
        content[UNPROBED] = score_untrained(data, vectors) if is_template else None
        write_results(path.parent, content)
        click.echo(
            f"{contestant.name}, {data.task.name}: embedded in {experiment.embedded_s:.1f} s, "
            f"probed in {time.monotonic() - began - experiment.embedded_s:.1f} s",
            err=True,
        )
    return paths


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
    path = os.pathsep.join(filter(None, sys.path))
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
    results: Mapping[str, Mapping[str, Any]], tasks: Sequence[TaskData], protocol: Protocol
) -> str:
    """The Markdown of a table, with what it is of."""
    grid, seeds = protocol.grid, protocol.seeds
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
            for one in part["runs"]:
                del one["heads"]
        contents[task] = content
    return contents


@click.command("benchmarks.rendered.table", cls=ToldCommand, help=__doc__)
@click.argument("tasks", type=PATH)
@click.option("--out", required=True, type=FOLDER, help="Results folder.")
@WEIGHTS
@MODULE
@MODEL_OPTIONS
@baselines_option("all")
@click.option("--grid", type=click.Choice(list(GRIDS)), default="full", show_default=True)
@click.option("--seeds", type=POSITIVE_INT, default=3, show_default=True)
@PATIENCE_OPTION
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
    patience: int,
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
    workers = workers or available_cores()
    text = make_table(
        contestants,
        read_tasks(tasks, workers, progress=True),
        out,
        Protocol(grid, seeds, device, patience),
        workers=workers,
        batch_size=batch_size or BATCH_SIZES[device.partition(":")[0]],
        cache=cache or cache_folder() / "rendered",
        notes=(tasks, notes_grid, notes_grid_points) if notes else None,
        command=command,
        progress=True,
    )
    click.echo(text)


def make_table(
    contestants: Sequence[Contestant],
    tasks: Sequence[TaskData],
    out: Path,
    protocol: Protocol,
    *,
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
        protocol: how heads are selected; its device embeds, too.
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
            protocol,
            cache=cache,
            command=command,
            handling=Handling(batch_size, workers, progress=progress),
        )
        results[contestant.name] = read_results(paths)
        if notes is not None and not contestant.module.endswith(f".{TEMPLATES}"):
            scores = score_notes(contestant, folder, protocol.device, *notes)
            results[contestant.name][NOTES_TASK] = {"scores": scores}
        # After each model, so that a run that is stopped leaves a table of what it did.
        text = describe_table(results, tasks, protocol)
        write_json(
            out / "results.json",
            {"command": command, "date": now(), "splits": list(SPLITS), "models": results},
        )
        write_text(out / "table.md", text)
    return text


if __name__ == "__main__":
    main()
