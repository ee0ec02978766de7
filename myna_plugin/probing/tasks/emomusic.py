"""EmoMusic: arousal and valence of 744 clips of 45 seconds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from myna_plugin.probing.tasks.folders import (
    audio_folders,
    find_audio,
    find_file,
    read_table,
)
from myna_plugin.probing.tasks.layouts import JukemirLayout, MarbleLayout, PublicLayout
from myna_plugin.probing.tasks.task import UNSPLIT, ClipRule, Item, Task, TaskError

OUTPUTS = ("arousal", "valence")

FOLDERS = ("clips_45seconds", "clips_45sec/clips_45seconds", "clips_45sec", ".")

SUFFIXES = (".mp3", ".wav")

SONGS = ("songs_info.csv", "annotations/songs_info.csv")

RATINGS = ("static_annotations.csv", "annotations/static_annotations.csv")

OFFICIAL_SET = "Mediaeval 2013 set"
"""The column that names the official test set."""

OFFICIAL_SPLITS = {"development": None, "evaluation": "test"}
"""What stands in it -> the split; None where the artist decides."""

RATED = ("mean_arousal", "mean_valence")


def artist_split(artist: str) -> str:
    """Split of a development clip by its artist: the hash rule of JukeMIR, 8 to 2.

    The name counts in lower case, with ASCII letters and single spaces only.

    Source: Castellon et al. 2021, github.com/p-lambda/jukemir.

    >>> artist_split("My Bubba & Mi"), artist_split("The New Mystikal Troubadours")
    ('train', 'valid')
    """
    kept = "".join(c for c in artist.lower() if c.isascii() and (c.isalpha() or c.isspace()))
    digest = hashlib.sha1(" ".join(kept.split()).encode(), usedforsecurity=False)
    return "train" if int(digest.hexdigest(), 16) % 10 < 8 else "valid"


def read_folder(root: Path) -> list[Item]:
    """Clips of `songs_info.csv`, `static_annotations.csv` and `clips_45seconds/2.mp3`.

    The official evaluation set is the test set; the rest is split by artist. Where the table
    does not name the official set, clips are left unsplit. Arousal and valence are z-scored by
    mean and deviation of all clips but the test set's.
    """
    songs, ratings = find_file(root, SONGS), find_file(root, RATINGS)
    folders = audio_folders(root, FOLDERS)
    rated = _read_ratings(ratings)
    rows = read_table(songs, "song_id", ("Artist",), (OFFICIAL_SET,))
    lacking = [(number, place) for number, (place, _) in rows.items() if number not in rated]
    if lacking:
        number, place = lacking[0]
        raise TaskError(f"{ratings}: no rating of song {number}, which {place} lists")
    splits = [_split(place, row.get(OFFICIAL_SET), row["Artist"]) for place, row in rows.values()]
    targets = _standardise(ratings, [rated[number] for number in rows], splits)
    return [
        Item(
            clip_id=f"{number:04}",
            track_id=f"{number:04}",
            path=find_audio(folders, str(number), SUFFIXES),
            target=target,
            split=split,
            artist=row["Artist"],
        )
        for (number, (_, row)), split, target in zip(rows.items(), splits, targets, strict=True)
    ]


def _split(place: str, official: str | None, artist: str) -> str:
    if official is None:
        return UNSPLIT
    if official.lower() not in OFFICIAL_SPLITS:
        told = " or ".join(OFFICIAL_SPLITS)
        raise TaskError(f"{place}: {OFFICIAL_SET}: {official!r} is not {told}")
    return OFFICIAL_SPLITS[official.lower()] or artist_split(artist)


def _read_ratings(path: Path) -> dict[int, tuple[float, float]]:
    rows = read_table(path, "song_id", RATED)
    return {
        number: (_rating(place, row, RATED[0]), _rating(place, row, RATED[1]))
        for number, (place, row) in rows.items()
    }


def _rating(place: str, row: Mapping[str, str], column: str) -> float:
    try:
        rating = float(row[column])
    except ValueError:
        rating = math.nan
    if not math.isfinite(rating):
        raise TaskError(f"{place}: {column}: {row[column]!r} is not a rating")
    return rating


def _standardise(
    path: Path, ratings: Sequence[tuple[float, float]], splits: Sequence[str]
) -> list[tuple[float, ...]]:
    values = np.array(ratings, dtype=np.float64).reshape(-1, 2)
    known = values[[split != "test" for split in splits]]
    deviation = known.std(axis=0) if len(known) else np.zeros(2)
    if not (deviation > 0).all():
        raise TaskError(f"{path}: arousal or valence is the same for every development clip")
    return [tuple(map(float, row)) for row in (values - known.mean(axis=0)) / deviation]


def _locate(key: str, entry: Mapping[str, Any]) -> Item:
    # The clip's offset is in the song; the public file is the clip alone.
    return Item(
        clip_id=key, track_id=key, path=Path(str(int(key))), artist=entry["clip"]["audio_uid"][0]
    )


def _slice_r2(dim: int) -> dict[str, Any]:
    return {"class_path": "marble.tasks.EMO.probe.SliceR2", "init_args": {"dim": dim}}


TASK = Task(
    name="emomusic",
    title="EmoMusic",
    source="Soleymani et al. 2013",
    labels=OUTPUTS,
    loss="mse",
    metrics=("r2", "r2_arousal", "r2_valence"),
    primary="r2",
    reported_as={"r2_arousal": "Emo A", "r2_valence": "Emo V"},
    split_rule="test is the official evaluation set; the rest by a hash of the artist, 8 to 2; "
    "some artists are in both the test set and the rest",
    split_sizes={"train": 504, "valid": 115, "test": 125},
    clip_rule=ClipRule("whole files, 45 s", duration_s=45.0),
    public=PublicLayout(FOLDERS, SUFFIXES, read_folder),
    jukemir=JukemirLayout("emomusic", _locate),
    marble=MarbleLayout(
        stem="EMO",
        folder="EMO",
        clip_seconds=45.0,
        metrics={
            "r2": {
                "class_path": "torchmetrics.R2Score",
                "init_args": {"multioutput": "uniform_average"},
            },
            "arousal_r2": _slice_r2(0),
            "valence_r2": _slice_r2(1),
        },
        monitor="val/r2",
    ),
)
