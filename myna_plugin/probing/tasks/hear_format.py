"""HEAR's task folders: reading any scene task, and writing one of ours.

Source: hearbenchmark.com/hear-tasks.html; heareval 2021.1.3.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from myna_plugin.common.files import read_json, write_json, write_text
from myna_plugin.model.audio import SAMPLE_RATE, read_info
from myna_plugin.probing.tasks.clips import is_whole_file, write_clips
from myna_plugin.probing.tasks.folders import read_table
from myna_plugin.probing.tasks.task import SPLITS, ClipRule, Item, Task, TaskError, parse_target

LOSSES: dict[str, str] = {"multiclass": "cross_entropy", "multilabel": "bce"}
"""Our loss for each of HEAR's prediction types."""

SCORES: dict[str, dict[str, str]] = {
    "multiclass": {
        "top1_acc": "accuracy",
        "pitch_acc": "accuracy",
        "chroma_acc": "chroma_accuracy",
    },
    "multilabel": {
        "mAP": "average_precision_macro",
        "aucroc": "roc_auc_macro",
        "d_prime": "d_prime",
    },
}
"""Our metric for each of heareval's scores, by prediction type."""

WRITTEN_SCORES: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("top1_acc",),
    "bce": ("aucroc", "mAP"),
}
"""The scores that a written task asks heareval for, by our loss, the primary one first."""


def is_task_folder(folder: Path) -> bool:
    """Whether a folder is a task in HEAR's format."""
    return (folder / "task_metadata.json").is_file()


def read_task(
    folder: Path, test_fold: int = 0, sample_rate: int = SAMPLE_RATE
) -> tuple[Task, list[Item]]:
    """Read a scene task.

    A k-fold task is split as heareval does: one fold tests, the next one validates, the others
    train. Scores that heareval defines for another kind of task (`top1_acc` of a multi-label
    one) are left out.

    Args:
        folder: holds `task_metadata.json`, `labelvocabulary.csv`, `SPLIT.json` and
            `SAMPLE_RATE/SPLIT/*.wav`.
        test_fold: which fold tests, from 0; 0 where splits are given.
        sample_rate: preferred sample rate of the audio, Hz; else the highest there is.

    Returns:
        The task and its clips.

    Raises:
        TaskError: an event task, or a file or field that is missing or wrong; names it.
    """
    path = folder / "task_metadata.json"
    metadata = read_json(path)
    if not isinstance(metadata, dict):
        raise TaskError(f"{path}: expected an object")
    try:
        task = _describe(folder, metadata)
        folds = _folds(metadata)
    except KeyError as error:
        raise TaskError(f"{path}: no field {error}") from error
    except TaskError as error:
        raise TaskError(f"{path}: {error}") from error
    if not 0 <= test_fold < task.folds:
        raise TaskError(f"{path}: the task has {task.folds} ways to split, not {test_fold + 1}")
    audio = _audio_folder(folder, sample_rate)
    items = []
    for split, names in folds[test_fold].items():
        for name in names:
            items += _read_split(task, folder / f"{name}.json", audio / name, split)
    return task, items


def _describe(folder: Path, metadata: Mapping[str, Any]) -> Task:
    if metadata["embedding_type"] != "scene":
        raise TaskError(f"embedding_type {metadata['embedding_type']!r}: only scene tasks are read")
    kind = metadata["prediction_type"]
    if kind not in LOSSES:
        raise TaskError(f"prediction_type {kind!r} is not one of {', '.join(LOSSES)}")
    scores = [SCORES[kind][name] for name in metadata["evaluation"] if name in SCORES[kind]]
    if not scores:
        raise TaskError(f"evaluation {metadata['evaluation']}: none is for a {kind} task")
    duration = metadata["sample_duration"]
    return Task(
        name=metadata["task_name"],
        title=metadata["task_name"],
        source=f"HEAR task, version {metadata.get('version', 'unknown')}",
        labels=_read_vocabulary(folder / "labelvocabulary.csv"),
        loss="cross_entropy" if kind == "multiclass" else "bce",
        metrics=tuple(dict.fromkeys(scores)),
        primary=scores[0],
        reported_as={},
        split_rule=f"HEAR: {metadata['split_mode']}",
        clip_rule=ClipRule(
            "whole files" if duration is None else f"whole files, {duration:g} s",
            duration_s=duration,
            tolerance_s=0.05,
        ),
        folds=len(_folds(metadata)),
    )


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    rows = list(read_table(path, ("idx", "label")))
    labels = tuple(row["label"] for row in rows)
    if [row["idx"] for row in rows] != [str(i) for i in range(len(rows))] or not rows:
        raise TaskError(f"{path.name}: idx does not count from 0")
    if len(set(labels)) != len(labels):
        raise TaskError(f"{path.name}: a label is there more than once")
    return labels


def _folds(metadata: Mapping[str, Any]) -> list[dict[str, list[str]]]:
    """Every way to split: names of HEAR's own splits for each of ours."""
    if metadata["split_mode"] == "trainvaltest":
        return [{split: [split] for split in SPLITS}]
    if metadata["split_mode"] not in ("new_split_kfold", "presplit_kfold"):
        raise TaskError(f"split_mode {metadata['split_mode']!r} is not known")
    names = sorted(metadata["splits"])
    if len(names) < 3:
        raise TaskError(f"{len(names)} folds; training, validation and test need 3")
    ways = []
    for i, test in enumerate(names):
        valid = names[(i + 1) % len(names)]
        train = [name for name in names if name not in (test, valid)]
        ways.append({"train": train, "valid": [valid], "test": [test]})
    return ways


