"""The masked auto-encoder that the paper compares with (Table 1, §4.6, Appendix B)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from myna_plugin.model.encoder import PATCH_AREA, PATCHINGS, MynaEncoder, token_grid
from myna_plugin.model.spectrogram import N_MELS
from myna_plugin.model.vit import HEAD_DIM, Transformer, sincos_positions
from myna_plugin.pretraining.step.crops import Views
from myna_plugin.pretraining.step.fused import FusedTransformer
from myna_plugin.pretraining.step.objective import PatchSource, VisibleTokens, project
from myna_plugin.pretraining.step.patches import all_tokens


class MaskedAutoencoder(nn.Module):
    """Predicts the masked patches of a crop from its visible ones.

    The encoder sees the visible patches; a shallow decoder sees its tokens and a learned token in
    every masked place, all with positions, and predicts log(1 + mel power) of every patch. The loss
    is the mean squared error over the masked patches. Of each pair only the first view is used.

    Source: paper Table 1 and Appendix B, which give the decoder's depth of 4 and log1p mels; He et
    al. 2022 for the rest. The decoder's width is not given there; here it is the encoder's.

    Args:
        encoder: float32 parameters.
        source: gathers patches; None if all views carry those of the whole crop.
        decoder_dim: width of the decoder, a multiple of 64; None for the encoder's.
        decoder_depth: blocks of the decoder.
        crop_frames: frames of a crop.
        dtype: to compute in: float32, or bfloat16 on a GPU.
        recompute: activation checkpointing, see `fused.FusedTransformer`.
    """

    def __init__(
        self,
        encoder: MynaEncoder,
        source: PatchSource | None = None,
        *,
        decoder_dim: int | None = None,
        decoder_depth: int = 4,
        crop_frames: int = 96,
        dtype: torch.dtype = torch.float32,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        dim = encoder.config.embed_dim
        width = decoder_dim or dim
        if width % HEAD_DIM:
            raise ValueError(f"decoder_dim must be a multiple of {HEAD_DIM}, got {width}")
        self.encoder = encoder
        self.source = source
        self.crop_frames = crop_frames
        self.dtype = dtype
        self.enter = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.decoder = Transformer(width, decoder_depth, width // HEAD_DIM, 4 * width)
        self.predict = nn.ModuleDict(
            {patching: nn.Linear(width, PATCH_AREA) for patching in encoder.config.patchings}
        )
        for patching in encoder.config.patchings:
            codes = sincos_positions(*token_grid(patching, crop_frames), width)
            self.register_buffer(f"positions_{patching}", codes, persistent=False)
        self.to(next(encoder.parameters()).device)
        self.visible_tokens = VisibleTokens(encoder, None, crop_frames, dtype)
        self.fused_encoder = FusedTransformer.of(encoder.transformer, dtype, recompute)
        self.fused_decoder = FusedTransformer.of(self.decoder, dtype, recompute)

    def forward(self, views: Views) -> Tensor:
        """Loss of every patching, float32, shape (G,)."""
        patches, predicted = self.predict_patches(views)
        error = (predicted.float() - patches.log1p()).square().mean(-1)
        masked = torch.ones_like(error).scatter_(-1, views.tokens[:, 0], 0.0)
        return (error * masked).sum((1, 2)) / masked.sum((1, 2))

    def predict_patches(self, views: Views) -> tuple[Tensor, Tensor]:
        """Mel power of all patches of the first views, and predictions of log(1 + power).

        Returns:
            Two tensors of shape (G, B, N, 256), float32 and the compute dtype.
        """
        patches = self._all_patches(views)
        tokens = views.tokens[:, :1]
        chosen = tokens[:, 0, ..., None].expand(-1, -1, -1, PATCH_AREA)
        visible = patches.gather(2, chosen).unsqueeze(1)
        first = replace(views, starts=views.starts[:, :1], tokens=tokens, patches=visible)
        for fused in (self.fused_encoder, self.fused_decoder):
            fused.copies.refresh()
        encoded = self.fused_encoder(self.visible_tokens(first))
        entered = project(nn.Sequential(self.enter), encoded)
        places = self._with_mask_tokens(entered.unflatten(0, (len(tokens), -1)), tokens[:, 0])
        decoded = self.fused_decoder(places.flatten(0, 1)).view_as(places)
        predicted = [
            project(nn.Sequential(self.predict[patching]), part)
            for patching, part in zip(self.encoder.config.patchings, decoded, strict=True)
        ]
        return patches, torch.stack(predicted)

    def _all_patches(self, views: Views) -> Tensor:
        if views.patches is not None:
            return views.patches[:, 0].float()
        if self.source is None:
            raise ValueError("these views carry no patches and there is no source to gather from")
        tokens = all_tokens(views.tokens[:, 0], self.crop_frames)
        return torch.stack(
            [
                self.source.patches(starts, part.contiguous(), patching, self.crop_frames)
                for starts, part, patching in zip(
                    views.starts[:, 0], tokens, self.encoder.config.patchings, strict=True
                )
            ]
        )

    def _with_mask_tokens(self, visible: Tensor, tokens: Tensor) -> Tensor:
        """Visible tokens in their places, mask tokens in all others, plus positions."""
        groups, pairs, _, width = visible.shape
        codes = torch.stack(
            [self.get_buffer(f"positions_{name}") for name in self.encoder.config.patchings]
        )
        places = self.mask_token.to(visible.dtype).expand(groups, pairs, codes.shape[1], width)
        index = tokens[..., None].expand(-1, -1, -1, width)
        return places.scatter(2, index, visible) + codes[:, None].to(visible.dtype)

    @torch.no_grad()
    def reconstruct(self, views: Views, patching: str) -> tuple[Tensor, Tensor, Tensor]:
        """The three pictures of Appendix B: input, visible patches, reconstruction.

        The reconstruction shows the visible patches as they are, as in the paper.

        Returns:
            log(1 + mel power), float32, each of shape (B, 128, crop_frames); masked places of the
            second are NaN.
        """
        group = self.encoder.config.patchings.index(patching)
        patches, predicted = self.predict_patches(views)
        truth = patches[group].log1p()
        index = views.tokens[group, 0][..., None].expand(-1, -1, PATCH_AREA)
        shown = truth.gather(1, index)
        seen = torch.full_like(truth, torch.nan).scatter(1, index, shown)
        rebuilt = predicted[group].float().scatter(1, index, shown)
        return tuple(unpatchify(x, patching, self.crop_frames) for x in (truth, seen, rebuilt))  # type: ignore[return-value]


def unpatchify(patches: Tensor, patching: str, crop_frames: int) -> Tensor:
    """Inverse of `vit.patchify`: (B, N, 256) -> (B, 128, crop_frames)."""
    rows, columns = token_grid(patching, crop_frames)
    bands, frames = PATCHINGS[patching]
    grid = patches.reshape(-1, rows, columns, bands, frames)
    return grid.transpose(2, 3).reshape(-1, N_MELS, crop_frames)
