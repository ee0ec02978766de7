"""The transformer's forward and backward pass written out by hand.

`run_transformer` computes what `myna_plugin.model.vit.Transformer` computes, and its gradient,
with the fewest passes over memory: residual sum and LayerNorm are one step, the backward pass of a
LayerNorm adds the gradient that passes by it and yields the bias gradient of the product before
it, matrix products take half-precision copies of the weights and return float32 weight gradients,
and attention and GELU keep only their inputs.

The steps themselves are `Operations`, of which there are two: plain torch, which runs anywhere and
says what each one means, and Triton kernels around the vendor's matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.model.vit import HEAD_DIM, Attention, FeedForward, Transformer
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


@dataclass(frozen=True)
class Block:
    """The parts of one transformer block by name."""

    norm: nn.LayerNorm
    to_qkv: nn.Linear
    to_out: nn.Linear
    heads: int
    mlp_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear

    @classmethod
    def of(cls, module: nn.Module) -> Block:
        """Of an entry of `Transformer.layers`."""
        attention, feed_forward = module.children()
        assert isinstance(attention, Attention)
        assert isinstance(feed_forward, FeedForward)
        mlp_norm, up, _, down = feed_forward.net
        assert isinstance(mlp_norm, nn.LayerNorm)
        assert isinstance(up, nn.Linear)
        assert isinstance(down, nn.Linear)
        return cls(
            attention.norm,
            attention.to_qkv,
            attention.to_out,
            attention.num_heads,
            mlp_norm,
            up,
            down,
        )

    @property
    def weights(self) -> list[Tensor]:
        """What its four products take: to_qkv, to_out, up and its bias, down and its bias."""
        up, down = self.up, self.down
        return [
            self.to_qkv.weight, self.to_out.weight, up.weight, up.bias, down.weight, down.bias,
        ]  # fmt: skip


class WeightCopies:
    """Copies of the weights of the blocks' products in the dtype that those are computed in.

    Call `refresh` before each forward pass whose parameters have changed. Without a change of dtype
    the copies are the parameters themselves.
    """

    def __init__(self, blocks: Sequence[Block], dtype: torch.dtype) -> None:
        self.weights = [weight.detach() for block in blocks for weight in block.weights]
        self._same = dtype == self.weights[0].dtype
        self.copies = self.weights if self._same else [w.to(dtype) for w in self.weights]

    def refresh(self) -> None:
        """Copy the parameters' present values."""
        if not self._same:
            torch._foreach_copy_(self.copies, self.weights)

    def of_layer(self, layer: int) -> list[Tensor]:
        """As `Block.weights`."""
        return self.copies[6 * layer : 6 * layer + 6]


@dataclass
class FusedTransformer:
    """A transformer with all that its hand-written passes need.

    Attributes:
        transformer: holds the parameters, float32.
        blocks: the parts of its blocks.
        operations: the steps.
        copies: the products' weights in the compute dtype.
        recompute: keep only every block's input for the backward pass and compute the rest again;
            a sixteenth of the memory for a third more arithmetic.
    """

    transformer: Transformer
    blocks: list[Block]
    operations: Operations
    copies: WeightCopies
    recompute: bool = False

    @classmethod
    def of(
        cls,
        transformer: Transformer,
        dtype: torch.dtype = torch.float32,
        recompute: bool = False,
        operations: Operations | None = None,
    ) -> FusedTransformer:
        """With kernels where they can be used, else in plain torch."""
        blocks = [Block.of(module) for module in transformer.layers]
        copies = WeightCopies(blocks, dtype)
        if operations is None:
            operations = choose_operations(copies.copies[0])
        return cls(transformer, blocks, operations, copies, recompute)

    def __call__(self, x: Tensor) -> Tensor:
        """As `Transformer.forward`: (S, N, D) -> (S, N, D), in the compute dtype.

        Args:
            x: tokens, in the compute dtype. Parameter gradients come in the parameters' dtype.
        """
        sequences, length, width = x.shape
        flat = x.reshape(sequences * length, width).contiguous()
        out = _TransformerFunction.apply(flat, self, length, *self.transformer.parameters())
        return out.view(sequences, length, width)

    def norm_before(self, layer: int) -> nn.LayerNorm:
        """The norm that a block's input goes through: its attention's, or the last one."""
        last = layer == len(self.blocks)
        return self.transformer.norm if last else self.blocks[layer].norm


def _inner_forward(
    fused: FusedTransformer, layer: int, x: Tensor, normed: Tensor, length: int
) -> tuple[Tensor, Tensor, Normed, Tensor, Tensor]:
    """A block up to its last product: qkv, attention's output, the second norm, h and its GELU."""
    ops, block = fused.operations, fused.blocks[layer]
    to_qkv, to_out, up, up_bias, _, _ = fused.copies.of_layer(layer)
    qkv = normed @ to_qkv.T
    mixed = ops.attention(qkv, length, block.heads)
    middle = ops.linear_add_norm(mixed, to_out, None, x, block.mlp_norm)
    h, active = ops.linear_gelu(middle[1], up, up_bias)
    return qkv, mixed, middle, h, active


