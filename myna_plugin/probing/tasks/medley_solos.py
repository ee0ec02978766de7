"""Medley-solos-DB: which of eight instruments plays alone, in 21,571 clips of three seconds.

Source: Lostanlen and Cella, "Deep convolutional networks on the pitch spiral for musical instrument
recognition", 2016 (zenodo.org/records/3464194), with the subsets of its table: training and
validation are songs of MedleyDB, test is solosDB. They report accuracy as a mean over classes.
"""

from __future__ import annotations

from pathlib import Path

from myna_plugin.probing.tasks.folders import (
    SPLIT_WORDS,
    audio_folders,
    find_audio,
    find_file,
    one_of,
    table_rows,
)
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.task import ClipRule, Item, Task

INSTRUMENTS = (
    "clarinet",
    "distorted electric guitar",
    "female singer",
    "flute",
    "piano",
    "tenor saxophone",
    "trumpet",
    "violin",
)
"""In the order of the data set's numbers."""

FOLDERS = ("audio", "Medley-solos-DB", ".")

TABLES = ("annotation/Medley-solos-DB_metadata.csv", "Medley-solos-DB_metadata.csv")

COLUMNS = ("subset", "instrument", "instrument_id", "song_id", "uuid4")


def read_folder(root: Path) -> list[Item]:
    """Clips of `Medley-solos-DB_metadata.csv` and `audio/Medley-solos-DB_SUBSET-N_UUID.wav`."""
    folders = audio_folders(root, FOLDERS)
    items = []
    for place, row in table_rows(find_file(root, TABLES), COLUMNS):
        subset = one_of(place, "subset", row["subset"], SPLIT_WORDS)
        name = f"Medley-solos-DB_{subset}-{row['instrument_id']}_{row['uuid4']}"
        items.append(
            Item(
                clip_id=row["uuid4"],
                track_id=row["song_id"],
                path=find_audio(folders, name, (".wav",)),
                target=one_of(place, "instrument", row["instrument"], INSTRUMENTS),
                split=SPLIT_WORDS[subset],
            )
        )
    return items


TASK = Task(
    name="medley_solos_db",
    title="Medley-solos-DB",
    source="Lostanlen and Cella 2016 (CC BY 4.0)",
    labels=INSTRUMENTS,
    loss="cross_entropy",
    metrics=("accuracy", "class_mean_accuracy"),
    primary="accuracy",
    reported_as={},
    split_rule="published subsets: no song in two, and another collection tests",
    split_sizes={"train": 5_841, "valid": 3_494, "test": 12_236},
    clip_rule=ClipRule("whole files, 3 s", duration_s=3.0),
    public=PublicLayout(FOLDERS, (".wav",), read_folder),
)
