"""A library as points in a plane."""

from __future__ import annotations

import io
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from myna_plugin.common.files import write_whole
from myna_plugin.library.tracks import LibraryError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0

FONTS = (
    "DejaVu Sans",
    *(
        "Noto Sans",
        "Noto Sans CJK JP",
        "Noto Sans Arabic",
        "Noto Sans Hebrew",
        "Noto Sans Devanagari",
    ),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Segoe UI", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI"),
)
"""Where letters are looked for, in this order, as far as a machine has them: the first is
matplotlib's own, the others are those of Linux, macOS and Windows for scripts that it lacks."""

COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)
"""Of groups, the largest first; matplotlib's default cycle, and as many groups at most."""

MISSING = re.compile(r"(?s)Glyph \d+ .* missing from ")
"""How matplotlib warns of each letter that is in none of the fonts."""

OTHERS = "others"

UNNAMED = "(none)"
"""Group of the tracks of which a column does not say anything."""

PCA_WIDTH = 50
"""Widths above this are first reduced to it (van der Maaten and Hinton 2008, §4.1)."""

PERPLEXITY = 30.0

N_RANGES = 6
"""Groups of a column of numbers."""

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
    """The folder of each track.

    >>> folders(["rock/a.mp3", "rock/b.mp3", "c.mp3"])
    ['rock', 'rock', '.']
    """
    return [os.path.basename(os.path.dirname(path)) or "." for path in paths]


def group(values: Sequence[Any]) -> list[str]:
    """A group for each track, at most as many as there are colours, by a value of the track.

    Numbers become ranges with about as many tracks each. Of other values the rarer ones are joined
    as "others"; composed and decomposed letters (NFC, NFD) are the same.

    >>> group(["rock", None, "rock"])
    ['rock', '(none)', 'rock']
    >>> group([1.0, 2.0, None, 300.0])[1:]
    ['2 to 101', '(none)', '201 to 300']
    """
    if {type(value) for value in values} - {type(None)} <= {int, float} and any(
        value is not None for value in values
    ):
        names = _ranges(values)
    else:
        names = [UNNAMED if v is None else unicodedata.normalize("NFC", str(v)) for v in values]
    common = Counter(names).most_common()
    kept = {name for name, _ in common[: len(COLOURS) - 1]}
    return [name if name in kept or len(common) <= len(COLOURS) else OTHERS for name in names]


def _ranges(values: Sequence[float | None]) -> list[str]:
    numbers = np.array([np.nan if value is None else value for value in values], float)
    edges = np.unique(np.nanquantile(numbers, np.linspace(0, 1, N_RANGES + 1)))
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    places = np.clip(np.searchsorted(edges, numbers, "right") - 1, 0, len(edges) - 2)
    return [
        UNNAMED if np.isnan(number) else f"{edges[i]:.3g} to {edges[i + 1]:.3g}"
        for number, i in zip(numbers, places, strict=True)
    ]


def draw(points: np.ndarray, groups: Sequence[str], title: str) -> Figure:
    """A scatter of points (N, 2), a colour for each group, the largest group first."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    with rc_context({"font.family": [font for font in FONTS if font in installed]}):
        return _scatter(Figure(figsize=(9, 7), layout="constrained"), points, groups, title)


def _scatter(figure: Figure, points: np.ndarray, groups: Sequence[str], title: str) -> Figure:
    axes = figure.add_subplot()
    size = float(np.clip(6_000 / len(points), 3, 40))
    labels = np.array(groups)
    for colour, (name, count) in zip(COLOURS, Counter(groups).most_common(), strict=False):
        chosen = points[labels == name]
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=size,
            alpha=0.7,
            linewidths=0,
            color=colour,
            label=f"{name} ({count:,})".replace("$", r"\$"),
        )
    axes.set(title=title, xticks=[], yticks=[])
    axes.set_aspect("equal", "datalim")
    if len(set(groups)) > 1:
        legend = figure.legend(loc="outside right upper", frameon=False, markerscale=1.5)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return figure


def save(figure: Figure, path: Path) -> bool:
    """Write a figure, whole or not at all, making the folders to it.

    Returns:
        Whether some letters are boxes in it, since no font here has them.

    Raises:
        LibraryError: matplotlib knows no such format.
    """
    known = figure.canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in known:
        endings = ", .".join(sorted([*known, "html"]))
        raise LibraryError(f"{path}: a picture's name ends in .{endings}")
    # In memory first: where a disk is full, matplotlib's PDF hides why it could not be written.
    content = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(content, format=kind, dpi=150)
    missing = [warning for warning in caught if MISSING.match(str(warning.message))]
    for warning in caught:
        if warning not in missing:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getbuffer())
    return bool(missing)
