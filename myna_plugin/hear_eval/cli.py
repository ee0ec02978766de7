"""The `hear-eval` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from myna_plugin.common import provenance
from myna_plugin.common.errors import FAILED, InputError, ToldCommand, say
from myna_plugin.common.files import write_json
from myna_plugin.common.options import DEVICE, FILE, PATH, POSITIVE_INT, JsonObject
from myna_plugin.common.registry import GROUP, HearModel, describe_needs, list_models, resolve
from myna_plugin.hear_eval.device import device_environment, uses_cuda
from myna_plugin.hear_eval.evaluation import HearEvalRun, HearEvalSettings, evaluate
from myna_plugin.hear_eval.requirements import check_requirements
from myna_plugin.hear_eval.results import TaskResult, format_table
from myna_plugin.probing.tasks.hear_folder import ALL, find_tasks, read_folder

WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz", ".h5", ".pkl", ".onnx")
EPILOG = """
Examples:

\b
  hear-eval --module myna_plugin --demo --grid faster --grid-points 4
  hear-eval --module myna_plugin --tasks-dir tasks --results scores.json
  hear-eval --module myna_plugin --model weights.safetensors --task esc50
  hear-eval --module panns_hear --model-options '{"hop_ms": 25}' --device cpu
  hear-eval --list

Tasks come from https://hearbenchmark.com; unpack them into the tasks folder. A
task that lacks the model's sample rate is resampled once, into a folder beside the others.
A run that was stopped goes on where it was; what has changed since is made again.

