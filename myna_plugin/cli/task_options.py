"""What the commands that read a probe task share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
import torch

from myna_plugin.common.cores import available_cores
from myna_plugin.common.options import FILE, PATH, POSITIVE_INT
from myna_plugin.probing.embeddings import BATCH_SIZES, Handling, cache_folder
from myna_plugin.probing.experiment import Protocol
from myna_plugin.probing.heads import GRIDS, PATIENCE
from myna_plugin.probing.scoring import Means
from myna_plugin.probing.tasks import HEAR, LAYOUTS, TASKS

TASK = click.option(
    "--task", "task_name", required=True, metavar="TASK", help=f"{', '.join((*TASKS, HEAR))}."
)
ROOT = click.option("--root", required=True, type=PATH, help="Data folder.")
LAYOUT = click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="auto",
    show_default=True,
    help="How the data lie in --root.",
)
METADATA = click.option("--metadata", type=FILE, help="JukeMIR's metadata file.")
SPLIT_FILE = click.option("--split-file", type=FILE, help="Splits to use, as JSON.")
ALLOW_MISSING = click.option(
    "--allow-missing", is_flag=True, help="Go on with what there is of the data set."
)
GRID = click.option(
    "--grid",
    type=click.Choice(list(GRIDS)),
    default="full",
    show_default=True,
    help="Heads to choose from: the paper's 216 (full); or linear ones in closed form or by L-BFGS,"
    " for a quick look of seconds, not comparable with the paper (fast).",
)
BATCH_SIZE = click.option(
    "--batch-size",
    type=POSITIVE_INT,
    help="Clips of one length to embed together.  [default: 8 on a CPU, 32 on CUDA]",
)
PATIENCE_OPTION = click.option(
    "--patience",
    type=POSITIVE_INT,
    default=PATIENCE,
    show_default=True,
    help="Evaluations without a new best after which a head of the full grid stops.",
)


def make_means(
    command: str,
    protocol: Protocol,
    cache: Path | None,
    batch_size: int | None,
    workers: int | None,
    allow_missing: bool,
) -> Means:
    """Means to score with, and for what the options leave open what suits this machine."""
    return Means(
        protocol,
        cache or cache_folder(),
        Handling(
            batch_size or BATCH_SIZES[torch.device(protocol.device).type],
            workers or available_cores(),
            allow_missing,
            progress=True,
        ),
        command=typed_command(command),
    )


def typed_command(name: str) -> str:
    """The running sub-command of `myna` as it was typed, for a results file."""
    # As a sub-command its own name comes first.
    arguments = sys.argv[2 if click.get_current_context().parent else 1 :]
    return shlex.join(["myna", name, *arguments])
