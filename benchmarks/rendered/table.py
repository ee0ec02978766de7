"""Probe models and baselines on the rendered tasks, and print one table.

\b
    python -m benchmarks.rendered.table out/rendered --weights myna.safetensors --out out/table
    python -m benchmarks.rendered.table out/rendered --weights mine=run/last.pt mae=run2/last.pt \\
        --baselines mel_statistics,chroma --device cuda --seeds 3 --out out/table

TASKS is a folder that `benchmarks.rendered.tasks` has made. Each model embeds the clips once; the
tasks share the embeddings. 216 heads are trained for each task and seed on the training split, the
one that is best on validation is scored on test. Of a hybrid model the square, the vertical and
both features are probed, and the one that is best on validation is the model's score.

--grid fast trains 32 heads, linear 16 and four 4: quicker by far, and a little lower.

OUT receives table.md, results.json with all seeds, and OUT/MODEL/TASK/results.json for each score;
scores that are there already are kept if nothing that they depend on has changed. --notes also runs
heareval on the notes task, which takes many minutes a model.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from myna_plugin.cli.options import CACHE, MODEL_OPTIONS
from myna_plugin.cli.task_options import PATIENCE_OPTION
from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.files import digest_path, read_json, write_json, write_text
from myna_plugin.common.options import DEVICE, FOLDER, PATH, POSITIVE_INT, WORKERS
from myna_plugin.common.provenance import now
from myna_plugin.model.audio import AudioError
from myna_plugin.probing.embeddings import cache_folder, open_cache
from myna_plugin.probing.experiment import FILE, Protocol, is_current, run, write_results
from myna_plugin.probing.heads import GRIDS
from myna_plugin.probing.modules import ExperimentError, LoadedModule, load_module
from myna_plugin.probing.report.tables import Rows, markdown
from myna_plugin.probing.tasks import HEAR, Item, TaskError, encode_targets, load_task
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.loading import describe_sizes
from myna_plugin.probing.tasks.metrics import score_outputs
from myna_plugin.probing.tasks.task import SPLITS
from myna_plugin.probing.tasks.task_data import TaskData, digest_audio

BASELINE_FOLDER = Path(__file__).parent / "baselines"

BASELINES = ("mel_statistics", "chroma", "krumhansl", "random_vit")

TEMPLATES = "krumhansl"
"""The baseline whose embedding is the key's scores: the key task needs no probe."""

UNPROBED = "untrained"
"""Name of the part whose embedding is taken for the head's outputs."""

KEY_TASK, STYLE_TASK, TAGS_TASK = "rendered_key", "rendered_style", "rendered_instruments"

SCENE_TASKS = (KEY_TASK, STYLE_TASK, TAGS_TASK)

NOTES_TASK = "rendered_notes"

KEY_METRICS = ("weighted_key_score", "weighted_key_score_both_fifths", "accuracy")
"""HEAR has no score for keys beyond accuracy; here selection goes by the weighted one."""

COLUMNS: dict[tuple[str, str], str] = {
    (KEY_TASK, "weighted_key_score"): "key, weighted",
    (KEY_TASK, "accuracy"): "key, accuracy",
    (STYLE_TASK, "accuracy"): "style, accuracy",
    (TAGS_TASK, "roc_auc_macro"): "instruments, AUC",
    (TAGS_TASK, "average_precision_macro"): "instruments, AP",
    (NOTES_TASK, "event_onset_50ms_fms"): "notes, onset F",
}
"""Task and metric of each column."""

GOALS: dict[tuple[str, str], float] = {
    (KEY_TASK, "weighted_key_score"): 0.78,
    (STYLE_TASK, "accuracy"): 0.60,
    (TAGS_TASK, "roc_auc_macro"): 0.98,
    (TAGS_TASK, "average_precision_macro"): 0.94,
}
"""What the shipped weights are meant to reach."""

BATCH_SIZES = {"cpu": 16, "cuda": 256}
"""Clips embedded together."""

HEAR_EVAL = "import sys; from myna_plugin.hear_eval.cli import main; sys.exit(main())"

Scores = dict[str, dict[str, float | None]]
"""By metric, the mean over seeds and the deviation, None for one seed."""


