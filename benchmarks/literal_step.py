"""The pre-training step as a textbook would write it: the oracle and the peer of the fast one.

Everything in float32; all 48 tokens of a crop are embedded and 43 of them thrown away; a random
permutation per sample is drawn on the CPU; each patching has its own pass; the loss holds all
similarities at once. Source: paper §3 and Algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from myna_plugin.model.encoder import MynaEncoder


def draw_tokens(n_views: int, n_tokens: int, kept: int, device: torch.device) -> Tensor:
    """Visible tokens, one permutation after the other: (n_views, kept)."""
    rows = [torch.randperm(n_tokens)[:kept] for _ in range(n_views)]
    return torch.stack(rows).to(device)


def cut_crops(frames: Tensor, starts: Tensor, crop_frames: int = 96) -> Tensor:
    """Crops of stored frames as float32 spectrograms: (V,) -> (V, 128, crop_frames)."""
    rows = starts[:, None] + torch.arange(crop_frames, device=starts.device)
    return frames[rows].float().transpose(1, 2)


def decoupled_loss(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """The paper's equation for every view, averaged: two (B, P) -> scalar."""
    z = functional.normalize(torch.cat([first, second]), dim=1)
    pairs = len(first)
    similarity = z @ z.T / temperature
    sample = torch.arange(2 * pairs, device=z.device) % pairs
    positive = similarity[torch.arange(2 * pairs), torch.arange(2 * pairs).roll(pairs)]
    negatives = similarity.masked_fill(sample[:, None] == sample[None, :], -torch.inf)
    return (negatives.logsumexp(1) - positive).mean()


def literal_loss(encoder: MynaEncoder, crops: Tensor, tokens: dict[str, Tensor]) -> Tensor:
    """Mean over patchings of the loss of all pairs.

    Args:
        encoder: with or without projector.
        crops: first views, then second views, shape (2B, 128, F).
        tokens: visible tokens of each patching, shape (2B, visible).
    """
    losses = []
    for patching, chosen in tokens.items():
        everything = encoder.tokens(crops, patching)
        index = chosen[..., None].expand(-1, -1, everything.shape[-1])
        embedded = encoder.transformer(everything.gather(1, index)).mean(1)
        projected = encoder.linear_head(embedded) if encoder.config.projector else embedded
        losses.append(decoupled_loss(*projected.chunk(2)))
    return torch.stack(losses).mean()