def _audio_folder(folder: Path, sample_rate: int) -> Path:
    rates = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    if not rates:
        raise TaskError(f"{folder}: no folder of audio named by its sample rate")
    return folder / str(sample_rate if sample_rate in rates else rates[-1])


def _read_split(task: Task, path: Path, audio: Path, split: str) -> list[Item]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise TaskError(f"{path}: expected labels by file name")
    items = []
    for name, labels in content.items():
        if task.loss == "cross_entropy" and (not isinstance(labels, list) or len(labels) != 1):
            raise TaskError(f"{path}: {name}: expected a list of one label, got {labels!r}")
        value = labels[0] if task.loss == "cross_entropy" else labels
        try:
            target = parse_target(task, _as_text(value))
        except TaskError as error:
            raise TaskError(f"{path}: {name}: {error}") from error
        stem = name.removesuffix(".wav")
        items.append(Item(stem, stem, audio / name, target, split))
    return items


def _as_text(value: object) -> object:
    """Labels as heareval compares them: some tasks write numbers."""
    return [str(label) for label in value] if isinstance(value, list) else str(value)


def prediction_type(task: Task) -> str:
    """HEAR's name for the kind of a task.

    Raises:
        TaskError: a regression task, for which HEAR has neither a kind nor a score.
    """
    for kind, loss in LOSSES.items():
        if loss == task.loss:
            return kind
    raise TaskError(
        f"{task.name} is a regression task; HEAR knows {' and '.join(LOSSES)} tasks only"
    )


def write_task(
    task: Task,
    items: Sequence[Item],
    folder: Path,
    sample_rate: int = SAMPLE_RATE,
    jobs: int = 4,
    progress: bool = False,
) -> None:
    """Write a task as a scene task of HEAR, with audio at one sample rate.

    A file that is the whole clip, in mono WAV at that rate, is linked; any other clip is written
    as mono 16-bit WAV. Nothing is padded or trimmed. Audio that is there already is kept, so an
    interrupted export goes on where it stopped, and further sample rates join the first.

    Args:
        task: cross_entropy or bce.
        items: its clips.
        folder: the task folder to write.
        sample_rate: Hz.
        jobs: files to decode at a time.
        progress: show a progress bar.

    Raises:
        TaskError: a regression task, or the folder holds something else.
        AudioError: an audio file cannot be decoded.
    """
    kind = prediction_type(task)
    splits = {
        split: {f"{item.clip_id}.wav": _label_list(item) for item in items if item.split == split}
        for split in SPLITS
    }
    _refuse_other(folder, splits)
    duration = _place_audio(items, folder / str(sample_rate), sample_rate, jobs, progress)
    _write_tables(task, kind, folder, splits, duration)


def _place_audio(
    items: Sequence[Item], folder: Path, sample_rate: int, jobs: int, progress: bool
) -> float | None:
    """Link or write every clip as `SPLIT/CLIP.wav`; the clips' duration if it is the same."""
    names = {item.clip_id: folder / item.split / f"{item.clip_id}.wav" for item in items}
    to_write = []
    for item in items:
        name = names[item.clip_id]
        if not _is_ready(item, sample_rate):
            to_write.append(item)
        elif not name.exists():
            name.parent.mkdir(parents=True, exist_ok=True)
            name.unlink(missing_ok=True)  # a link to data that has moved
            name.symlink_to(item.path.resolve())
    write_clips(to_write, names, sample_rate, jobs=jobs, progress=progress)
    durations = {read_info(path).duration_s for path in names.values()}
    return durations.pop() if len(durations) == 1 else None


def _is_ready(item: Item, sample_rate: int) -> bool:
    """Whether the clip's own file can stand in the task as it is."""
    if not is_whole_file(item, sample_rate):
        return False
    info = read_info(item.path)
    return info.format == "WAV" and info.channels == 1


def _label_list(item: Item) -> list[str]:
    return [item.target] if isinstance(item.target, str) else [str(x) for x in item.target]


def _refuse_other(folder: Path, splits: Mapping[str, Mapping[str, list[str]]]) -> None:
    """Audio is kept by name, so a folder of another export must not be written into."""
    for split, labels in splits.items():
        path = folder / f"{split}.json"
        if path.is_file() and read_json(path) != labels:
            raise TaskError(f"{path}: is of another export; remove {folder} or write elsewhere")


def _write_tables(
    task: Task,
    kind: str,
    folder: Path,
    splits: Mapping[str, Mapping[str, list[str]]],
    sample_duration: float | None,
) -> None:
    for split, labels in splits.items():
        write_json(folder / f"{split}.json", labels)
    rows = [("idx", "label"), *((str(i), label) for i, label in enumerate(task.labels))]
    write_text(folder / "labelvocabulary.csv", _csv(rows))
    metadata = {
        "task_name": task.name,
        "version": "1.0.0",
        "embedding_type": "scene",
        "prediction_type": kind,
        "split_mode": "trainvaltest",
        # heareval batches clips of one length; with null it takes them one at a time.
        "sample_duration": sample_duration,
        "evaluation": list(WRITTEN_SCORES[task.loss]),
        "splits": list(SPLITS),
    }
    write_json(folder / "task_metadata.json", metadata)


def _csv(rows: Sequence[tuple[str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
