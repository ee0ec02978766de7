"""OpenMIC-2018: which of twenty instruments is heard in 20,000 clips of ten seconds.

Source: Humphrey, Durand and McFee, "OpenMIC-2018: an open dataset for multiple instrument
recognition", 2018 (zenodo.org/records/1432913), with its partition, which keeps artists apart.
Every clip was asked about for one or a few instruments: of the others nobody knows, and they count
neither in training nor in scores. Likelihoods from 0.5 on are a yes, as in the authors' baseline
(github.com/cosmir/openmic-2018). Papers report the mean average precision.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from myna_plugin.common.files import read_rows
from myna_plugin.probing.tasks.folders import (
    audio_folders,
    find_audio,
    find_file,
    one_of,
    table_rows,
)
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.task import UNSPLIT, ClipRule, Item, Task, TaskError

INSTRUMENTS = (
    *("accordion", "banjo", "bass", "cello", "clarinet", "cymbals", "drums", "flute", "guitar"),
    *("mallet_percussion", "mandolin", "organ", "piano", "saxophone", "synthesizer", "trombone"),
    *("trumpet", "ukulele", "violin", "voice"),
)
"""In the order of `class-map.json`."""

FOLDERS = ("audio", "openmic-2018/audio")

SUFFIXES = (".ogg", ".wav")

PLACES = ("", "openmic-2018/")

IS_HEARD = 0.5
"""Likelihood from which an instrument counts as heard."""


def read_folder(root: Path) -> list[Item]:
    """Clips of `partitions/split01_{train,test}.csv` and `audio/000/000046_3840.ogg`.

    Labels are those of `openmic-2018-aggregated-labels.csv`. The training partition is left
    unsplit, to be dealt by the artists of `openmic-2018-metadata.csv`.
    """
    folders = audio_folders(root, FOLDERS)
    decided = _read_labels(_find(root, "openmic-2018-aggregated-labels.csv"))
    artists = _read_artists(_find(root, "openmic-2018-metadata.csv"))
    items = []
    for name, split in (("train", UNSPLIT), ("test", "test")):
        for place, (key, *_) in read_rows(_find(root, f"partitions/split01_{name}.csv")):
            if key not in decided or key not in artists:
                raise TaskError(f"{place}: {key!r} is not in the tables of labels and metadata")
            known = tuple(label for label in INSTRUMENTS if label in decided[key])
            items.append(
                Item(
                    clip_id=key,
                    track_id=key.partition("_")[0],
                    path=find_audio(folders, f"{key[:3]}/{key}", SUFFIXES),
                    target=tuple(label for label in known if decided[key][label]),
                    split=split,
                    artist=artists[key],
                    known=known,
                )
            )
    return items


def _find(root: Path, name: str) -> Path:
    return find_file(root, [place + name for place in PLACES])


def _read_labels(path: Path) -> dict[str, dict[str, bool]]:
    """Which instruments were decided on for every clip, and how."""
    decided: dict[str, dict[str, bool]] = defaultdict(dict)
    for place, row in table_rows(path, ("sample_key", "instrument", "relevance")):
        instrument = one_of(place, "instrument", row["instrument"], INSTRUMENTS)
        try:
            relevance = float(row["relevance"])
        except ValueError:
            relevance = math.nan
        if not 0.0 <= relevance <= 1.0:
            raise TaskError(f"{place}: relevance: {row['relevance']!r} is not between 0 and 1")
        decided[row["sample_key"]][instrument] = relevance >= IS_HEARD
    return decided


def _read_artists(path: Path) -> dict[str, str]:
    rows = table_rows(path, ("sample_key", "artist_id"), multiline=True)
    return {row["sample_key"]: row["artist_id"] for _, row in rows}


TASK = Task(
    name="openmic",
    title="OpenMIC-2018",
    source="Humphrey, Durand and McFee 2018 (labels CC BY 4.0; each clip its own licence)",
    labels=INSTRUMENTS,
    loss="bce",
    metrics=("average_precision_macro", "roc_auc_macro"),
    primary="average_precision_macro",
    reported_as={},
    split_rule="published partition; of its training clips a fifth validates, artists whole",
    clip_rule=ClipRule("whole files, 10 s", duration_s=10.0),
    public=PublicLayout(FOLDERS, SUFFIXES, read_folder),
    is_partial=True,
)
