"""`myna table1`: the paper's table of comparisons, measured on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from myna_plugin.cli.options import CACHE
from myna_plugin.cli.task_options import ALLOW_MISSING, BATCH_SIZE, GRID, make_means
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import FAILED, ToldCommand, say
from myna_plugin.common.files import check_disk, write_text
from myna_plugin.common.options import DEVICE, FOLDER, PATH, WORKERS
from myna_plugin.probing.experiment import Protocol, writing
from myna_plugin.probing.report.page import render_page
from myna_plugin.probing.report.side_by_side import Measured, describe
from myna_plugin.probing.report.tables import markdown, with_legend
from myna_plugin.probing.table1 import (
    TABLE_TASKS,
    Row,
    check_entrants,
    find_sources,
    list_entrants,
    measure,
    parse_entrants,
    parse_tasks,
)

PAGE, TABLE = "table1.html", "table1.md"

EPILOG = """
Examples:

\b
  myna table1 --data data --out out/table1
  myna table1 --data data --out out/look --tasks gtzan,giantsteps --grid fast
  myna table1 --data data --out out/mine --modules myna,myna=runs/mine/model.safetensors,mfcc
  myna table1 --data data --out out/clmr --modules clmr=clmr_checkpoint_10000.pt,mert-95m

DATA/magnatagatune, DATA/gtzan, DATA/giantsteps and DATA/emomusic are as `myna probe --root` takes
them; a folder of MARBLE's with all of them is taken too. Without --modules those stand in the table
that `hear-eval --list` shows, and the published checkpoints that are here. Nothing is downloaded:
`hf download OWNER/NAME` fetches weights, and a module that lacks some has a row that says so.

OUT/MODULE/TASK is what `myna probe` writes, for `myna report`. Look with --grid fast first: the
full grid is 216 heads a task. Whatever was computed is kept, and the same command goes on.

Exit status: 0 done, 1 some module of --modules could not be scored (its row says why), 2 bad input,
130 stopped by Ctrl-C, 143 by SIGTERM.
"""


@click.command("table1", cls=ToldCommand, epilog=EPILOG)
@click.option("--data", required=True, type=PATH, help="Folder with a folder for each task.")
@click.option("--out", required=True, type=FOLDER, help="Folder for the results.")
@click.option(
    "--modules",
    metavar="NAME[=WEIGHTS],…",
    help="HEAR modules to score.  [default: all that are registered and can be loaded]",
)
@click.option(
    "--tasks",
    metavar="TASK,…",
    default=",".join(TABLE_TASKS),
    show_default=True,
    help="Tasks to score on.",
)
@GRID
@ALLOW_MISSING
@DEVICE
@WORKERS
@BATCH_SIZE
@CACHE
def table1(
    data: Path,
    out: Path,
    modules: str | None,
    tasks: str,
    grid: str,
    allow_missing: bool,
    device: str,
    workers: int | None,
    batch_size: int | None,
    cache: Path | None,
) -> None:
    """Score HEAR modules on the tasks of the paper's Table 1, and print them beside its rows.

    Every module is scored on every task as `myna probe` does it. OUT receives table1.md,
    table1.html (the table and the paper's Figure 1; opens without a network), brought up to date
    after each module, and a folder of results for each module and task.
    """
    check_disk(out, 0)
    protocol = Protocol(grid, device=choose_device(device))
    means = make_means("table1", protocol, cache, batch_size, workers, allow_missing)
    names = parse_tasks(tasks)
    if modules is None:
        entrants = list_entrants()
    else:
        entrants = parse_entrants(modules)
        check_entrants(entrants)
    sources = find_sources(data, names, means.handling)
    for source in sources:
        say(source.report.text())
    table = ""
    rows: list[Row] = []
    with writing(out):
        for rows in measure(entrants, sources, means, out, say):
            table = write_table(rows, names, out)
    click.echo(table)
    click.echo(f"{out / PAGE}: written")
    if modules is not None and any(row.faults for row in rows):
        sys.exit(FAILED)


def write_table(rows: list[Row], tasks: list[str], out: Path) -> str:
    """Write the page and the table; the Markdown of the table and its legend."""
    measured = [Measured(r.entrant.name, r.entrant.published, r.results, r.faults) for r in rows]
    sections = describe(measured, tasks)
    text = with_legend(markdown(sections[0].tables[0]), sections[0].legend)
    paragraphs = "\n\n".join(sections[0].paragraphs)
    write_text(out / TABLE, f"# Table 1\n\n{paragraphs}\n\n{text}\n")
    write_text(out / PAGE, render_page("The paper's Table 1, measured", sections))
    return text
