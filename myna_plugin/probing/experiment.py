"""One run of a probe: a task's clips become vectors, heads are selected on them and tested."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from myna_plugin.common.devices import without_mps
from myna_plugin.common.files import write_json
from myna_plugin.common.locks import locked
from myna_plugin.common.progress import is_watched
from myna_plugin.common.provenance import now, versions
from myna_plugin.probing.embeddings import Cost, EmbeddingCache, Handling, embed_clips
from myna_plugin.probing.heads import (
    GRIDS,
    NEIGHBOURS,
    PATIENCE,
    HeadConfig,
    ProbeResult,
    summarize_scores,
)
from myna_plugin.probing.modules import ExperimentError, LoadedModule
from myna_plugin.probing.probes import PartResult, Probed, probe_vectors
from myna_plugin.probing.tasks import Item, Task
from myna_plugin.probing.tasks.task import EVENTS, SPLITS
from myna_plugin.probing.tasks.task_data import TaskData

FILE = "results.json"

FORMAT = 1

UNFINISHED = "unfinished-grids"
"""Folder beside the results that holds what an interrupted run had trained."""

LOCK = "lock"
"""File in that folder."""

DISTRIBUTIONS = (
    *("torch", "numpy", "scikit-learn", "mir_eval", "soundfile", "soxr", "nnAudio", "torchmetrics"),
)
"""What embeddings and scores may depend on."""


@dataclass(frozen=True)
class Protocol:
    """How heads are selected: what scores depend on besides vectors and targets.

    Attributes:
        grid: a name in `GRIDS`.
        seeds: how many, from 0.
        device: where heads are trained; on the CPU where it is MPS, which lacks float64.
        patience: evaluations without a new best after which a head stops; nothing to the fast
            grid's heads, which are fitted to the end.
        neighbours: score the rule of nearest neighbours as well.

    Raises:
        ExperimentError: several seeds of a grid with nothing random.
    """

    grid: str = "full"
    seeds: int = 1
    device: str = "cpu"
    patience: int = PATIENCE
    neighbours: bool = False

    def __post_init__(self) -> None:
        if self.seeds > 1 and not self._is_random:
            raise ExperimentError(
                f"--seeds {self.seeds}: nothing is random in the {self.grid} grid, "
                "every seed gives the same; leave it out, or choose --grid full"
            )

    def check(self, task: Task) -> None:
        """Refuse a task that it is not for.

        Raises:
            ExperimentError: the task is of events; or neighbours are to vote, and clips have not
                one label each.
        """
        if task.loss in EVENTS:
            raise ExperimentError(
                f"{task.name} asks {EVENTS[task.loss]}, not about clips: "
                "use myna export-task --to hear, then hear-eval"
            )
        if self.neighbours and task.loss != "cross_entropy":
            raise ExperimentError(
                f"--neighbours: {task.name} has not one label a clip to vote for; leave it out"
            )

    @property
    def _is_random(self) -> bool:
        return any(isinstance(config, HeadConfig) for config in GRIDS[self.grid])

    def describe(self, data: TaskData) -> dict[str, Any]:
        """As a results file names it."""
        return {
            "grid": self.grid,
            "configurations": len(GRIDS[self.grid]),
            "folds": len(data.folds),
            "seeds": self.seeds,
            "device": without_mps(self.device),
            **({"patience": self.patience} if self._is_random else {}),
            **({"neighbours": NEIGHBOURS} if self.neighbours else {}),
        }


@dataclass(frozen=True)
class Experiment:
    """A task probed on the embeddings of a module.

    Attributes:
        data: the clips that have vectors.
        module: what embedded them.
        protocol: how heads were selected.
        probed: those heads, and their scores.
        cost: what embedding takes; None if nothing was ever embedded.
        embedded_s: seconds that embedding took this time.
    """

    data: TaskData
    module: LoadedModule
    protocol: Protocol
    probed: Probed
    cost: Cost | None
    embedded_s: float

    def describe(self, name: str, command: str, began: float, **further: Any) -> dict[str, Any]:
        """What a results file holds.

        Args:
            name: of the model, in tables.
            command: that ran.
            began: when, by `time.monotonic`.
            further: fields of its own.
        """
        reported, results = self.probed.reported, self.probed.results
        folds = list(self.data.folds)
        return {
            "format": FORMAT,
            "name": name,
            "task": {**describe_task(self.data.task, self.data.items), "test_folds": folds},
            "module": describe_module(self.module, self.cost),
            "probe": self.protocol.describe(self.data),
            "reported": reported,
            "scores": _describe_scores(results[reported].scores),
            "parts": {part: _describe_part(result, folds) for part, result in results.items()},
            "data": {"digest": self.data.digest, "left_out": dict(self.data.left_out)},
            "versions": versions(DISTRIBUTIONS),
            "date": now(),
            "duration_s": round(time.monotonic() - began, 1),
            "command": command,
            **further,
        }


def run(
    data: TaskData,
    module: LoadedModule,
    cache: EmbeddingCache,
    protocol: Protocol,
    handling: Handling,
    *,
    say: Callable[[str], None] | None = None,
    out: Path | None = None,
) -> Experiment:
    """Embed a task's clips, unless the cache has them, and select heads on validation.

    Whatever was computed before an error or an interruption is kept in the cache and in `out`.

    Args:
        data: the task and its clips.
        module: what embeds them.
        cache: of that module.
        protocol: how heads are selected.
        handling: how clips are embedded, and whether progress is shown.
        say: told now and then how far the search for heads is.
        out: folder that `write_results` will write to; None for none.

    Raises:
        AudioError, TaskError: a clip cannot be decoded, or what is left cannot be scored.
        ExperimentError: the module failed on a clip, or features, targets or protocol do not fit.
        OSError: what is to be kept cannot be written.
    """
    protocol.check(data.task)
    began = time.monotonic()
    vectors, undecodable = embed_clips(data, module, cache, handling)
    data = data.without(undecodable)
    embedded_s = time.monotonic() - began
    probed = probe_vectors(
        data.task,
        data.folds,
        vectors,
        module.parts,
        GRIDS[protocol.grid],
        seeds=protocol.seeds,
        device=without_mps(protocol.device),
        patience=protocol.patience,
        progress=handling.progress and is_watched(),  # elsewhere `say` is told of heads, by part
        say=say,
        records=out / UNFINISHED if out else None,
        neighbours=protocol.neighbours,
    )
    return Experiment(data, module, protocol, probed, cache.cost(), embedded_s)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Hold a folder of results, made if there is none: what is unfinished there is one process's.

    Nothing is left of a new folder into which nothing was written.

    Raises:
        ExperimentError: another process holds it.
        OSError: it cannot be made.
    """
    work, is_new = out / UNFINISHED, not out.exists()
    work.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another probe is writing there; wait for its end, or choose another --out"
    with locked(work / LOCK, busy, ExperimentError):
        try:
            yield
        finally:
            if work.exists() and [path.name for path in work.iterdir()] == [LOCK]:
                shutil.rmtree(work)
                if is_new:
                    with suppress(OSError):  # it is not empty, or another has removed it
                        out.rmdir()


