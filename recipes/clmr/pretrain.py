"""Pre-train CLMR, the predecessor that Myna is compared with: a SampleCNN and augmentations.

Two crops of 2.7 s of one piece of music each go through the chain of augmentations; SampleCNN's
512 numbers through a projector of 512 and 64; the loss is NT-Xent. The defaults are those of
CLMR's release 2.0.

\b
Examples:
  python -m recipes.clmr.waveforms music waves
  python -m recipes.clmr.pretrain waves out/clmr --minutes 60 --batch-size 256
  myna probe --module clmr --model out/clmr/clmr.pt --task gtzan --root data/gtzan --out out/probe

OUT/train.csv has the loss; OUT/checkpoint.pt is what the same command goes on from after a run was
stopped, even killed, and more --steps or --minutes lengthen a finished one.
Exit status: 0 done, 1 failed (disk full, ...), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.common.files import replacing
from myna_plugin.common.options import (
    DEVICE,
    FOLDER,
    NON_NEGATIVE_INT,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    SEED,
    Number,
)
from myna_plugin.peers.clmr import SAMPLE_RATE, WIDTHS, WINDOW, SampleCnn
from myna_plugin.pretraining.run.run_files import RunFolder
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from recipes.clmr.augmentations import build_chain
from recipes.clmr.waveforms import FULL_SCALE, Waveforms
from recipes.runs import Run

PIECE_S = 30
"""A recording is cut into pieces of this length; both views of a pair come from one."""


@dataclass(frozen=True)
class Settings:
    """What decides the weights after a step, beside the store.

    Attributes:
        batch_size: pairs.
        learning_rate: of Adam.
        temperature: of NT-Xent.
        projection: width of what the loss compares.
        seed: of weights, order, crops and augmentations.
    """

    batch_size: int = 48
    learning_rate: float = 3e-4
    temperature: float = 0.5
    projection: int = 64
    seed: int = 0


@lru_cache(maxsize=1)  # every step of an epoch asks for it
def draw_order(seed: int, epoch: int, pieces: int) -> np.ndarray:
    """An epoch's order of the pieces."""
    return np.random.default_rng([seed, 0, epoch]).permutation(pieces)


