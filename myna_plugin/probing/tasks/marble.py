"""MARBLE's data sets: `STEM.{train,val,test}.jsonl`, one clip a line; read and written.

Source: github.com/a43992899/MARBLE (version 2): `marble/tasks/*/datamodule.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from myna_plugin.common.files import parse_json, read_text, write_text
from myna_plugin.model.audio import read_info
from myna_plugin.probing.tasks.clips import is_whole_file, link_file, write_clips
from myna_plugin.probing.tasks.folders import check_inside
from myna_plugin.probing.tasks.layouts import MarbleLayout
from myna_plugin.probing.tasks.task import (
    SPLITS,
    Item,
    Task,
    TaskError,
    check_names,
    check_plain,
    parse_target,
)

SPLIT_NAMES: dict[str, str] = {"train": "train", "valid": "val", "test": "test"}
"""What MARBLE calls our splits."""


def jsonl_folder(task: Task, root: Path) -> Path | None:
    """The folder, `root` itself or MARBLE's own below it, that holds the task's training list."""
    if task.marble is None:
        return None
    name = f"{task.marble.stem}.train.jsonl"
    places = (root, root / task.marble.folder, root / "data" / task.marble.folder)
    return next((place for place in places if (place / name).is_file()), None)


def layout_of(task: Task) -> MarbleLayout:
    """How MARBLE presents the task.

    Raises:
        TaskError: MARBLE does not have it.
    """
    if task.marble is None:
        raise TaskError(f"{task.name} is not a task of MARBLE")
    return task.marble


def read_items(task: Task, folder: Path) -> list[Item]:
    """Clips of the three jsonl files in a folder.

    Args:
        task: a task with a `marble` layout.
        folder: holds `STEM.train.jsonl`, `STEM.val.jsonl`, `STEM.test.jsonl`.

    Raises:
        TaskError: a file is missing, or a line is not such a clip; names file, line and field.
    """
    layout = layout_of(task)
    items: list[Item] = []
    for split in SPLITS:
        path = folder / f"{layout.stem}.{SPLIT_NAMES[split]}.jsonl"
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            place = f"{path}: line {number}"
            fields = parse_json(line, place)
            try:
                items.append(_read_line(task, fields, split, folder))
            except KeyError as error:
                raise TaskError(f"{place}: no field {error}") from error
            except (TypeError, ValueError) as error:
                raise TaskError(f"{place}: {error}") from error
    return items


def _read_line(task: Task, fields: Mapping[str, Any], split: str, folder: Path) -> Item:
    if not isinstance(fields, dict):
        raise TaskError("expected an object")
    name = PurePosixPath(fields["audio_path"])
    return Item(
        clip_id=check_plain(str(fields.get("clip_id", name.stem))),
        track_id=str(fields.get("ori_uid", name.stem)),
        path=_resolve(name, folder),
        target=parse_target(task, fields["label"]),
        split=split,
    )


def _resolve(name: PurePosixPath, folder: Path) -> Path:
    """Where a clip lies: below the jsonl files.

    MARBLE's paths begin where it runs, two or more folders above those: their first parts are the
    last ones of the folder itself.

    Raises:
        TaskError: the name leads out of the folder.
    """
    home = folder.resolve()
    if name.is_absolute():
        if not Path(name).is_relative_to(home):
            raise TaskError(f"audio_path {str(name)!r} is outside {home}; link the audio below it")
        name = name.relative_to(PurePosixPath(home))
    check_inside(str(name))
    if (folder / name.parts[0]).exists():
        return folder / name
    shared = range(len(name.parts) - 1, 0, -1)
    start = next((n for n in shared if home.parts[-n:] == name.parts[:n]), 0)
    return folder.joinpath(*name.parts[start:])


def write_items(
    task: Task,
    items: Sequence[Item],
    folder: Path,
    sample_rate: int | None = None,
    jobs: int = 4,
    progress: bool = False,
) -> None:
    """Write a task as MARBLE's jsonl files.

    MARBLE slices whole files, so a clip that is part of a file is cut into `audio/RATE/SPLIT`.
    A whole file is linked there, unless a sample rate is asked for that it lacks.

    Args:
        task: a task with a `marble` layout.
        items: its clips.
        folder: receives the files.
        sample_rate: of all audio, Hz; None leaves whole files as they are.
        jobs: files to decode at a time.
        progress: show a progress bar.

    Raises:
        TaskError: no layout for MARBLE, or an audio file cannot be read or written.
    """
    layout = layout_of(task)
    check_names(task, items)
    audio = folder.resolve() / "audio" / (f"{sample_rate}" if sample_rate else "original")
    paths, cut = {}, []
    for item in items:
        whole = is_whole_file(item, sample_rate)
        name = f"{item.clip_id}{item.path.suffix if whole else '.wav'}"
        paths[item.clip_id] = audio / item.split / name
        if whole:
            link_file(paths[item.clip_id], item.path)
        else:
            cut.append(item)
    write_clips(cut, paths, sample_rate, jobs=jobs, progress=progress)
    for split in SPLITS:
        lines = [
            json.dumps(_line(task, item, paths[item.clip_id]), ensure_ascii=False)
            for item in items
            if item.split == split
        ]
        name = f"{layout.stem}.{SPLIT_NAMES[split]}.jsonl"
        write_text(folder / name, "".join(line + "\n" for line in lines))


def _line(task: Task, item: Item, path: Path) -> dict[str, Any]:
    info = read_info(path)
    return {
        "clip_id": item.clip_id,  # ours; MARBLE's loaders pass over it
        "audio_path": str(path),
        "ori_uid": item.track_id,
        "label": item.target if task.loss == "cross_entropy" else list(item.target),
        "duration": info.duration_s,
        "sample_rate": info.sample_rate,
        "num_samples": info.n_samples,
        "channels": info.channels,
    }