def write_results(out: Path, content: Mapping[str, Any]) -> None:
    """Write a results file; what an interrupted run would have gone on from is not needed then.

    Raises:
        OSError: it cannot be written.
    """
    write_json(out / FILE, content)
    if (out / UNFINISHED).is_dir():
        shutil.rmtree(out / UNFINISHED)


def is_current(content: Any, data: TaskData, module: LoadedModule, protocol: Protocol) -> bool:
    """Whether the content of a results file is of these."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return False
    identity = module.identity()
    return (
        {name: content["module"].get(name) for name in identity} == identity
        and content["data"]["digest"] == data.digest
        and content["probe"] == protocol.describe(data)
    )


def describe_task(task: Task, items: Sequence[Item]) -> dict[str, Any]:
    """A task as a results file names it."""
    return {
        "name": task.name,
        "title": task.title,
        "loss": task.loss,
        "metrics": list(task.metrics),
        "primary": task.primary,
        "reported_as": dict(task.reported_as),
        "split_rule": task.split_rule,
        "clip_rule": task.clip_rule.summary,
        "clips": {split: sum(item.split == split for item in items) for split in SPLITS},
        "clips_when_whole": dict(task.split_sizes),
    }


def describe_module(module: LoadedModule, cost: Cost | None) -> dict[str, Any]:
    """What embedded, and what it took."""
    return {
        "name": module.name,
        **module.identity(),
        "distribution": module.distribution,
        "model": module.model_file,
        "parameters": module.parameters,
        "warnings": list(module.warnings),
        "cost": None if cost is None else asdict(cost),
    }


def _describe_part(part: PartResult, folds: Sequence[int]) -> dict[str, Any]:
    """Scores of one part of an embedding: means, then every run by its fold and seed."""
    return {
        "width": part.width,
        "valid_score": part.valid_score,
        "scores": _describe_scores(part.scores),
        **(
            {"neighbours": _describe_scores(summarize_scores(part.of_neighbours))}
            if part.of_neighbours
            else {}
        ),
        "runs": [
            {"fold": fold, **_describe_run(run)}
            for fold, runs in zip(folds, part.folds, strict=True)
            for run in runs
        ],
    }


def _describe_scores(scores: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Mean and deviation by metric; None for the deviation of a single run."""
    return {
        name: {"mean": mean, "deviation": deviation if np.isfinite(deviation) else None}
        for name, (mean, deviation) in scores.items()
    }


def _describe_run(run: ProbeResult) -> dict[str, Any]:
    selection = run.selection
    rules = selection.task.rules if selection.per_item else ()
    return {
        "seed": selection.seed,
        "winner": selection.config.to_dict(),
        "valid_score": selection.valid_score,
        "rule": selection.rule,
        "scores": run.scores,
        "heads": [
            {
                **head.config.to_dict(),
                # JSON has no infinity: a head whose metric never was a number has no score.
                "valid_score": head.valid_score if np.isfinite(head.valid_score) else None,
                "best_step": head.best_step,
                "steps": head.steps,
                "rule": rules[head.rule] if rules else None,
            }
            for head in selection.heads
        ],
    }
