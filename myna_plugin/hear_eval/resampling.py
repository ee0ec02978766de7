"""A task's audio at the model's sample rate, made where the task lacks it.

heareval reads `TASK/<rate>/SPLIT/NAME`. Public archives come at 48 or 44.1 kHz, and one's own tasks
often as FLAC, OGG or MP3. The missing files are made from another folder of the task, never from
what was made here before, and as hear-preprocess makes them: mono, soxr, WAV, cut or zero-padded to
the task's duration. They are gathered in a hidden folder beside it, which takes the name `<rate>`
when it is complete; a run that was stopped goes on where it was. Names and labels stay as they are:
a file that the task calls `a.mp3` is called so here too, though it holds WAV, which heareval's
reader tells by content.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import soundfile

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import PARTIALS, parse_json, write_whole
from myna_plugin.common.locks import locked
from myna_plugin.common.parallel import run_in_threads
from myna_plugin.hear_eval.audio_check import AudioFacts, stamp_of
from myna_plugin.model.audio import load_audio, read_info
from myna_plugin.probing.tasks.hear_folder import HearFolder

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
"""Looked for in this order where a file is there under another suffix; lossless ones first."""

RECORD = ".hear-eval.jsonl"
"""In a folder that we made, or added to: one line for each file of ours, with its source as it was
then. It tells what is no original."""

LOCK = "lock"
"""In the hidden folder: held by the run that fills it."""

DURATION_TOLERANCE_S = 0.1
"""How far a file may be from the task's duration and still be cut or padded to it.

An MP3 encoder adds up to about two frames (1,152 samples each, 52 ms at 44.1 kHz) at either end.
"""

Key = tuple[str, str]
"""(split, file name)."""


@dataclass(frozen=True)
class AudioPlan:
    """Where a task's audio lies, and what has to be made.

    Attributes:
        present: what heareval can read as it is.
        sources: for every other file, what to make it from.
    """

    present: dict[Key, Path]
    sources: dict[Key, Path]


def plan_audio(task: HearFolder, sample_rate: int) -> AudioPlan:
    """Find each file of a task at `sample_rate`, Hz, or something to make it from.

    A file that we made is made again if its source has changed since, or was made by us itself; and
    it is a source of nothing else, for it has lost what its rate does not hold.

    Raises:
        InputError: a file is nowhere to be found, or no original is.
    """
    rate_dir = task.folder / str(sample_rate)
    read = functools.cache(_read_record)
    record = read(rate_dir)
    present, missing = {}, []
    for key in task.files():
        path = rate_dir.joinpath(*key)
        if path.is_file() and not (key in record and _is_outdated(task.folder, record[key], read)):
            present[key] = path
        else:
            missing.append(key)
    return AudioPlan(present, _find_sources(task, missing, rate_dir))


def planned_frames(task: HearFolder, facts: AudioFacts, sample_rate: int) -> int:
    """Samples that a source has once resampled: the task's duration if it is within the tolerance.

    Args:
        task: the task.
        facts: of the source.
        sample_rate: target rate, Hz.
    """
    duration_s = facts.duration_s
    expected_s = task.sample_duration
    if expected_s is not None and abs(duration_s - expected_s) <= DURATION_TOLERANCE_S:
        duration_s = expected_s
    return max(1, round(duration_s * sample_rate))


def resample_task(
    task: HearFolder,
    sources: Mapping[Key, Path],
    facts: Mapping[Path, AudioFacts],
    sample_rate: int,
) -> None:
    """Make `TASK/<sample_rate>/SPLIT/NAME` from each of `sources`.

    Args:
        task: the task.
        sources: from `plan_audio`.
        facts: of every source.
        sample_rate: target rate, Hz.

    Raises:
        AudioError: a source was changed or removed meanwhile and cannot be used.
        InputError: the task's folder cannot be written to, or another run is at this.
    """
    staging = task.folder / f".{sample_rate}.part"
    busy = f"{task.folder}: another run is resampling it to {sample_rate} Hz; wait for its end"
    try:
        staging.mkdir(exist_ok=True)
        with locked(staging / LOCK, busy):
            _fill(staging, task, sources, facts, sample_rate)
            _move_into_place(staging, task.folder / str(sample_rate))
    except OSError as error:
        raise InputError(
            f"{task.folder}: cannot be written to ({error.strerror}), and the task must be "
            f"resampled to {sample_rate} Hz there; make room, or copy it to a folder of yours"
        ) from error


def resample_file(source: Path, target: Path, sample_rate: int, frames: int) -> None:
    """Decode, mix to mono, resample and write a WAV file, atomically.

    Args:
        source: audio in any format that `load_audio` reads.
        target: file to write.
        sample_rate: of the target, Hz.
        frames: length of the target; zeros are appended, or the end is cut off.

    Raises:
        AudioError: the source cannot be used.
        OSError: the target cannot be written.
    """
    # What is odd about it `inspect_file` has said.
    samples = load_audio(source, sample_rate, lambda path, text: None).numpy()[:frames]
    samples = np.pad(samples, (0, frames - len(samples)))
    encoding = "FLOAT" if read_info(source).is_deep else "PCM_16"
    wav = io.BytesIO()  # soundfile itself would not say why it cannot write to a full disk
    soundfile.write(wav, samples, sample_rate, encoding, format="WAV")
    write_whole(target, wav.getbuffer())


def _fill(
    staging: Path,
    task: HearFolder,
    sources: Mapping[Key, Path],
    facts: Mapping[Path, AudioFacts],
    sample_rate: int,
) -> None:
    for split in task.splits:
        (staging / split).mkdir(parents=True, exist_ok=True)
    record = _read_record(staging)
    jobs, lines = {}, {}
    for key, source in sources.items():
        target = staging.joinpath(*key)
        line = {
            "split": key[0],
            "name": key[1],
            "source": source.relative_to(task.folder).as_posix(),
            "stamp": stamp_of(source),
        }
        if target.is_file() and record.get(key) == line:
            continue
        lines[key] = line
        frames = planned_frames(task, facts[source], sample_rate)
        jobs[key] = partial(resample_file, source, target, sample_rate, frames)
    description = f"{task.name}: resampling to {sample_rate} Hz"
    for key, _ in run_in_threads(jobs, description, unit="file"):
        _append(staging, lines[key])


def _move_into_place(staging: Path, rate_dir: Path) -> None:
    for leftover in staging.rglob(PARTIALS):
        leftover.unlink()
    (staging / LOCK).unlink()
    if not rate_dir.exists():
        os.rename(staging, rate_dir)
        return
    for key, line in _read_record(staging).items():
        made = staging.joinpath(*key)
        if made.is_file():
            target = rate_dir.joinpath(*key)
            target.parent.mkdir(exist_ok=True)
            os.replace(made, target)
            _append(rate_dir, line)
    shutil.rmtree(staging)


def _append(folder: Path, line: dict[str, Any]) -> None:
    with (folder / RECORD).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _read_record(folder: Path) -> dict[Key, dict[str, Any]]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    record = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = parse_json(text, path)
            record[line["split"], line["name"]] = line
        except (InputError, LookupError, TypeError):
            continue  # the line being written when a run was stopped, or a damaged one
    return record


def _is_outdated(
    task_folder: Path, line: dict[str, Any], read: Callable[[Path], Mapping[Key, Any]]
) -> bool:
    """Whether the source of a file that we made has changed, or is ours by its folder's record."""
    source = task_folder / line["source"]
    if not source.is_file():
        return False
    is_ours = (source.parent.name, source.name) in read(source.parents[1])
    return is_ours or stamp_of(source) != line["stamp"]