class Pairs(Dataset[Tensor]):
    """The views of every step: float32, shape (2, B, 1, 59049). A function of the step alone.

    Raises:
        InputError: fewer pieces than a batch takes.
    """

    def __init__(self, store: Waveforms, settings: Settings) -> None:
        self.store, self.settings = store, settings
        size = PIECE_S * SAMPLE_RATE
        pieces = []
        for start, length in zip(store.starts.tolist(), store.lengths.tolist(), strict=True):
            cuts = [(start + at, min(size, length - at)) for at in range(0, length, size)]
            pieces += [cut for cut in cuts if cut[1] >= WINDOW]
        self.pieces = np.array(pieces, np.int64).reshape(-1, 2)
        self.steps_per_epoch = len(self.pieces) // settings.batch_size
        if not self.steps_per_epoch:
            raise InputError(
                f"{store.path}: holds {len(self.pieces):,} pieces of {PIECE_S} s, fewer than a "
                f"batch of {settings.batch_size:,}; set a smaller --batch-size"
            )

    def __getitem__(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = draw_order(self.settings.seed, epoch, len(self.pieces))
        size = self.settings.batch_size
        rng = np.random.default_rng([self.settings.seed, 1, step])
        seed = int(rng.integers(2**32))
        random.seed(seed)  # the augmentations draw from both
        np.random.seed(seed)
        chain = build_chain()
        views = np.empty((2, size, 1, WINDOW), np.float32)
        for i, piece in enumerate(order[place * size : (place + 1) * size].tolist()):
            start, length = self.pieces[piece].tolist()
            for view in range(2):
                at = start + int(rng.integers(length - WINDOW + 1))
                crop = self.store.samples[at : at + WINDOW] / np.float32(FULL_SCALE)
                views[view, i, 0] = chain(crop, sample_rate=SAMPLE_RATE)
        return torch.from_numpy(views)


class Clmr(nn.Module):
    """SampleCNN and the projector behind it; views (2, B, 1, S) -> loss."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = WIDTHS[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.encoder = SampleCnn()
            self.projector = nn.Sequential(
                nn.Linear(width, width, bias=False),
                nn.ReLU(),
                nn.Linear(width, settings.projection, bias=False),
            )
        self.loss = ContrastiveLoss("nt_xent", settings.temperature)

    def forward(self, views: Tensor) -> Tensor:
        # One view after the other, as CLMR does: each has batch norms of its own.
        projected = [self.projector(self.encoder.sequential(own).flatten(1)) for own in views]
        return self.loss(torch.stack(projected)[None].float()).mean()


class Training(Run):
    """A run, begun or gone on with.

    Args:
        store: of waveforms.
        out: the run's folder, which is there.
        settings: of a run that is begun; one that goes on must have the same.
        device: to train on; bfloat16 on CUDA.
        workers: processes that draw views; 0 for this one.

    Raises:
        InputError: the folder has a run of other settings or store, or a damaged checkpoint.
    """

    columns = ("step", "epoch", "loss", "pairs_per_s", "minutes")
    averages = False

    def __init__(
        self, store: Waveforms, out: Path, settings: Settings, device: str, workers: int
    ) -> None:
        self.pairs = Pairs(store, settings)
        self.examples, self.steps_per_epoch = settings.batch_size, self.pairs.steps_per_epoch
        self.device, self.workers = device, workers
        self.model = Clmr(settings).to(device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), settings.learning_rate)
        if state := self.go_on(out, {**asdict(settings), "store": store.digest}):
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def save_encoder(self) -> None:
        encoder = self.model.encoder.state_dict()
        named = {f"encoder.{name}": tensor.cpu() for name, tensor in encoder.items()}
        with replacing(self.folder.path / "clmr.pt") as partial:
            torch.save(named, partial)

    def batches(self, first: int, last: int) -> Generator[Tensor, None, None]:
        yield from DataLoader(
            self.pairs,
            batch_size=None,
            sampler=range(first, last),
            num_workers=self.workers,
            pin_memory=self.device.startswith("cuda"),
        )

    def take_step(self, batch: Tensor) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        on_gpu = self.device.startswith("cuda")
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=on_gpu):
            loss: Tensor = self.model(batch.to(self.device, non_blocking=True))
        loss.backward()
        self.optimiser.step()
        return loss.detach()


@click.command("clmr", cls=ToldCommand, help=__doc__)
@click.argument("store", metavar="STORE", type=FOLDER)
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--steps", type=POSITIVE_INT, default=100_000, show_default=True)
@click.option(
    "--minutes", type=POSITIVE_FLOAT, default=1e6, help="Of training.  [default: no limit]"
)
@click.option("--batch-size", type=Number(int, 2), default=48, show_default=True, help="Pairs.")
@click.option("--learning-rate", type=POSITIVE_FLOAT, default=3e-4, show_default=True)
@click.option("--temperature", type=POSITIVE_FLOAT, default=0.5, show_default=True)
@click.option("--save-every", type=POSITIVE_INT, default=500, show_default=True, help="Steps.")
@click.option(
    "--workers", type=NON_NEGATIVE_INT, help="Processes that draw views.  [default: one a core]"
)
@SEED
@DEVICE
def main(
    store: Path,
    out: Path,
    steps: int,
    minutes: float,
    batch_size: int,
    learning_rate: float,
    temperature: float,
    save_every: int,
    workers: int | None,
    seed: int,
    device: str,
) -> None:
    build_chain()
    settings = Settings(batch_size, learning_rate, temperature, seed=seed)
    n_workers = available_cores() if workers is None else workers
    waveforms = Waveforms(store)
    with RunFolder(out).writing():
        training = Training(waveforms, out, settings, choose_device(device), n_workers)
        stopped_by = training.run(steps, minutes, save_every)
    training.end(f"--module clmr --model {out / 'clmr.pt'}", stopped_by)


if __name__ == "__main__":
    main()
