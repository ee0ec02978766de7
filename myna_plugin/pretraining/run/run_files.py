"""The folder of a training run: checkpoints, the table of its progress, and its settings.

    config.yaml            the settings, written by the recipe
    train.csv              a row every few steps
    checkpoints/*.pt       all that a run needs to go on
    lock                   held while a process trains here
    events/                for TensorBoard
    final.safetensors      the encoder, for `load_model`
    best_probe.safetensors the encoder of the best probe, where there are tasks to probe on
    loss.png               the loss curve

Every file appears whole: it is written beside its place and moved there.
"""

from __future__ import annotations

import csv
import io
import math
import pickle
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from myna_plugin.common.errors import InputError, UnfinishedError
from myna_plugin.common.files import PARTIALS, read_rows
from myna_plugin.common.launch import launched_rank
from myna_plugin.common.locks import locked
from myna_plugin.pretraining.store.writing import replacing

FORMAT: dict[str, Any] = {"format": "myna-training", "version": 1}
"""What a checkpoint must say for this program to go on from it."""

LOCK = "lock"
"""File in the folder of a run that is held while a process trains there."""

RESERVE_BYTES = 50_000_000
"""Left free beside the checkpoints, for tables, events and pictures."""

COLUMNS = (
    "step",
    "epoch",
    "loss",
    "loss_square",
    "loss_vertical",
    "learning_rate",
    "examples_per_s",
    "ceiling_fraction",
    "monitor_loss",
    "alignment",
    "uniformity",
    "rank",
)
"""Columns of train.csv; what was not measured at a step is empty."""


PROBE = "probe_"
"""Before a task's name: the column of its validation scores."""


class RunError(InputError):
    """A run that cannot begin or go on; one line says what is in the way and what to do."""


class WriteError(UnfinishedError):
    """A file of a run that could not be written; the message names the last good checkpoint."""


