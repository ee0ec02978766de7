"""HEAR's scene tasks as probe tasks, and probe tasks written as HEAR's."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from myna_plugin.common.files import read_json, write_json, write_text
from myna_plugin.model.audio import SAMPLE_RATE, read_info
from myna_plugin.probing.tasks.clips import is_whole_file, link_file, write_clips
from myna_plugin.probing.tasks.hear_folder import (
    BEAT_SCORE,
    FOLD_MODES,
    METADATA,
    VOCABULARY,
    HearFolder,
    Labels,
    read_folder,
)
from myna_plugin.probing.tasks.task import (
    EVENTS,
    SPLITS,
    UNSPLIT,
    ClipRule,
    Item,
    Note,
    Task,
    TaskError,
    check_names,
    parse_target,
    split_names,
)

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
    "beats": (BEAT_SCORE,),
    "notes": ("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"),
}
"""The scores that a written task asks heareval for, by our loss, the primary one first."""


EVENT_SETTINGS: dict[str, dict[str, Any]] = {
    "beats": {
        "evaluation_params": {
            "event_postprocessing_grid": {"median_filter_ms": [0, 100], "min_duration": [0, 50]}
        }
    },
    "notes": {
        "evaluation_params": {
            "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]}
        },
        "use_scoring_for_early_stopping": False,
    },
}
"""What heareval may do to frames, by our loss: its own grid, of 250 ms, is longer than fast beats
are apart and than many notes last. Of notes it is told what HEAR's MAESTRO task tells it: to smooth
them so, and to choose by the loss, as its score of many labels takes longer than an epoch."""


def read_folds(
    folder: Path, test_fold: int | None = None, sample_rate: int = SAMPLE_RATE
) -> tuple[Task, dict[int, list[Item]]]:
    """Read a scene task.

    Scores that heareval defines for another kind of task (`top1_acc` of a multi-label one) are left
    out.

    Args:
        folder: see `hear_folder`.
        test_fold: the fold that tests, from 0; None for each in turn. Given splits are fold 0.
        sample_rate: preferred sample rate of the audio, Hz; else the highest there is.

    Returns:
        The task, and its clips by the fold that tests.

    Raises:
        TaskError: an event task, or a file or field that is missing or wrong; names it.
    """
    read = read_folder(folder)
    path = folder / METADATA
    if read.embedding_type != "scene":
        raise TaskError(f"{path}: embedding_type {read.embedding_type!r}: only scenes are probed")
    if test_fold is not None and not 0 <= test_fold < len(read.ways):
        raise TaskError(f"{path}: the task has {len(read.ways)} ways to split, not {test_fold + 1}")
    known = SCORES[read.prediction_type]
    scores = [known[name] for name in read.metrics if name in known]
    if not scores:
        told = ", ".join(read.metrics)
        raise TaskError(f"{path}: evaluation {told}: none is for a {read.prediction_type} task")
    task = _describe(read, tuple(dict.fromkeys(scores)))
    audio = _audio_folder(folder, sample_rate)
    items = {name: _items(task, files, audio / name) for name, files in read.splits.items()}
    return task, {
        fold: [
            replace(item, split=split)
            for split, names in read.ways[fold].items()
            for name in names
            for item in items[name]
        ]
        for fold in (range(len(read.ways)) if test_fold is None else [test_fold])
    }


def _items(task: Task, files: Labels, audio: Path) -> list[Item]:
    """Clips of one of the folder's lists, not split yet."""
    items = []
    for file, labels in files.items():
        stem = file.removesuffix(".wav")
        # As heareval compares them: some tasks write numbers.
        found = [str(label) for label in labels]
        target = parse_target(task, found[0] if task.loss == "cross_entropy" else found)
        items.append(Item(stem, stem, audio / file, target, UNSPLIT))
    return items


def _describe(read: HearFolder, metrics: tuple[str, ...]) -> Task:
    duration = read.sample_duration
    return Task(
        name=read.task_name,
        title=read.task_name,
        source=f"HEAR task, version {read.version}",
        labels=read.vocabulary,
        loss="cross_entropy" if read.prediction_type == "multiclass" else "bce",
        metrics=metrics,
        primary=metrics[0],
        reported_as={},
        split_rule=f"HEAR: {read.split_mode}",
        clip_rule=ClipRule(
            "whole files" if duration is None else f"whole files, {duration:g} s",
            duration_s=duration,
            tolerance_s=0.05,
        ),
        folds=len(read.ways),
    )


def _audio_folder(folder: Path, sample_rate: int) -> Path:
    rates = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    if not rates:
        raise TaskError(f"{folder}: no folder of audio named by its sample rate")
    return folder / str(sample_rate if sample_rate in rates else rates[-1])


