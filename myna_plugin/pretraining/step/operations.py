"""The steps of a fused transformer, in plain torch and by Triton kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.model.vit import HEAD_DIM
from myna_plugin.pretraining.step.acceleration import kernels_for

Normed = tuple[Tensor, Tensor, Tensor, Tensor]
"""The sum that was normed (T, D), its norm (T, D), and the mean and 1 / deviation of rows (T,)."""


class Operations(Protocol):
    """The steps of a transformer block over T tokens; see `PlainOperations` for what each means."""

    def norm(self, x: Tensor, norm: nn.LayerNorm) -> Normed: ...

    def norm_and_add(
        self, x: Tensor, norm: nn.LayerNorm, extra: Tensor, which: Tensor, out: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def linear_add_norm(
        self, y: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, norm: nn.LayerNorm
    ) -> Normed: ...

    def partial_sums(self, norms: int, x: Tensor) -> Tensor: ...

    def norm_backward_into(
        self,
        partial: Tensor,
        dout: Tensor,
        normed: Normed,
        norm: nn.LayerNorm,
        residual: Tensor | None = None,
    ) -> Tensor: ...

    def norm_backward(
        self, dout: Tensor, normed: Normed, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]: ...

    def attention(self, qkv: Tensor, length: int, heads: int) -> Tensor: ...

    def attention_backward(self, qkv: Tensor, dout: Tensor, length: int, heads: int) -> Tensor: ...

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]: ...

    def linear_gelu_backward(
        self, dy: Tensor, weight: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def weight_gradient(self, dout: Tensor, x: Tensor) -> Tensor: ...


class PlainOperations:
    """`Operations` in plain torch."""

    def norm(self, x: Tensor, norm: nn.LayerNorm) -> Normed:
        """LayerNorm of x (T, D)."""
        precise = x.to(_precise(x))
        rstd = (precise.var(-1, correction=0) + norm.eps).rsqrt()
        width = (x.shape[-1],)
        out = functional.layer_norm(
            x, width, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps
        )
        return x, out, precise.mean(-1), rstd

    def norm_and_add(
        self, x: Tensor, norm: nn.LayerNorm, extra: Tensor, which: Tensor, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """LayerNorm of x plus row `which` of `extra`, into `out`; mean and 1 / deviation."""
        _, normed, mean, rstd = self.norm(x, norm)
        torch.add(normed, extra.to(x.dtype)[which], out=out)
        return mean, rstd

    def linear_add_norm(
        self, y: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, norm: nn.LayerNorm
    ) -> Normed:
        """LayerNorm of x + y weight^T + bias."""
        total = x + y @ weight.T
        return self.norm(total if bias is None else total + bias, norm)

    def partial_sums(self, norms: int, x: Tensor) -> Tensor:
        """Room for what `norm_backward_into` puts in `partial`, of several norms."""
        return x.new_empty(norms, 3, 1, x.shape[1], dtype=_precise(x))

    def norm_backward(
        self, dout: Tensor, normed: Normed, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """Gradient of LayerNorm's input, (T, D), and the sums of `norm_backward_into`, (3, D)."""
        partial = self.partial_sums(1, dout)
        return self.norm_backward_into(partial[0], dout, normed, norm), partial[0].sum(1)

    def norm_backward_into(
        self,
        partial: Tensor,
        dout: Tensor,
        normed: Normed,
        norm: nn.LayerNorm,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Gradient of LayerNorm's input plus `residual`, (T, D).

        Into `partial` (3, P, D) go sums over P parts of the rows: the gradients of scale and shift,
        and the sum of the result. They are added up for all norms at once.
        """
        x, _, mean, rstd = normed
        value = ((x - mean[:, None]) * rstd[:, None]).to(_precise(x))
        dout = dout.to(_precise(x))
        weighted = dout * norm.weight
        dx = weighted - weighted.mean(-1, True) - value * (weighted * value).mean(-1, True)
        dx = dx * rstd[:, None]
        if residual is not None:
            dx = dx + residual
        partial[:, 0] = torch.stack([(dout * value).sum(0), dout.sum(0), dx.sum(0)])
        return dx.to(x.dtype)

    def attention(self, qkv: Tensor, length: int, heads: int) -> Tensor:
        """Self-attention within sequences of `length`: (T, 3 * heads * 64) -> (T, heads * 64)."""
        query, key, value = _split_heads(qkv, length, 3 * heads).chunk(3, 1)
        out = functional.scaled_dot_product_attention(query, key, value)
        return out.transpose(1, 2).reshape(len(qkv), -1)

    def attention_backward(self, qkv: Tensor, dout: Tensor, length: int, heads: int) -> Tensor:
        """Gradient of `attention`'s qkv, whose probabilities are computed again."""
        query, key, value = _split_heads(qkv, length, 3 * heads).chunk(3, 1)
        dout = _split_heads(dout, length, heads)
        scale = HEAD_DIM**-0.5
        weights = (query @ key.transpose(-1, -2) * scale).softmax(-1)
        dweights = dout @ value.transpose(-1, -2)
        dscores = weights * (dweights - (weights * dweights).sum(-1, True)) * scale
        dqkv = torch.cat(
            [dscores @ key, dscores.transpose(-1, -2) @ query, weights.transpose(-1, -2) @ dout], 1
        )
        return dqkv.transpose(1, 2).reshape(qkv.shape)

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """h = x weight^T + bias and GELU(h)."""
        h = torch.addmm(bias, x, weight.T)
        return h, functional.gelu(h)

    def linear_gelu_backward(self, dy: Tensor, weight: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of h where y = GELU(h) weight^T, and its sum over rows in float32."""
        dh = torch.ops.aten.gelu_backward(dy @ weight, h)
        return dh, dh.to(_precise(h)).sum(0)

    def weight_gradient(self, dout: Tensor, x: Tensor) -> Tensor:
        """dout^T x in float32."""
        return (dout.T @ x).to(_precise(x))


def _precise(x: Tensor) -> torch.dtype:
    """The dtype to accumulate in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _split_heads(x: Tensor, length: int, heads: int) -> Tensor:
    """(S * length, heads * 64) -> (S, heads, length, 64)."""
    return x.view(-1, length, heads, HEAD_DIM).transpose(1, 2)


@dataclass
class KernelOperations:
    """`Operations` by Triton kernels around the vendor's matrix products.

    Attributes:
        kernels: the module of that name.
        attention_tile: see `kernels.attention_tile`.
    """

    kernels: Any
    attention_tile: tuple[int, int, int] | None = None

    def norm(self, x: Tensor, norm: nn.LayerNorm) -> Normed:
        return self.kernels.add_norm(x, None, None, norm.weight, norm.bias, norm.eps)

    def norm_and_add(
        self, x: Tensor, norm: nn.LayerNorm, extra: Tensor, which: Tensor, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        _, _, mean, rstd = self.kernels.add_norm(
            x, None, None, norm.weight, norm.bias, norm.eps, (extra, which), out
        )
        return mean, rstd

    def linear_add_norm(
        self, y: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, norm: nn.LayerNorm
    ) -> Normed:
        return self.kernels.add_norm(x, y @ weight.T, bias, norm.weight, norm.bias, norm.eps)

    def partial_sums(self, norms: int, x: Tensor) -> Tensor:
        parts = self.kernels.norm_programs(x)
        return x.new_empty(norms, 3, parts, x.shape[1], dtype=torch.float32)

    def norm_backward_into(
        self,
        partial: Tensor,
        dout: Tensor,
        normed: Normed,
        norm: nn.LayerNorm,
        residual: Tensor | None = None,
    ) -> Tensor:
        x, _, mean, rstd = normed
        return self.kernels.norm_backward(dout, x, mean, rstd, norm.weight, residual, partial)

    def norm_backward(
        self, dout: Tensor, normed: Normed, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        partial = self.partial_sums(1, dout)
        return self.norm_backward_into(partial[0], dout, normed, norm), partial[0].sum(1)

    def attention(self, qkv: Tensor, length: int, heads: int) -> Tensor:
        return self.kernels.attention(qkv, length, heads, self.attention_tile)

    def attention_backward(self, qkv: Tensor, dout: Tensor, length: int, heads: int) -> Tensor:
        return self.kernels.attention_backward(qkv, dout, length, heads, self.attention_tile)

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.addmm(bias, x, weight.T)
        return h, self.kernels.gelu(h)

    def linear_gelu_backward(self, dy: Tensor, weight: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.kernels.gelu_backward(dy @ weight, h)

    def weight_gradient(self, dout: Tensor, x: Tensor) -> Tensor:
        if dout.is_cuda and dout.dtype != torch.float32:
            return torch.mm(dout.T, x, out_dtype=torch.float32)
        return (dout.T @ x).float()


def choose_operations(tensor: Tensor) -> Operations:
    """Kernels where they can work on such a tensor, else plain torch."""
    kernels = None if tensor.dtype == torch.float64 else kernels_for(tensor)
    return PlainOperations() if kernels is None else KernelOperations(kernels)
