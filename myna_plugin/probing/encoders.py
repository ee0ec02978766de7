"""Probes of an encoder in memory: how far a training run has come on the user's own tasks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from myna_plugin.common.files import digest_path, read_json, write_json
from myna_plugin.model.checkpoint import load_encoder
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import MynaEncoder
from myna_plugin.probing.cache import EmbeddingCache
from myna_plugin.probing.embeddings import digest_audio, digest_experiment, embed_items
from myna_plugin.probing.heads import FAST_GRID, HeadConfig, Selection, Split, select
from myna_plugin.probing.modules import SCENE, ExperimentError, LoadedModule
from myna_plugin.probing.probes import build_probe_task, build_split
from myna_plugin.probing.tasks import (
    HEAR,
    TASKS,
    Item,
    Task,
    TaskError,
    check,
    load_task,
    usable_items,
)

GRIDS: dict[str, tuple[HeadConfig, ...]] = {
    "linear": tuple(config for config in FAST_GRID if not config.hidden_units),
    "fast": FAST_GRID,
}
"""Grids for a quick look, by name; their scores are not comparable with published ones."""

BATCH_SIZES = {"cpu": 8, "cuda": 32}
"""Clips of one length to embed together."""


@dataclass(frozen=True)
class ReadTask:
    """A task whose files have been found.

    Attributes:
        task: what it is.
        items: its usable clips.
        digests: SHA-256 of their files.
    """

    task: Task
    items: list[Item]
    digests: dict[Path, str]

    @property
    def digest(self) -> str:
        """Names the clips, their audio, targets and splits."""
        return digest_experiment(self.items, self.digests)


def read_task(text: str, workers: int, say: Callable[[str], None] = print) -> ReadTask:
    """Find the files of a task.

    Args:
        text: a task folder in HEAR's format, or NAME=FOLDER for one of `tasks.TASKS`.
        workers: files to look at at a time.
        say: receives a line if clips are left out because their files are missing or faulty.

    Raises:
        TaskError: no such task, or its data cannot be used; the message names the file.
    """
    name, equals, root = text.partition("=")
    if equals and name not in TASKS and not Path(text).exists():
        raise TaskError(f"{text}: no task {name!r}; there are {', '.join(TASKS)}")
    known = bool(equals) and name in TASKS
    task, items = load_task(name if known else HEAR, Path(root if known else text))
    found = check(task, items, workers)
    try:
        usable = usable_items(task, items, found, allow_missing=True)
    except TaskError as error:
        told = [fault.reason for fault in found.faults]
        raise TaskError(
            f"{error}; left out: {len(told)} clips ({told[0]})" if told else str(error)
        ) from error
    digests, faults = digest_audio(usable, workers)
    if faults:
        raise TaskError(next(iter(faults.values())))
    if len(usable) < len(items):
        say(f"{task.name}: {len(items) - len(usable)} of {len(items)} clips are left out")
    return ReadTask(task, usable, digests)


def read_tasks(
    texts: Sequence[str], workers: int, say: Callable[[str], None] = print
) -> list[ReadTask]:
    """`read_task` of each; TaskError if two have one name."""
    tasks = [read_task(text, workers, say) for text in texts]
    names = [read.task.name for read in tasks]
    for name in names:
        if names.count(name) > 1:
            raise TaskError(f"two of {', '.join(texts)} are called {name!r}; give one of them")
    return tasks


@dataclass(frozen=True)
class Probed:
    """The head selected for a task.

    Attributes:
        selection: the head that is best on validation.
        test: the test split, not yet looked at.
    """

    selection: Selection
    test: Split

    @property
    def valid_score(self) -> float:
        """The task's primary metric on validation."""
        return self.selection.valid_score

    def score(self) -> dict[str, float]:
        """The task's metrics on test."""
        return self.selection.score(self.test).scores


