"""`myna similar`: the tracks of a library nearest to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import numpy as np

from myna_plugin.api import Myna
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import InputError, ToldCommand, say
from myna_plugin.common.options import DEVICE, PATH, POSITIVE_INT, NamedPath
from myna_plugin.library.neighbours import find_row, join_libraries, nearest
from myna_plugin.library.table import Library
from myna_plugin.model.identity import digest_weights
from myna_plugin.model.sources import resolve

EPILOG = """
Examples:

\b
  myna similar song.mp3 library.parquet
  myna similar song.mp3 rock.parquet jazz.parquet --count 20

Prints similarity and path, most similar first, separated by a tab. A query that is in the library
takes its row from there; any other audio file is embedded with the library's model. Similarity is
the cosine of vectors standardised over the library (of fewer than 20 tracks: as they are).
"""


@click.command("similar", cls=ToldCommand, epilog=EPILOG)
@click.argument("query", type=NamedPath())
@click.argument("libraries", nargs=-1, required=True, type=PATH, metavar="LIBRARY…")
@click.option("--count", type=POSITIVE_INT, default=10, show_default=True, help="Tracks to list.")
@click.option(
    "--model",
    metavar="CHECKPOINT",
    help="The library's model, where it is no longer at the place that the library names.",
)
@DEVICE
def similar(
    query: str, libraries: tuple[Path, ...], count: int, model: str | None, device: str
) -> None:
    """List the tracks of LIBRARY that are most similar to the audio file QUERY."""
    if os.path.isdir(query):
        raise InputError(f"{query}: is a folder; name one audio file, such as one in it")
    library = join_libraries(libraries, say)
    row = find_row(library, query)
    if row is not None:
        vector = library.embeddings[row]
    else:
        vector = embed_query(query, library, model, device)
    for similarity, path in nearest(library, vector, count, leave_out=row):
        click.echo(f"{similarity:.4f}\t{path}")


def embed_query(query: str, library: Library, model: str | None, device: str) -> np.ndarray:
    """The query's vector by the library's model, shape (D,).

    Raises:
        InputError: the model at hand is another one.
    """
    facts = library.facts
    patchings = facts["patchings"]
    scenes = ("scene_layers", "scene_pooling", "tokens")
    names = ("hop_ms", "timestamp_layer") if facts["timestamps"] else scenes
    options: dict[str, Any] = {name: facts[name] for name in names if facts.get(name)}
    source = facts["model"] if model is None else model
    myna = Myna.from_pretrained(
        source or resolve("")[0],  # by its path: the library has named its model
        embedding="hybrid" if len(patchings) > 1 else patchings[0],
        precision=facts["precision"],
        device="cpu",
        **options,
    )
    if digest_weights(myna.embedder.encoder.state_dict()) != facts["weights"]:
        raise InputError(
            f"the library was made with other weights than {facts['model'] or 'the default'!r} "
            "has now; name the right ones with --model"
        )
    # Half precision is slow on a CPU; the rounded weights give the same vector in float32.
    myna.embedder.encoder.float()
    myna = Myna(myna.embedder.to(choose_device(device)))
    # A library of sequences is searched by their means, which no scene embedding need be like.
    return myna.embed_timestamps(query)[0].mean(0) if facts["timestamps"] else myna.embed(query)
