"""A HEAR task on disk: its metadata, labels and splits, checked before anything runs.

Format (hear-preprocess): `TASK/task_metadata.json`, `TASK/labelvocabulary.csv` (idx, label),
`TASK/SPLIT.json` and `TASK/<sample rate>/SPLIT/*.wav`. heareval's own checks are assertions without
a message, some of them only reached after hours of embedding.

Source: hearbenchmark.com/hear-tasks.html; heareval 2021.1.3.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna_plugin.common.files import is_plain_name, read_json_object, read_rows
from myna_plugin.probing.tasks.task import SPLITS, TaskError

METADATA = "task_metadata.json"
VOCABULARY = "labelvocabulary.csv"
ALL = "all"

BEAT_SCORE = "beat_f_measure_70ms"
"""mir_eval's F-measure of beats, mean over files: `hear-eval` gives it to heareval."""

METRICS = {
    "scene": ("top1_acc", "pitch_acc", "chroma_acc", "mAP", "d_prime", "aucroc"),
    "event": (
        "event_onset_200ms_fms",
        "event_onset_50ms_fms",
        "event_onset_offset_50ms_20perc_fms",
        "segment_1s_er",
        BEAT_SCORE,
    ),
}
"""Embedding type to the metrics that heareval has for it (score.py:365), and ours."""

PREDICTION_TYPES = ("multiclass", "multilabel")
FOLD_MODES = ("new_split_kfold", "presplit_kfold")

MISSING_VALUES = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
        *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)
"""What pandas takes for no value."""

Labels = dict[str, list[Any]]
"""By file name: strings for a scene, `{label, start, end}` with times in ms for events."""


@dataclass(frozen=True, eq=False)
class HearFolder:
    """A task in HEAR's format.

    Attributes:
        folder: where it lies; its name is the task's name for heareval.
        task_name: its name for the reader.
        version: of the task.
        embedding_type: "scene" or "event".
        prediction_type: "multiclass" or "multilabel".
        metrics: in order; heareval selects its models by the first.
        sample_duration: seconds that every sound lasts; None where they differ.
        split_mode: "trainvaltest", or one of `FOLD_MODES`.
        vocabulary: labels, in the order of a head's outputs.
        splits: labels of each split.
    """

    folder: Path
    task_name: str
    version: str
    embedding_type: str
    prediction_type: str
    metrics: tuple[str, ...]
    sample_duration: float | None
    split_mode: str
    vocabulary: tuple[str, ...]
    splits: dict[str, Labels]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def ways(self) -> list[dict[str, list[str]]]:
        """Every way to split, as heareval does: names of `splits` for each of ours.

        Of a k-fold task one fold tests, the next one validates, the others train.
        """
        if self.split_mode not in FOLD_MODES:
            return [{split: [split] for split in SPLITS}]
        names = sorted(self.splits)
        ways = []
        for i, test in enumerate(names):
            valid = names[(i + 1) % len(names)]
            train = [name for name in names if name not in (test, valid)]
            ways.append({"train": train, "valid": [valid], "test": [test]})
        return ways

    @property
    def models_per_grid(self) -> int:
        """Predictors trained beside the grid: one for each fold after the first."""
        return len(self.ways) - 1

    def files(self) -> Iterator[tuple[str, str]]:
        """Every (split, file name), in heareval's order."""
        for split, labels in self.splits.items():
            for name in labels:
                yield split, name


def find_tasks(tasks_dir: Path, names: Sequence[str]) -> list[Path]:
    """The task folders that a run covers, in alphabetical order.

    Args:
        tasks_dir: folder of task folders. Files and hidden folders in it are no tasks.
        names: names of tasks, or "all".

    Raises:
        TaskError: the folder or a task is missing, or there is no task at all.
    """
    if not tasks_dir.is_dir():
        told = "is not a folder" if os.path.lexists(tasks_dir) else "no such folder"
        raise TaskError(f"{tasks_dir}: {told}; give the folder of tasks by --tasks-dir")
    if (tasks_dir / METADATA).is_file():
        raise TaskError(
            f"{tasks_dir} is one task, not a folder of tasks; "
            f"use --tasks-dir {tasks_dir.parent} --task {tasks_dir.resolve().name}"
        )
    found = {
        entry.name: entry
        for entry in sorted(tasks_dir.iterdir())
        if entry.is_dir() and not entry.name.startswith((".", "__"))
    }
    if not found:
        raise TaskError(f"{tasks_dir} holds no tasks; unpack HEAR tasks into it, or try --demo")
    if ALL in names:
        return list(found.values())
    unknown = [name for name in names if name not in found]
    if unknown:
        raise TaskError(f"{tasks_dir} has no task {', '.join(unknown)}; it has {', '.join(found)}")
    return [found[name] for name in sorted(set(names))]


