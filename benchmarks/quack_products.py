"""quack-kernels' products with fused epilogues, for `block_products`. Needs PyPI's quack-kernels.

Its epilogues are compiled for every tile; the quickest of a few counts. In fp8 a result is stored
as it is, without a scale, and the bfloat16 GELU that a weight gradient would read is not stored.
"""

from __future__ import annotations

from typing import Any

import torch
from quack.activation import gelu_tanh_approx
from quack.epilogue.frontend import gemm_epilogue
from quack.epilogue.library import dact_dbias_mod
from quack.epilogue.ops import RowVecLoad, Scalar
from quack.gemm_config import GemmConfig
from torch import Tensor

TILES = [(128, 192, True), (128, 128, True), (128, 256, False), (256, 128, False)]
"""Rows and columns of a tile, and whether two groups of warps take turns on tiles (ping-pong)."""


def configs() -> dict[str, GemmConfig]:
    """By name, for Hopper."""
    return {
        f"{m}x{n}{' ping-pong' if pingpong else ''}": GemmConfig(
            tile_m=m, tile_n=n, pingpong=pingpong, cluster_m=2, cluster_n=1,
            is_dynamic_persistent=False,
        )
        for m, n, pingpong in TILES
    }  # fmt: skip


@gemm_epilogue(outputs=("active",), ops={"alpha": Scalar("alpha"), "bias": RowVecLoad("bias")})
def _up_gelu(acc: Any, alpha: Any, bias: Any) -> dict[str, Any]:
    h = acc * alpha + bias
    return {"D": h, "active": gelu_tanh_approx(h)}


@gemm_epilogue(ops={"alpha": Scalar("alpha"), "bias": RowVecLoad("bias")})
def _residual(acc: Any, c: Any, alpha: Any, bias: Any) -> dict[str, Any]:
    return {"D": acc * alpha + c + bias}


def up_gelu(
    x: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor | float, config: GemmConfig
) -> tuple[Tensor, Tensor]:
    """h = alpha x weight^T + bias in bfloat16, and its GELU in the dtype of x."""
    h = x.new_empty(len(x), len(weight), dtype=torch.bfloat16)
    active = torch.empty_like(h, dtype=x.dtype)
    out = {"D": h, "active": active}
    _up_gelu(x, weight.T, out=out, config=config, tuned=False, alpha=alpha, bias=bias)
    return h, active


def gelu_gradient(
    dy: Tensor, weight_t: Tensor, h: Tensor, config: GemmConfig
) -> tuple[Tensor, Tensor]:
    """dy weight times GELU'(h) in bfloat16, and its sum over rows; `weight_t` is (inner, D)."""
    found = dact_dbias_mod("gelu_tanh_approx")(
        dy, weight_t.T, h, out={"D": torch.empty_like(h)}, config=config, tuned=False
    )
    return found["D"], found["dwb"]


def down_residual(
    y: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor | float, x: Tensor, config: GemmConfig
) -> Tensor:
    """x + alpha y weight^T + bias in bfloat16."""
    out = {"D": torch.empty_like(x)}
    return _residual(y, weight.T, x, out=out, config=config, tuned=False, alpha=alpha, bias=bias)[
        "D"
    ]
