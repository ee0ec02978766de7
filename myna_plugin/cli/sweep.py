"""`myna sweep`: one setting varied, one run each, one table and figure."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from myna_plugin.cli.pretrain import open_probe
from myna_plugin.cli.recipe_files import RecipeFile
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.launch import launched_rank
from myna_plugin.common.options import FOLDER, PATH
from myna_plugin.pretraining.run.configuration import read_changes
from myna_plugin.pretraining.run.plan import check_store
from myna_plugin.pretraining.run.sweep import read_sweep, run_sweep
from myna_plugin.pretraining.store.reading import Store

EPILOG = """
Examples:

\b
  myna sweep mask_ratio --store store --out masks
  myna sweep batch_size --store store --out batches epochs=5
  myna sweep mask_ratio --store store --out masks \\
      'probe_tasks=[tasks/esc50, gtzan=data/gtzan]'

Exit status: 0 done or stopped by SIGTERM, 1 a run failed, 2 bad input, 130 stopped by Ctrl-C.
"""


@click.command("sweep", cls=ToldCommand, epilog=EPILOG)
@click.argument("plan", type=RecipeFile("sweeps"), metavar="SWEEP.yaml")
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--store", required=True, type=PATH, help="Made by `myna prepare`.")
@click.option("--out", required=True, type=FOLDER, help="Folder that receives the runs.")
def sweep(plan: Path, changes: tuple[str, ...], store: Path, out: Path) -> None:
    """Train once for every value that SWEEP.yaml lists, and compare the runs.

    SWEEP.yaml is a file, or a name that `myna recipes` lists.

    Each run has a folder of its own under OUT, and OUT/table.md, OUT/table.csv and OUT/figure.png
    are written after each. KEY=VALUE are settings of all runs. The same command goes on where it
    was interrupted: finished runs are kept, the unfinished one is resumed. With probe_tasks every
    finished run is scored on those tasks too (kept in its probe.json).
    """
    read = read_sweep(plan, read_changes(changes))
    opened = Store.open(store)
    for settings in read.runs.values():
        check_store(settings, opened)
    # One for all runs, which read_sweep makes name the same tasks.
    probe = None if launched_rank() else open_probe(next(iter(read.runs.values())))
    sys.exit(run_sweep(read, opened, out, probe))
