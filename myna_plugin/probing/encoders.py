"""Probes of an encoder in memory: how far a training run has come on the user's own tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from myna_plugin.common.files import digest_path, read_json_object, write_json
from myna_plugin.model.checkpoint import load_encoder
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import MynaEncoder, parameter_count
from myna_plugin.probing.embeddings import BATCH_SIZES, EmbeddingCache, Handling
from myna_plugin.probing.experiment import Protocol, run
from myna_plugin.probing.heads import GRIDS, PATIENCE
from myna_plugin.probing.modules import SCENE, LoadedModule
from myna_plugin.probing.probes import Probed
from myna_plugin.probing.tasks import HEAR, TASKS, TaskError, check, load_task
from myna_plugin.probing.tasks.task_data import TaskData, find_data


def read_task(text: str, workers: int, say: Callable[[str], None] = print) -> TaskData:
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
    report = check(task, items, workers)
    try:
        data = find_data(task, {0: items}, report, allow_missing=True, workers=workers)
    except TaskError as error:
        told = [fault.reason for fault in report.faults]
        raise TaskError(
            f"{error}; left out: {len(told)} clips ({told[0]})" if told else str(error)
        ) from error
    if data.left_out:
        say(f"{task.name}: {len(data.left_out)} of {len(items)} clips are left out")
    return data


def read_tasks(
    texts: Sequence[str], workers: int, say: Callable[[str], None] = print
) -> list[TaskData]:
    """`read_task` of each; TaskError if two have one name."""
    tasks = [read_task(text, workers, say) for text in texts]
    names = [data.task.name for data in tasks]
    for name in names:
        if names.count(name) > 1:
            raise TaskError(f"two of {', '.join(texts)} are called {name!r}; give one of them")
    return tasks


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
        parameters=parameter_count(encoder),
        device=device,
        embed_rows=lambda audio: embedder.embed_scenes(audio)[:, None],
    )


class EncoderProbe:
    """Validation scores of an encoder on some tasks, as `pretraining.trainer` calls for them.

    Files are decoded again every time, so that nothing but digests is kept in memory. No global
    random numbers are used, and the encoder is moved to the device but otherwise left as it is.

    Args:
        tasks: from `read_tasks`.
        grid: a name in `GRIDS`.
        device: where to embed and to train heads.
        workers: files to decode at a time.
        patience: evaluations without a new best after which a head stops.
    """

    def __init__(
        self,
        tasks: Sequence[TaskData],
        grid: str,
        device: str,
        workers: int,
        patience: int = PATIENCE,
    ) -> None:
        self.tasks, self.workers = tasks, workers
        self.protocol = Protocol(grid, device=device, patience=patience)

    def __call__(self, encoder: MynaEncoder) -> dict[str, float]:
        """The primary metric of every task on validation, by the task's name.

        Raises:
            AudioError, TaskError: a file cannot be read any more; the message names it.
            ExperimentError: embeddings or targets cannot be used.
        """
        return {data.task.name: self._run(encoder, data).valid_scores[SCENE] for data in self.tasks}

    def test(self, encoder: MynaEncoder) -> dict[str, dict[str, float]]:
        """All metrics of every task on test, of heads selected on validation, the primary first."""
        scores = {}
        for data in self.tasks:
            found = self._run(encoder, data).results[SCENE].scores
            names = sorted(found, key=lambda name: name != data.task.primary)
            scores[data.task.name] = {name: found[name][0] for name in names}
        return scores

    def test_file(self, weights: Path, kept: Path) -> dict[str, dict[str, float]]:
        """`test` of an encoder in a file, kept as JSON: not done again for the same.

        Args:
            weights: what `save_checkpoint` wrote.
            kept: the JSON file; written anew if weights, grid, patience or data have changed.

        Raises:
            CheckpointError: the weights cannot be read.
            AudioError, TaskError, ExperimentError: as for a call.
        """
        identity = {
            "weights": digest_path(weights),
            "grid": self.protocol.grid,
            "configurations": len(GRIDS[self.protocol.grid]),
            "patience": self.protocol.patience,
            "data": {data.task.name: data.digest for data in self.tasks},
        }
        told = read_json_object(kept, {})
        if told.get("identity") != identity:
            told = {"identity": identity, "test": self.test(load_encoder(weights))}
            write_json(kept, told)
        scores: dict[str, dict[str, float]] = told["test"]
        return scores

    def _run(self, encoder: MynaEncoder, data: TaskData) -> Probed:
        device = self.protocol.device
        module = describe_encoder(encoder, device)
        cache = EmbeddingCache(None, module.identity())
        handling = Handling(BATCH_SIZES[torch.device(device).type], self.workers)
        return run(data, module, cache, self.protocol, handling).probed
