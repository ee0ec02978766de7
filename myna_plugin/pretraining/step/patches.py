"""The visible patches of views: gathered from frames on a device or from disk, and scaled."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from myna_plugin.model.encoder import PATCH_AREA, PATCHINGS, InputScaling, token_grid
from myna_plugin.model.spectrogram import N_MELS
from myna_plugin.pretraining.step.acceleration import kernels_for
from myna_plugin.pretraining.step.crops import Views, ViewSampler


class ClipStore(Protocol):
    """What is used of `store.Store`."""

    frames: np.ndarray
    offsets: np.ndarray

    @property
    def shards(self) -> Sequence[np.ndarray]: ...

    def __len__(self) -> int: ...


def gather_patches(
    frames: Tensor,
    starts: Tensor,
    tokens: Tensor,
    patching: str,
    crop_frames: int = 96,
) -> Tensor:
    """Visible patches of crops, read from stored frames without the masked ones.

    Args:
        frames: mel power, time-major, shape (all frames, 128), contiguous.
        starts: first frame of every crop, int64, shape (V,).
        tokens: visible token numbers, int64, shape (V, visible).
        patching: a name from `encoder.PATCHINGS`.
        crop_frames: frames of a crop.

    Returns:
        Values in the order of `vit.patchify`, dtype of `frames`, shape (V, visible, 256).
    """
    rows, parts = _patch_pieces(starts, tokens, patching, crop_frames)
    bands, _ = PATCHINGS[patching]
    pieces = frames.view(-1, bands)[rows * (N_MELS // bands) + parts]
    return pieces.transpose(-1, -2).reshape(*tokens.shape, PATCH_AREA)


def _patch_pieces(
    starts: Tensor, tokens: Tensor, patching: str, crop_frames: int
) -> tuple[Tensor, Tensor]:
    """Frames of every patch (V, visible, frames of a patch), and which part of a frame it takes."""
    width = PATCHINGS[patching][1]
    columns = token_grid(patching, crop_frames)[1]
    first = starts[:, None] + tokens % columns * width
    rows = first[..., None] + torch.arange(width, device=tokens.device)
    return rows, (tokens // columns)[..., None].expand_as(rows)


def all_tokens(tokens: Tensor, crop_frames: int) -> Tensor:
    """Every token of a crop in the place of the visible ones: (…, visible) -> (…, N)."""
    n_tokens = N_MELS * crop_frames // PATCH_AREA
    return torch.arange(n_tokens, device=tokens.device).expand(*tokens.shape[:-1], n_tokens)


PUBLISHED = InputScaling()
"""Of patches: each is scaled to mean 0 and variance 1 by itself."""


def norm_patches(patches: Tensor, dtype: torch.dtype, scaling: InputScaling = PUBLISHED) -> Tensor:
    """Patches of mel power, scaled in float32, as `dtype`: (…, 256) -> (…, 256)."""
    values = patches.to(torch.float64 if dtype == torch.float64 else torch.float32)
    return scaling.of_patches(scaling.of_power(values)).to(dtype)


class ResidentFrames:
    """All frames of a store in one array on one device.

    Args:
        store: the clips.
        device: where to put them; 256 bytes a frame (80 kB for a clip of ten seconds).
    """

    def __init__(self, store: ClipStore, device: torch.device | str) -> None:
        total = sum(len(shard) for shard in store.shards)
        self.frames = torch.empty(total, N_MELS, dtype=torch.float16, device=device)
        start = 0
        for shard in store.shards:
            # Through a copy: a memory map is read-only, which torch would warn about.
            part = torch.from_numpy(np.array(shard))
            self.frames[start : start + len(shard)].copy_(part)
            start += len(shard)

    def patches(
        self,
        starts: Tensor,
        tokens: Tensor,
        patching: str,
        crop_frames: int = 96,
        dtype: torch.dtype = torch.float32,
        scaling: InputScaling | None = None,
    ) -> Tensor:
        """`gather_patches`, then `norm_patches` if asked, in one pass on a GPU.

        Args:
            starts: first frame of every crop, int64, shape (V,).
            tokens: visible token numbers, int64, shape (V, visible).
            patching: a name from `encoder.PATCHINGS`.
            crop_frames: frames of a crop.
            dtype: of the result.
            scaling: of the patches; None leaves mel power as it is.

        Returns:
            Shape (V, visible, 256).
        """
        kernels = kernels_for(self.frames)
        if kernels is not None and dtype != torch.float64:
            columns = token_grid(patching, crop_frames)[1]
            return kernels.gather_patches(
                self.frames, starts, tokens, PATCHINGS[patching], columns, dtype, scaling
            )
        patches = gather_patches(self.frames, starts, tokens, patching, crop_frames).to(dtype)
        return patches if scaling is None else norm_patches(patches, dtype, scaling)


class HostViews:
    """Views whose patches are gathered from memory maps ahead of their use.

    For stores that do not fit on the GPU: a thread draws the coming steps' views, reads their
    visible patches (a tenth of the crops at 90 %) into pinned memory and starts their way to the
    device.

    Args:
        store: the clips.
        sampler: draws on the CPU.
        device: where the views go.
        ahead: steps to be ready beforehand.
        whole: read all patches of the crops, masked ones too.
    """

    def __init__(
        self,
        store: ClipStore,
        sampler: ViewSampler,
        device: torch.device | str,
        ahead: int = 3,
        whole: bool = False,
    ) -> None:
        self.shards = list(store.shards)
        ends = np.cumsum([len(shard) for shard in store.shards])
        self.ends = torch.as_tensor(ends, dtype=torch.int64)
        self.sampler = sampler
        self.device = torch.device(device)
        self.ahead = ahead
        self.whole = whole

    def gather(self, step: int) -> Views:
        """The views of a step with their patches, on the CPU, pinned if a GPU will take them."""
        views = self.sampler.draw(step)
        wanted = all_tokens(views.tokens, self.sampler.crop_frames) if self.whole else views.tokens
        groups = [
            self._gather(starts.flatten(), tokens.flatten(0, 1), patching).unflatten(0, (2, -1))
            for starts, tokens, patching in zip(
                views.starts, wanted, self.sampler.patchings, strict=True
            )
        ]
        patches = torch.stack(groups)
        return replace(views, patches=patches.pin_memory() if self._pins else patches)

    @property
    def _pins(self) -> bool:
        return self.device.type == "cuda"

    def _gather(self, starts: Tensor, tokens: Tensor, patching: str) -> Tensor:
        """As `gather_patches`, from several shards; a crop lies within one."""
        out = torch.empty(*tokens.shape, PATCH_AREA, dtype=torch.float16)
        shard_of = torch.searchsorted(self.ends, starts, right=True)
        for number in shard_of.unique().tolist():
            here = shard_of == number
            shard = self.shards[number]
            local = starts[here] - (int(self.ends[number]) - len(shard))
            rows, parts = _patch_pieces(local, tokens[here], patching, self.sampler.crop_frames)
            bands, _ = PATCHINGS[patching]
            # In numpy, which reads a read-only memory map without complaint.
            pieces = shard.reshape(-1, bands)[(rows * (N_MELS // bands) + parts).numpy()]
            out[here] = torch.from_numpy(pieces).transpose(-1, -2).flatten(2)
        return out

    def stream(self, first_step: int, last_step: int) -> Iterator[Views]:
        """Views of steps `first_step` to `last_step` (exclusive), in order, on the device.

        An error of the reading thread is raised here.
        """
        ready: queue.Queue[Views | BaseException] = queue.Queue(maxsize=self.ahead)
        stop = threading.Event()
        thread = threading.Thread(
            target=self._fill, args=(ready, stop, first_step, last_step), daemon=True
        )
        thread.start()
        try:
            for _ in range(first_step, last_step):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item.to(self.device)
        finally:
            stop.set()
            thread.join()

    def _fill(
        self,
        ready: queue.Queue[Views | BaseException],
        stop: threading.Event,
        first_step: int,
        last_step: int,
    ) -> None:
        for step in range(first_step, last_step):
            item: Views | BaseException
            try:
                item = self.gather(step)
            except Exception as error:  # noqa: BLE001 - handed to the consumer, which raises it
                item = error
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or isinstance(item, BaseException):
                return
