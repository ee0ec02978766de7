"""`myna plot`: a library as a picture."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from myna_plugin.common.errors import ToldCommand, say
from myna_plugin.common.files import check_disk
from myna_plugin.common.options import FILE, PATH, Number
from myna_plugin.library.neighbours import join_libraries
from myna_plugin.library.picture import METHODS, SEED, draw, folders, place, save

TITLES = {"tsne": "t-SNE", "umap": "UMAP"}

EPILOG = """
Examples:

\b
  myna plot library.parquet
  myna plot rock.parquet jazz.parquet --out both.svg --method umap

t-SNE of 10,000 tracks takes about a minute. UMAP needs umap-learn.
"""


@click.command("plot", cls=ToldCommand, epilog=EPILOG)
@click.argument("libraries", nargs=-1, required=True, type=PATH, metavar="LIBRARY…")
@click.option(
    "--out",
    type=FILE,
    default=Path("library.png"),
    show_default=True,
    help="Picture to write: .png, .svg, .pdf …",
)
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="tsne",
    show_default=True,
    help="How to put embeddings in a plane.",
)
@click.option(
    "--max-tracks",
    type=Number(int, 4),
    default=10_000,
    show_default=True,
    help="Of more tracks than this, draw as many at random.",
)
def plot(libraries: tuple[Path, ...], out: Path, method: str, max_tracks: int) -> None:
    """Draw the tracks of LIBRARY as points, near where they are similar, coloured by folder."""
    check_disk(out.parent, 0)
    library = join_libraries(libraries, say)
    rows = np.arange(len(library.paths))
    if len(rows) > max_tracks:
        rows = np.sort(np.random.default_rng(SEED).permutation(rows)[:max_tracks])
        say(f"{max_tracks:,} of {len(library.paths):,} tracks, at random")
    points = place(library.embeddings[rows], method)
    groups = folders([library.paths[row] for row in rows])
    title = f"{', '.join(path.stem for path in libraries)}: {len(rows):,} tracks, {TITLES[method]}"
    save(draw(points, groups, title), out)
    say(f"{out}: written")
