"""Which tracks of a library are nearest to a vector."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from myna_plugin.library.decoding_pool import LibraryError
from myna_plugin.library.table import Library, read_library

SAME_SPACE = ("weights", "patchings", "width", "timestamps", "timestamp_layer", "scene_layers")
"""Facts that must agree for embeddings to be comparable."""


class Neighbour(NamedTuple):
    """A track and its cosine similarity to the query, from -1 to 1."""

    similarity: float
    path: str


def join_libraries(paths: Sequence[Path]) -> Library:
    """Several files as one library.

    Raises:
        LibraryError: one cannot be read, or they were made with different models, or read off
            different blocks, or there is no track in them.
    """
    libraries = [read_library(path) for path in paths]
    first = libraries[0]
    for path, library in zip(paths, libraries, strict=True):
        if any(library.facts.get(fact) != first.facts.get(fact) for fact in SAME_SPACE):
            raise LibraryError(
                f"{path}: made with another model than {paths[0]}, or read off another of its "
                "blocks; their embeddings cannot be compared"
            )
    if not any(library.paths for library in libraries):
        raise LibraryError(f"{', '.join(map(str, paths))}: no tracks in it; name another library")
    return Library(
        [path for library in libraries for path in library.paths],
        np.concatenate([library.duration_s for library in libraries]),
        np.concatenate([library.embeddings for library in libraries]),
        first.facts,
    )


def find_row(library: Library, query: str) -> int | None:
    """The row of a track, whose path may be written differently; None if it has none."""
    wanted = os.path.realpath(query)
    name = os.path.basename(query)
    for row, path in enumerate(library.paths):
        if path == query or (os.path.basename(path) == name and os.path.realpath(path) == wanted):
            return row
    return None


def nearest(
    library: Library, vector: np.ndarray, count: int, leave_out: int | None = None
) -> list[Neighbour]:
    """The tracks most similar by cosine, exactly.

    A scan: of a million tracks of 768 numbers it takes 0.6 s on two cores.

    Args:
        library: where to look.
        vector: float32, shape (D,).
        count: how many tracks, fewer if the library is smaller.
        leave_out: a row that does not count.

    Returns:
        Most similar first.
    """
    vectors = library.embeddings
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors) * np.dot(vector, vector))
    similarities = (vectors @ vector) / np.maximum(lengths, np.finfo(np.float32).tiny)
    if leave_out is not None:
        similarities[leave_out] = -np.inf
    n_rows = len(library.paths) - (leave_out is not None)
    best = np.argsort(-similarities, kind="stable")[: min(count, n_rows)]
    return [Neighbour(float(similarities[row]), library.paths[row]) for row in best]
