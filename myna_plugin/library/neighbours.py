"""Which recordings of a library are nearest to some tracks."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from myna_plugin.library.fingerprint import LARGEST_DIFFERENCE_S, are_one
from myna_plugin.library.table import Entry, Library, read_library
from myna_plugin.library.tracks import LibraryError
from myna_plugin.model.audio import SILENT

SAME_SPACE = (
    "weights",
    "patchings",
    "width",
    "timestamps",
    "timestamp_layer",
    "scene_layers",
    "scene_pooling",
)
"""Facts that must agree for embeddings to be comparable. Those made of different shares of the
tokens, or of the tracks, are, if less exactly."""

ENOUGH_TRACKS = 20
"""Of which a library's mean and deviation are taken."""

TELLING_S = 0.5
"""Of 80 songs an excerpt so long, seconds, finds its own first in half of the cases; of a tenth of
a second it does so in one of twenty (docs/library.md)."""

BLOCK_TRACKS = 2**14
"""Tracks that are standardised at a time: 50 MB of 768 numbers."""


@dataclass(frozen=True)
class Seed:
    """A track to search by.

    Attributes:
        vector: float32, shape (D,).
        duration_s: seconds.
        entry: its content and fingerprint.
        row: where it is in the library; None for a track that is not there.
    """

    vector: np.ndarray
    duration_s: float
    entry: Entry
    row: int | None = None


@dataclass(frozen=True)
class Neighbour:
    """A recording of the library.

    Attributes:
        similarity: to the seeds, from -1 to 1.
        row: its track, the most similar one of it.
        copies: rows of further files of the same recording.
    """

    similarity: float
    row: int
    copies: list[int] = field(default_factory=list)


def join_libraries(paths: Sequence[Path], say: Callable[[str], None] = print) -> Library:
    """Several files as one library, with the facts of the first.

    Args:
        paths: theirs.
        say: told where their shares of the tokens or of the tracks differ.

    Raises:
        LibraryError: one cannot be read, or they were made with different models, or read off
            different blocks, or pooled otherwise, or there is no track in them.
    """
    libraries = [read_library(path) for path in paths]
    first = libraries[0]
    for path, library in zip(paths, libraries, strict=True):
        if any(library.facts.get(fact) != first.facts.get(fact) for fact in SAME_SPACE):
            raise LibraryError(
                f"{path}: made with another model than {paths[0]}, or read off another of its "
                "blocks, or pooled otherwise; their embeddings cannot be compared"
            )
        if library.facts["tokens"] != first.facts["tokens"]:
            say(
                f"{path}: made of {library.facts['tokens']} of the tokens, {paths[0]} of "
                f"{first.facts['tokens']}: tracks of the two are compared less exactly"
            )
        if library.facts["seconds"] != first.facts["seconds"]:
            shares = [_share(one.facts["seconds"]) for one in (library, first)]
            say(
                f"{path}: made of {shares[0]}, {paths[0]} of {shares[1]}: tracks of the two are "
                "compared less exactly, and copies known by their stored sound alone"
            )
    if not any(library.paths for library in libraries):
        raise LibraryError(f"{', '.join(map(str, paths))}: no tracks in it; name another library")
    return Library(
        [path for library in libraries for path in library.paths],
        np.concatenate([library.duration_s for library in libraries]),
        np.concatenate([library.embeddings for library in libraries]),
        first.facts,
        [entry for library in libraries for entry in library.entries],
    )


def _share(seconds: float | None) -> str:
    return "whole tracks" if seconds is None else f"{seconds:g} s of each track"


