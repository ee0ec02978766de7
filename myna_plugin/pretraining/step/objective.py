"""The contrastive objective: masked views -> loss (paper §3.1, §3.5, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.model.encoder import PATCH_AREA, InputScaling, MynaEncoder, token_grid
from myna_plugin.pretraining.step.crops import Views
from myna_plugin.pretraining.step.fused import FusedTransformer
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from myna_plugin.pretraining.step.operations import Operations, choose_operations
from myna_plugin.pretraining.step.patches import norm_patches


class PatchSource(Protocol):
    """Gathers patches for views that carry none; see `crops.ResidentFrames`."""

    def patches(
        self,
        starts: Tensor,
        tokens: Tensor,
        patching: str,
        crop_frames: int = ...,
        dtype: torch.dtype = ...,
        scaling: InputScaling | None = ...,
    ) -> Tensor: ...


class VisibleTokens:
    """Tokens of visible patches, by an encoder's tokenizers and position codes.

    The scale and shift of a tokenizer's first norm are folded into the linear layer after it, so
    patches are scaled once, in float32, where they are gathered, and no gradient reaches them.

    Args:
        encoder: owns the tokenizers.
        source: the patches; None if all views carry theirs.
        crop_frames: frames of a crop.
        dtype: to compute in.
        operations: the steps; chosen for the encoder's device if None.
    """

    def __init__(
        self,
        encoder: MynaEncoder,
        source: PatchSource | None,
        crop_frames: int = 96,
        dtype: torch.dtype = torch.float32,
        operations: Operations | None = None,
    ) -> None:
        self.encoder = encoder
        self.source = source
        self.crop_frames = crop_frames
        self.dtype = dtype
        self.operations = operations

    def __call__(self, views: Views) -> Tensor:
        """Tokens with positions, patching after patching: (G * 2B, visible, D)."""
        groups, n_views, pairs, visible = views.tokens.shape
        patches, weights = [], []
        for group, patching in enumerate(self.encoder.config.patchings):
            _, patch_norm, linear, token_norm = self.encoder.tokenizer(patching)
            assert isinstance(patch_norm, nn.LayerNorm)
            assert isinstance(linear, nn.Linear)
            patches.append(
                (self._patches(views, group, patching), token_norm, self._codes(patching))
            )
            weights += [
                linear.weight * patch_norm.weight,
                linear.bias + linear.weight @ patch_norm.bias,
                token_norm.weight,
                token_norm.bias,
            ]
        operations = self.operations or choose_operations(patches[0][0])
        which = views.tokens.view(groups, -1)
        out = _TokenFunction.apply(patches, which, operations, *weights)
        return out.view(groups * n_views * pairs, visible, -1)

    def _codes(self, patching: str) -> Tensor:
        return self.encoder.positions(patching, token_grid(patching, self.crop_frames)[1])

    def _patches(self, views: Views, group: int, patching: str) -> Tensor:
        scaling = self.encoder.config.input_scaling
        if views.patches is not None:
            patches = norm_patches(views.patches[group], self.dtype, scaling)
        elif self.source is not None:
            starts, tokens = views.starts[group].flatten(), views.tokens[group].flatten(0, 1)
            patches = self.source.patches(
                starts, tokens, patching, self.crop_frames, self.dtype, scaling
            )
        else:
            raise ValueError("these views carry no patches and there is no source to gather from")
        return patches.view(-1, PATCH_AREA)


class _TokenFunction(torch.autograd.Function):
    """Linear, LayerNorm and positions of every patching, one below the other in one array."""

    @staticmethod
    def forward(
        ctx: Any,
        patches: Sequence[tuple[Tensor, nn.LayerNorm, Tensor]],
        which: Tensor,
        operations: Operations,
        *weights: Tensor,
    ) -> Tensor:
        first = patches[0][0]
        n_rows, width = len(first), len(weights[0])
        out = torch.empty(len(patches) * n_rows, width, device=first.device, dtype=first.dtype)
        kept = []
        for group, (values, norm, codes) in enumerate(patches):
            weight, bias = (
                tensor.to(values.dtype) for tensor in weights[4 * group : 4 * group + 2]
            )
            x = torch.addmm(bias, values, weight.T)
            part = out[group * n_rows : (group + 1) * n_rows]
            kept += [values, x, *operations.norm_and_add(x, norm, codes, which[group], part)]
        ctx.norms = [norm for _, norm, _ in patches]
        ctx.operations = operations
        ctx.save_for_backward(*kept)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor] = []
        parts = dout.contiguous().chunk(len(ctx.norms))
        for group, (part, norm) in enumerate(zip(parts, ctx.norms, strict=True)):
            values, x, mean, rstd = ctx.saved_tensors[4 * group : 4 * group + 4]
            dx, sums = ctx.operations.norm_backward(part, (x, x, mean, rstd), norm)
            gradients += [ctx.operations.weight_gradient(dx, values), sums[2], sums[0], sums[1]]
        return None, None, None, *gradients


def project(head: nn.Sequential, x: Tensor) -> Tensor:
    """A projector's output in the dtype of its input, whatever that of its weights."""
    for module in head:
        if isinstance(module, nn.Linear):
            x = functional.linear(x, module.weight.to(x.dtype), module.bias.to(x.dtype))
        else:
            x = module(x)
    return x


class ContrastiveObjective(nn.Module):
    """Loss of every patching; their mean is the hybrid loss (paper §3.5).

    The views of all patchings go through the transformer, which they share, as one batch.

    Args:
        encoder: float32 parameters; its projector, if it has one, precedes the loss.
        loss: made for as many groups as the encoder has patchings.
        source: gathers patches; None if all views carry theirs.
        crop_frames: frames of a crop.
        dtype: to compute in: float32, or bfloat16 on a GPU.
        recompute: activation checkpointing, see `fused.FusedTransformer`.
        operations: the steps of the transformer; chosen for the encoder's device if None.
    """

    def __init__(
        self,
        encoder: MynaEncoder,
        loss: ContrastiveLoss,
        source: PatchSource | None = None,
        *,
        crop_frames: int = 96,
        dtype: torch.dtype = torch.float32,
        recompute: bool = False,
        operations: Operations | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = loss
        self.visible_tokens = VisibleTokens(encoder, source, crop_frames, dtype, operations)
        self.fused = FusedTransformer.of(encoder.transformer, dtype, recompute, operations)

    def forward(self, views: Views) -> Tensor:
        """Loss of every patching, float32, shape (G,)."""
        return self.loss(self.project(self.embed(views)), views.sounds)

    def embed(self, views: Views) -> Tensor:
        """Embeddings of masked views, the mean over visible tokens: (G, 2, B, D)."""
        self.fused.copies.refresh()
        groups, n_views, pairs, _ = views.tokens.shape
        embeddings = self.fused(self.visible_tokens(views)).mean(1)
        return embeddings.view(groups, n_views, pairs, -1)

    def project(self, embeddings: Tensor) -> Tensor:
        """What the loss compares: (…, D) -> (…, P)."""
        if not self.encoder.config.projector:
            return embeddings
        return project(self.encoder.linear_head, embeddings)
