"""Probes of a task on each part of an embedding: chosen on validation, then scored on test once.

What an interrupted run had trained is kept on disk, so that a restart trains only the rest.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from myna_plugin._version import __version__
from myna_plugin.common.files import parse_json, write_whole
from myna_plugin.probing.heads import (
    METRICS,
    PATIENCE,
    RULES,
    Grid,
    HeadConfig,
    HeadScore,
    HeadTask,
    LinearConfig,
    ProbeResult,
    Selection,
    Split,
    score_neighbours,
    select,
    summarize_scores,
    tabulate_pair_scores,
)
from myna_plugin.probing.heads.stack import TrainedHead
from myna_plugin.probing.modules import ExperimentError
from myna_plugin.probing.tasks import Item, Task, encode_targets
from myna_plugin.probing.tasks.metrics import METRICS as TASK_METRICS
from myna_plugin.probing.tasks.metrics import score_outputs
from myna_plugin.probing.tasks.task_data import Folds


@dataclass(frozen=True)
class PartResult:
    """What one part of an embedding came to.

    Attributes:
        width: D.
        folds: for each fold, one result a seed.
        of_neighbours: for each fold, scores of the rule of nearest neighbours; empty if not asked.
    """

    width: int
    folds: tuple[tuple[ProbeResult, ...], ...]
    of_neighbours: tuple[dict[str, float], ...] = ()

    @property
    def valid_score(self) -> float:
        """Mean over folds and seeds of the winners' scores on validation."""
        return float(np.mean([run.selection.valid_score for runs in self.folds for run in runs]))

    @property
    def scores(self) -> dict[str, tuple[float, float]]:
        """Mean and deviation of each test score: over seeds, or where there are folds over folds.

        Source: heareval reports k-fold tasks by mean and sample standard deviation over folds.
        """
        of_folds = [summarize_scores([run.scores for run in runs]) for runs in self.folds]
        if len(of_folds) == 1:
            return of_folds[0]
        return summarize_scores(
            [{name: mean for name, (mean, _) in scores.items()} for scores in of_folds]
        )


