"""From a task's name and a data folder to its clips, in whichever layout the folder has."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from myna_plugin.common.files import fault_of_place
from myna_plugin.probing.tasks import jukemir, marble
from myna_plugin.probing.tasks.splits import (
    FRACTIONS,
    FRACTIONS_BESIDE_TEST,
    SEED,
    apply_splits,
    assign_folds,
    assign_splits,
    save_splits,
)
from myna_plugin.probing.tasks.task import (
    UNSPLIT,
    Item,
    Task,
    TaskError,
    split_names,
    validate_items,
)

Layout = Literal["auto", "folder", "jukemir", "marble"]

LAYOUTS: tuple[Layout, ...] = ("auto", "folder", "jukemir", "marble")


@dataclass(frozen=True)
class Source:
    """Where a task's list of clips is.

    Attributes:
        layout: "folder", "jukemir" or "marble".
        path: the data folder, JukeMIR's metadata file, or the folder of MARBLE's jsonl files.
    """

    layout: Layout
    path: Path


def find_source(task: Task, root: Path, layout: Layout = "auto") -> Source:
    """Recognise the layout of a data folder.

    JukeMIR's metadata and then MARBLE's jsonl files come before the public annotations, because
    someone put them there for their splits.

    Args:
        task: the task.
        root: the data folder, or JukeMIR's metadata file itself.
        layout: insist on one.

    Raises:
        TaskError: there is no such folder, or not that layout in it.
    """
    if root.is_file():
        if layout not in ("auto", "jukemir"):
            raise TaskError(f"{root}: a file can only be JukeMIR's metadata, not {layout}")
        return Source("jukemir", root)
    if not root.is_dir():
        told = "is not a folder" if os.path.lexists(root) else "no such folder"
        raise TaskError(f"{root}: {told}")
    if layout in ("auto", "jukemir") and task.jukemir:
        for name in jukemir.metadata_names(task.jukemir):
            if (root / name).is_file():
                return Source("jukemir", root / name)
    if layout in ("auto", "marble"):
        folder = marble.jsonl_folder(task, root)
        if folder:
            return Source("marble", folder)
    if layout in ("auto", "folder") and task.public:
        return Source("folder", root)
    raise TaskError(f"{root}: holds nothing of {task.name} in the layout {layout!r}")


def load_items(
    task: Task,
    root: Path,
    layout: Layout = "auto",
    metadata: Path | None = None,
    split_file: Path | None = None,
    test_fold: int = 0,
) -> list[Item]:
    """Clips of a task.

    Args:
        task: the task.
        root: the data folder (or JukeMIR's metadata file, with the audio beside it).
        layout: "auto" recognises it; see `find_source`.
        metadata: JukeMIR's metadata file, where it is not in `root`.
        split_file: splits to use instead of the list's own (see `splits`). Where no list splits
            some clips and this is not a file yet, an artist-disjoint split is made and saved
            there; by default in `root`, as `TASK.splits.json`.
        test_fold: which fold of a task that is cross-validated tests, from 0.

    Returns:
        Clips in the order of the list, every split with at least one.

    Raises:
        TaskError: a file or field is missing or wrong; the message names it.
    """
    return load_folds(task, root, layout, metadata, split_file, test_fold)[test_fold]


def load_folds(
    task: Task,
    root: Path,
    layout: Layout = "auto",
    metadata: Path | None = None,
    split_file: Path | None = None,
    test_fold: int | None = None,
) -> dict[int, list[Item]]:
    """As `load_items`, for every fold that can test, or one of them; the list is read once."""
    source = Source("jukemir", metadata) if metadata else find_source(task, root, layout)
    folder = root.parent if root.is_file() else root
    items = _read(task, source, folder)
    if task.folds > 1 and split_file is None:
        numbers = range(task.folds) if test_fold is None else [test_fold]
        folds = {number: assign_folds(items, task.folds, number) for number in numbers}
    else:
        folds = {test_fold or 0: _split(task, items, folder, split_file)}
    for split_items in folds.values():
        validate_items(task, split_items)
    return folds


def _read(task: Task, source: Source, root: Path) -> list[Item]:
    if source.layout == "jukemir":
        return jukemir.read_items(task, source.path, root)
    if source.layout == "marble":
        return marble.read_items(task, source.path)
    assert task.public is not None
    return task.public.read(source.path)


def _split(task: Task, items: list[Item], folder: Path, split_file: Path | None) -> list[Item]:
    unsplit = any(item.split == UNSPLIT for item in items)
    if split_file is None and unsplit:
        split_file = folder / f"{task.name}.splits.json"
    if split_file is None:
        return items
    if split_file.is_file():
        return apply_splits(split_file, items)
    if unsplit:
        return _make_splits(task, items, split_file)
    raise TaskError(f"{split_file}: {fault_of_place(split_file)}")


def _make_splits(task: Task, items: list[Item], path: Path) -> list[Item]:
    has_test = any(item.split == "test" for item in items)
    fractions = FRACTIONS_BESIDE_TEST if has_test else FRACTIONS
    items = assign_splits(items, fractions, SEED)
    by = "artist" if any(item.artist for item in items) else "track (no artists are known)"
    shares = ", ".join(f"{split} {share:g}" for split, share in fractions.items())
    save_splits(path, items, f"{task.name}: disjoint by {by}; {shares}; seed {SEED}")
    return items


def describe_sizes(items: Sequence[Item]) -> str:
    """Clips of each split, in words.

    >>> describe_sizes([Item("a", "a", Path("a.wav"), "x", "train")])
    'train 1, valid 0, test 0'
    """
    sizes = Counter(item.split for item in items)
    return ", ".join(f"{split} {sizes[split]}" for split in split_names(items))