def read_folder(folder: Path) -> HearFolder:
    """Read and check everything of a task but its audio: what passes, heareval can use.

    Raises:
        InputError: naming the file, the fault and the remedy.
    """
    metadata = _read_metadata(folder)
    path = folder / METADATA
    embedding_type = _one_of(metadata, "embedding_type", tuple(METRICS), path)
    prediction_type = _one_of(metadata, "prediction_type", PREDICTION_TYPES, path)
    split_mode = _one_of(metadata, "split_mode", ("trainvaltest", *FOLD_MODES), path)
    metrics = _check_names(metadata, "evaluation", path)
    for metric in metrics:
        _expect(
            metric in METRICS[embedding_type],
            path,
            f"evaluation: heareval has no metric {metric} "
            f"for {embedding_type} tasks; it has {', '.join(METRICS[embedding_type])}",
        )
    split_names = _check_names(metadata, "splits", path)
    _check_split_names(split_mode, split_names, path)
    _expect(
        isinstance(metadata.get("evaluation_params", {}), dict),
        path,
        "evaluation_params must be an object, or be left out",
    )
    task_name = metadata.get("task_name")
    _expect(is_plain_name(task_name), path, f"task_name is {task_name!r}; it must be a plain name")
    vocabulary = read_vocabulary(folder / VOCABULARY)
    splits = {name: _read_json_object(folder / f"{name}.json") for name in split_names}
    for name, labels in splits.items():
        is_single = embedding_type == "scene" and prediction_type == "multiclass"
        _check_labels(labels, embedding_type, is_single, vocabulary, folder / f"{name}.json")
    return HearFolder(
        folder=folder,
        task_name=str(task_name),
        version=str(metadata.get("version", "unknown")),
        embedding_type=embedding_type,
        prediction_type=prediction_type,
        metrics=metrics,
        sample_duration=_check_duration(metadata, path),
        split_mode=split_mode,
        vocabulary=vocabulary,
        splits=splits,
    )


def _expect(condition: bool, path: Path, fault: str) -> None:
    if not condition:
        raise TaskError(f"{path}: {fault}")


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    if os.path.lexists(path):
        return read_json_object(path)
    if not folder.is_dir():
        raise TaskError(f"{folder}: no such folder")
    deeper = sorted(folder.glob(f"*/{METADATA}"))
    if deeper:
        raise TaskError(f"{folder} is a folder of tasks, not a task; use --tasks-dir {folder}")
    raise TaskError(
        f"{path} is missing, so {folder.name} is no HEAR task; "
        "complete it, move it away, or name the tasks to run by --task"
    )


def _read_json_object(path: Path) -> dict[str, Any]:
    _expect_file(path)
    return read_json_object(path)


def _expect_file(path: Path) -> None:
    if not os.path.lexists(path):
        raise TaskError(f"{path} is missing; unpack the task again")


def _one_of(metadata: dict[str, Any], key: str, allowed: tuple[str, ...], path: Path) -> str:
    value = metadata.get(key)
    _expect(value in allowed, path, f"{key} is {value!r}; it must be one of {', '.join(allowed)}")
    return str(value)


