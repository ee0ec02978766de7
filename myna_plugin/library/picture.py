"""A library as points in a plane."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from myna_plugin.common.files import write_whole
from myna_plugin.library.tracks import LibraryError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0

MOST_COLOURS = 10
"""Folders with a colour of their own; matplotlib's default cycle."""

PCA_WIDTH = 50
"""Widths above this are first reduced to it (van der Maaten and Hinton 2008, §4.1)."""

PERPLEXITY = 30.0

LEAST_TRACKS = 4


def place(vectors: np.ndarray, method: str) -> np.ndarray:
    """Put vectors in a plane so that near ones stay near.

    Args:
        vectors: shape (N, D), at least `LEAST_TRACKS` of them different.
        method: "tsne" or "umap".

    Returns:
        Shape (N, 2).

    Raises:
        LibraryError: there are too few, or umap-learn is missing.
    """
    # Copies of a track share a point: of equal vectors only, t-SNE's start is NaN.
    different, owner = np.unique(vectors, axis=0, return_inverse=True)
    if len(different) < LEAST_TRACKS:
        raise LibraryError(
            f"a picture needs at least {LEAST_TRACKS} different tracks, there are {len(different)}"
        )
    from sklearn.decomposition import PCA

    reduced = PCA(min(PCA_WIDTH, *different.shape), random_state=SEED).fit_transform(different)
    return METHODS[method](reduced)[owner.reshape(-1)]


def _tsne(vectors: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(vectors)


def _umap(vectors: np.ndarray) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError as error:
        raise LibraryError(
            "UMAP needs umap-learn: pip install 'myna-plugin[umap]', or use --method tsne"
        ) from error
    # With a seed UMAP has one job; it warns unless it is told so.
    neighbours = min(15, len(vectors) - 1)
    return UMAP(n_neighbors=neighbours, random_state=SEED, n_jobs=1).fit_transform(vectors)


METHODS = {"tsne": _tsne, "umap": _umap}


def folders(paths: Sequence[str]) -> list[str]:
    """The folder of each track, the smaller ones joined as "others".

    >>> folders(["rock/a.mp3", "rock/b.mp3", "jazz/c.mp3"])
    ['rock', 'rock', 'jazz']
    """
    names = [os.path.basename(os.path.dirname(path)) or "." for path in paths]
    common = Counter(names).most_common()
    kept = {name for name, _ in common[: MOST_COLOURS - 1]}
    return [name if name in kept or len(common) <= MOST_COLOURS else "others" for name in names]


def draw(points: np.ndarray, groups: Sequence[str], title: str) -> Figure:
    """A scatter of points (N, 2), a colour for each group, the largest group first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(6_000 / len(points), 3, 40))
    labels = np.array(groups)
    for group, count in Counter(groups).most_common():
        chosen = points[labels == group]
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=size,
            alpha=0.7,
            linewidths=0,
            label=f"{group} ({count:,})",
        )
    axes.set(title=title, xticks=[], yticks=[])
    axes.set_aspect("equal", "datalim")
    if len(set(groups)) > 1:
        legend = figure.legend(loc="outside right upper", frameon=False, markerscale=1.5)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, making the folders to it.

    Raises:
        LibraryError: matplotlib knows no such format.
    """
    known = figure.canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".")
    if kind not in known:
        raise LibraryError(f"{path}: a picture's name ends in .{', .'.join(sorted(known))}")
    # In memory first: where a disk is full, matplotlib's PDF hides why it could not be written.
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getbuffer())
