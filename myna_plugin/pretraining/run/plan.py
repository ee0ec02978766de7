"""What a training run will be, looked at before it begins: settings, store, folder, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from myna_plugin.common.devices import DeviceError, choose_device, without_mps
from myna_plugin.common.launch import launched_rank, launched_world_size
from myna_plugin.model.checkpoint import load_weights
from myna_plugin.model.encoder import MynaEncoder, parameter_count
from myna_plugin.model.tensors import CheckpointError
from myna_plugin.pretraining.run.monitoring import (
    choose_clips,
)
from myna_plugin.pretraining.run.run_files import (
    RunError,
    RunFolder,
)
from myna_plugin.pretraining.run.settings import PretrainSettings, SettingsError
from myna_plugin.pretraining.step.crops import check_batch, check_crop
from myna_plugin.pretraining.step.losses import world_size
from myna_plugin.pretraining.store.reading import FRAME_BYTES, Store

HEADROOM_BYTES = 4 << 30
"""Kept free on a GPU beside the store and the estimated activations."""


@dataclass(frozen=True, eq=False)
class PretrainPlan:
    """A run that has passed all checks that need no GPU.

    Attributes:
        settings: of the run.
        store: the clips.
        folder: where everything goes.
        trained: numbers of the clips to train on.
        monitored: numbers of the clips for monitoring.
        total_steps: of the whole run.
        state: the checkpoint to go on from; None at the beginning.
    """

    settings: PretrainSettings
    store: Store
    folder: RunFolder
    trained: np.ndarray
    monitored: np.ndarray
    total_steps: int
    state: dict[str, Any] | None

    @property
    def first_step(self) -> int:
        """Steps already taken."""
        return self.state["step"] if self.state else 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.first_step >= self.total_steps and self.folder.final.exists()


def plan_run(settings: PretrainSettings, store: Store, out: Path, resume: bool) -> PretrainPlan:
    """Check everything that can be checked before a GPU is touched, and make the run's folder.

    Raises:
        RunError: the store holds too few clips or too short ones, no GPU where one is asked for,
            a full disk, initial weights that do not fit, or a folder that holds another run.
    """
    check_store(settings, store)
    trained, monitored = choose_clips(
        len(store), settings.held_out_clips, settings.seed, settings.clips_together
    )
    if not settings.held_out_clips:
        n_monitored = min(settings.monitor_clips, len(store))
        _, monitored = choose_clips(len(store), n_monitored, settings.seed)
    _check_device(settings)
    folder = RunFolder(out, settings.keep_last, settings.keep_every)
    if not folder.saved_steps():
        _check_initial_weights(settings)
    if launched_rank() == 0:
        folder.begin(resume)
    state = folder.load_newest() if resume else None
    if state:
        _check_same_run(settings, store, folder, state)
    n_sounds = len(trained) // settings.versions
    total_steps = settings.total_steps(n_sounds // settings.batch_size)
    if launched_rank() == 0:
        size = checkpoint_bytes(settings, len(trained))
        saves_every = math.gcd(settings.checkpoint_every, settings.probe_every)
        folder.check_room(size, total_steps, saves_every)
    monitored = monitored[: settings.monitor_clips]
    return PretrainPlan(settings, store, folder, trained, monitored, total_steps, state)


def check_store(settings: PretrainSettings, store: Store) -> None:
    """RunError unless the store fills a batch, its clips a crop, and versions may be such."""
    _check_versions(settings, store)
    n_trained = len(store) - settings.held_out_clips
    if n_trained <= 0:
        held = len(store) // 20 * 2
        too_few = len(store) - held < settings.batch_size
        batch = f" and batch_size={len(store) - held}, or less" if too_few else ""
        raise RunError(
            f"{store.path}: held_out_clips={settings.held_out_clips} leaves none of its "
            f"{len(store)} clips to train on; say held_out_clips={held}, or so{batch}"
        )
    try:
        check_batch(
            n_trained,
            settings.batch_size,
            launched_world_size(),
            settings.clips_per_block,
            settings.view_versions,
        )
        check_crop(store.frames, settings.crop_frames, settings.patchings)
    except ValueError as error:
        held = settings.held_out_clips
        less = f" ({held} of {len(store)} clips are held out)" if held else ""
        small = "; the recipe smoke is for so few" if len(store) < settings.batch_size else ""
        raise RunError(f"{store.path}: {error}{less}{small}") from error


def _check_versions(settings: PretrainSettings, store: Store) -> None:
    """RunError where neighbours that nobody made so would be taken for versions of one sound."""
    versions, block = settings.view_versions, store.settings.clips_per_block
    if any(versions.shares) and block % versions.span:
        told = f"in blocks of {block}" if block > 1 else "of files, unrelated"
        raise RunError(
            f"{store.path}: versions={versions.number} takes every {versions.span} neighbouring "
            f"clips for versions of a sound, and its clips are {told}; "
            "say versions=1, or choose another recipe, such as hybrid"
        )


def _check_device(settings: PretrainSettings) -> None:
    try:
        device = without_mps(choose_device(settings.device))
    except DeviceError as error:
        raise RunError(str(error)) from error
    if device == "cpu" and settings.frames_on == "device":
        raise RunError("frames_on: device needs a GPU; say frames_on=auto")


def _check_initial_weights(settings: PretrainSettings) -> None:
    if settings.initial_weights is None:
        return
    try:
        load_weights(MynaEncoder(settings.encoder_config()), settings.initial_weights)
    except CheckpointError as error:
        raise RunError(f"initial_weights: {error}") from error


def _check_same_run(
    settings: PretrainSettings, store: Store, folder: RunFolder, state: dict[str, Any]
) -> None:
    # What may change is not read: another version may have had other values of it.
    bound = state["settings"].keys() - settings.free_to_change
    try:
        begun = PretrainSettings().with_changes({name: state["settings"][name] for name in bound})
    except SettingsError as error:
        raise RunError(
            f"{folder.path}: begun by another version of myna_plugin ({error})"
        ) from error
    different = settings.differences(begun)
    if different:
        told = ", ".join(
            f"{name}={_plain(getattr(begun, name))} (now {_plain(getattr(settings, name))})"
            for name in different
        )
        raise RunError(
            f"{folder.path}: this run was begun with {told}; resume it with the settings in its "
            "config.yaml, or begin another one with another --out"
        )
    if state["fingerprint"] != store.fingerprint:
        raise RunError(
            f"{folder.path}: this run was begun with another store than {store.path} (its "
            "fingerprint differs); give the same one, or begin another run with another --out"
        )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _decoder_weights(settings: PretrainSettings) -> int:
    """Weights of the blocks of the masked auto-encoder's decoder."""
    width = settings.encoder_config().embed_dim
    return settings.decoder_depth * 12 * width**2 if settings.objective == "mae" else 0


