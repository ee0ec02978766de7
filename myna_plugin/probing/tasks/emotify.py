"""Emotify: genre and induced emotions of 400 excerpts of one minute."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from myna_plugin.model.audio import AudioError, read_tags
from myna_plugin.probing.tasks.folders import (
    audio_folders,
    find_audio,
    find_file,
    parse_number,
    table_rows,
)
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.splits import FOLD_RULE
from myna_plugin.probing.tasks.task import UNSPLIT, ClipRule, Item, Target, Task, TaskError

GENRES = ("classical", "rock", "electronic", "pop")
"""In the order of the tracks' numbers: a hundred each, from 1 on."""

EMOTIONS = (
    "amazement",
    "solemnity",
    "tenderness",
    "nostalgia",
    "calmness",
    "power",
    "joyful_activation",
    "tension",
    "sadness",
)

FOLDERS = ("emotifymusic", "data/emotifymusic", ".")

SUFFIXES = (".mp3", ".wav")

VOTES = ("data.csv", "data/data.csv")


def read_genres(root: Path) -> list[Item]:
    """Clips of `emotifymusic/GENRE/1.mp3` … `100.mp3` with their genres."""
    return _read(root, {(g, n): g for g in GENRES for n in range(1, 101)})


def read_emotions(root: Path) -> list[Item]:
    """The same clips with the share of listeners that felt each emotion, from `data.csv`.

    Shares are scaled to mean 0 and deviation 1 over all clips.
    """
    path = find_file(root, VOTES)
    votes: dict[int, list[list[int]]] = defaultdict(list)
    for place, row in table_rows(path, ("track id", *EMOTIONS)):
        track, *felt = (parse_number(place, name, text) for name, text in row.items())
        if not 1 <= track <= 400 or not {0, 1}.issuperset(felt):
            raise TaskError(f"{place}: tracks are 1 to 400 and votes 0 or 1, got {track}: {felt}")
        votes[track].append(felt)
    if not votes:
        raise TaskError(f"{path}: no votes")
    shares = np.array([np.mean(votes[track], axis=0) for track in sorted(votes)])
    scaled = (shares - shares.mean(0)) / np.maximum(shares.std(0), 1e-9)
    return _read(
        root,
        {
            (GENRES[(track - 1) // 100], (track - 1) % 100 + 1): tuple(map(float, row))
            for track, row in zip(sorted(votes), scaled, strict=True)
        },
    )


def _read(root: Path, targets: dict[tuple[str, int], Target]) -> list[Item]:
    folders = audio_folders(root, FOLDERS)
    items = []
    for (genre, number), target in targets.items():
        path = find_audio(folders, f"{genre}/{number}", SUFFIXES)
        name = f"{genre}.{number:03}"
        items.append(Item(name, name, path, target, UNSPLIT, artist=_artist(path)))
    return items


@cache  # every fold lists the clips anew
def _artist(path: Path) -> str | None:
    """Of the file's tags; a file that cannot be read is the check's to tell of."""
    try:
        return read_tags(path).get("artist") or None
    except AudioError:
        return None


GENRE = Task(
    name="emotify_genre",
    title="Emotify",
    source="Aljanaki, Wiering and Veltkamp 2016",
    labels=GENRES,
    loss="cross_entropy",
    metrics=("accuracy",),
    primary="accuracy",
    reported_as={},
    split_rule=f"no artist (of the files' tags) in two splits; {FOLD_RULE}",
    folds=5,
    clip_rule=ClipRule("whole files, a minute at most", duration_s=None),
    public=PublicLayout(FOLDERS, SUFFIXES, read_genres),
)

EMOTION = replace(
    GENRE,
    name="emotify_emotion",
    labels=EMOTIONS,
    loss="mse",
    metrics=("r2",),
    primary="r2",
    public=PublicLayout(FOLDERS, SUFFIXES, read_emotions),
)