def probe_encoder(
    encoder: MynaEncoder, read: ReadTask, grid: Sequence[HeadConfig], device: str, workers: int
) -> Probed:
    """Embed a task's clips with all patchings of an encoder, and select a head on validation.

    Files are decoded again every time, so that nothing but digests is kept in memory. No global
    random numbers are used.

    Args:
        encoder: moved to the device, and otherwise left as it is.
        read: the task.
        grid: heads to select from.
        device: where to embed and to train heads.
        workers: files to decode at a time.

    Raises:
        AudioError, TaskError: a file cannot be read any more; the message names it.
        ExperimentError: embeddings or targets cannot be used.
    """
    module = describe_encoder(encoder, device)
    with tempfile.TemporaryDirectory(prefix="myna-probe-") as folder:
        vectors, _ = embed_items(
            read.items,
            module,
            EmbeddingCache(Path(folder), module.identity()),
            read.digests,
            workers=workers,
            batch_size=BATCH_SIZES[torch.device(device).type],
        )
    part = slice(0, module.width)
    train, valid, test = (
        build_split(read.task, read.items, vectors, split, part)
        for split in ("train", "valid", "test")
    )
    task = build_probe_task(read.task)
    try:
        selection = select(train, valid, task, grid, device=device, progress=False)
    except ValueError as error:
        raise ExperimentError(f"{read.task.name}: {error}") from error
    return Probed(selection, test)


def describe_encoder(encoder: MynaEncoder, device: str) -> LoadedModule:
    """An encoder in memory as a module that embeds clips, one vector each."""
    embedder = Embedder(encoder, encoder.config.patchings).to(device).eval()
    return LoadedModule(
        name="the encoder",
        path="myna_plugin",
        distribution="",
        model_file="",
        options={},
        pool="clip",
        chunk_s=None,
        sample_rate=embedder.sample_rate,
        width=embedder.scene_embedding_size,
        parts={SCENE: slice(0, embedder.scene_embedding_size)},
        code="",
        weights="",
        device=device,
        embed_rows=lambda audio: embedder.embed_scenes(audio)[:, None],
    )


class EncoderProbe:
    """Validation scores of an encoder on some tasks, as `pretraining.trainer` calls for them.

    Args:
        tasks: from `read_tasks`.
        grid: a name from `GRIDS`.
        device: where to embed and to train heads.
        workers: files to decode at a time.
    """

    def __init__(self, tasks: Sequence[ReadTask], grid: str, device: str, workers: int) -> None:
        self.tasks = tasks
        self.grid_name = grid
        self.grid = GRIDS[grid]
        self.device = device
        self.workers = workers

    def __call__(self, encoder: MynaEncoder) -> dict[str, float]:
        """The primary metric of every task on validation, by the task's name."""
        return {read.task.name: self._probe(encoder, read).valid_score for read in self.tasks}

    def test(self, encoder: MynaEncoder) -> dict[str, dict[str, float]]:
        """All metrics of every task on test, of heads selected on validation, the primary first."""
        scores = {}
        for read in self.tasks:
            found = self._probe(encoder, read).score()
            names = sorted(found, key=lambda name: name != read.task.primary)
            scores[read.task.name] = {name: found[name] for name in names}
        return scores

    def test_file(self, weights: Path, kept: Path) -> dict[str, dict[str, float]]:
        """`test` of an encoder in a file, kept as JSON: not done again for the same.

        Args:
            weights: what `save_checkpoint` wrote.
            kept: the JSON file; written anew if weights, grid or data have changed.

        Raises:
            CheckpointError: the weights cannot be read.
            AudioError, TaskError, ExperimentError: see `probe_encoder`.
        """
        identity = {
            "weights": digest_path(weights),
            "grid": self.grid_name,
            "data": {read.task.name: read.digest for read in self.tasks},
        }
        told = read_json(kept, None)
        if not isinstance(told, dict) or told.get("identity") != identity:
            told = {"identity": identity, "test": self.test(load_encoder(weights))}
            write_json(kept, told)
        scores: dict[str, dict[str, float]] = told["test"]
        return scores

    def _probe(self, encoder: MynaEncoder, read: ReadTask) -> Probed:
        return probe_encoder(encoder, read, self.grid, self.device, self.workers)
