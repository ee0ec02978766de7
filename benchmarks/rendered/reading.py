"""The rendered tasks as the table reads them: clips, and digests of their audio."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.rendered.rows import SCENE_TASKS
from myna_plugin.model.audio import AudioError
from myna_plugin.probing.tasks import HEAR, Item, TaskError, load_task
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.task_data import TaskData, digest_audio

KEY_METRICS = ("weighted_key_score", "weighted_key_score_both_fifths", "accuracy")
"""HEAR has no score for keys beyond accuracy; here selection goes by the weighted one."""


def read_tasks(folder: Path, workers: int, progress: bool) -> list[TaskData]:
    """The scene tasks of a folder, each audio file read once for its digest.

    Raises:
        TaskError: there is none, or one is damaged.
        AudioError: an audio file cannot be read.
    """
    found = [name for name in SCENE_TASKS if (folder / name).is_dir()]
    if not found:
        raise TaskError(
            f"{folder}: none of {', '.join(SCENE_TASKS)} is there; "
            "make them with python -m benchmarks.rendered.tasks"
        )
    loaded = [load_task(HEAR, folder / name) for name in found]
    paths: dict[tuple[int, int], Path] = {}
    read = []
    for task, items in loaded:
        if task.labels == KEYS:
            task = replace(task, metrics=KEY_METRICS, primary=KEY_METRICS[0])
        read.append((task, [share_path(item, paths) for item in items]))
    digests, unreadable = digest_audio(
        [item for _, items in read for item in items], workers, progress=progress
    )
    if unreadable:
        raise AudioError(next(iter(unreadable.values())))
    return [TaskData(task, {0: items}, digests) for task, items in read]


def share_path(item: Item, paths: dict[tuple[int, int], Path]) -> Item:
    """The item with the first path that its file was met under: tasks link the same files.

    Args:
        item: a clip.
        paths: first path by device and inode; added to.

    Raises:
        TaskError: the file is missing.
    """
    try:
        status = os.stat(item.path)
    except OSError as error:
        raise TaskError(f"{item.path}: cannot be read ({error.strerror})") from error
    return replace(item, path=paths.setdefault((status.st_dev, status.st_ino), item.path))
