"""What the recipes' own training runs share: the loop, what it goes on from, and how it ends."""

from __future__ import annotations

import math
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from myna_plugin.common.errors import InputError, UnfinishedError
from myna_plugin.common.files import replacing
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.stopping import INTERRUPTED
from myna_plugin.model.tensors import READING_ERRORS
from myna_plugin.pretraining.run.run_files import ProgressTable, RunFolder
from myna_plugin.pretraining.run.signals import Signals


class Run(ABC):
    """A training run, begun or gone on with, until a limit or a signal ends it.

    Attributes:
        columns: of train.csv: step, epoch, loss, those of `told`, examples a second, minutes.
        averages: a row has the mean loss since the row before, and there is one for each checkpoint
            too, which holds no sum; else it has the loss of its own step.
        examples: that a step takes.
        steps_per_epoch: whole batches.
    """

    columns: tuple[str, ...]
    averages: bool
    examples: int
    steps_per_epoch: int

    def go_on(self, out: Path, begun: dict[str, Any]) -> dict[str, Any] | None:
        """Take a folder, which is there; the checkpoint in it, on the CPU, if there is one.

        Raises:
            InputError: the folder has a run of `myna pretrain`; or the checkpoint is damaged, none
                of these recipes', or begun otherwise than `begun`, which is what decides the
                weights after a step.
        """
        self.folder, self.begun, self.step, self.seconds = RunFolder(out), begun, 0, 0.0
        path = out / "checkpoint.pt"
        if not path.exists():
            if (out / "config.yaml").exists() or self.folder.checkpoints.exists():
                raise InputError(f"{out}: holds a run of `myna pretrain`; give another OUT")
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except READING_ERRORS as error:
            raise InputError(f"{path}: damaged ({error}); begin another run") from error
        if not isinstance(state, dict) or not isinstance(state.get("begun"), dict):
            raise InputError(f"{path}: no checkpoint of this recipe; give another OUT")
        if state["begun"] != begun:
            told = ", ".join(f"{k}={v}" for k, v in state["begun"].items() if begun.get(k) != v)
            raise InputError(f"{path}: begun with {told}; go on with that, or give another OUT")
        self.step, self.seconds = state["step"], state["seconds"]
        return state

    @abstractmethod
    def batches(self, first: int, last: int) -> Generator[Any, None, None]:
        """Those of some steps, the last left out."""

    @abstractmethod
    def take_step(self, batch: Any) -> Tensor:
        """Train on a batch; its loss, detached."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that a run goes on from, beside step and time."""

    @abstractmethod
    def save_encoder(self) -> None:
        """Write the encoder so far, as others load it."""

    def told(self) -> tuple[float, ...]:
        """What a row tells beside the rest."""
        return ()

    def save(self) -> None:
        """Write the encoder so far, and the checkpoint."""
        self.save_encoder()
        # The checkpoint last: a run that is finished by it writes no other.
        reached = {"step": self.step, "seconds": self.seconds}
        with replacing(self.folder.path / "checkpoint.pt") as partial:
            torch.save({"begun": self.begun, **self.state(), **reached}, partial)

    def run(self, steps: int, minutes: float, save_every: int) -> signal.Signals | None:
        """Train until one of two limits, of all the run; the signal that ended it before.

        Raises:
            UnfinishedError: the loss is not finite.
        """
        if self.step >= steps or self.seconds >= 60 * minutes:
            return None
        began, first, before = time.perf_counter(), self.step, self.seconds
        table = ProgressTable(self.folder.table, self.step, self.columns)
        losses: list[Tensor] = []  # that the next row tells
        with (
            Signals() as signals,
            ProgressBar(
                desc="train",
                total=steps,
                initial=self.step,
                unit="step",
                dynamic_ncols=True,
            ) as bar,
            closing(self.batches(self.step, steps)) as stream,
        ):
            for batch in stream:
                losses = [*(losses if self.averages else ()), self.take_step(batch)]
                self.step += 1
                bar.update()
                self.seconds = before + time.perf_counter() - began
                over = self.step == steps or self.seconds >= 60 * minutes
                over = over or signals.received is not None
                saves = over or self.step % save_every == 0
                if over or self.step % 50 == 0 or (self.averages and saves):
                    rate = (self.step - first) * self.examples / (self.seconds - before)
                    bar.set_postfix(self._add_row(table, float(sum(losses) / len(losses)), rate))
                    losses = []
                if saves:
                    self.save()
                if over:
                    break
        return signals.received

    def _add_row(self, table: ProgressTable, loss: float, rate: float) -> dict[str, str]:
        if not math.isfinite(loss):
            place = "before" if self.averages else "at"
            raise UnfinishedError(f"the loss is {loss} {place} step {self.step:,}")
        row = (self.step, self.step / self.steps_per_epoch, loss, *self.told(), rate)
        table.add(dict(zip(self.columns, (*row, self.seconds / 60), strict=True)))
        return {"loss": f"{loss:.4f}", self.columns[-2]: f"{rate:,.0f}"}

    def end(self, loading: str, stopped_by: signal.Signals | None) -> None:
        """Say what it has come to and how that is loaded; exit as what stopped it asks for."""
        reached = f"{self.step:,} steps, {self.seconds / 60:.1f} minutes"
        click.echo(f"{self.folder.path}: {reached}; load it with\n  {loading}")
        if stopped_by is not None:
            click.echo(f"stopped by {stopped_by.name}; the same command goes on")
            sys.exit(INTERRUPTED if stopped_by == signal.SIGINT else 0)