def _check_names(metadata: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    names = metadata.get(key)
    valid = isinstance(names, list) and bool(names) and all(isinstance(n, str) for n in names)
    _expect(valid, path, f"{key} is {names!r}; it must be a list of names")
    return tuple(names or ())


def _check_split_names(split_mode: str, names: tuple[str, ...], path: Path) -> None:
    for name in names:
        _expect(is_plain_name(name), path, f"splits: {name!r} is not a plain name")
    _expect(len(set(names)) == len(names), path, "splits: a name occurs twice")
    if split_mode in FOLD_MODES:
        _expect(len(names) >= 3, path, f"splits: k-fold needs at least 3 folds, not {len(names)}")
    else:
        missing = [name for name in SPLITS if name not in names]
        _expect(not missing, path, f"splits: {', '.join(missing)} missing")


def _check_duration(metadata: dict[str, Any], path: Path) -> float | None:
    _expect("sample_duration" in metadata, path, "sample_duration is missing (seconds, or null)")
    duration = metadata["sample_duration"]
    if duration is None:
        return None
    valid = _is_number(duration) and duration > 0
    _expect(valid, path, f"sample_duration is {duration!r}; it must be seconds, or null")
    return float(duration)


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Labels by their index, as heareval has them, which reads them by pandas and makes them text.

    So a column of numbers loses leading zeros: "007" is "7" if all labels are numbers, and stays
    "007" beside words.

    Raises:
        InputError: it is missing or no such table, or has a label like "NA" or "None", which pandas
            takes for none; names it.
    """
    _expect_file(path)
    (_, header), *found = [*read_rows(path)] or [("", [])]
    _expect({"idx", "label"} <= set(header), path, "must have the columns idx and label")
    for place, row in found:
        if len(row) != len(header):
            raise TaskError(f"{place}: not CSV ({len(row)} fields, the header has {len(header)})")
    rows = [row for _, row in found]
    indices = [row[header.index("idx")].strip() for row in rows]
    in_order = sorted(indices, key=lambda text: (len(text), text)) == [
        str(i) for i in range(len(rows))
    ]
    _expect(in_order and len(rows) > 0, path, "idx must count the labels: 0, 1, 2 and so on")
    written = [row[header.index("label")] for row in rows]
    lost = sorted(MISSING_VALUES.intersection(written))
    _expect(not lost, path, f"label {', '.join(map(repr, lost))} is none for pandas; rename it")
    labels = as_pandas_has_them(written)
    twice = [label for label, count in Counter(labels).items() if count > 1]
    _expect(not twice, path, f"label {', '.join(twice)} occurs more than once")
    return tuple(label for _, label in sorted(zip(map(int, indices), labels, strict=True)))


def as_pandas_has_them(column: Sequence[str]) -> list[str]:
    """The text of what `pandas.read_csv` makes of a column without missing values.

    >>> as_pandas_has_them(["007", "10"]), as_pandas_has_them(["007", "a"])
    (['7', '10'], ['007', 'a'])
    """

    def all_match(pattern: str) -> bool:
        return all(re.fullmatch(pattern, text, re.ASCII) for text in column)

    if all_match(r"\s*[+-]?\d{1,4000}\s*"):
        return [str(int(text)) for text in column]
    if all_match(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(?i:inf|infinity)\s*"):
        return [str(float(text)) for text in column]
    return [text.capitalize() for text in column] if all_match("(?i:true|false)") else list(column)


def _check_labels(
    labels: Labels, embedding_type: str, is_single: bool, vocabulary: Sequence[str], path: Path
) -> None:
    _expect(bool(labels), path, "lists no files; unpack the task again")
    for name, own in labels.items():
        _expect(is_plain_name(name), path, f"{name!r} is not a plain file name")
        _expect(isinstance(own, list), path, f"{name}: labels must be a list, not {own!r}")
        if embedding_type == "event":
            for event in own:
                _check_event(event, name, path)
            own = [event["label"] for event in own]
        if is_single:
            _expect(len(own) == 1, path, f"{name}: a multiclass task needs 1 label, not {len(own)}")
        unknown = sorted({str(label) for label in own} - set(vocabulary))
        _expect(not unknown, path, f"{name}: {', '.join(map(repr, unknown))} not in {VOCABULARY}")


def _check_event(event: Any, name: str, path: Path) -> None:
    valid = (
        isinstance(event, dict)
        and "label" in event
        and _is_number(event.get("start"))
        and _is_number(event.get("end"))
        and event["end"] >= event["start"]
    )
    _expect(valid, path, f"{name}: {event!r} is no event; it needs a label, and start <= end in ms")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