@dataclass(frozen=True)
class RunFolder:
    """Where everything about a run lies.

    Attributes:
        path: the folder.
        keep_last: newest checkpoints kept.
        keep_every: checkpoints at multiples of this many steps stay for good; 0 for none.
    """

    path: Path
    keep_last: int = 3
    keep_every: int = 0

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The trained encoder."""
        return self.path / "final.safetensors"

    @property
    def best_probe(self) -> Path:
        """The encoder of the best probe."""
        return self.path / "best_probe.safetensors"

    @property
    def table(self) -> Path:
        """The rows of progress."""
        return self.path / "train.csv"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder, made if there is none, for the first process and those beside it.

        If nothing was written, nothing stays.

        Raises:
            RunError: another run holds it, or it cannot be made.
        """
        if launched_rank() != 0:
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be made ({error.strerror})") from error
        busy = f"{self.path}: another process is training there; wait for its end"
        with locked(self.path / LOCK, busy, RunError):
            try:
                yield
            finally:
                if [place.name for place in self.path.iterdir()] == [LOCK]:
                    shutil.rmtree(self.path)

    def begin(self, resume: bool) -> None:
        """Make the folder; RunError if it holds a run and `resume` is not asked for."""
        held = [
            place.name
            for place in (self.checkpoints, self.table, self.final, self.path / "config.yaml")
            if place.exists()
        ]
        if held and not resume:
            raise RunError(
                f"{self.path}: already holds a run ({', '.join(held)}); "
                "--resume goes on with it, another --out begins a new one"
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be made ({error.strerror})") from error
        for half_written in self.checkpoints.glob(PARTIALS):
            half_written.unlink()

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints there are, in order."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self._saved())

    def _saved(self) -> Iterable[Path]:
        return self.checkpoints.glob("step-*.pt")

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lies."""
        return self.checkpoints / f"step-{step:08d}.pt"

    def last_good(self) -> str:
        """The newest checkpoint in words."""
        steps = self.saved_steps()
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.checkpoint(steps[-1])}"

    def check_room(self, checkpoint_bytes: int, total_steps: int, checkpoint_every: int) -> None:
        """RunError unless the disk holds the checkpoints that will be kept, and one in writing."""
        every = math.lcm(self.keep_every, checkpoint_every)
        for_good = total_steps // every if every else 0
        coming = max(self.keep_last + 1 + for_good - len(self.saved_steps()), 1)
        needed = coming * checkpoint_bytes + RESERVE_BYTES
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise RunError(
                f"{self.path}: {coming} checkpoints of {_megabytes(checkpoint_bytes)} need "
                f"{_megabytes(needed)}, and {_megabytes(free)} are free; free some, choose another "
                "--out, or keep fewer (keep_last, keep_every)"
            )

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the checkpoint after `step` steps, and delete those no longer kept.

        Raises:
            WriteError: the disk is full, say; all earlier checkpoints are as they were.
        """
        path = self.checkpoint(step)
        try:
            with replacing(path) as file:
                torch.save({**FORMAT, "step": step, **state}, file)
        except (OSError, RuntimeError) as error:
            raise WriteError(
                f"{path}: cannot be written ({_reason(error)}); {self.last_good()}, "
                "and --resume goes on from it"
            ) from error
        for old in self.saved_steps()[: -self.keep_last]:
            if not (self.keep_every and old % self.keep_every == 0):
                self.checkpoint(old).unlink()

    def load_newest(self) -> dict[str, Any] | None:
        """The newest checkpoint, on the CPU; None if there is none.

        Raises:
            RunError: it is damaged or of another format version.
        """
        steps = self.saved_steps()
        if not steps:
            return None
        path = self.checkpoint(steps[-1])
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise RunError(
                f"{path}: damaged ({_reason(error)}); delete it to go on from the one before"
            ) from error
        for key, value in FORMAT.items():
            if not isinstance(state, dict) or state.get(key) != value:
                found = state.get(key) if isinstance(state, dict) else type(state).__name__
                raise RunError(
                    f"{path}: {key} is {found!r}, and this program reads {value!r}; go on with the "
                    "myna_plugin that wrote it"
                )
        return state


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class ProgressTable:
    """train.csv: rows are added at the end and are on disk when `add` returns.

    Args:
        path: the file.
        last_step: rows of later steps, left by a run that was interrupted, are dropped. So is the
            earlier of two rows of one step, which processes that ran at once have left.
        columns: the first of them "step"; those of probes come as they are added.
    """

    def __init__(self, path: Path, last_step: int, columns: Sequence[str] = COLUMNS) -> None:
        self.path, self.known = path, columns
        by_step = {int(row["step"]): row for row in read_table(path, columns)}
        self._write([by_step[step] for step in sorted(by_step) if step <= last_step])

    def _write(self, rows: Sequence[Mapping[str, str]], more: Iterable[str] = ()) -> None:
        """Write the file anew, with a column for everything in its rows and for some more."""
        probes = {name for row in rows for name in row}.union(more).difference(self.known)
        self.columns = (*self.known, *sorted(probes))
        with replacing(self.path) as file:
            text = io.TextIOWrapper(file, "utf-8", newline="")
            writer = csv.DictWriter(text, self.columns)
            writer.writeheader()
            writer.writerows(rows)
            text.flush()
            text.detach()

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; columns without a value are left empty, a new probe's is added."""
        if not row.keys() <= set(self.columns):
            self._write(read_table(self.path, self.known), row)
        told = {
            name: f"{value:.8g}" if isinstance(value, float) else value
            for name, value in row.items()
        }
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(told)


def read_table(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """Whole rows of train.csv; none if there is no file. A row cut off by a crash is left out."""
    if not path.exists():
        return []
    (_, header), *rest = [*read_rows(path)] or [("", [])]
    rows = [dict(zip(header, row, strict=True)) for _, row in rest if len(row) == len(header)]
    return [
        {name: row[name] for name in row if name in columns or name.startswith(PROBE)}
        for row in rows
        if re.fullmatch("[0-9]{1,18}", row.get("step", ""))
    ]


def find_best_probe(rows: Sequence[Mapping[str, str]]) -> tuple[int, dict[str, float]] | None:
    """Step and scores by task of the best probe in train.csv: by their mean, the first of equals.

    Probes of other tasks than the last one's are left out; None if there is none at all.

    >>> rows = [{"step": "5", "probe_a": "0.5"}, {"step": "9", "probe_a": "0.4"}]
    >>> find_best_probe(rows)
    (5, {'a': 0.5})
    """
    probed = [
        (
            int(row["step"]),
            {
                name.removeprefix(PROBE): float(score)
                for name, score in row.items()
                if name.startswith(PROBE) and score
            },
        )
        for row in rows
    ]
    probed = [(step, scores) for step, scores in probed if scores]
    alike = [entry for entry in probed if entry[1].keys() == probed[-1][1].keys()]
    return max(alike, key=lambda entry: sum(entry[1].values()), default=None)
