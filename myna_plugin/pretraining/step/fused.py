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
from typing import Any

import torch
from torch import Tensor, nn

from myna_plugin.model.vit import Attention, FeedForward, Transformer
from myna_plugin.pretraining.step.operations import Normed, Operations, choose_operations


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