def build_probe_task(task: Task) -> HeadTask:
    """A task as the probe sees it: selection by the primary metric, all its metrics on test.

    Predictions of a track's clips are combined by the rule that is best on validation; those of a
    clip's chunks are averaged.
    """

    def score(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return score_outputs(task, outputs, targets)

    metric: str | np.ndarray = task.primary
    if metric not in METRICS[task.loss]:
        primary = TASK_METRICS[task.primary]
        metric = tabulate_pair_scores(
            lambda outputs, targets: primary(outputs, targets, task.labels), len(task.labels)
        )
    rules = tuple(RULES) if task.clip_rule.per_track else ("mean_probability",)
    return HeadTask(task.loss, len(task.labels), metric, score, rules)


def build_split(
    task: Task, items: Sequence[Item], vectors: Mapping[str, np.ndarray], split: str, part: slice
) -> Split:
    """Rows of one split.

    Args:
        task: its targets, and whether scores are per track.
        items: clips of all splits.
        vectors: by clip_id, shape (K, D).
        split: "train", "valid" or "test".
        part: of the features.

    Returns:
        One row for each vector of each clip.
    """
    chosen = [item for item in items if item.split == split]
    counts = [len(vectors[item.clip_id]) for item in chosen]
    rows = np.concatenate([vectors[item.clip_id] for item in chosen])
    targets = np.repeat(encode_targets(task, chosen), counts, axis=0)
    names = None
    if task.clip_rule.per_track:
        names = np.repeat([item.track_id for item in chosen], counts)
    elif max(map(len, vectors.values())) > 1:  # in any split: all are scored alike
        names = np.repeat([item.clip_id for item in chosen], counts)
    return Split(rows[:, part], targets, names)


@dataclass(frozen=True)
class Probed:
    """Heads selected for a task, on each part of an embedding.

    Attributes:
        task: the task.
        folds: its clips.
        vectors: by clip_id, shape (K, D).
        parts: slice of the features, by name.
        chosen: of each part, for each fold, the best head of each seed.
        neighbours: whether the rule of nearest neighbours is scored as well.
    """

    task: Task
    folds: Folds
    vectors: Mapping[str, np.ndarray]
    parts: Mapping[str, slice]
    chosen: Mapping[str, Sequence[Sequence[Selection]]]
    neighbours: bool = False

    @property
    def valid_scores(self) -> dict[str, float]:
        """By part, the mean over folds and seeds of the winners' scores on validation."""
        return {
            part: float(np.mean([one.valid_score for fold in folds for one in fold]))
            for part, folds in self.chosen.items()
        }

    @property
    def reported(self) -> str:
        """The part that is best on validation, the first of equals.

        Source: paper §4.3, which does not say by which split the part is chosen.
        """
        return max(self.valid_scores, key=self.valid_scores.__getitem__)

    @cached_property
    def results(self) -> dict[str, PartResult]:
        """What each part comes to on test, which nothing has looked at before.

        Raises:
            ExperimentError: features or targets of test cannot be used; names the field.
        """
        results = {}
        for name, part in self.parts.items():
            runs, votes = [], []
            for items, selections in zip(self.folds.values(), self.chosen[name], strict=True):
                test = build_split(self.task, items, self.vectors, "test", part)
                try:
                    runs.append(tuple(selection.score(test) for selection in selections))
                    if self.neighbours:
                        train = build_split(self.task, items, self.vectors, "train", part)
                        votes.append(score_neighbours(train, test, build_probe_task(self.task)))
                except ValueError as error:
                    raise ExperimentError(f"{self.task.name}: {error}") from error
            results[name] = PartResult(part.stop - part.start, tuple(runs), tuple(votes))
        return results


TELL_S = 30.0
"""Between lines of how far a search for heads is, at least."""


class _Progress:
    """Which grid of heads is searched and how far: a line now and then.

    Of a grid that takes its time one comes before it; where a bar shows heads, lines do not.
    """

    def __init__(
        self,
        n_parts: int,
        n_folds: int,
        n_seeds: int,
        grid: Grid,
        bar: bool,
        say: Callable[[str], None] | None,
    ) -> None:
        self._n_folds, self._n_seeds, self._n_grids = n_folds, n_seeds, n_parts * n_folds * n_seeds
        self._n_heads, self._bar, self._say = len(grid), bar, say
        self._begun = self._told = time.monotonic()
        if any(isinstance(config, HeadConfig) for config in grid):
            self._told -= TELL_S
        self._n_begun = 0

    def begin(
        self, part: str, fold: int, seed: int, record: GridRecord
    ) -> Callable[[Sequence[TrainedHead]], None]:
        """A grid begins, of which a record has some heads; what to give the other ones to."""
        of_fold = f", fold {fold}" if self._n_folds > 1 else ""
        of_seed = f", seed {seed}" if self._n_seeds > 1 else ""
        self._name, self._n_found = f"{part}{of_fold}{of_seed}", len(record.heads)
        done = self._n_begun
        self._n_begun += 1
        left = ""
        if done:
            minutes = (time.monotonic() - self._begun) / done * (self._n_grids - done) / 60
            left = f", about {max(minutes, 1):.0f} min left"
        self._tell(left)

        def add(heads: Sequence[TrainedHead]) -> None:
            record.add(heads)
            self._n_found += len(heads)
            if not self._bar and self._n_found < self._n_heads:
                self._tell(f", {self._n_found} of {self._n_heads} heads are trained")

        return add

    def _tell(self, more: str) -> None:
        now = time.monotonic()
        if self._say is not None and now - self._told >= TELL_S:
            self._told = now
            self._say(f"heads: {self._name}, grid {self._n_begun} of {self._n_grids}{more}")


def probe_vectors(
    task: Task,
    folds: Folds,
    vectors: Mapping[str, np.ndarray],
    parts: Mapping[str, slice],
    grid: Grid,
    *,
    seeds: int = 1,
    device: str = "cpu",
    patience: int = PATIENCE,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
    records: Path | None = None,
    neighbours: bool = False,
) -> Probed:
    """Select heads on each part of an embedding.

    Args:
        task: the task.
        folds: its clips. Each fold has a grid of its own: heareval searches on the first alone and
            trains its winner on the others, whose test fold the search has then seen.
        vectors: by clip_id, shape (K, D).
        parts: slice of the features, by name.
        grid: configurations.
        seeds: number of seeds, from 0.
        device: where to train.
        patience: evaluations without a new best after which a head stops.
        progress: show a progress bar for each grid.
        say: told now and then which grid is searched, and how far.
        records: folder in which unfinished grids are kept, and looked for; None for nowhere.
        neighbours: score the rule of nearest neighbours on test as well.

    Raises:
        ExperimentError: features or targets cannot be used; the message names the field.
        OSError: a record cannot be written.
    """
    probe_task = build_probe_task(task)
    told = _Progress(len(parts), len(folds), seeds, grid, progress, say)

    def choose(part: str, fold: int) -> list[Selection]:
        train, valid = (
            build_split(task, folds[fold], vectors, n, parts[part]) for n in ("train", "valid")
        )
        found = []
        for seed in range(seeds):
            asked = (train, valid, probe_task, grid, seed, device, patience)
            record = GridRecord(records / f"{digest_grid(*asked)}.npz" if records else None)
            options: dict[str, Any] = {"device": device, "patience": patience, "progress": progress}
            options["known"] = tuple(record.heads)
            options["on_stack"] = told.begin(part, fold, seed, record)
            found.append(select(train, valid, probe_task, grid, seed=seed, **options))
        return found

    try:
        chosen = {part: [choose(part, fold) for fold in folds] for part in parts}
    except ValueError as error:
        raise ExperimentError(f"{task.name}: {error}") from error
    return Probed(task, folds, vectors, parts, chosen, neighbours)


def digest_grid(
    train: Split,
    valid: Split,
    task: HeadTask,
    grid: Grid,
    seed: int,
    device: str,
    patience: int = PATIENCE,
) -> str:
    """Digest of all that a grid's result depends on: the same again gives the same result.

    Args:
        train: training split.
        valid: validation split.
        task: loss, metric and rules.
        grid: configurations.
        seed: of the experiment.
        device: where it is trained; its kind counts.
        patience: see `select`.
    """
    pair_scores = task.metric.tolist() if isinstance(task.metric, np.ndarray) else task.metric
    settings = [
        *(task.loss, task.n_outputs, pair_scores, task.rules, [c.to_dict() for c in grid], seed),
        patience,
        *(torch.device(device).type, torch.__version__, __version__),
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for split in (train, valid):
        for values in (split.features, split.targets, split.items):
            if values is None:
                digest.update(b"none")
                continue
            digest.update(f"{values.dtype} {values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


class GridRecord:
    """Heads of a grid whose stacks have finished, in one file that is replaced as they come.

    Attributes:
        path: of the file; None for a record that keeps nothing.
        heads: for `select` to start from; only the best of them has its weights.
    """

    def __init__(self, path: Path | None) -> None:
        """Read what there is; a file that is damaged counts as none.

        Args:
            path: of the file; it and its folder need not exist.
        """
        self.path = path
        self.heads: list[TrainedHead] = []
        if path is None:
            return
        try:
            with np.load(path, allow_pickle=False) as content:
                self.heads = _parse(content)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            self.heads = []

    def add(self, heads: Sequence[TrainedHead]) -> None:
        """Take in the heads of a stack and write the file.

        Raises:
            OSError: it cannot be written.
        """
        if self.path is None:
            return
        found = [*self.heads, *heads]
        # Of equals the first in the grid, as `select` has it.
        best = max(found, key=lambda head: (head[1].valid_score, -head[0]))[0]
        self.heads = [(place, score, w if place == best else {}) for place, score, w in found]
        weights = next(w for place, _, w in self.heads if place == best)
        file = io.BytesIO()
        described = [[place, asdict(score)] for place, score, _ in self.heads]
        np.savez(
            file,
            allow_pickle=False,
            heads=np.array(json.dumps(described)),
            best=np.array(best),
            **{f"weights.{name}": value.numpy() for name, value in weights.items()},
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, file.getbuffer())


def _parse(content: np.lib.npyio.NpzFile) -> list[TrainedHead]:
    best = int(content["best"])
    weights = {
        name.removeprefix("weights."): torch.from_numpy(content[name])
        for name in content.files
        if name.startswith("weights.")
    }
    heads = []
    for place, fields in parse_json(str(content["heads"]), "heads"):
        config = fields["config"]
        kind = LinearConfig if "penalty" in config else HeadConfig
        score = HeadScore(**{**fields, "config": kind(**config)})
        heads.append((place, score, weights if place == best else {}))
    return heads
