# The arguments of Triton kernels have no types that Python knows:
# mypy: disable-error-code="no-untyped-def,attr-defined"
"""Log denominators of the contrastive losses, and their gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from myna_plugin.pretraining.step.kernels.launching import (
    precision,
)


@triton.jit
def _similarity_tile(
    z, all_ptr, rows, columns, n_views, n_columns, offset, width, scale,
    WITH_POSITIVE: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Vectors of some columns and (s_ij - 1) / tau, -inf where j is not in i's denominator."""
    at = columns.to(tl.int64)[:, None] * width + tl.arange(0, WIDTH)[None, :]
    inside = (columns < n_columns)[:, None] & (tl.arange(0, WIDTH) < width)[None, :]
    others = tl.load(all_ptr + at, mask=inside, other=0)
    similarity = tl.dot(z, tl.trans(others), input_precision=PRECISION) * scale - scale
    pairs = n_views // 2
    all_pairs = n_columns // 2
    out = (rows % pairs + offset)[:, None] == (columns % all_pairs)[None, :]
    if WITH_POSITIVE:
        out = out & ((rows // pairs)[:, None] == (columns // all_pairs)[None, :])
    out = out | (columns >= n_columns)[None, :]
    return others, tl.where(out, float("-inf"), similarity)


@triton.jit
def _log_denominators_kernel(
    unit_ptr, all_ptr, partial_ptr, n_views, n_columns, offset, width, scale,
    WITH_POSITIVE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = (group * n_views + rows)[:, None] * width + tl.arange(0, WIDTH)[None, :]
    inside = (rows < n_views)[:, None] & (tl.arange(0, WIDTH) < width)[None, :]
    z = tl.load(unit_ptr + at, mask=inside, other=0)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(n_columns, COLUMNS), tl.num_programs(1)):
        _, similarity = _similarity_tile(
            z, all_ptr + group * n_columns * width, rows, block * COLUMNS + tl.arange(0, COLUMNS),
            n_views, n_columns, offset, width, scale, WITH_POSITIVE, WIDTH, PRECISION,
        )  # fmt: skip
        # Cosines never exceed 1, so 1 / tau is a safe maximum and no running one is needed.
        total += tl.sum(tl.exp(similarity), 1)
    row = (group * tl.num_programs(1) + tl.program_id(1)) * n_views + rows
    tl.store(partial_ptr + row, total, mask=rows < n_views)


@triton.jit
def _log_denominators_backward_kernel(
    unit_ptr, all_ptr, weight_ptr, all_weight_ptr, out_ptr, n_views, n_columns, offset,
    width, scale,
    WITH_POSITIVE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = (group * n_views + rows)[:, None] * width + tl.arange(0, WIDTH)[None, :]
    inside = (rows < n_views)[:, None] & (tl.arange(0, WIDTH) < width)[None, :]
    z = tl.load(unit_ptr + at, mask=inside, other=0)
    weight = tl.load(weight_ptr + group * n_views + rows, mask=rows < n_views, other=0)
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for block in range(tl.cdiv(n_columns, COLUMNS)):
        columns = block * COLUMNS + tl.arange(0, COLUMNS)
        others, similarity = _similarity_tile(
            z, all_ptr + group * n_columns * width, rows, columns,
            n_views, n_columns, offset, width, scale, WITH_POSITIVE, WIDTH, PRECISION,
        )  # fmt: skip
        other_weight = tl.load(
            all_weight_ptr + group * n_columns + columns, mask=columns < n_columns, other=0
        )
        share = tl.exp(similarity) * (weight[:, None] + other_weight[None, :])
        total = tl.dot(share.to(others.dtype), others, total, input_precision=PRECISION)
    tl.store(out_ptr + at, total * scale, mask=inside)


MIN_TEMPERATURE = 0.03
"""Below it exp((s - 1) / tau) may underflow for every negative of a view."""

MAX_PROJECTION = 256


def can_take_loss(unit: Tensor, temperature: float) -> bool:
    """Whether the two functions below are exact for such vectors and temperature."""
    return (
        unit.dtype == torch.float32
        and unit.shape[-1] <= MAX_PROJECTION
        and temperature >= MIN_TEMPERATURE
    )


def log_denominators(
    unit: Tensor, everyone: Tensor, temperature: float, with_positive: bool, offset: int
) -> Tensor:
    """`losses.log_denominators` without ever writing a similarity to memory.

    Args:
        unit: this process's unit vectors, shape (G, V, P).
        everyone: all processes' unit vectors, same dtype, shape (G, all V, P).
        temperature: tau, at least `MIN_TEMPERATURE`.
        with_positive: whether the other view of a sample is in its denominator.
        offset: number of this process's first sample.

    Returns:
        float32, shape (G, V).
    """
    groups, n_views, width = unit.shape
    n_columns = everyone.shape[1]
    rows, columns = (32, 32) if unit.dtype == torch.float32 else (128, 64)
    parts = min(8, triton.cdiv(n_columns, columns))
    partial = torch.empty(groups, parts, n_views, device=unit.device, dtype=torch.float32)
    _log_denominators_kernel[(triton.cdiv(n_views, rows), parts, groups)](
        unit, everyone, partial, n_views, n_columns, offset, width, 1 / temperature,
        WITH_POSITIVE=with_positive, WIDTH=max(16, triton.next_power_of_2(width)),
        ROWS=rows, COLUMNS=columns, PRECISION=precision(unit), num_warps=4,
    )  # fmt: skip
    return partial.sum(1).log_().add_(1 / temperature)


def log_denominators_backward(
    unit: Tensor, everyone: Tensor, weight: Tensor, all_weights: Tensor,
    temperature: float, with_positive: bool, offset: int,
) -> Tensor:  # fmt: skip
    """Gradient of `unit`, given every view's upstream gradient / sum exp((s - 1) / tau).

    Args:
        unit: see `log_denominators`.
        everyone: see `log_denominators`.
        weight: of this process's views, float32, shape (G, V).
        all_weights: of all processes' views, float32, shape (G, all V).
        temperature: tau.
        with_positive: see `log_denominators`.
        offset: see `log_denominators`.

    Returns:
        float32, shape (G, V, P).
    """
    groups, n_views, width = unit.shape
    out = torch.empty(unit.shape, device=unit.device, dtype=torch.float32)
    rows, columns = (32, 32) if unit.dtype == torch.float32 else (64, 64)
    _log_denominators_backward_kernel[(triton.cdiv(n_views, rows), groups)](
        unit, everyone, weight, all_weights, out, n_views, everyone.shape[1], offset, width,
        1 / temperature,
        WITH_POSITIVE=with_positive, WIDTH=max(16, triton.next_power_of_2(width)),
        ROWS=rows, COLUMNS=columns, PRECISION=precision(unit), num_warps=4,
    )  # fmt: skip
    return out
