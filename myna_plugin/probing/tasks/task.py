"""What a probe task is: labels, loss, metrics, splits, clips, and where its data is found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import is_plain_name
from myna_plugin.probing.tasks.layouts import JukemirLayout, MarbleLayout, PublicLayout

SPLITS = ("train", "valid", "test")

MIDI_NOTES = tuple(map(str, range(128)))
"""Labels of a task that asks for pitch: semitones, so that classes tell the pitch class too."""

UNSPLIT = ""
"""The split of a clip for which no public list says one; `splits.assign_splits` decides."""


class Note(NamedTuple):
    """Something that lasts: when it begins and ends, seconds, and what it is, one of the labels."""

    onset_s: float
    offset_s: float
    label: str


Target = str | tuple[str, ...] | tuple[float, ...] | tuple[Note, ...]
"""One label (cross_entropy), any number of labels (bce), numbers (mse), times in seconds (beats),
or notes."""

EVENTS: dict[str, str] = {"beats": "when beats fall", "notes": "when notes begin"}
"""What tasks ask that are for hear-eval, as heads on clips do not tell it, by loss."""


class TaskError(InputError):
    """A task's data or predictions cannot be used; the message names the file or field."""


@dataclass(frozen=True)
class Item:
    """One clip of a task.

    Attributes:
        clip_id: name of the clip, the same in every layout of the data set.
        track_id: the song that the clip is from.
        path: audio file.
        target: label, labels or numbers, in the task's vocabulary and order.
        split: "train", "valid" or "test", or `UNSPLIT`.
        start_s: where the clip starts in the file, seconds.
        end_s: where it ends, seconds; None for the end of the file.
        artist: who plays, where the annotations say so.
        known: of a clip with any number of labels those that somebody decided on, the others
            being neither on it nor off it; None for all.
    """

    clip_id: str
    track_id: str
    path: Path
    target: Target = ""
    split: str = UNSPLIT
    start_s: float = 0.0
    end_s: float | None = None
    artist: str | None = None
    known: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ClipRule:
    """What a clip of the task is.

    Attributes:
        summary: the rule in words.
        duration_s: expected length, seconds; None where lengths vary freely.
        tolerance_s: how far a file's length may be from that, seconds.
        per_track: whether scores are per track, from the combined predictions of its clips.
    """

    summary: str
    duration_s: float | None
    tolerance_s: float = 0.5
    per_track: bool = False


@dataclass(frozen=True)
class Task:
    """A probe task. Adding one is a file with such an object, and a line in `TASKS`.

    Attributes:
        name: key in `TASKS`.
        title: the data set's own name.
        source: who made it.
        labels: classes, tags or output names, in the order of a head's outputs.
        loss: "cross_entropy" (one label), "bce" (any number of labels) or "mse" (numbers); or
            one of `EVENTS`.
        metrics: names in `metrics.METRICS`.
        primary: the metric that selects on validation.
        reported_as: metric -> column of the paper's Table 1.
        split_rule: where the splits come from, in words.
        split_sizes: clips of each split when the data set is whole.
        clip_rule: what a clip is.
        public: the public data folder; None if it has none.
        jukemir: JukeMIR's metadata, of the public audio; None if it has none.
        marble: MARBLE's jsonl; None if it has none.
        known_faults: clip_id -> what is wrong with that clip in the public data set.
        parse_label: from a label as annotated to one of `labels`.
        folds: how many ways to split there are (1, or the folds of a cross-validation).
        is_partial: whether labels of clips may be undecided (`Item.known`).
    """

    name: str
    title: str
    source: str
    labels: tuple[str, ...]
    loss: Literal["cross_entropy", "bce", "mse", "beats", "notes"]
    metrics: tuple[str, ...]
    primary: str
    reported_as: Mapping[str, str]
    split_rule: str
    clip_rule: ClipRule
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    public: PublicLayout | None = None
    jukemir: JukemirLayout | None = None
    marble: MarbleLayout | None = None
    known_faults: Mapping[str, str] = field(default_factory=dict)
    parse_label: Callable[[str], str] = str
    folds: int = 1
    is_partial: bool = False


def parse_target(task: Task, value: object) -> Target:
    """Bring an annotated target (of JSON) into the task's vocabulary and order.

    Args:
        task: the task.
        value: a label, a list of labels, or a list of numbers, as the task's loss asks for.

    Returns:
        The target; labels are parsed by the task and ordered as its vocabulary.

    Raises:
        TaskError: another type, a label outside the vocabulary, or a number that is not finite.
    """
    if task.loss == "mse":
        return _parse_numbers(task, value)
    labels = [value] if task.loss == "cross_entropy" else value
    if not isinstance(labels, list | tuple) or not all(isinstance(x, str) for x in labels):
        wanted = "a label" if task.loss == "cross_entropy" else "a list of labels"
        raise TaskError(f"expected {wanted}, got {value!r}")
    parsed = {_known_label(task, task.parse_label(label)) for label in labels}
    if task.loss == "cross_entropy":
        return parsed.pop()
    return tuple(label for label in task.labels if label in parsed)


