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
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

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
from myna_plugin.pretraining.run.run_files import ProgressTable, RunFolder
from myna_plugin.pretraining.run.signals import Signals
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from recipes.clmr.augmentations import build_chain
from recipes.clmr.waveforms import FULL_SCALE, Waveforms
from recipes.runs import end, finite, read_state

PIECE_S = 30
"""A recording is cut into pieces of this length; both views of a pair come from one."""

COLUMNS = ("step", "epoch", "loss", "pairs_per_s", "minutes")


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
        order = np.random.default_rng([self.settings.seed, 0, epoch]).permutation(len(self.pieces))
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


class Training:
    """A run, begun or gone on with.

    Args:
        store: of waveforms.
        out: the run's folder, which is there.
        settings: of a run that is begun; one that goes on must have the same.
        device: to train on; bfloat16 on CUDA.
        workers: processes that draw views; 0 for this one.

    Raises:
        InputError: the folder has a run of other settings or of another store, or its checkpoint is
            damaged.
    """

    def __init__(
        self, store: Waveforms, out: Path, settings: Settings, device: str, workers: int
    ) -> None:
        self.pairs = Pairs(store, settings)
        self.out, self.device, self.workers = out, device, workers
        self.model = Clmr(settings).to(device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), settings.learning_rate)
        self.step, self.seconds = 0, 0.0
        self.begun: dict[str, Any] = {**asdict(settings), "store": store.digest}
        if state := read_state(out / "checkpoint.pt", self.begun, device):
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint, and the encoder as `--module clmr` reads it."""
        state = {
            "begun": self.begun,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        encoder = self.model.encoder.state_dict()
        named = {f"encoder.{name}": tensor.cpu() for name, tensor in encoder.items()}
        # The checkpoint last: a run that is finished by it writes no other.
        for name, content in (("clmr.pt", named), ("checkpoint.pt", state)):
            with replacing(self.out / name) as partial:
                torch.save(content, partial)

    def run(self, steps: int, minutes: float, save_every: int) -> signal.Signals | None:
        """Train until one of two limits, of all the run; the signal that ended it before.

        Raises:
            UnfinishedError: the loss is not finite.
        """
        if self.step >= steps or self.seconds >= 60 * minutes:
            return None
        loader = DataLoader(
            self.pairs,
            batch_size=None,
            sampler=range(self.step, steps),
            num_workers=self.workers,
            pin_memory=self.device.startswith("cuda"),
        )
        began, first, before = time.perf_counter(), self.step, self.seconds
        table = ProgressTable(self.out / "train.csv", self.step, COLUMNS)
        with Signals() as signals, self._bar(steps) as bar:
            for views in loader:
                loss = self._take_step(views)
                self.step += 1
                bar.update()
                self.seconds = before + time.perf_counter() - began
                over = self.step == steps or self.seconds >= 60 * minutes
                over = over or signals.received is not None
                if over or self.step % 50 == 0:
                    value = finite(loss, f"at step {self.step:,}")
                    rate = (self.step - first) * len(views[0]) / (self.seconds - before)
                    epoch = self.step / self.pairs.steps_per_epoch
                    row = (self.step, epoch, value, rate, self.seconds / 60)
                    table.add(dict(zip(COLUMNS, row, strict=True)))
                    bar.set_postfix(loss=f"{value:.4f}", pairs_per_s=f"{rate:,.0f}")
                if over or self.step % save_every == 0:
                    self.save()
                if over:
                    break
        return signals.received

    def _take_step(self, views: Tensor) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        on_gpu = self.device.startswith("cuda")
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=on_gpu):
            loss: Tensor = self.model(views.to(self.device, non_blocking=True))
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _bar(self, steps: int) -> tqdm[Any]:
        return tqdm(total=steps, initial=self.step, unit="step", dynamic_ncols=True)


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
    loading = f"--module clmr --model {out / 'clmr.pt'}"
    end(out, training.step, training.seconds, loading, stopped_by)


if __name__ == "__main__":
    main()
