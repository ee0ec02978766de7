"""JukeMIR's metadata: one JSON a data set, clips by key, with the splits that the paper uses.

Source: Castellon et al. 2021, github.com/p-lambda/jukemir (`metadata/*.json.gz`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from myna_plugin.common.files import read_json_object
from myna_plugin.probing.tasks.folders import audio_folders, find_audio
from myna_plugin.probing.tasks.layouts import JukemirLayout
from myna_plugin.probing.tasks.task import (
    SPLITS,
    Item,
    Task,
    TaskError,
    check_plain,
    parse_target,
)


def metadata_names(layout: JukemirLayout) -> tuple[str, ...]:
    """Where the metadata may lie in a data folder, the most telling name first."""
    name = layout.name
    return f"{name}.json.gz", f"{name}.json", f"{name}/meta.json", "meta.json"


def read_items(task: Task, metadata: Path, root: Path) -> list[Item]:
    """Clips of a JukeMIR metadata file.

    Entries without a split or without a target are not part of the experiment and are left out
    (5,522 of MagnaTagATune's 31,382). Audio is JukeMIR's own `wav/KEY.wav`, cut to the clip
    already, where it exists beside the metadata or in `root`; else the public file in `root`.

    Args:
        task: a task with a `jukemir` layout.
        metadata: the `.json` or `.json.gz` file.
        root: the data folder.

    Raises:
        TaskError: not such a file; names the file, the clip and the field.
    """
    if task.jukemir is None or task.public is None:
        raise TaskError(f"{task.name} has no JukeMIR metadata")
    content = read_json_object(metadata)
    if not content:
        raise TaskError(f"{metadata}: expected clips by key")
    processed = [folder / "wav" for folder in (metadata.parent, root, root / task.jukemir.name)]
    folders = [folder for folder in processed if folder.is_dir()]
    public = audio_folders(root, task.public.audio_folders)
    items = []
    for key, entry in content.items():
        try:
            item = _read_entry(task, key, entry, folders, public)
        except KeyError as error:
            raise TaskError(f"{metadata}: clip {key!r}: no field {error}") from error
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise TaskError(f"{metadata}: clip {key!r}: {error}") from error
        if item is not None:
            items.append(item)
    return items


def _read_entry(
    task: Task, key: str, entry: Mapping[str, Any], processed: list[Path], public: list[Path]
) -> Item | None:
    split, value = entry["split"], entry["y"]
    if split is None or value is None:
        return None
    split = split.lower() if isinstance(split, str) else split
    if split not in SPLITS:
        raise TaskError(f"split: expected one of {', '.join(SPLITS)} or null, got {split!r}")
    assert task.jukemir is not None
    assert task.public is not None
    item = replace(task.jukemir.locate(key, entry), target=parse_target(task, value), split=split)
    # NaN compares as false.
    if not 0 <= item.start_s < (math.inf if item.end_s is None else item.end_s):
        raise TaskError(f"no clip lasts from {item.start_s} to {item.end_s} seconds")
    if not isinstance(item.track_id, str):
        raise TaskError(f"expected the name of a track, got {item.track_id!r}")
    path = find_audio(processed, key, (".wav",)) if processed else None
    if path is not None and path.is_file():
        item = replace(item, path=path, start_s=0.0, end_s=None)
    else:
        path = find_audio(public, str(item.path), task.public.audio_suffixes)
        item = replace(item, path=path)
    check_plain(item.clip_id)
    return item


def clip_end(clip: Mapping[str, Any], default_s: float) -> float:
    """End of a clip in its track, seconds; some entries have no duration of their own.

    >>> clip_end({"clip_offset": 30.0, "clip_duration": 29.5}, default_s=30.0)
    59.5
    >>> clip_end({"clip_offset": 30.0}, default_s=30.0)
    60.0
    """
    return float(clip["clip_offset"]) + float(clip.get("clip_duration", default_s))
