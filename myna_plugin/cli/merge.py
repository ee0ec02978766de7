"""`myna merge`: the shards of a library become one file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from myna_plugin.cli.embed import tell
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.options import FILE
from myna_plugin.library.building import Outcome
from myna_plugin.library.parts import Parts

EPILOG = """
Examples:

\b
  myna embed music --out library.parquet --shard 1/2
  myna embed music --out library.parquet --shard 2/2
  myna merge library.parquet

Where the machines share no disk, copy all that is in their library.parquet.parts folders into one
such folder first: their files have different names. The music must have the same paths, sizes and
times on all of them.
"""


@click.command("merge", cls=ToldCommand, epilog=EPILOG)
@click.argument("library", type=FILE)
def merge(library: Path) -> None:
    """Join what `myna embed --out LIBRARY --shard i/n` has made, once all n are done.

    The rows are those that one machine would have written, in the same order.
    """
    merged = Parts(library).merge()
    sys.exit(tell(library, Outcome(*merged, merged.n_rows + len(merged.failed))))
