"""Contrastive losses over a batch of pairs, dense or in tiles.

With unit vectors z of the V = 2B views of B samples, s_ij = z_i . z_j, p(i) the other view of
i's sample and N_i the set of views in i's denominator, every loss here is the mean over all views
(both views of each pair serve as anchors) of

    -s_ip(i) / tau + log sum_{j in N_i} exp(s_ij / tau),

`decoupled`: N_i leaves out both views of i's sample (paper §3.1, the equation as printed);
`nt_xent`: N_i leaves out only i itself (SimCLR, Chen et al. 2020);
`sogclr`: N_i as for `decoupled`, but the sum is replaced by a moving average kept for each sample
over its visits (Yuan et al. 2022), which frees the gradient from the batch's own small sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.pretraining.step.acceleration import kernels_for

LOSSES: dict[str, bool] = {"decoupled": False, "nt_xent": True, "sogclr": False}
"""The losses, and whether the positive is part of the denominator."""


class ContrastiveLoss(nn.Module):
    """One of `LOSSES` over pairs of projected views, for one or several patchings at once.

    Args:
        kind: a name from `LOSSES`.
        temperature: tau > 0.
        tile_rows: None holds the similarities of all views at once (V x V, differentiated by
            autograd). A number computes them again in every pass, that many rows at a time: the
            same loss and gradient in memory that grows with V, not its square.
        gamma: weight of the newest sum in the moving average of `sogclr`, in (0, 1].
        n_samples: clips in the store; needed by `sogclr` alone.
        n_groups: patchings, each with a loss of its own.
    """

    log_average: Tensor

    def __init__(
        self,
        kind: str = "decoupled",
        temperature: float = 0.1,
        tile_rows: int | None = None,
        gamma: float = 0.9,
        n_samples: int = 0,
        n_groups: int = 1,
    ) -> None:
        super().__init__()
        if kind not in LOSSES:
            raise ValueError(f"unknown loss {kind!r}; known: {', '.join(LOSSES)}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], got {gamma}")
        if kind == "sogclr" and n_samples < 1:
            raise ValueError("sogclr needs n_samples, the number of clips it keeps averages for")
        self.kind = kind
        self.temperature = temperature
        self.tile_rows = tile_rows
        self.gamma = gamma
        if kind == "sogclr":
            # The logarithm of each sample's average, -inf before its first visit.
            self.register_buffer("log_average", torch.full((n_groups, n_samples), -math.inf))

    def forward(self, projected: Tensor, index: Tensor | None = None) -> Tensor:
        """Loss of each patching.

        In a process group every process passes its own pairs; all of them together form the batch,
        and each process gets the mean over its own anchors. The gradient that reaches `projected`
        is that of the mean over all processes' anchors times the number of processes, so that
        averaging parameter gradients over processes gives the gradient of the whole batch's loss.

        Args:
            projected: projections of any length > 0, shape (G, 2, B, P): patching, view, sample.
            index: the samples' numbers in the store, int64, shape (B,); `sogclr` only.

        Returns:
            float32, shape (G,).

        Raises:
            ValueError: fewer than two samples (there would be no negatives), or no index given.
        """
        groups, views, pairs, width = projected.shape
        if pairs * world_size() < 2:
            raise ValueError("a contrastive loss needs at least 2 samples")
        precise = projected.dtype if projected.dtype == torch.float64 else torch.float32
        unit = functional.normalize(projected.to(precise), dim=-1)
        positive = (unit[:, 0] * unit[:, 1]).sum(-1).repeat(1, 2) / self.temperature
        log_sum = log_denominators(
            unit.reshape(groups, views * pairs, width),
            self.temperature,
            with_positive=LOSSES[self.kind],
            tile_rows=self.tile_rows,
            dtype=projected.dtype,
        )
        if self.kind == "sogclr":
            if index is None:
                raise ValueError("sogclr needs the samples' numbers in the store")
            log_sum = self._follow_averages(log_sum, index)
        return (log_sum - positive).mean(-1)

    def _follow_averages(self, log_sum: Tensor, index: Tensor) -> Tensor:
        """Replace sums by their samples' moving averages, in value and in the gradient's weight."""
        groups, n_views = log_sum.shape
        log_count = math.log(2 * (n_views // 2 * world_size() - 1))
        log_mean = (log_sum.detach() - log_count).view(groups, 2, -1)
        before = self.log_average[:, None, index]
        after = torch.logaddexp(before + _log(1 - self.gamma), log_mean + _log(self.gamma))
        after = torch.where(before.isneginf(), log_mean, after)
        self._store_averages(torch.logsumexp(after, dim=1) - math.log(2), index)
        after = after.view(groups, n_views)
        # d(sum / average) = (sum / average) d(log sum): the average itself is a constant.
        weight = (log_mean.view(groups, n_views) - after).exp()
        return after + log_count + weight * (log_sum - log_sum.detach())

    def _store_averages(self, log_average: Tensor, index: Tensor) -> None:
        if world_size() > 1:
            log_average = gather_pairs(log_average[:, None], 1).flatten(1)
            index = gather_pairs(index[None, None], 1).flatten()
        self.log_average[:, index] = log_average.to(self.log_average.dtype)


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def log_denominators(
    unit: Tensor,
    temperature: float,
    with_positive: bool,
    tile_rows: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """log sum_{j in N_i} exp(s_ij / tau) of every view i of this process.

    Args:
        unit: unit vectors, first views before second views, shape (G, 2B, P).
        temperature: tau.
        with_positive: whether the other view of i's sample is in N_i (i itself never is).
        tile_rows: see `ContrastiveLoss`.
        dtype: in which kernels may multiply the vectors; plain torch keeps `unit`'s.

    Returns:
        float32 (float64 for float64 input), shape (G, 2B).
    """
    if tile_rows is not None:
        return _TiledLogDenominators.apply(unit, temperature, with_positive, tile_rows, dtype)
    n_views = unit.shape[1]
    everyone = _GatherWithGradient.apply(unit) if world_size() > 1 else unit
    similarity = unit @ everyone.transpose(1, 2) / temperature
    rows = torch.arange(n_views, device=unit.device)
    similarity = similarity.masked_fill(
        excluded(rows, everyone.shape[1], with_positive, n_views // 2), -math.inf
    )
    return similarity.logsumexp(-1)


def excluded(rows: Tensor, n_columns: int, with_positive: bool, pairs: int) -> Tensor:
    """Which columns are not in the denominators of some local rows: bool, (R, n_columns).

    Columns are all processes' first views in order of rank, then their second views.

    >>> excluded(torch.arange(4), 4, with_positive=False, pairs=2).int()
    tensor([[1, 0, 1, 0],
            [0, 1, 0, 1],
            [1, 0, 1, 0],
            [0, 1, 0, 1]], dtype=torch.int32)
    """
    all_pairs = n_columns // 2
    columns = torch.arange(n_columns, device=rows.device)
    sample = rows % pairs + rank() * pairs
    same_sample = sample[:, None] == columns % all_pairs
    if not with_positive:
        return same_sample
    return same_sample & ((rows // pairs)[:, None] == columns // all_pairs)


class _TiledLogDenominators(torch.autograd.Function):
    """`log_denominators` that never holds all similarities; exact gradient by recomputation.

    Similarity is symmetric, so the gradient of view i is the sum over all j of
    (a_i exp(s_ij/tau - l_i) + a_j exp(s_ij/tau - l_j)) z_j / tau with a the incoming gradients and
    l the log sums: of other processes' rows only a and l are needed.

    Where the kernels can be used nothing is written tile by tile either, and vectors that come from
    a half-precision model are multiplied in that precision, accumulated in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        unit: Tensor,
        temperature: float,
        with_positive: bool,
        tile_rows: int,
        dtype: torch.dtype,
    ) -> Tensor:
        kernels = kernels_for(unit)
        if kernels is not None and not kernels.can_take_loss(unit, temperature):
            kernels = None
        if kernels is not None:
            unit = unit.to(dtype)
        everyone = gather_pairs(unit.unflatten(1, (2, -1)), 2).flatten(1, 2)
        ctx.settings = temperature, with_positive, tile_rows
        ctx.kernels = kernels
        if kernels is not None:
            log_sum = kernels.log_denominators(
                unit, everyone, temperature, with_positive, rank() * (unit.shape[1] // 2)
            )
        else:
            log_sum = torch.empty(unit.shape[:2], device=unit.device, dtype=unit.dtype)
            for group, rows, similarity in _tiles(unit, everyone, *ctx.settings):
                log_sum[group, rows] = similarity.logsumexp(-1)
        ctx.save_for_backward(unit, everyone, log_sum)
        return log_sum

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        unit, everyone, log_sum = ctx.saved_tensors
        temperature, with_positive, _ = ctx.settings
        both = torch.stack((log_sum, upstream)).unflatten(-1, (2, -1))
        all_log_sums, all_upstream = gather_pairs(both, 3).flatten(2)
        if ctx.kernels is not None:
            gradient = ctx.kernels.log_denominators_backward(
                unit,
                everyone,
                upstream * (1 / temperature - log_sum).exp(),
                all_upstream * (1 / temperature - all_log_sums).exp(),
                temperature,
                with_positive,
                rank() * (unit.shape[1] // 2),
            )
            return gradient, None, None, None, None
        gradient = torch.empty_like(unit)
        for group, rows, similarity in _tiles(unit, everyone, *ctx.settings):
            weight = (similarity - log_sum[group, rows, None]).exp_() * upstream[group, rows, None]
            similarity -= all_log_sums[group]
            weight += similarity.exp_() * all_upstream[group]
            gradient[group, rows] = weight @ everyone[group] / temperature
        return gradient, None, None, None, None


def _tiles(
    unit: Tensor, everyone: Tensor, temperature: float, with_positive: bool, tile_rows: int
) -> Iterator[tuple[int, slice, Tensor]]:
    """Group, rows and masked similarities / tau, (rows, columns), of every tile."""
    n_views, n_columns = unit.shape[1], everyone.shape[1]
    for group in range(len(unit)):
        for start in range(0, n_views, tile_rows):
            rows = slice(start, min(start + tile_rows, n_views))
            similarity = (unit[group, rows] / temperature) @ everyone[group].T
            numbers = torch.arange(rows.start, rows.stop, device=unit.device)
            out = excluded(numbers, n_columns, with_positive, n_views // 2)
            yield group, rows, similarity.masked_fill_(out, -math.inf)


def world_size() -> int:
    """Processes that share the batch; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number in the process group; 0 outside one."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_pairs(local: Tensor, dim: int) -> Tensor:
    """All processes' tensors joined along `dim` in order of rank, without gradient."""
    if world_size() == 1:
        return local
    local = local.contiguous()
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local)
    return torch.cat(parts, dim)


class _GatherWithGradient(torch.autograd.Function):
    """Join all processes' (G, 2B, P) vectors as (G, 2B * processes, P); gradients flow back."""

    @staticmethod
    def forward(ctx: Any, unit: Tensor) -> Tensor:
        return gather_pairs(unit.unflatten(1, (2, -1)), 2).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        pairs = gradient.shape[1] // 2 // world_size()
        mine = slice(rank() * pairs, (rank() + 1) * pairs)
        return gradient.unflatten(1, (2, -1))[:, :, mine].flatten(1, 2)
