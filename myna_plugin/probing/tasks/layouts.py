"""How a task's data lies on disk: the public folder, JukeMIR's metadata, MARBLE's jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from myna_plugin.probing.tasks.task import Item


@dataclass(frozen=True)
class PublicLayout:
    """How whoever made the data set presents it.

    Attributes:
        audio_folders: glob patterns, relative to the data folder, of folders that hold audio.
        audio_suffixes: suffixes that audio comes in, the public one first.
        read: from the data folder to items.
    """

    audio_folders: tuple[str, ...]
    audio_suffixes: tuple[str, ...]
    read: Callable[[Path], list[Item]]


@dataclass(frozen=True)
class JukemirLayout:
    """How JukeMIR's metadata presents the task.

    Attributes:
        name: its data-set name: the metadata is `NAME.json`, `NAME.json.gz` or `meta.json`.
        locate: from a clip's key and entry to the clip, its path being its audio file's below the
            public folder, without suffix; target and split are read from the entry.
    """

    name: str
    locate: Callable[[str, Mapping[str, Any]], Item]


@dataclass(frozen=True)
class MarbleLayout:
    """How MARBLE presents the task.

    Attributes:
        stem: name of its task module, and of its files `STEM.{train,val,test}.jsonl`.
        folder: the folder under `data/` that holds them.
        clip_seconds: length of the slices that its loader cuts.
        metrics: its metrics, by name: `{"class_path": ..., "init_args": ...}`.
        monitor: the metric that selects the checkpoint.
    """

    stem: str
    folder: str
    clip_seconds: float
    metrics: Mapping[str, Mapping[str, Any]]
    monitor: str