Exit status: 0 if every task was scored, 1 if one failed, 2 for input that cannot be used,
130 after Ctrl-C, 143 after SIGTERM.
"""


def _print_models(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(format_models(list_models()))
        context.exit()


@click.command("hear-eval", cls=ToldCommand, epilog=EPILOG)
@click.option(
    "--module",
    metavar="NAME",
    required=True,
    help="HEAR module: an import path, or a name that --list shows.",
)
@click.option(
    "--model",
    metavar="FILE",
    help="Weights, for load_model; a file, a folder, or a name the module knows.",
)
@click.option(
    "--model-options",
    type=JsonObject(),
    default="{}",
    show_default=True,
    help="Further keyword arguments for load_model.",
)
@click.option("--tasks-dir", type=PATH, help="Folder of HEAR tasks.  [default: tasks]")
@click.option(
    "--task",
    "task_names",
    metavar="NAME",
    multiple=True,
    default=[ALL],
    show_default=True,
    help="Task to run, or all; may be repeated.",
)
@click.option(
    "--embeddings-dir",
    type=PATH,
    help="Folder for embeddings, logs and scores.  [default: embeddings]",
)
@click.option(
    "--grid",
    type=click.Choice(["default", "fast", "faster"]),
    default="default",
    show_default=True,
    help="heareval's grid of predictors.",
)
@click.option(
    "--grid-points",
    type=POSITIVE_INT,
    default=8,
    show_default=True,
    help="Points of the grid to try.",
)
@DEVICE
@click.option("--skip-predictions", is_flag=True, help="Stop after the embeddings.")
@click.option("--allow-silent", is_flag=True, help="Accept audio files that are all zeros.")
@click.option(
    "--results",
    type=FILE,
    metavar="FILE.json",
    help="Write the scores here too.  [default: results.json beside the embeddings]",
)
@click.option(
    "--demo",
    is_flag=True,
    help="Unpack the two demo tasks into --tasks-dir (then demo/tasks) and score them.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_models,
    help="Show the HEAR modules that installed packages register, and leave.",
)
@click.version_option(package_name="myna-plugin", prog_name="hear-eval")
def main(
    module: str,
    model: str | None,
    model_options: dict[str, Any],
    tasks_dir: Path | None,
    task_names: tuple[str, ...],
    embeddings_dir: Path | None,
    grid: str,
    grid_points: int,
    device: str,
    skip_predictions: bool,
    allow_silent: bool,
    results: Path | None,
    demo: bool,
) -> None:
    """Score a HEAR module on HEAR tasks with heareval.

    Embeds each task's audio with the module, trains heareval's predictors on the embeddings, and
    ends with a table of scores and the same as JSON.
    """
    sys.path.append(os.getcwd())  # a module in the current folder, as with `python -m`
    weights, named = parse_model(model)
    options = {**model_options, **named}
    environment = device_environment(device)
    check_requirements(uses_cuda(device))
    hear_model = resolve(module, list_models())
    root = Path("demo") if demo else Path()
    tasks_dir = (tasks_dir or root / "tasks").resolve()
    embeddings_dir = (embeddings_dir or root / "embeddings").resolve()
    check_output(embeddings_dir, tasks_dir, results)
    if demo:
        from myna_plugin.hear_eval.demo import unpack_demo_tasks

        tasks_dir = unpack_demo_tasks(tasks_dir)
    tasks = [read_folder(folder) for folder in find_tasks(tasks_dir, task_names)]
    settings = HearEvalSettings(
        module=hear_model.module,
        model=weights,
        model_options=options,
        embeddings_dir=embeddings_dir,
        grid=grid,
        grid_points=grid_points,
        environment=environment,
        allow_silent=allow_silent,
        skip_predictions=skip_predictions,
    )
    run, outcomes = evaluate(settings, tasks)
    asked = {
        **click.get_current_context().params,
        "tasks_dir": tasks_dir,
        "embeddings_dir": embeddings_dir,
        "model": weights or model,
        "model_options": options,
    }
    report(run, outcomes, hear_model, asked, results)
    wanted = "embedded" if skip_predictions else "scored"
    sys.exit(0 if all(outcome.status == wanted for outcome in outcomes) else FAILED)


def parse_model(model: str | None) -> tuple[Path | None, dict[str, Any]]:
    """Read `--model`: a file or folder, else a name that only the module knows.

    heareval takes existing paths alone, but `load_model` may take more (a model's name, an
    address); that goes in as the option `model_file_path`, its name in the HEAR API.

    Returns:
        The path, if it is one, and options for `load_model`.

    Raises:
        InputError: it looks like a path and there is nothing.

    >>> parse_model("hf://owner/name")
    (None, {'model_file_path': 'hf://owner/name'})
    """
    if model is None:
        return None, {}
    path = Path(model)
    if path.exists():
        return path.resolve(), {}
    looks_like_path = path.suffix.lower() in WEIGHT_SUFFIXES or len(path.parts) > 1
    if looks_like_path and "://" not in model:
        raise InputError(f"--model {model}: no such file; check the path")
    return None, {"model_file_path": model}


def check_output(embeddings_dir: Path, tasks_dir: Path, results: Path | None) -> None:
    """Refuse, before hours of work, places that results could not be written to.

    Raises:
        InputError: naming the place.
    """
    if embeddings_dir == tasks_dir or tasks_dir in embeddings_dir.parents:
        raise InputError(
            f"--embeddings-dir {embeddings_dir} lies in the tasks folder, where every folder is "
            "a task; choose one outside it"
        )
    for path in (embeddings_dir, *([results.resolve().parent] if results else [])):
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(f"{path}: cannot be written to; choose another folder")


def format_models(models: list[HearModel]) -> str:
    """What `--list` prints."""
    if not models:
        return f"No installed package registers a HEAR module (entry-point group {GROUP})."
    rows = [("name", "module", "distribution", "version")]
    rows += [(m.name, m.module, m.distribution or "-", m.version or "-") for m in models]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    notes = ["", *(f"cannot be used: {m.fault}" if m.fault else describe_needs(m) for m in models)]
    return "\n".join(
        "  ".join(
            [*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)), note]
        ).rstrip()
        for row, note in zip(rows, notes, strict=True)
    )


def report(
    run: HearEvalRun,
    outcomes: list[TaskResult],
    hear_model: HearModel,
    asked: dict[str, Any],
    results: Path | None,
) -> None:
    """Print the table and write the JSON."""
    document = {
        "date": provenance.now(),
        "module": {
            "name": hear_model.name,
            "import_path": hear_model.module,
            "distribution": hear_model.distribution,
            "version": hear_model.version,
            **run.facts,
        },
        "weights_sha256": run.weights,
        "settings": {key: _plain(value) for key, value in asked.items()},
        "versions": provenance.versions(),
        "tasks": [outcome.to_json() for outcome in outcomes],
    }
    paths = [run.folder / "results.json", *([results] if results else [])]
    for path in paths:
        write_json(path, document)
    click.echo(format_table(outcomes))
    for outcome in outcomes:
        if outcome.reason:
            say(f"hear-eval: {outcome.task} has no score. {outcome.reason} (log: {outcome.log})")
    say(f"Written to {paths[-1]}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
