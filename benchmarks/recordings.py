"""Probe HEAR modules and baselines on labelled recordings, and print one table.

\b
    python -m benchmarks.recordings --emotify data/emotify --mridangam data/mridangam --out out
    python -m benchmarks.recordings --emotify data/emotify --weights mine=run/final.safetensors \\
        --model-options '{"scene_layers": [4, 8, 12]}' --baselines none --out out

Emotify: the middle of each excerpt, genre and nine emotions, no artist in two folds. Mridangam: a
few strokes of every kind and tonic, the stroke by sessions (a tonic each), the tonic at random.
Where these sets are, and how they must lie: see docs/probe.md.

Heads are logistic and ridge regression on standardised features, their strength chosen by
cross-validation within the training folds. Scores are accuracy and R², over all folds, mean and
deviation over --repetitions of other folds. Retrieval is the mean average precision of ranking all
others by cosine, of raw and of standardised features, those of the own artist (or session) left
out.
"""

from __future__ import annotations

import random
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, average_precision_score, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from benchmarks.contestants import (
    MODULE,
    WEIGHTS,
    baselines_option,
    choose_folders,
    load_contestant,
    parse_baselines,
    parse_weights,
)
from myna_plugin.cli.options import CACHE, MODEL_OPTIONS
from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.common.files import write_json, write_text
from myna_plugin.common.options import DEVICE, FOLDER, PATH, POSITIVE_FLOAT, POSITIVE_INT, WORKERS
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.provenance import now
from myna_plugin.model.audio import read_info
from myna_plugin.probing.embeddings import (
    BATCH_SIZES,
    Handling,
    cache_folder,
    embed_clips,
    open_cache,
)
from myna_plugin.probing.modules import LoadedModule
from myna_plugin.probing.report.tables import markdown
from myna_plugin.probing.tasks import Item, Task, load_task
from myna_plugin.probing.tasks.splits import assign_folds
from myna_plugin.probing.tasks.task import UNSPLIT
from myna_plugin.probing.tasks.task_data import TaskData, digest_audio

TASK_NAMES = {
    "emotify": ("emotify_genre", "emotify_emotion"),
    "mridangam": ("mridangam_stroke", "mridangam_tonic"),
}

STRENGTHS = {
    "cross_entropy": ("logisticregression__C", [1e-3, 1e-2, 1e-1, 1.0]),
    "mse": ("ridge__alpha", [1e1, 1e2, 1e3, 1e4, 1e5]),
}

INNER_FOLDS = 3

RANKED = ("emotify_genre", "mridangam_stroke")
"""Tasks whose classes are looked for by ranking, too."""


@dataclass(frozen=True)
class Recordings:
    """A task with the part of each recording that is embedded.

    Attributes:
        data: its clips.
        groups: artist of each, or its session; its own name where it has none.
        targets: class names, shape (N,), or numbers, shape (N, C).
    """

    data: TaskData
    groups: np.ndarray
    targets: np.ndarray

    @property
    def task(self) -> Task:
        return self.data.task


def read_recordings(
    name: str, root: Path, seconds: float, strokes: int, workers: int
) -> Recordings:
    """A task's clips, cut and thinned out.

    Raises:
        TaskError, AudioError: files are missing, damaged or of another layout; names one.
    """
    task, split = load_task(name, root)
    items = [replace(item, split=UNSPLIT) for item in split]  # folds are dealt here
    if name.startswith("mridangam"):
        items = some_of_each(items, strokes)
    else:
        items = [middle_of(item, seconds) for item in items]
    digests, unreadable = digest_audio(items, workers)
    if unreadable:
        raise InputError(next(iter(unreadable.values())))
    groups = np.array([item.artist or item.track_id for item in items])
    targets = np.array([item.target for item in items])
    return Recordings(TaskData(task, {0: items}, digests), groups, targets)


def middle_of(item: Item, seconds: float) -> Item:
    """The middle of a file; all of it where it is shorter."""
    length = read_info(item.path).duration_s
    if length <= seconds:
        return item
    start = (length - seconds) / 2
    return replace(item, start_s=start, end_s=start + seconds)


def some_of_each(items: Sequence[Item], n: int, seed: int = 0) -> list[Item]:
    """At most n strokes of each kind on each drum, the same ones for both tasks."""
    cells: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.clip_id):
        cells[item.clip_id.split("__")[-1].rpartition("-")[0]].append(item)
    rng = random.Random(seed)
    return [item for cell in cells.values() for item in rng.sample(cell, min(n, len(cell)))]


def cross_validate(
    features: np.ndarray, recordings: Recordings, repetition: int
) -> dict[str, float]:
    """Score of predictions that were each made by a head which saw nothing of the clip's group."""
    task, targets = recordings.task, recordings.targets
    is_class = task.loss == "cross_entropy"
    head = LogisticRegression(max_iter=2000) if is_class else Ridge()
    strength, values = STRENGTHS[task.loss]
    predicted = np.empty_like(targets)
    for fold in range(task.folds):
        items = assign_folds(recordings.data.items, task.folds, fold, repetition)
        test = np.array([item.split == "test" for item in items])
        with TemporaryDirectory() as kept:  # components, found once for all strengths
            search = GridSearchCV(
                # All principal components: a rotation that makes vectors no wider than rows are
                # many; heads with an L2 penalty are the same.
                make_pipeline(StandardScaler(), PCA(), head, memory=kept),
                {strength: values},
                scoring="accuracy" if is_class else "r2",
                cv=GroupKFold(INNER_FOLDS),
            )
            search.fit(features[~test], targets[~test], groups=recordings.groups[~test])
            predicted[test] = search.predict(features[test])
    if is_class:
        return {"accuracy": float(accuracy_score(targets, predicted))}
    return {"r2": float(r2_score(targets, predicted))}


