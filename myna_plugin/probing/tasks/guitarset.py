"""GuitarSet: notes of 360 excerpts of about half a minute, acoustic guitar, by six players.

Source: Xi et al., "GuitarSet: a dataset for guitar transcription", 2018; the archives are
zenodo.org/records/3371780. What a pickup on each string heard is annotated, what a microphone heard
is to be transcribed. Each player tests in turn, as in Wiggins and Kim, "Guitar tablature estimation
with a convolutional neural network", 2019, who validate on none; here the next player does. Two
annotations are known to be late as a whole, 04_BN3-154-E_comp by 0.41 s and 04_Jazz1-200-B_comp by
0.31 s (github.com/marl/GuitarSet); they are taken as published.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from myna_plugin.common.files import read_json_object
from myna_plugin.probing.tasks.folders import audio_folders, find_audio
from myna_plugin.probing.tasks.hear_format import WRITTEN_SCORES
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.splits import PUBLISHED_FOLD_RULE
from myna_plugin.probing.tasks.task import MIDI_NOTES, ClipRule, Item, Note, Task, TaskError

FOLDERS = ("audio_mono-mic", ".")

ANNOTATIONS = ("annotation", ".")

NAME = re.compile(r"0(?P<player>[0-5])_\S+_(comp|solo)")
"""Player; style, progression, tempo and key; accompaniment or improvisation."""

STRINGS = 6


def read_folder(root: Path) -> list[Item]:
    """Excerpts of `annotation/NAME.jams` and `audio_mono-mic/NAME_mic.wav`, a fold a player."""
    folders = audio_folders(root, FOLDERS)
    found = [
        (path, match["player"])
        for folder in audio_folders(root, ANNOTATIONS)
        for path in sorted(folder.glob("*.jams"))
        if (match := NAME.fullmatch(path.stem))
    ]
    if not found:
        raise TaskError(f"{root}: no files like annotation/00_BN1-129-Eb_comp.jams")
    return [
        Item(
            clip_id=path.stem,
            track_id=path.stem,
            path=find_audio(folders, f"{path.stem}_mic", (".wav",)),
            target=read_notes(path),
            split=player,
            artist=player,
        )
        for path, player in found
    ]


def read_notes(path: Path) -> tuple[Note, ...]:
    """Notes of all strings, by onset: those of the six annotations `note_midi` of a JAMS file.

    Pitches are rounded to semitones; an onset before the recording's beginning is moved there.

    Raises:
        InputError: the file cannot be read, is not such a one, or has no notes; names it, and the
            note.
    """
    annotations = read_json_object(path).get("annotations")
    if not isinstance(annotations, list):
        raise TaskError(f"{path}: no list 'annotations', as JAMS has")
    strings = [
        own["data"]
        for own in annotations
        if isinstance(own, dict) and own.get("namespace") == "note_midi"
        if isinstance(own.get("data"), list)
    ]
    if len(strings) != STRINGS:
        raise TaskError(
            f"{path}: not {STRINGS} lists of notes (namespace 'note_midi'), one a string"
        )
    notes = sorted(_notes(path, strings))
    if not notes:
        raise TaskError(f"{path}: no notes")
    return tuple(notes)


def _notes(path: Path, strings: Iterable[list[Any]]) -> Iterator[Note]:
    for string, data in enumerate(strings):
        for number, value in enumerate(data, start=1):
            fields = value if isinstance(value, dict) else {}
            time, duration, pitch = map(_number, map(fields.get, ("time", "duration", "value")))
            onset, offset = max(time, 0.0), time + duration
            label = str(math.floor(pitch + 0.5)) if math.isfinite(pitch) else ""
            if label not in MIDI_NOTES or not onset <= offset < math.inf:
                raise TaskError(
                    f"{path}: string {string}: note {number} is no time, duration and MIDI pitch"
                )
            yield Note(onset, offset, label)


def _number(value: object) -> float:
    """The number; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


TASK = Task(
    name="guitarset_notes",
    title="GuitarSet notes",
    source="Xi et al. 2018 (CC BY 4.0)",
    labels=MIDI_NOTES,
    loss="notes",
    metrics=WRITTEN_SCORES["notes"],
    primary=WRITTEN_SCORES["notes"][0],
    reported_as={},
    split_rule=f"a player a fold; {PUBLISHED_FOLD_RULE}",
    clip_rule=ClipRule("whole files, about 30 s", duration_s=None),
    folds=6,
    public=PublicLayout(FOLDERS, (".wav",), read_folder),
)
