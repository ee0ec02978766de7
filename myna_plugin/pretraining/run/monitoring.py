"""How training goes: measures of the embedding space, and tables, events and pictures of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from myna_plugin.model.encoder import MynaEncoder
from myna_plugin.pretraining.step.crops import derive_seed
from myna_plugin.pretraining.step.objective import project
from myna_plugin.pretraining.step.patches import ClipStore

CHUNK = 256
"""Crops that are encoded at once for monitoring."""


@dataclass(frozen=True)
class Measures:
    """Of pairs of whole (unmasked) crops of the same clips, so that runs can be compared.

    Attributes:
        monitor_loss: the decoupled contrastive loss, each pair against all others.
        alignment: mean squared distance between the two views of a pair, in [0, 4].
        uniformity: log of the mean Gaussian potential of different clips; lower is more even.
        rank: effective rank of the embeddings, from 1 (collapse) to their width.
    """

    monitor_loss: float
    alignment: float
    uniformity: float
    rank: float


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of paired unit vectors, (B, P) each. Source: Wang and Isola 2020.

    >>> alignment(torch.eye(2), -torch.eye(2))
    tensor(4.)
    """
    return (first - second).square().sum(-1).mean()


def uniformity(unit: Tensor, scale: float = 2.0) -> Tensor:
    """log mean exp(-scale * squared distance) over pairs of different unit vectors, (B, P).

    0 when all coincide; about -2 * scale when they fill a sphere of many dimensions evenly.
    Source: Wang and Isola 2020, with their scale of 2.

    >>> round(uniformity(torch.eye(2)).item(), 3)
    -4.0
    """
    potential = -scale * functional.pdist(unit).square()
    return potential.logsumexp(0) - np.log(len(potential))