def checkpoint_bytes(settings: PretrainSettings, n_clips: int) -> int:
    """Size of a checkpoint: float32 weights and two moments of Adam for each, nearly."""
    with torch.device("meta"):
        weights = parameter_count(MynaEncoder(settings.encoder_config()))
    averages = len(settings.patchings) * n_clips if settings.loss == "sogclr" else 0
    return 4 * (3 * (weights + _decoder_weights(settings)) + averages)


def uses_bfloat16(settings: PretrainSettings) -> bool:
    """Whether the model computes in bfloat16."""
    if settings.precision != "auto":
        return settings.precision == "bfloat16"
    return without_mps(choose_device(settings.device)) == "cuda" and torch.cuda.is_bf16_supported()


def flops_per_clip(settings: PretrainSettings) -> float:
    """Arithmetic of the blocks' products for a clip of a step: 6 per weight and token."""
    encoder = settings.encoder_config()
    inner = 64 * encoder.num_heads
    weights = encoder.depth * (4 * inner + 2 * encoder.mlp_dim) * encoder.embed_dim
    encoded, decoded = settings.tokens_per_clip()
    return 6.0 * (weights * encoded + _decoder_weights(settings) * decoded)


def activation_bytes(settings: PretrainSettings, clips: int) -> int:
    """Estimate of what a step's forward pass keeps for its backward pass."""
    encoder = settings.encoder_config()
    encoded, decoded = settings.tokens_per_clip()
    # Block by block: x and its norm twice, qkv, attention's output, and the perceptron's two.
    width = 8 * encoder.embed_dim + 2 * encoder.mlp_dim
    values = (encoder.depth * encoded + settings.decoder_depth * decoded) * width * clips
    return values * (2 if uses_bfloat16(settings) else 4)


def fits_on_device(settings: PretrainSettings, store: Store, device: torch.device) -> bool:
    """Whether the store's frames leave enough of a GPU for training."""
    frames = sum(len(shard) for shard in store.shards) * FRAME_BYTES
    clips = settings.batch_size // world_size()
    free, _ = torch.cuda.mem_get_info(device)
    return frames + 3 * activation_bytes(settings, clips) // 2 + HEADROOM_BYTES <= free
