"""`myna report`: probe results joined into one table and one page."""

from __future__ import annotations

from pathlib import Path

import click

from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.files import write_text
from myna_plugin.common.options import FILE, PATH
from myna_plugin.probing.report.joining import describe, name_apart, sort_by_task
from myna_plugin.probing.report.page import render_page
from myna_plugin.probing.report.results import read_result
from myna_plugin.probing.report.tables import REFERENCE, find_reference, markdown, with_legend

EPILOG = """
Examples:

\b
  myna report out/gtzan out/giantsteps --out report.html
  myna report out/*/results.json --against MERT-95M-public

RESULTS are results.json files of `myna probe`, or the folders that hold them. The table is printed
as Markdown; the page has it too, with every task's table and figures. It opens from disk without a
network. Takes seconds.
"""


@click.command("report", cls=ToldCommand, epilog=EPILOG)
@click.argument("results", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    type=FILE,
    default=Path("report.html"),
    show_default=True,
    help="HTML page to write.",
)
@click.option(
    "--against", default=REFERENCE, show_default=True, help="Published model to compare with."
)
def report(results: tuple[Path, ...], out: Path, against: str) -> None:
    """Join probe RESULTS of several models, tasks or runs into one table and one HTML page."""
    reference = find_reference(against)
    found = sort_by_task(name_apart([read_result(path) for path in results]))
    sections = describe(found, reference)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render_page("Probe results", sections))
    tables = "\n\n".join(markdown(table) for table in sections[0].tables)
    click.echo(with_legend(tables, sections[0].legend))
    click.echo(f"\n{out}: written")
