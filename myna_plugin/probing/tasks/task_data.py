"""A task with the clips that it is scored on: found, looked at, and told apart by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from myna_plugin.common.errors import reason
from myna_plugin.common.files import digest_path, fault_of_place
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.threads import map_ahead
from myna_plugin.model.audio import AudioError
from myna_plugin.probing.tasks.checking import CheckReport, usable_items
from myna_plugin.probing.tasks.clips import group_by_file
from myna_plugin.probing.tasks.task import Item, Task, validate_items

Folds = Mapping[int, Sequence[Item]]
"""A task's clips by the fold that tests, split anew in each: one entry, unless it is k-fold."""


@dataclass(frozen=True)
class TaskData:
    """A task with the clips that can be used.

    Attributes:
        task: what it is.
        folds: its clips, the same in every fold.
        digests: SHA-256 of their files.
        left_out: what is wrong with each clip that cannot be used, by clip_id.
    """

    task: Task
    folds: Folds
    digests: Mapping[Path, str]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def items(self) -> Sequence[Item]:
        """The clips as the first fold splits them."""
        return next(iter(self.folds.values()))

    @property
    def digest(self) -> str:
        """Of the clips, their audio, targets and splits: the same data gives the same one."""
        lines = sorted(
            f"{item.clip_id} {item.split} {item.target} {clip_key(item, self.digests[item.path])}"
            + ("" if item.known is None else f" {item.known}")
            for item in self.items
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def without(self, faults: Mapping[str, str]) -> TaskData:
        """The data without clips that turned out to be faulty, and why by clip_id.

        Raises:
            TaskError: what is left cannot be scored.
        """
        folds = {
            number: [item for item in items if item.clip_id not in faults]
            for number, items in self.folds.items()
        }
        if faults:
            for items in folds.values():
                validate_items(self.task, items)
        return replace(self, folds=folds, left_out={**self.left_out, **faults})


def find_data(
    task: Task,
    folds: Folds,
    report: CheckReport,
    *,
    allow_missing: bool = False,
    workers: int = 4,
    progress: bool = False,
) -> TaskData:
    """The clips that passed the check, their files read once for their digests.

    Args:
        task: whose clips they are.
        folds: all of them.
        report: what `check` found.
        allow_missing: leave out clips that cannot be used rather than stop.
        workers: files to read at a time.
        progress: show a progress bar.

    Raises:
        TaskError: the set is incomplete and that is not allowed, or what is left cannot be scored.
        AudioError: a file cannot be read, and that is not allowed; the message names it.
    """
    usable = {n: usable_items(task, items, report, allow_missing) for n, items in folds.items()}
    items = next(iter(usable.values()))
    digests, unreadable = digest_audio(items, workers, progress=progress)
    if unreadable and not allow_missing:
        raise AudioError(next(iter(unreadable.values())))
    data = TaskData(task, usable, digests, {f.clip_id: f.reason for f in report.faults})
    return data.without({i.clip_id: unreadable[i.path] for i in items if i.path in unreadable})


def digest_audio(
    items: Sequence[Item], workers: int, progress: bool = False
) -> tuple[dict[Path, str], dict[Path, str]]:
    """SHA-256 of every audio file.

    Args:
        items: the clips.
        workers: files to read at a time.
        progress: show a progress bar.

    Returns:
        Digests by file, and what is wrong with the files that cannot be read.
    """

    def digest(path: Path) -> tuple[str, str]:
        try:
            fault = fault_of_place(path)
            return "" if fault else digest_path(path), f"{path}: {fault}"
        except OSError as error:
            return "", f"{path}: cannot be read ({reason(error)})"

    paths = list(group_by_file(items))
    digests = map_ahead(digest, paths, workers)
    found = ProgressBar(digests, "audio", len(paths), unit="file", disable=not progress)
    results = dict(zip(paths, found, strict=True))
    return (
        {path: value for path, (value, _) in results.items() if value},
        {path: fault for path, (value, fault) in results.items() if not value},
    )


def clip_key(item: Item, digest: str) -> str:
    """Name of a clip in the cache.

    >>> clip_key(Item("a", "a", Path("a.wav"), "x", "test", 30.0, 60.0), "0f")
    '0f 30.0 60.0'
    """
    return f"{digest} {item.start_s} {item.end_s}"
