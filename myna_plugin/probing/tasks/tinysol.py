"""TinySOL: instrument and pitch of 2,913 single notes of the orchestra.

Source: Cella et al., "OrchideaSOL: a dataset of extended instrumental techniques for
computer-aided orchestration", 2020 (zenodo.org/records/3685367), whose table deals the notes to
five folds and asks for the mean over them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from myna_plugin.probing.tasks.folders import (
    audio_folders,
    find_audio,
    find_file,
    one_of,
    table_rows,
)
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.splits import PUBLISHED_FOLD_RULE
from myna_plugin.probing.tasks.task import MIDI_NOTES, ClipRule, Item, Task

INSTRUMENTS = (
    *("BTb", "Hn", "Tbn", "TpC", "Acc", "Cb", "Va", "Vc", "Vn", "ASax", "Bn", "ClBb", "Fl", "Ob"),
)
"""The table's abbreviations: bass tuba, horn, trombone, trumpet in C, accordion, contrabass, viola,
violoncello, violin, alto saxophone, bassoon, clarinet in B flat, flute, oboe."""

FOLDERS = ("audio", "TinySOL", ".")

TABLES = ("annotation/TinySOL_metadata.csv", "TinySOL_metadata.csv")

FOLDS = tuple("01234")


def read_instruments(root: Path) -> list[Item]:
    """Notes of `TinySOL_metadata.csv` and `audio/Strings/…/….wav` with their instrument."""
    return _read(root, "Instrument (abbr.)", INSTRUMENTS)


def read_pitches(root: Path) -> list[Item]:
    """The same notes with their pitch, a MIDI number."""
    return _read(root, "Pitch ID", MIDI_NOTES)


def _read(root: Path, column: str, labels: tuple[str, ...]) -> list[Item]:
    folders = audio_folders(root, FOLDERS)
    items = []
    for place, row in table_rows(find_file(root, TABLES), ("Path", "Fold", column)):
        name = PurePosixPath(row["Path"])
        items.append(
            Item(
                clip_id=name.stem,
                track_id=name.stem,
                path=find_audio(folders, str(name.with_suffix("")), (".wav",)),
                target=one_of(place, column, row[column], labels),
                split=one_of(place, "Fold", row["Fold"], FOLDS),
            )
        )
    return items


INSTRUMENT = Task(
    name="tinysol_instrument",
    title="TinySOL instruments",
    source="Cella et al. 2020 (CC BY 4.0)",
    labels=INSTRUMENTS,
    loss="cross_entropy",
    metrics=("accuracy",),
    primary="accuracy",
    reported_as={},
    split_rule=PUBLISHED_FOLD_RULE,
    folds=len(FOLDS),
    clip_rule=ClipRule("whole files, single notes", duration_s=None),
    public=PublicLayout(FOLDERS, (".wav",), read_instruments),
)

PITCH = replace(
    INSTRUMENT,
    name="tinysol_pitch",
    title="TinySOL pitch",
    labels=MIDI_NOTES,
    metrics=("accuracy", "chroma_accuracy"),
    public=PublicLayout(FOLDERS, (".wav",), read_pitches),
)