def rank(features: np.ndarray, recordings: Recordings) -> float:
    """Mean average precision of ranking the other groups' clips by cosine, for their class."""
    unit = normalize(features)
    similarity = unit @ unit.T
    precisions = []
    for row, group, target in zip(similarity, recordings.groups, recordings.targets, strict=True):
        others = recordings.groups != group
        right = recordings.targets[others] == target
        if right.any():
            precisions.append(average_precision_score(right, row[others]))
    return float(np.mean(precisions))


def score(features: np.ndarray, recordings: Recordings, repetitions: int) -> dict[str, Any]:
    """All scores of one module on one task: by metric, mean and deviation, or one number."""
    found: dict[str, list[float]] = defaultdict(list)
    for repetition in range(repetitions):
        for metric, value in cross_validate(features, recordings, repetition).items():
            found[metric].append(value)
    scores: dict[str, Any] = {
        metric: {"mean": float(np.mean(v)), "deviation": float(np.std(v)), "values": v}
        for metric, v in found.items()
    }
    if recordings.task.name in RANKED:
        scores["retrieval, raw"] = rank(features, recordings)
        scores["retrieval, standardised"] = rank(
            StandardScaler().fit_transform(features), recordings
        )
    return scores


def embed(
    module: LoadedModule, recordings: Recordings, cache: Path, handling: Handling
) -> np.ndarray:
    """A vector a clip, shape (N, D)."""
    vectors, _ = embed_clips(recordings.data, module, open_cache(cache, module), handling)
    return np.concatenate([vectors[item.clip_id] for item in recordings.data.items])


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a module, a column a score."""
    columns = [
        (task, metric) for task, scores in next(iter(results.values())).items() for metric in scores
    ]
    rows = [["", *(f"{task.replace('_', ' ')}: {metric}" for task, metric in columns)]]
    for name, of_tasks in results.items():
        rows.append([name, *(show(of_tasks[task][metric]) for task, metric in columns)])
    return markdown(rows)


def show(value: float | Mapping[str, float]) -> str:
    """A score with three decimals, and its deviation where it has one."""
    if isinstance(value, Mapping):
        return f"{value['mean']:.3f} ± {value['deviation']:.3f}"
    return f"{value:.3f}"


@click.command("benchmarks.recordings", cls=ToldCommand, help=__doc__)
@click.option("--emotify", type=PATH, help="Folder of Emotify.")
@click.option("--mridangam", type=PATH, help="Folder of Mridangam strokes.")
@click.option("--out", required=True, type=FOLDER, help="Results folder.")
@WEIGHTS
@MODULE
@MODEL_OPTIONS
@baselines_option("mel-statistics,mfcc,chroma,random-vit")
@click.option("--seconds", type=POSITIVE_FLOAT, default=6.1, show_default=True, help="Of Emotify.")
@click.option("--strokes", type=POSITIVE_INT, default=8, show_default=True, help="Of each kind.")
@click.option("--repetitions", type=POSITIVE_INT, default=3, show_default=True)
@DEVICE
@WORKERS
@CACHE
def main(
    emotify: Path | None,
    mridangam: Path | None,
    out: Path,
    weights: tuple[str, ...],
    module: str,
    model_options: dict[str, Any],
    baselines: str,
    seconds: float,
    strokes: int,
    repetitions: int,
    device: str,
    workers: int | None,
    cache: Path | None,
) -> None:
    device, workers = choose_device(device), workers or available_cores()
    contestants = [parse_weights(text, module, model_options) for text in weights]
    contestants += parse_baselines(baselines)
    choose_folders(contestants, out)  # of one name, one would take the other's row
    roots = {"emotify": emotify, "mridangam": mridangam}
    tasks = [
        read_recordings(name, root, seconds, strokes, workers)
        for option, root in roots.items()
        if root is not None
        for name in TASK_NAMES[option]
    ]
    if not contestants or not tasks:
        raise InputError(
            "nothing to score: give --emotify or --mridangam, and --weights or --baselines"
        )
    results: dict[str, dict[str, Any]] = {}
    for contestant in contestants:
        loaded = load_contestant(contestant, device)
        scores = results[contestant.name] = {}
        for recordings in ProgressBar(tasks, contestant.name):
            features = embed(
                loaded,
                recordings,
                cache or cache_folder() / "recordings",
                Handling(BATCH_SIZES[device.partition(":")[0]], workers),
            )
            scores[recordings.task.name] = score(features, recordings, repetitions)
        command = shlex.join(["python", "-m", "benchmarks.recordings", *sys.argv[1:]])
        # After each model, so that a run that is stopped leaves what it did.
        write_json(out / "results.json", {"command": command, "date": now(), "models": results})
        write_text(out / "table.md", table(results) + "\n")
    click.echo(table(results))


if __name__ == "__main__":
    main()
