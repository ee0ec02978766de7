"""`myna export-task`: a probe task for another runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from myna_plugin.cli.task_options import ALLOW_MISSING, LAYOUT, METADATA, ROOT, SPLIT_FILE, TASK
from myna_plugin.common.cores import available_cores
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.options import FOLDER, POSITIVE_INT, WORKERS, JsonObject
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.probing.tasks import (
    Layout,
    check,
    hear_format,
    load_folds,
    marble,
    usable_items,
)
from myna_plugin.probing.tasks.export import export_hear, export_marble, note_on
from myna_plugin.probing.tasks.hear_format import by_fold
from myna_plugin.probing.tasks.loading import describe_sizes

REFUSE = {"hear": hear_format.prediction_type, "marble": marble.layout_of}
"""What raises for a task that a runner cannot express, before any file is looked at."""

EPILOG = """
Examples:

\b
  myna export-task --task gtzan --root data/gtzan --to hear tasks
  hear-eval --module myna_plugin --tasks-dir tasks --task gtzan

\b
  myna export-task --task giantsteps --root data/giantsteps --to marble data/GS
  python cli.py fit --config data/GS/probe.Myna.GS.yaml     # in a checkout of MARBLE

HEAR: the task folder OUT/TASK, with audio at one sample rate; run again with another --sample-rate
to add one. MARBLE: OUT/*.jsonl, and a configuration to run. Audio that already is what the runner
needs is linked; the rest is decoded and written as 16-bit WAV (about 1 MB for 30 seconds at
16 kHz). An interrupted export goes on where it stopped.
"""


@click.command("export-task", cls=ToldCommand, epilog=EPILOG)
@click.argument("out", type=FOLDER)
@TASK
@ROOT
@click.option(
    "--to", "runner", required=True, type=click.Choice(list(REFUSE)), help="Whose format."
)
@LAYOUT
@METADATA
@SPLIT_FILE
@click.option(
    "--sample-rate",
    type=POSITIVE_INT,
    help=f"Hz.  [default: {SAMPLE_RATE} for hear, the files' own for marble]",
)
@ALLOW_MISSING
@WORKERS
@click.option(
    "--encoder",
    default="myna_plugin.adapters.marble.MynaEncoder",
    show_default=True,
    help="MARBLE: class of the encoder.",
)
@click.option(
    "--encoder-options",
    type=JsonObject(),
    default="{}",
    show_default=True,
    help="MARBLE: its arguments.",
)
@click.option(
    "--embed-dim",
    type=POSITIVE_INT,
    default=768,
    show_default=True,
    help="MARBLE: its embedding width.",
)
def export_task(
    out: Path,
    task_name: str,
    root: Path,
    runner: str,
    layout: Layout,
    metadata: Path | None,
    split_file: Path | None,
    sample_rate: int | None,
    allow_missing: bool,
    workers: int | None,
    encoder: str,
    encoder_options: dict[str, Any],
    embed_dim: int,
) -> None:
    """Write a probe task for hear-eval or MARBLE, from the same files and splits as `myna probe`'s.

    OUT is the folder that receives it.
    """
    task, folds = load_folds(task_name, root, layout, metadata, split_file)
    REFUSE[runner](task)
    workers = workers or available_cores()
    report = check(task, folds[0], workers, progress=True)  # every fold has all clips
    click.echo(report.text())
    items = by_fold(
        {fold: usable_items(task, own, report, allow_missing) for fold, own in folds.items()}
    )
    if runner == "hear":
        made = export_hear(task, items, out, sample_rate or SAMPLE_RATE, workers)
        click.echo(note_on(task), nl=False)
    else:
        settings = {"class_path": encoder, "init_args": encoder_options, "embed_dim": embed_dim}
        made = export_marble(task, items, out, sample_rate, workers, settings)
    click.echo(f"{made}: {describe_sizes(items)}")
