"""Which tracks of a library are nearest to a vector."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
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
            different blocks.
    """
    libraries = [read_library(path) for path in paths]
    first = libraries[0]
    for path, library in zip(paths, libraries, strict=True):
        if any(library.facts.get(fact) != first.facts.get(fact) for fact in SAME_SPACE):
            raise LibraryError(
                f"{path}: made with another model than {paths[0]}, or read off another of its "
                "blocks; their embeddings cannot be compared"
            )
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
    """The tracks most similar by cosine, exactly: with faiss where it is installed.

    Args:
        library: where to look.
        vector: float32, shape (D,).
        count: how many tracks, fewer if the library is smaller.
        leave_out: a row that does not count.

    Returns:
        Most similar first.
    """
    wanted = min(count + (leave_out is not None), len(library.paths))
    if not wanted:
        return []
    search = _search_with_faiss if find_spec("faiss") else _search_with_sklearn
    rows, similarities = search(library.embeddings, vector, wanted)
    found = [
        Neighbour(float(similarity), library.paths[row])
        for row, similarity in zip(rows, similarities, strict=True)
        if row != leave_out
    ]
    return found[:count]


def _search_with_sklearn(
    vectors: np.ndarray, query: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosine similarities, most similar first."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(vectors)
    distances, rows = search.kneighbors(query[None])
    return rows[0], 1 - distances[0]


def _search_with_faiss(
    vectors: np.ndarray, query: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same with a flat index of faiss."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    unit = np.ascontiguousarray(vectors, np.float32).copy()
    faiss.normalize_L2(unit)
    index.add(unit)
    one = np.ascontiguousarray(query[None], np.float32).copy()
    faiss.normalize_L2(one)
    similarities, rows = index.search(one, count)
    return rows[0], similarities[0]