def prediction_type(task: Task) -> str:
    """HEAR's name for the kind of a task.

    Raises:
        TaskError: a regression task, for which HEAR has neither a kind nor a score, or one with
            labels that are not known of every clip.
    """
    if task.is_partial:
        raise TaskError(f"{task.name}: HEAR has no place for labels that are not known of a clip")
    for kind, loss in LOSSES.items():
        if loss == task.loss:
            return kind
    if task.loss in EVENTS:
        return "multilabel"
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
    """Write a task as one of HEAR, of scenes or of events, with audio at one sample rate.

    A file that is the whole clip, in mono WAV at that rate, is linked; any other clip is written
    as mono 16-bit WAV. Nothing is padded or trimmed. Audio that is there already is kept, so an
    interrupted export goes on where it stopped, and further sample rates join the first.

    Args:
        task: of any loss but mse.
        items: its clips, of our three splits, or of folds as `by_fold` names them.
        folder: the task folder to write.
        sample_rate: Hz.
        jobs: files to decode at a time.
        progress: show a progress bar.

    Raises:
        TaskError: a regression task, a name that leads out of the folder, or the folder holds
            something else.
        AudioError: an audio file cannot be decoded.
    """
    kind, describe = prediction_type(task), DESCRIBE.get(task.loss, _label_list)
    check_names(task, items)
    splits = {
        split: {f"{item.clip_id}.wav": describe(item) for item in items if item.split == split}
        for split in split_names(items)
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
        else:
            link_file(name, item.path)
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


def _beat_events(item: Item) -> list[dict[str, Any]]:
    """Each beat as an event, in ms, that lasts until halfway to the next, the last as long as that.

    heareval takes frames in a row for one event: without a pause all beats would be one.
    """
    times = cast(tuple[float, ...], item.target)
    halves = [(later - time) / 2 for time, later in pairwise(times)]
    return [
        _event("beat", time, time + half)
        for time, half in zip(times, [*halves, *halves[-1:]], strict=True)
    ]


def _note_events(item: Item) -> list[dict[str, Any]]:
    """Each note as an event, in ms, as long as it is annotated."""
    return [_event(label, on, off) for on, off, label in cast(tuple[Note, ...], item.target)]


def _event(label: str, start_s: float, end_s: float) -> dict[str, Any]:
    return {"label": label, "start": round(1000 * start_s, 3), "end": round(1000 * end_s, 3)}


DESCRIBE: dict[str, Callable[[Item], list[Any]]] = {"beats": _beat_events, "notes": _note_events}
"""From a clip of events to HEAR's list of them, by our loss."""


def by_fold(folds: Mapping[int, Sequence[Item]]) -> list[Item]:
    """Clips of a cross-validated task, each in the fold that it tests in; others as they are.

    heareval lets every fold test, and the next one validate, as we do.

    Args:
        folds: see `loading.load_folds`.
    """
    if len(folds) == 1:
        return list(*folds.values())
    return [
        replace(item, split=f"fold{fold:02}")
        for fold, items in folds.items()
        for item in items
        if item.split == "test"
    ]


def _refuse_other(folder: Path, splits: Mapping[str, Labels]) -> None:
    """Audio is kept by name, so a folder of another export must not be written into."""
    for split, labels in splits.items():
        path = folder / f"{split}.json"
        if path.is_file() and read_json(path) != labels:
            raise TaskError(f"{path}: is of another export; remove {folder} or write elsewhere")


def _write_tables(
    task: Task,
    kind: str,
    folder: Path,
    splits: Mapping[str, Labels],
    sample_duration: float | None,
) -> None:
    for split, labels in splits.items():
        write_json(folder / f"{split}.json", labels)
    rows = [("idx", "label"), *((str(i), label) for i, label in enumerate(task.labels))]
    write_text(folder / VOCABULARY, _csv(rows))
    metadata: dict[str, Any] = {
        "task_name": task.name,
        "version": "1.0.0",
        "embedding_type": "event" if task.loss in EVENTS else "scene",
        "prediction_type": kind,
        "split_mode": "trainvaltest" if tuple(splits) == SPLITS else FOLD_MODES[0],
        # heareval batches clips of one length; with null it takes them one at a time.
        "sample_duration": sample_duration,
        "evaluation": list(WRITTEN_SCORES[task.loss]),
        "splits": list(splits),
    }
    write_json(folder / METADATA, metadata | EVENT_SETTINGS.get(task.loss, {}))


def _csv(rows: Sequence[tuple[str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
