"""Masking policies: which tokens of a crop the encoder sees.

Every policy draws the visible tokens of both views of each pair at once, on the device, from a
given generator. Token numbers run row-major over the grid of patches (row = frequency, column =
time), as in `myna_plugin.model.vit.patchify`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from myna_plugin.common.plugins import PluginTable

Grid = tuple[int, int]
"""Rows (frequency) and columns (time) of patches in a crop."""


@dataclass(frozen=True)
class Masking:
    """One way of choosing visible tokens.

    Attributes:
        tokens_kept: (number of tokens, mask ratio) -> number of visible tokens.
        draw: (pairs, grid, visible tokens, generator) -> token numbers, shape (2, pairs, visible).
        description: one line for `--help`.
    """

    tokens_kept: Callable[[int, float], int]
    draw: Callable[[int, Grid, int, torch.Generator], Tensor]
    description: str


def count_kept(n_tokens: int, mask_ratio: float) -> int:
    """Tokens that stay when int(mask_ratio * n_tokens) are removed, at least one.

    Source: paper §3.2; released code.

    Raises:
        ValueError: unless 0 <= mask_ratio < 1.

    >>> [count_kept(48, ratio) for ratio in (0.0, 0.5, 0.9, 0.95)]
    [48, 24, 5, 3]
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must lie in [0, 1), got {mask_ratio}")
    return n_tokens - int(mask_ratio * n_tokens)


def count_kept_disjoint(n_tokens: int, mask_ratio: float) -> int:
    """As `count_kept`, but never more than half: two disjoint sets must fit into one crop.

    >>> [count_kept_disjoint(48, ratio) for ratio in (0.1, 0.9)]
    [24, 5]
    """
    return min(count_kept(n_tokens, mask_ratio), n_tokens // 2)


def draw_masks(
    policy: str, pairs: int, grid: Grid, mask_ratio: float, generator: torch.Generator
) -> Tensor:
    """Visible tokens of both views of every pair.

    Args:
        policy: a name from `MASKINGS`.
        pairs: number of pairs B.
        grid: rows and columns of patches.
        mask_ratio: fraction removed, in [0, 1).
        generator: source of randomness; its device is the result's.

    Returns:
        Different token numbers in [0, rows * columns), int64, shape (2, B, visible tokens).

    Raises:
        ValueError: an unknown policy or a ratio out of range.
    """
    masking = find_masking(policy)
    kept = masking.tokens_kept(grid[0] * grid[1], mask_ratio)
    return masking.draw(pairs, grid, kept, generator)


def find_masking(policy: str) -> Masking:
    """The policy of that name; ValueError naming the known ones otherwise."""
    if policy not in MASKINGS:
        raise ValueError(f"unknown masking {policy!r}; known: {', '.join(MASKINGS)}")
    return MASKINGS[policy]


def _draw_subsets(shape: tuple[int, ...], n: int, kept: int, generator: torch.Generator) -> Tensor:
    """Random subsets of range(n), all equally likely: int64, shape (*shape, kept)."""
    keys = torch.rand(*shape, n, generator=generator, device=generator.device)
    return keys.topk(kept, dim=-1, sorted=False).indices


def draw_uniform(pairs: int, grid: Grid, kept: int, generator: torch.Generator) -> Tensor:
    """Every subset equally likely, each view on its own (paper §3.2)."""
    return _draw_subsets((2, pairs), grid[0] * grid[1], kept, generator)


def draw_disjoint(pairs: int, grid: Grid, kept: int, generator: torch.Generator) -> Tensor:
    """Every pair of disjoint subsets equally likely.

    Where both crops coincide the views share no visible patch, so that no patch can be matched
    with itself.
    """
    keys = torch.rand(pairs, grid[0] * grid[1], generator=generator, device=generator.device)
    both = keys.topk(2 * kept, dim=-1).indices  # sorted by key, i.e. in random order
    return both.view(pairs, 2, kept).transpose(0, 1).contiguous()


BUILT_IN: dict[str, Masking] = {
    "uniform": Masking(count_kept, draw_uniform, "every subset equally likely (the paper's)"),
    "disjoint": Masking(
        count_kept_disjoint, draw_disjoint, "the two views never see the same patch position"
    ),
}

MASKINGS: PluginTable[Masking] = PluginTable("myna_plugin.maskings", Masking, BUILT_IN)
"""These, and the policies that other distributions add in the entry-point group of that name."""