def choose_operations(tensor: Tensor) -> Operations:
    """Kernels where they can work on such a tensor, else plain torch."""
    kernels = None if tensor.dtype == torch.float64 else kernels_for(tensor)
    return PlainOperations() if kernels is None else KernelOperations(kernels)


class _TransformerFunction(torch.autograd.Function):
    """All blocks and the last norm of a `FusedTransformer`, (T, D) -> (T, D)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, fused: FusedTransformer, length: int, *parameters: Tensor
    ) -> Tensor:
        ops = fused.operations
        kept: list[tuple[Tensor, ...]] = []
        normed = ops.norm(x, fused.norm_before(0))
        for layer in range(len(fused.blocks)):
            inner = _inner_forward(fused, layer, normed[0], normed[1], length)
            middle, active = inner[2], inner[4]
            kept.append(normed[:1] if fused.recompute else _flatten(normed, inner))
            down, down_bias = fused.copies.of_layer(layer)[4:]
            normed = ops.linear_add_norm(
                active, down, down_bias, middle[0], fused.norm_before(layer + 1)
            )
        kept.append((normed[0], normed[2], normed[3]))
        ctx.fused, ctx.length = fused, length
        ctx.sizes = [len(tensors) for tensors in kept]
        ctx.save_for_backward(*(tensor for tensors in kept for tensor in tensors))
        return normed[1]

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        fused, length, ops = ctx.fused, ctx.length, ctx.fused.operations
        saved = list(ctx.saved_tensors)
        kept = []
        for size in ctx.sizes:
            kept.append(saved[:size])
            del saved[:size]
        gradients: dict[nn.Parameter, Tensor] = {}

        x, mean, rstd = kept.pop()
        norms = [fused.transformer.norm]
        # Sums over rows wait until they can be added up in one kernel for all norms.
        partial = ops.partial_sums(1 + 2 * len(fused.blocks), dout)
        parts = iter(partial)
        dx = ops.norm_backward_into(next(parts), dout.contiguous(), (x, x, mean, rstd), norms[0])
        for layer in reversed(range(len(fused.blocks))):
            normed, inner = _restore(fused, layer, kept.pop(), length)
            qkv, mixed, middle, h, active = inner
            block = fused.blocks[layer]
            to_qkv, to_out, up, _, down, _ = fused.copies.of_layer(layer)

            dh, up_bias = ops.linear_gelu_backward(dx, down, h)
            gradients[block.down.weight] = ops.weight_gradient(dx, active)
            dmiddle = ops.norm_backward_into(next(parts), dh @ up, middle, block.mlp_norm, dx)
            gradients[block.up.weight] = ops.weight_gradient(dh, middle[1])
            gradients[block.up.bias] = up_bias

            dqkv = ops.attention_backward(qkv, dmiddle @ to_out, length, block.heads)
            gradients[block.to_out.weight] = ops.weight_gradient(dmiddle, mixed)
            dx = ops.norm_backward_into(next(parts), dqkv @ to_qkv, normed, block.norm, dmiddle)
            gradients[block.to_qkv.weight] = ops.weight_gradient(dqkv, normed[1])
            norms += [block.mlp_norm, block.norm]
            del normed, inner, qkv, mixed, middle, h, active, dh, dqkv, dmiddle

        sums = partial.sum(2)
        for norm, (scale, shift, _) in zip(norms, sums, strict=True):
            gradients[norm.weight], gradients[norm.bias] = scale, shift
        # What reaches a block's output is the sum of its last product's bias gradient.
        for block, (_, _, total) in zip(reversed(fused.blocks), sums[:-1:2], strict=True):
            gradients[block.down.bias] = total
        return dx, None, None, *(gradients[p] for p in fused.transformer.parameters())


def _flatten(normed: Normed, inner: Sequence[Any]) -> tuple[Tensor, ...]:
    qkv, mixed, middle, h, active = inner
    return (*normed, qkv, mixed, *middle, h, active)


def _restore(
    fused: FusedTransformer, layer: int, kept: list[Tensor], length: int
) -> tuple[Normed, tuple[Tensor, Tensor, Normed, Tensor, Tensor]]:
    """What the forward pass of a block saw, from memory or computed again."""
    if fused.recompute:
        normed = fused.operations.norm(kept[0], fused.norm_before(layer))
        return normed, _inner_forward(fused, layer, normed[0], normed[1], length)
    x, out, mean, rstd, qkv, mixed, *middle, h, active = kept
    return (x, out, mean, rstd), (qkv, mixed, tuple(middle), h, active)  # type: ignore[return-value]