def _known_label(task: Task, label: str) -> str:
    """A label as the task writes it: case and blanks around it do not count."""
    if label in task.labels:
        return label
    alike = [known for known in task.labels if known.casefold() == label.strip().casefold()]
    if len(alike) != 1:
        raise TaskError(f"label {label!r} is not one of the {len(task.labels)} of {task.name}")
    return alike[0]


def _parse_numbers(task: Task, value: object) -> tuple[float, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    numbers = [float(x) for x in values if isinstance(x, int | float) and math.isfinite(x)]
    if not len(numbers) == len(values) == len(task.labels):
        raise TaskError(f"expected finite numbers for {', '.join(task.labels)}, got {value!r}")
    return tuple(numbers)


def validate_items(task: Task, items: Sequence[Item]) -> None:
    """Refuse items that no experiment can run on.

    Raises:
        TaskError: a name that is not plain, a clip named twice, a target outside the vocabulary,
            a split that is not one or has no clips; validation or test clips that cannot be
            scored, because all are of one class or a label is on none or all of them.
    """
    check_names(task, items)
    clip, count = Counter(item.clip_id for item in items).most_common(1)[0] if items else ("", 0)
    if count > 1:
        raise TaskError(f"{task.name}: clip {clip!r} is listed {count} times")
    vocabulary = set(task.labels)
    for item in items:
        if item.split not in SPLITS:
            raise TaskError(f"{task.name}: clip {item.clip_id!r}: no such split: {item.split!r}")
        known = vocabulary if item.known is None else vocabulary.intersection(item.known)
        if not _is_target(task, item.target, known):
            raise TaskError(
                f"{task.name}: clip {item.clip_id!r}: target {item.target!r} is not of the task's "
                f"{len(vocabulary)} {'outputs' if task.loss == 'mse' else 'labels'}"
            )
    for split in SPLITS:
        _validate_split(task, split, [item for item in items if item.split == split])


def split_names(items: Sequence[Item]) -> tuple[str, ...]:
    """Our three splits; of clips that are in folds, the folds in order."""
    found = {item.split for item in items}
    return SPLITS if found.issubset(SPLITS) else tuple(sorted(found))


def check_plain(name: str) -> str:
    """A name of a file in its folder, as it is; TaskError if it is none."""
    if not is_plain_name(name):
        raise TaskError(f"{name!r} is not a plain name")
    return name


def check_names(task: Task, items: Sequence[Item]) -> None:
    """Refuse names that are not plain: files are written under them.

    Raises:
        TaskError: the task's, a clip's or a split's.
    """
    if not is_plain_name(task.name):
        raise TaskError(f"task {task.name!r}: not a plain name")
    for item in items:
        for name in (item.clip_id, item.split or "unsplit"):
            if not is_plain_name(name):
                raise TaskError(f"{task.name}: clip {item.clip_id!r}: {name!r} is not a plain name")


def _validate_split(task: Task, split: str, items: Sequence[Item]) -> None:
    if not items:
        raise TaskError(f"{task.name}: no clips in split {split!r}")
    if task.loss in ("mse", *EVENTS) or split == "train":
        return
    where = f"{task.name}: split {split!r}"
    if task.loss == "cross_entropy":
        if len({item.target for item in items}) == 1:
            raise TaskError(f"{where}: all {len(items)} clips are of class {items[0].target!r}")
        return
    counts = Counter(str(label) for item in items for label in item.target)
    decided = Counter(label for item in items for label in item.known or ())
    n_whole = sum(item.known is None for item in items)
    for label in task.labels:
        if counts[label] in (0, n_whole + decided[label]):
            which = "no clip has" if not counts[label] else "every clip has"
            raise TaskError(f"{where}: {which} label {label!r}, so it cannot be scored")


def _is_target(task: Task, target: Target, vocabulary: set[str]) -> bool:
    if task.loss == "cross_entropy":
        return target in vocabulary
    if task.loss == "bce":
        return isinstance(target, tuple) and vocabulary.issuperset(map(str, target))
    if task.loss == "beats":
        return all(isinstance(x, float) and 0.0 <= x < math.inf for x in target)
    if task.loss == "notes":
        return all(
            isinstance(x, Note)
            and 0.0 <= x.onset_s <= x.offset_s < math.inf
            and x.label in vocabulary
            for x in target
        )
    return len(target) == len(task.labels) and all(
        isinstance(x, float) and math.isfinite(x) for x in target
    )


def encode_targets(task: Task, items: Sequence[Item]) -> np.ndarray:
    """Targets of items as the array that the task's loss takes.

    Returns:
        cross_entropy: class indices, int64, shape (N,).
        bce: 0 or 1 per label, NaN where it is not known, float32, shape (N, C).
        mse: the numbers, float32, shape (N, C).
    """
    if task.loss == "mse":
        return np.array([item.target for item in items], dtype=np.float32)
    index = {label: i for i, label in enumerate(task.labels)}
    if task.loss == "cross_entropy":
        return np.array([index[str(item.target)] for item in items], dtype=np.int64)
    encoded = np.zeros((len(items), len(task.labels)), dtype=np.float32)
    for row, item in enumerate(items):
        if item.known is not None:
            encoded[row] = np.nan
            encoded[row, [index[label] for label in item.known]] = 0.0
        encoded[row, [index[str(label)] for label in item.target]] = 1.0
    return encoded
