"""Batches of views: which clips, which crops of them, which patches of those.

Everything random about step n is drawn from generators seeded by (seed, n), so a run that starts
again at step n needs to be told nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from myna_plugin.model.encoder import PATCHINGS, token_grid
from myna_plugin.pretraining.step.masking import draw_masks, find_masking


@dataclass(frozen=True)
class Views:
    """The two masked crops of every clip of a batch.

    Attributes:
        sounds: the sounds' numbers, without versions the clips', int64, shape (B,).
        starts: first frame of every patching's crops, counted over all clips, int64, (G, 2, B).
        tokens: visible tokens of every patching, int64, shape (G, 2, B, visible).
        patches: the visible patches' mel power, shape (G, 2, B, visible, 256), where they have been
            gathered beforehand.
    """

    sounds: Tensor
    starts: Tensor
    tokens: Tensor
    patches: Tensor | None = None

    def to(self, device: torch.device) -> Views:
        """On a device; from pinned memory without waiting."""
        patches = None if self.patches is None else self.patches.to(device, non_blocking=True)
        return Views(
            self.sounds.to(device, non_blocking=True),
            self.starts.to(device, non_blocking=True),
            self.tokens.to(device, non_blocking=True),
            patches,
        )


def derive_seed(*numbers: int) -> int:
    """A seed for `torch.Generator` from several numbers; neighbours give unrelated seeds.

    >>> derive_seed(0, 1) != derive_seed(1, 0)
    True
    """
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Versions:
    """Which clips are versions of one sound, and how often the two views come from two of them.

    In every `number * stride` neighbouring clips, those with one remainder by `stride` are versions
    of one sound: with 2 and 1, clips 0 and 1, 2 and 3, ...; with 2 and 4, clips 0 and 4, 1 and 5,
    2 and 6, 3 and 7, 8 and 12, ...

    Attributes:
        number: versions of every sound; 1 for none but itself.
        stride: how far apart they are.
        shares: chance that a pair of views comes from two versions rather than one, for every
            patching or one for all.
    """

    number: int = 1
    stride: int = 1
    shares: tuple[float, ...] = (1.0,)

    @property
    def span(self) -> int:
        """Neighbouring clips in which all versions of a sound are."""
        return 1 if self.number == 1 else self.number * self.stride

    def sounds_per_block(self, clips_per_block: int) -> int:
        """Sounds in a block of clips; single clips are shuffled sound by sound.

        Raises:
            ValueError: a block would part versions of one sound.
        """
        if clips_per_block > 1 and clips_per_block % self.span:
            raise ValueError(
                "clips_per_block: must be 1 or a multiple of versions * version_stride="
                f"{self.span}, got {clips_per_block}"
            )
        return max(1, clips_per_block // self.number)

    def draw(self, sounds: Tensor, n_patchings: int, generator: torch.Generator) -> Tensor:
        """Clips that every patching's two views of each sound are cut from, int64, (G, 2, B).

        Patchings of the same share get the same.
        """
        if self.number == 1:
            return sounds.expand(n_patchings, 2, -1)
        chance = torch.rand(3, len(sounds), generator=generator, device=sounds.device)
        one = (chance[0] * self.number).long().clamp(max=self.number - 1)
        ahead = 1 + (chance[1] * (self.number - 1)).long().clamp(max=self.number - 2)
        others = torch.stack(
            [
                torch.where(chance[2] < share, (one + ahead) % self.number, one)
                for share in self.shares
            ]
        ).expand(n_patchings, -1)
        first = sounds // self.stride * self.span + sounds % self.stride
        return first + torch.stack([one.expand_as(others), others], 1) * self.stride


SINGLE = Versions()
"""Every clip is the only version of a sound."""


class ViewSampler:
    """Draws the views of any step.

    Every epoch visits the clips in a new random order without repeats; what does not fill a batch
    at its end is left out. In a process group every process draws its own part of each batch.

    With `clips_per_block` n, clips kn to kn + n - 1 always come together, in one process's part of
    one batch: see `order_clips`. Laid out so that they differ in one respect alone, they are each
    other's hard negatives.

    With `versions`, clips are several versions of one sound, an augmentation made beforehand. Only
    one pair of views is cut from all of them, so none is the negative of another.

    Args:
        offsets: every clip's first frame, counted over all clips, int64, shape (clips,).
        lengths: every clip's frames, int64, shape (clips,).
        batch_size: clips of a batch over all processes, a multiple of
            `world_size * clips_per_block`.
        patchings: names from `encoder.PATCHINGS`.
        masking: a name from `masking.MASKINGS`.
        mask_ratio: fraction of patches removed.
        crop_frames: frames of a crop, a multiple of every patching's frames.
        seed: decides all draws together with the step and the process.
        device: where masks and crops are drawn.
        rank: of this process.
        world_size: number of processes.
        clips_per_block: neighbouring clips that stay together; 1 shuffles clip by clip.
        versions: which clips are versions of one sound.

    Raises:
        ValueError: fewer clips than a batch, a batch that blocks do not fill, a clip shorter than
            a crop, versions that do not fill the store or the blocks, or an unknown masking.
    """

    def __init__(
        self,
        offsets: np.ndarray,
        lengths: np.ndarray,
        *,
        batch_size: int,
        patchings: Sequence[str],
        masking: str = "uniform",
        mask_ratio: float = 0.9,
        crop_frames: int = 96,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        clips_per_block: int = 1,
        versions: Versions = SINGLE,
    ) -> None:
        check_batch(len(offsets), batch_size, world_size, clips_per_block, versions)
        check_crop(lengths, crop_frames, patchings)
        find_masking(masking)
        self.device = torch.device(device)
        self.offsets = torch.as_tensor(np.asarray(offsets), dtype=torch.int64).to(self.device)
        room = torch.as_tensor(np.asarray(lengths), dtype=torch.int64) - crop_frames + 1
        self.room = room.to(self.device)
        self.batch_size = batch_size
        self.patchings = tuple(patchings)
        self.masking = masking
        self.mask_ratio = mask_ratio
        self.crop_frames = crop_frames
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.versions = versions
        self.sounds_per_block = versions.sounds_per_block(clips_per_block)
        self._generator = torch.Generator(self.device)
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the store."""
        return len(self.offsets) // self.versions.number // self.batch_size

    def sounds(self, step: int) -> Tensor:
        """This process's sounds of a step, int64, shape (batch_size / world_size,).

        Without versions they are the numbers of clips.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            # Drawn on the CPU, so that the order is the same on every device.
            generator = torch.Generator().manual_seed(derive_seed(self.seed, 0, epoch))
            n_sounds = len(self.offsets) // self.versions.number
            order = order_clips(n_sounds, self.sounds_per_block, generator)
            self._order = epoch, order.to(self.device)
        share = self.batch_size // self.world_size
        start = position * self.batch_size + self.rank * share
        return self._order[1][start : start + share]

    def draw(self, step: int) -> Views:
        """This process's views of a step, on the sampler's device."""
        sounds = self.sounds(step)
        generator = self._generator.manual_seed(derive_seed(self.seed, 1, step, self.rank))
        chance = torch.rand(2, len(sounds), generator=generator, device=self.device)
        clips = self.versions.draw(sounds, len(self.patchings), generator)
        room = self.room[clips]
        starts = self.offsets[clips] + torch.minimum((chance * room).long(), room - 1)
        tokens = [
            draw_masks(
                self.masking,
                len(sounds),
                token_grid(patching, self.crop_frames),
                self.mask_ratio,
                generator,
            )
            for patching in self.patchings
        ]
        return Views(sounds, starts, torch.stack(tokens))


def order_clips(n_clips: int, clips_per_block: int, generator: torch.Generator) -> Tensor:
    """All clips once, blocks of neighbouring ones in random order, int64, shape (n_clips,).

    Block k are clips kn to kn + n - 1 for n clips a block. Where n does not divide `n_clips`, the
    last block is short: the block drawn last fills its place up, and what remains of that one ends
    the order. So every n clips from the front are a block, or the short one and its filling.

    >>> order_clips(8, 3, torch.Generator().manual_seed(1)).tolist()
    [3, 4, 5, 6, 7, 2, 0, 1]
    """
    n_blocks = -(-n_clips // clips_per_block)
    blocks = torch.randperm(n_blocks, generator=generator)
    order = (blocks[:, None] * clips_per_block + torch.arange(clips_per_block)).flatten()
    # As many places are beyond the last clip as there are numbers too many at the end.
    order[order >= n_clips] = order[n_clips:].clone()
    return order[:n_clips]


def check_batch(
    n_clips: int,
    batch_size: int,
    world_size: int,
    clips_per_block: int = 1,
    versions: Versions = SINGLE,
) -> None:
    """ValueError unless the batch divides among the processes and the store fills one."""
    sounds_per_block = versions.sounds_per_block(clips_per_block)
    if n_clips % versions.span:
        raise ValueError(
            f"the store holds {n_clips} clips, which is no multiple of versions * version_stride="
            f"{versions.span}; it was not made of so many versions of every sound"
        )
    n_sounds = n_clips // versions.number
    if batch_size % world_size:
        raise ValueError(f"batch_size {batch_size} does not divide among {world_size} processes")
    if batch_size // world_size % sounds_per_block:
        each = f" in each of {world_size} processes" if world_size > 1 else ""
        raise ValueError(
            f"batch_size must be a multiple of {world_size * sounds_per_block} to hold whole "
            f"blocks of clips_per_block={clips_per_block}{each}, got {batch_size}"
        )
    if batch_size < 2:
        raise ValueError(
            f"batch_size must be at least 2 (others are the negatives), got {batch_size}"
        )
    if n_sounds < batch_size:
        what = f"{n_clips} clips" + (f" of {n_sounds} sounds" if n_sounds < n_clips else "")
        raise ValueError(
            f"there are {what} to train on, fewer than one batch of {batch_size}; "
            f"say batch_size={n_sounds}, or less"
        )


def check_crop(lengths: np.ndarray, crop_frames: int, patchings: Sequence[str]) -> None:
    """ValueError unless crops divide into patches and every clip is as long as a crop."""
    for patching in patchings:
        frames = PATCHINGS[patching][1]
        if crop_frames < frames or crop_frames % frames:
            raise ValueError(
                f"crop_frames must be a multiple of {frames} for {patching} patches, "
                f"got {crop_frames}"
            )
    short = np.flatnonzero(np.asarray(lengths) < crop_frames)
    if len(short):
        raise ValueError(
            f"{len(short)} clips of the store are shorter than a crop of {crop_frames} frames "
            f"(clip {short[0]} has {lengths[short[0]]}); choose fewer crop_frames"
        )