def find_rows(library: Library, path: str) -> list[int]:
    """The rows of a file, whose path may be written differently; of an album all its tracks.

    Composed and decomposed letters (NFC, NFD) are the same where there is no such file.
    """
    wanted, name = os.path.realpath(path), _composed(os.path.basename(path))
    rows = [
        row
        for row, other in enumerate(library.paths)
        if other == path
        or (_composed(os.path.basename(other)) == name and os.path.realpath(other) == wanted)
    ]
    if rows or os.path.exists(path):
        return rows
    absolute = _composed(os.path.abspath(path))
    others = enumerate(map(os.path.abspath, library.paths))
    return [row for row, other in others if _composed(other) == absolute]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def similarities(library: Library, vectors: np.ndarray) -> np.ndarray:
    """How similar each track is to some vectors: the cosine of standardised ones, exactly.

    Each number has the library's mean taken off and is divided by its deviation there: what all
    tracks have in common tells none of them apart. On Emotify it raises the mean average precision
    of an excerpt's genre, its own artist left out, from .393 to .462 with the packaged weights
    (`benchmarks.recordings`). A library of fewer than `ENOUGH_TRACKS` has no such mean, and is
    ranked by the cosine of the vectors as they are. Several vectors are, at length 1, averaged.

    A scan: of a million tracks of 768 numbers it takes seconds on two cores.

    Args:
        library: where to look.
        vectors: float32, shape (S, D).

    Returns:
        Float32, shape (N,), from -1 to 1.
    """
    rows = library.embeddings
    mean, scale = np.zeros_like(vectors[0]), np.ones_like(vectors[0])
    if len(rows) >= ENOUGH_TRACKS:
        mean, deviation = rows.mean(0), rows.std(0)
        scale = np.where(deviation > 0, deviation, 1)
    query = unit_rows(unit_rows((vectors - mean) / scale).mean(0, keepdims=True))[0]
    blocks = np.array_split(rows, range(BLOCK_TRACKS, len(rows), BLOCK_TRACKS))
    return np.concatenate([unit_rows((block - mean) / scale) @ query for block in blocks])


def nearest(
    library: Library,
    seeds: Sequence[Seed],
    count: int,
    per_artist: int | None = None,
    min_seconds: float | None = None,
    say: Callable[[str], None] = print,
) -> list[Neighbour]:
    """The recordings most similar to some tracks, without those tracks' own and silent ones.

    Nor with those shorter than `TELLING_S`, whose vectors tell too little: a click is like a song
    by chance. They are listed where a seed is as short, or there is nothing longer.

    Two files hold one recording if their contents are the same, or their sound as it is stored, or
    if they are of about one length and their fingerprints agree; vectors do not decide it.

    Args:
        library: where to look.
        seeds: at least one.
        count: how many recordings, fewer if the library holds no more.
        per_artist: at most so many of one artist, by tags; those without one are not counted.
        min_seconds: leave out what is shorter; None to do as said above.
        say: told how many were left out as too short that would have been listed.

    Returns:
        Most similar first.
    """
    scores = similarities(library, np.stack([seed.vector for seed in seeds]))
    least_s = min_seconds
    if least_s is None:
        least_s = TELLING_S if min(seed.duration_s for seed in seeds) >= TELLING_S else 0
    hits, n_short = _list(library, seeds, scores, count, per_artist, least_s)
    if n_short and min_seconds is None:
        if hits:
            say(f"left out, as shorter than {least_s:g} s: {n_short:,}; --min-seconds 0 lists them")
        else:
            hits, _ = _list(library, seeds, scores, count, per_artist, 0)
    elif n_short and not hits:
        say(f"all others are shorter than {least_s:g} s: {n_short:,}")
    return hits


def _list(
    library: Library,
    seeds: Sequence[Seed],
    scores: np.ndarray,
    count: int,
    per_artist: int | None,
    least_s: float,
) -> tuple[list[Neighbour], int]:
    """The list, and how many were left out of it for being shorter than `least_s`."""
    own, n_short = {seed.row for seed in seeds}, 0
    hits: list[Neighbour] = []
    by_artist: Counter[str] = Counter()
    for row in map(int, np.argsort(-scores, kind="stable")):
        if len(hits) == count:
            break
        duration_s, entry = float(library.duration_s[row]), library.entries[row]
        if row in own or SILENT in (entry.warning or ""):  # alone or after other notes
            continue
        if any(is_same(duration_s, entry, seed.duration_s, seed.entry) for seed in seeds):
            continue
        if duration_s < least_s:
            n_short += 1
            continue
        for hit in hits:
            if is_same(
                duration_s, entry, float(library.duration_s[hit.row]), library.entries[hit.row]
            ):
                hit.copies.append(row)
                break
        else:
            artist = _composed(entry.artist or "").casefold()
            if artist and per_artist is not None and by_artist[artist] >= per_artist:
                continue
            by_artist[artist] += 1
            hits.append(Neighbour(float(scores[row]), row))
    return hits, n_short


def is_same(duration_s: float, entry: Entry, other_s: float, other: Entry) -> bool:
    """Whether two tracks, their lengths in seconds, are files of one recording."""
    digests = ((entry.content, other.content), (entry.sound, other.sound))
    if any(one and one == two for one, two in digests):
        return (entry.start_s, entry.end_s) == (other.start_s, other.end_s)
    if abs(duration_s - other_s) > LARGEST_DIFFERENCE_S:
        return False
    return are_one(entry.fingerprint or b"", other.fingerprint or b"")


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) at length 1; zeros stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