@dataclass(frozen=True)
class Contestant:
    """A model or baseline of the table.

    Attributes:
        name: of its rows.
        module: HEAR module.
        model_file: weights; "" for none or the module's own.
        options: keyword arguments of `load_model`.
    """

    name: str
    module: str
    model_file: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether it is one of ours that learns nothing."""
        return self.module.startswith("benchmarks.")


def baseline(name: str) -> Contestant:
    """A baseline by its name.

    Raises:
        ExperimentError: there is none of that name.
    """
    if name not in BASELINES:
        raise ExperimentError(f"--baselines {name}: there are {', '.join(BASELINES)}")
    return Contestant(name.replace("_", " "), f"benchmarks.rendered.baselines.{name}")


def parse_baselines(text: str) -> list[Contestant]:
    """Baselines of "all", "none" or names joined by commas.

    >>> [contestant.name for contestant in parse_baselines("chroma,random_vit")]
    ['chroma', 'random vit']
    """
    names = {"all": list(BASELINES), "none": []}.get(text, [n for n in text.split(",") if n])
    return [baseline(name) for name in names]


def parse_weights(text: str, module: str, options: Mapping[str, Any]) -> Contestant:
    """A model of "FILE" or "NAME=FILE", where FILE is anything that `load_model` takes.

    Raises:
        ExperimentError: something that looks like a file and is not there.

    >>> parse_weights("ours=hf://owner/myna", "myna_plugin", {}).name
    'ours'
    """
    name, named, file = text.rpartition("=")
    if ("/" in file or "." in file) and "://" not in file and not Path(file).is_file():
        raise ExperimentError(f"--weights {file}: no such file")
    return Contestant(name if named else Path(file).stem or module, module, file, options)


def read_tasks(folder: Path, workers: int, progress: bool) -> list[TaskData]:
    """The scene tasks of a folder, each audio file read once for its digest.

    Raises:
        TaskError: there is none, or one is damaged.
        AudioError: an audio file cannot be read.
    """
    found = [name for name in SCENE_TASKS if (folder / name).is_dir()]
    if not found:
        raise TaskError(
            f"{folder}: none of {', '.join(SCENE_TASKS)} is there; "
            "make them with python -m benchmarks.rendered.tasks"
        )
    loaded = [load_task(HEAR, folder / name) for name in found]
    paths: dict[tuple[int, int], Path] = {}
    read = []
    for task, items in loaded:
        if task.labels == KEYS:
            task = replace(task, metrics=KEY_METRICS, primary=KEY_METRICS[0])
        read.append((task, [share_path(item, paths) for item in items]))
    digests, unreadable = digest_audio(
        [item for _, items in read for item in items], workers, progress=progress
    )
    if unreadable:
        raise AudioError(next(iter(unreadable.values())))
    return [TaskData(task, {0: items}, digests) for task, items in read]


def share_path(item: Item, paths: dict[tuple[int, int], Path]) -> Item:
    """The item with the first path that its file was met under: tasks link the same files.

    Args:
        item: a clip.
        paths: first path by device and inode; added to.

    Raises:
        TaskError: the file is missing.
    """
    try:
        status = os.stat(item.path)
    except OSError as error:
        raise TaskError(f"{item.path}: cannot be read ({error.strerror})") from error
    return replace(item, path=paths.setdefault((status.st_dev, status.st_ino), item.path))


def load_contestant(contestant: Contestant, device: str) -> LoadedModule:
    """The module of a contestant, told apart from earlier versions by all that it may depend on."""
    module = load_module(
        contestant.module, contestant.model_file, contestant.options, device=device
    )
    # The baselines build on one another.
    return replace(module, code=digest_path(BASELINE_FOLDER)) if contestant.is_baseline else module


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
    **options: Any,
) -> dict[str, Path]:
    """Score a contestant on all tasks, but for what is there already.

    Args:
        contestant: what to score.
        tasks: on what.
        out: its folder.
        protocol: how heads are selected; its device embeds, too.
        cache: folder of embeddings.
        command: for the record.
        options: see `experiment.run`.

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
        experiment = run(data, module, embeddings, protocol, out=path.parent, **options)
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


def table_rows(results: Mapping[str, Mapping[str, Any]]) -> Rows:
    """The table: for each model the part chosen on validation, then every part, then the goals.

    Args:
        results: contents of results files, by name of the contestant, then task.
    """
    columns = [key for key in COLUMNS if any(key[0] in tasks for tasks in results.values())]
    rows = [["embedding", *(COLUMNS[key] for key in columns)]]
    for name, tasks in results.items():
        rows.append([name, *(format_reported(tasks.get(task), metric) for task, metric in columns)])
        for part in parts_of(tasks):
            cells = [format_part(tasks.get(task), part, metric) for task, metric in columns]
            rows.append([f"… {part}", *cells])
    rows.append(["goal", *(f"{GOALS[key]:.2f}" if key in GOALS else "" for key in columns)])
    return rows


def parts_of(tasks: Mapping[str, Any]) -> list[str]:
    """Parts that have rows of their own: where there are several, and what is not probed."""
    names: list[str] = []
    for content in tasks.values():
        parts = content.get("parts", {})
        names += [*parts] if len(parts) > 1 else []
        names += [UNPROBED] if content.get(UNPROBED) else []
    return list(dict.fromkeys(names))


def format_reported(content: Mapping[str, Any] | None, metric: str) -> str:
    """The score of the part that was best on validation; "" where there is none."""
    if content is None:
        return ""
    score = content["scores"].get(metric)
    return format_score(score) if score else ""


def format_part(content: Mapping[str, Any] | None, part: str, metric: str) -> str:
    """The score of one part; the part chosen on validation has a star."""
    if content is None:
        return ""
    if part == UNPROBED:
        untrained = content.get(UNPROBED) or {}
        return f"{untrained[metric]:.3f}" if metric in untrained else ""
    if part not in content.get("parts", {}):
        return ""
    score = content["parts"][part]["scores"].get(metric)
    chosen = " *" if part == content["reported"] else ""
    return f"{format_score(score)}{chosen}" if score else ""


def format_score(score: Mapping[str, float | None]) -> str:
    """Mean and deviation over seeds.

    >>> format_score({"mean": 0.7834, "deviation": 0.0042}), format_score({"mean": None})
    ('0.783 ± 0.004', 'nan')
    """
    mean, deviation = score["mean"], score.get("deviation")
    if mean is None:
        return "nan"
    return f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


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


def choose_folders(contestants: Sequence[Contestant], out: Path) -> list[Path]:
    """Folder of each contestant.

    Raises:
        ExperimentError: two have one name.
    """
    folders = [out / re.sub(r"[^\w.-]", "_", contestant.name) for contestant in contestants]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            raise ExperimentError(
                f"two models are called {contestants[place].name!r}: use --weights NAME=FILE"
            )
    return folders


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
    workers, progress = workers or available_cores(), sys.stderr.isatty()
    text = make_table(
        contestants,
        read_tasks(tasks, workers, progress),
        out,
        Protocol(grid, seeds, device, patience),
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
            workers=workers,
            batch_size=batch_size,
            progress=progress,
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