def _find_sources(task: HearFolder, missing: Sequence[Key], rate_dir: Path) -> dict[Key, Path]:
    if not missing:
        return {}
    matches = [_match(folder, missing, rate_dir) for folder in _audio_folders(task, rate_dir)]
    best: dict[Key, Path] = {}
    for match in sorted(matches, key=len, reverse=True):  # of one folder, as far as that has them
        best = match | best
    lost = [key for key in missing if key not in best]
    if len(lost) == len(missing) == len(list(task.files())):
        raise InputError(
            f"{task.folder} has no audio but what was resampled: put the files that its splits "
            f"list into {rate_dir}{os.sep}SPLIT, or into a folder of another rate, such as "
            f"48000{os.sep}SPLIT"
        )
    if lost:
        raise InputError(
            *(
                f"{rate_dir.joinpath(*key)} is missing, and its original at another rate too, "
                f"though {key[0]}.json lists it; restore it, or take it out of {key[0]}.json"
                for key in lost
            )
        )
    return best


def _audio_folders(task: HearFolder, rate_dir: Path) -> list[Path]:
    """Where to look for sources: other formats at this rate, the highest rate first, the rest."""
    folders = [
        entry
        for entry in sorted(task.folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".") and entry != rate_dir
    ]
    rates = [folder for folder in folders if folder.name.isdecimal()]
    rates.sort(key=lambda folder: -int(folder.name))
    others = [folder for folder in folders if not folder.name.isdecimal()]
    return [rate_dir, *rates, *others, task.folder]


def _match(folder: Path, missing: Sequence[Key], rate_dir: Path) -> dict[Key, Path]:
    """The files of `folder` that can stand for `missing`: the same name, else the same stem."""
    record = _read_record(folder)
    listings = {split: _list_files(folder / split) for split in {split for split, _ in missing}}
    matches = {}
    for split, name in missing:
        stem = PurePath(name).stem
        names = [name, *(stem + suffix for suffix in AUDIO_SUFFIXES)]
        if folder == rate_dir:  # the name itself is missing there, or outdated
            names = [other for other in names if other != name]
        found = [listings[split][other] for other in names if other in listings[split]]
        originals = [path for path in found if (split, path.name) not in record]
        if originals:
            matches[split, name] = originals[0]
    return matches


def _list_files(folder: Path) -> dict[str, Path]:
    """Files by name, with the suffix in lower case."""
    if not folder.is_dir():
        return {}
    return {path.stem + path.suffix.lower(): path for path in folder.iterdir() if path.is_file()}
