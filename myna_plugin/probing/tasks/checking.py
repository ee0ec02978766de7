"""Is the data set whole? Looked at before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from myna_plugin.common.files import fault_of_place
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.threads import map_as_done
from myna_plugin.model.audio import AudioError, probe_ends
from myna_plugin.model.containers import Header
from myna_plugin.probing.tasks.clips import group_by_file
from myna_plugin.probing.tasks.task import Item, Task, TaskError, validate_items

SHOWN = 10
"""How many faulty files of a kind are listed in the text."""


@dataclass(frozen=True)
class Fault:
    """A clip that cannot be used.

    Attributes:
        clip_id: the clip.
        path: its file.
        reason: what is wrong, in words.
    """

    clip_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        task: the task's name.
        clips: number of clips looked for.
        files: number of files that they are in.
        missing: clips whose file does not exist.
        unreadable: clips whose file cannot be decoded.
        wrong_length: clips of another length than the task's, or beyond the end of their file.
        known: faulty clips that the task knows as faulty in the public data; not held against
            the set.
    """

    task: str
    clips: int
    files: int
    missing: tuple[Fault, ...] = ()
    unreadable: tuple[Fault, ...] = ()
    wrong_length: tuple[Fault, ...] = ()
    known: tuple[Fault, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every clip can be used, known faults aside."""
        return not (self.missing or self.unreadable or self.wrong_length)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All clips that cannot be used."""
        return (*self.missing, *self.unreadable, *self.wrong_length, *self.known)

    def as_dict(self) -> dict[str, Any]:
        """For a results file."""
        return {**asdict(self), "complete": self.complete}

    def text(self) -> str:
        """For a reader: counts, then the first faults of each kind."""
        present = self.clips - len(self.faults)
        lines = [
            f"{self.task}: {present} of {self.clips} clips present ({self.files} files), "
            f"{len(self.missing)} missing, {len(self.unreadable)} unreadable, "
            f"{len(self.wrong_length)} of wrong length, {len(self.known)} known to be faulty"
        ]
        kinds = {
            "missing": self.missing,
            "unreadable": self.unreadable,
            "wrong length": self.wrong_length,
            "known": self.known,
        }
        for kind, faults in kinds.items():
            # Clips of one file share its fault.
            reasons = list(dict.fromkeys(fault.reason for fault in faults))
            lines += [f"  {kind}: {reason}" for reason in reasons[:SHOWN]]
            if len(reasons) > SHOWN:
                lines.append(f"  {kind}: and {len(reasons) - SHOWN} more files")
        return "\n".join(lines)


def check(task: Task, items: Sequence[Item], jobs: int = 4, progress: bool = False) -> CheckReport:
    """Look at every file of a task: is it there, does it decode, is it long enough?

    The header is read and both ends are decoded, which finds files cut off in transfer. What lies
    between is decoded only when it is embedded.

    Args:
        task: says how long clips are, and which ones are known to be faulty.
        items: its clips.
        jobs: files to look at at a time.
        progress: show a progress bar.
    """
    groups = group_by_file(items)
    with closing(map_as_done(_probe, groups, jobs)) as probed:
        results = dict(ProgressBar(probed, "check", len(groups), unit="file", disable=not progress))
    kinds: dict[str, list[Fault]] = {
        kind: [] for kind in ("missing", "unreadable", "wrong_length", "known")
    }
    for item in items:
        kind, reason = _judge(task, item, results[item.path])
        if kind and item.clip_id in task.known_faults:
            kind, reason = "known", f"{reason}; {task.known_faults[item.clip_id]}"
        if kind:
            kinds[kind].append(Fault(item.clip_id, str(item.path), reason))
    return CheckReport(
        task.name,
        len(items),
        len(groups),
        **{kind: tuple(faults) for kind, faults in kinds.items()},
    )


def _probe(path: Path) -> Header | str:
    """The file's header if it seems whole, else what is wrong; "" if it is missing."""
    if not path.exists():
        return ""
    try:
        info, fault = probe_ends(path)
    except AudioError as error:
        return str(error)
    if fault:
        return f"{path}: {fault}"
    return info if info.n_samples else f"{path}: holds no samples"


def _judge(task: Task, item: Item, found: Header | str) -> tuple[str, str]:
    """Kind of fault and reason; two empty strings for a good clip."""
    if found == "":
        return "missing", f"{item.path}: {fault_of_place(item.path)}"
    if isinstance(found, str):
        return "unreadable", found
    rule, duration_s = task.clip_rule, found.duration_s
    if item.end_s is not None:
        if duration_s < item.end_s - rule.tolerance_s:
            return (
                "wrong_length",
                f"{item.path}: lasts {duration_s:.2f} s, the clip ends at {item.end_s:.2f} s",
            )
    elif rule.duration_s is not None and abs(duration_s - rule.duration_s) > rule.tolerance_s:
        return (
            "wrong_length",
            f"{item.path}: lasts {duration_s:.2f} s, expected {rule.duration_s:g} s "
            f"± {rule.tolerance_s:g} s",
        )
    return "", ""


def usable_items(
    task: Task, items: Sequence[Item], report: CheckReport, allow_missing: bool = False
) -> list[Item]:
    """The clips without a fault.

    Args:
        task: whose clips they are.
        items: what was checked.
        report: what was found.
        allow_missing: go on with what there is; else only known faults are passed over.

    Raises:
        TaskError: the set is incomplete and that is not allowed, or what is left cannot be
            scored; the message says what is wrong.
    """
    if not report.complete and not allow_missing:
        raise TaskError(f"{report.text()}\nthe data set is incomplete; --allow-missing goes on")
    faulty = {fault.clip_id for fault in report.faults}
    left = [item for item in items if item.clip_id not in faulty]
    validate_items(task, left)
    return left
