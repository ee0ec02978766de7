"""`myna plot`: a library as a picture or a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from myna_plugin.common.errors import InputError, ToldCommand, say
from myna_plugin.common.files import check_disk
from myna_plugin.common.options import FILE, PATH, Number
from myna_plugin.library.neighbours import join_libraries
from myna_plugin.library.page import write_page
from myna_plugin.library.picture import METHODS, SEED, draw, folders, group, place, save
from myna_plugin.library.table import Library, read_column

TITLES = {"tsne": "t-SNE", "umap": "UMAP"}

FOLDER = "folder"
"""What colours by default; it is no column."""

EPILOG = """
Examples:

\b
  myna plot library.parquet
  myna plot library.parquet --colour artist --out map.html
  myna plot rock.parquet jazz.parquet --out both.svg --method umap

A page (.html) names the track that is under the mouse, zooms, and needs no network. t-SNE of 10,000
tracks takes about a minute. UMAP needs umap-learn.
"""


@click.command("plot", cls=ToldCommand, epilog=EPILOG)
@click.argument("libraries", nargs=-1, required=True, type=PATH, metavar="LIBRARY…")
@click.option(
    "--out",
    type=FILE,
    default=Path("library.png"),
    show_default=True,
    help="Picture or page to write: .png, .svg, .pdf …, or .html.",
)
@click.option(
    "--colour",
    default=FOLDER,
    show_default=True,
    metavar="COLUMN",
    help="What colours stand for: folder, artist, album, or any column of the library; numbers "
    "become ranges.",
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
def plot(libraries: tuple[Path, ...], out: Path, colour: str, method: str, max_tracks: int) -> None:
    """Draw the tracks of LIBRARY as points, near where they are similar."""
    check_disk(out.parent, 0)
    library = join_libraries(libraries, say)
    if colour == FOLDER:
        values = folders(library.paths)
    else:
        values = [value for path in libraries for value in read_column(path, colour)]
        _tell_missing(values, colour, ", ".join(map(str, libraries)))
    rows = np.arange(len(library.paths))
    if len(rows) > max_tracks:
        rows = np.sort(np.random.default_rng(SEED).permutation(rows)[:max_tracks])
        say(f"{max_tracks:,} of {len(library.paths):,} tracks, at random")
    points = place(library.embeddings[rows], method)
    groups = group([values[row] for row in rows])
    title = f"{', '.join(path.stem for path in libraries)}: {len(rows):,} tracks, {TITLES[method]}"
    if out.suffix.lower() == ".html":
        write_page(points, groups, [_describe(library, row) for row in rows], title, out)
    else:
        if save(draw(points, groups, title), out):
            say(f"{out}: no font here has some of the letters, which are boxes; .html shows them")
    say(f"{out}: written")


def _tell_missing(values: Sequence[Any], column: str, name: str) -> None:
    """Say of how many tracks a column says nothing; InputError if of all."""
    # NaN, which other programs write for nothing, is not itself.
    missing = sum(value is None or value != value for value in values)
    if missing == len(values):
        raise InputError(
            f"{name}: no track has {column!r}; give another --colour, or tag the files and give "
            "the same myna embed again"
        )
    if missing:
        say(f"{column}: {missing:,} of {len(values):,} tracks have none")


def _describe(library: Library, row: np.intp) -> str:
    """Artist and title, album, path: a line each, where they are known."""
    entry = library.entries[row]
    names = " – ".join(filter(None, (entry.artist, entry.title)))
    return "\n".join(filter(None, (names, entry.album, library.paths[row])))