def effective_rank(embeddings: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values, (B, D); RankMe.

    Source: Roy and Vetterli 2007; Garrido et al. 2023.

    >>> effective_rank(torch.eye(5)).round()
    tensor(5.)
    """
    values = torch.linalg.svdvals(embeddings.float())
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp()


@torch.no_grad()
def measure(encoder: MynaEncoder, crops: Tensor, temperature: float, bfloat16: bool) -> Measures:
    """Measure an encoder on pairs of crops.

    The loss, alignment and uniformity are those of the projector's normalised output, where the
    loss acts; the rank is that of the embeddings themselves. Each is the mean over patchings.

    Args:
        encoder: with or without projector.
        crops: mel power, shape (2, B, 128, F).
        temperature: tau of the loss.
        bfloat16: compute in bfloat16 by autocast.
    """
    rows = []
    for patching in encoder.config.patchings:
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=bfloat16):
            parts = [encoder(part.float(), patching) for part in crops.flatten(0, 1).split(CHUNK)]
        embeddings = torch.cat(parts).float()
        head = getattr(encoder, "linear_head", None)
        projected = embeddings if head is None else project(head, embeddings)
        unit = functional.normalize(projected, dim=-1)
        first, second = unit.chunk(2)
        log_sums = _local_log_sums(unit, temperature)
        positive = (first * second).sum(-1).repeat(2) / temperature
        rows.append(
            torch.stack(
                [
                    (log_sums - positive).mean(),
                    alignment(first, second),
                    (uniformity(first) + uniformity(second)) / 2,
                    effective_rank(embeddings),
                ]
            )
        )
    return Measures(*torch.stack(rows).mean(0).tolist())


def _local_log_sums(unit: Tensor, temperature: float) -> Tensor:
    """Log denominators of the decoupled loss, of this process's vectors alone: (2B, P) -> (2B,)."""
    similarity = unit @ unit.T / temperature
    sample = torch.arange(len(unit), device=unit.device) % (len(unit) // 2)
    similarity.masked_fill_(sample[:, None] == sample, -torch.inf)
    return similarity.logsumexp(-1)


def choose_clips(
    n_clips: int, held_out: int, seed: int, clips_per_block: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Split clip numbers into those to train on and those held out, each in ascending order.

    Whole blocks of `clips_per_block` neighbours are held out, so that blocks of the clips to train
    on are blocks of all clips; a short last block is trained on. `held_out` must be a multiple.

    Raises:
        ValueError: it is none, or there are not so many whole blocks.

    >>> [part.tolist() for part in choose_clips(5, 2, seed=0)]
    [[0, 2, 3], [1, 4]]
    >>> [part.tolist() for part in choose_clips(5, 2, seed=0, clips_per_block=2)]
    [[0, 1, 4], [2, 3]]
    """
    n_blocks = n_clips // clips_per_block
    if held_out % clips_per_block or held_out > n_blocks * clips_per_block:
        raise ValueError(
            f"held_out_clips must be a multiple of clips_per_block={clips_per_block} and at most "
            f"{n_blocks * clips_per_block} of {n_clips} clips, got {held_out}"
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, 2))
    blocks = torch.randperm(n_blocks, generator=generator).numpy()[: held_out // clips_per_block]
    chosen = np.zeros(n_clips, bool)
    chosen[: n_blocks * clips_per_block].reshape(n_blocks, -1)[blocks] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def cut_pairs(store: ClipStore, clips: np.ndarray, crop_frames: int, seed: int) -> Tensor:
    """Two random whole crops of each clip, float16, shape (2, B, 128, crop_frames)."""
    generator = np.random.default_rng(derive_seed(seed, 3))
    ends = np.cumsum([len(shard) for shard in store.shards])
    crops = np.empty((2, len(clips), store.shards[0].shape[1], crop_frames), np.float16)
    for row, clip in enumerate(clips):
        shard = int(np.searchsorted(ends, store.offsets[clip], side="right"))
        origin = int(store.offsets[clip] - (ends[shard] - len(store.shards[shard])))
        starts = generator.integers(0, int(store.frames[clip]) - crop_frames + 1, 2)
        for view, start in enumerate(origin + starts):
            crops[view, row] = store.shards[shard][start : start + crop_frames].T
    return torch.from_numpy(crops)


class Stopwatch:
    """Steps a second between two looks.

    Args:
        clips_per_step: clips of a step, over all processes.
        flops_per_step: arithmetic of a step on this process's device.
        ceiling: operations a second that the device reaches at best; None where unknown.
    """

    def __init__(self, clips_per_step: int, flops_per_step: float, ceiling: float | None) -> None:
        self.clips_per_step = clips_per_step
        self.flops_per_step = flops_per_step
        self.ceiling = ceiling
        self.start()

    def start(self) -> None:
        """Forget the time until now."""
        self._since = time.perf_counter()

    def look(self, steps: int) -> dict[str, float]:
        """Examples a second, and the fraction of the ceiling where it is known, since `start`."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speeds = {"examples_per_s": steps * self.clips_per_step / seconds}
        if self.ceiling:
            speeds["ceiling_fraction"] = steps * self.flops_per_step / seconds / self.ceiling
        return speeds


def matmul_ceiling(device: torch.device, bfloat16: bool) -> float | None:
    """Operations a second of a product of two large square matrices on a GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    size = 8192
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = left @ right
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(10):
        torch.matmul(left, right, out=out)
    end.record()
    end.synchronize()
    return 10 * 2 * size**3 / (begin.elapsed_time(end) / 1e3)


class Events:
    """TensorBoard events of a run; writes none where tensorboard is not installed.

    Args:
        folder: where they go; None for none.
        first_step: events of later steps, left by a run that was interrupted, are hidden.
        say: receives one line should tensorboard be missing.
    """

    def __init__(self, folder: Path | None, first_step: int, say: Callable[[str], None]) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            module = import_module("torch.utils.tensorboard")
        except ImportError:
            say(
                "no TensorBoard events: `pip install tensorboard` adds them; "
                "train.csv has the same numbers"
            )
            return
        self._writer = module.SummaryWriter(str(folder), purge_step=first_step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches, for a file: needs no display."""
    # Imported on use: slow to import, and only the end of a run draws.
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def draw_curve(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Draw the loss over the steps of train.csv, and the monitored loss if it was measured."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("monitor_loss", "whole crops of monitored clips")):
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." * (len(points) < 40))
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_reconstructions(path: Path, pictures: Sequence[Tensor]) -> None:
    """Draw Appendix B of the paper: a column a clip, rows input, visible patches, reconstruction.

    Args:
        path: the PNG file.
        pictures: log(1 + mel power) of the three, each of shape (B, 128, F); masked places NaN.
    """
    columns = len(pictures[0])
    figure = new_figure(2.4 * columns, 7)
    grid = figure.subplots(3, columns, squeeze=False)
    for row, (name, crops) in enumerate(
        zip(("input", "visible patches", "reconstruction"), pictures, strict=True)
    ):
        for column, crop in enumerate(crops.cpu().numpy()):
            axes = grid[row][column]
            truth = pictures[0][column]
            limits = {"vmin": float(truth.min()), "vmax": float(truth.max())}
            axes.imshow(crop, origin="lower", aspect="auto", interpolation="nearest", **limits)
            axes.set(xticks=[], yticks=[])
            axes.set_facecolor("0.85")
        grid[row][0].set_ylabel(name)
    figure.savefig(path, dpi=120)


def draw_sweep(
    path: Path,
    setting: str,
    measured: Mapping[str, Mapping[str, float]],
    measures: Sequence[str],
) -> None:
    """Draw every measure over the values of a setting.

    Args:
        path: the PNG file.
        setting: its name.
        measured: measures by title, by the setting's value; a measure may be lacking.
        measures: titles of what to draw.
    """
    figure = new_figure(3.2 * len(measures), 3.2)
    grid = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, title in zip(grid, measures, strict=True):
        points = [(value, row[title]) for value, row in measured.items() if title in row]
        axes.plot([value for value, _ in points], [score for _, score in points], marker="o")
        axes.set(xlabel=setting, title=title)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
