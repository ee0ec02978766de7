"""What a run trains: its frames, its encoder before the first step, its objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from myna_plugin.model.checkpoint import load_weights
from myna_plugin.model.encoder import MynaEncoder, initialise
from myna_plugin.pretraining.run.plan import PretrainPlan, fits_on_device, uses_bfloat16
from myna_plugin.pretraining.step.autoencoder import MaskedAutoencoder
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from myna_plugin.pretraining.step.objective import ContrastiveObjective
from myna_plugin.pretraining.step.patches import ResidentFrames


def load_frames(
    plan: PretrainPlan, device: torch.device, say: Callable[[str], None]
) -> ResidentFrames | None:
    """All frames on the GPU, or None where they are to be read ahead."""
    wanted = plan.settings.frames_on
    if device.type == "cpu" or wanted == "host":
        return None
    if wanted == "auto" and not fits_on_device(plan.settings, plan.store, device):
        say("the store does not fit on the GPU: frames are read ahead from disk")
        return None
    return ResidentFrames(plan.store, device)


def first_encoder(plan: PretrainPlan, say: Callable[[str], None]) -> MynaEncoder:
    """The encoder before the first step, on the CPU."""
    settings = plan.settings
    encoder = initialise(MynaEncoder(settings.encoder_config()), settings.seed)
    # A run that goes on has its own weights, and the checkpoint may be gone by then.
    if settings.initial_weights is None or plan.state is not None:
        return encoder
    if not load_weights(encoder, settings.initial_weights):
        say("the initial weights have no projector of these widths: it begins random")
    return encoder


def build_objective(
    plan: PretrainPlan,
    encoder: MynaEncoder,
    source: ResidentFrames | None,
    device: torch.device,
) -> nn.Module:
    """What turns views into losses; it owns the encoder.

    Args:
        plan: of the run.
        encoder: on the device.
        source: from `load_frames`.
        device: of this process.
    """
    settings = plan.settings
    dtype = torch.bfloat16 if uses_bfloat16(settings) else torch.float32
    if settings.objective == "mae":
        # The decoder draws its first weights from the global generator.
        torch.manual_seed(settings.seed)
        return MaskedAutoencoder(
            encoder,
            source,
            decoder_depth=settings.decoder_depth,
            crop_frames=settings.crop_frames,
            dtype=dtype,
            recompute=settings.recompute,
        )
    loss = ContrastiveLoss(
        settings.loss,
        settings.temperature,
        settings.tile_rows,
        settings.gamma,
        n_samples=len(plan.trained),
        n_groups=len(settings.patchings),
    )
    return ContrastiveObjective(
        encoder,
        loss.to(device),
        source,
        crop_frames=settings.crop_frames,
        dtype=dtype,
        recompute=settings.recompute,
    )
