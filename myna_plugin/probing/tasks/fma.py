"""FMA-small: eight genres, a thousand clips of 30 seconds each.

Source: Defferrard et al., "FMA: a dataset for music analysis", 2017 (github.com/mdeff/fma:
`fma_small.zip`, `fma_metadata.zip`), with the split of its `tracks.csv`; no artist is in two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from myna_plugin.common.files import read_rows
from myna_plugin.probing.tasks.folders import (
    SPLIT_WORDS,
    Row,
    audio_folders,
    find_audio,
    find_file,
    one_of,
    parse_number,
)
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.task import ClipRule, Item, Task, TaskError

GENRES = (
    *("Electronic", "Experimental", "Folk", "Hip-Hop", "Instrumental", "International", "Pop"),
    "Rock",
)

FOLDERS = ("fma_small", ".")

SUFFIXES = (".mp3", ".wav")

TABLES = ("fma_metadata/tracks.csv", "tracks.csv")

COLUMNS = (("set", "subset"), ("set", "split"), ("track", "genre_top"), ("artist", "id"))


def read_folder(root: Path) -> list[Item]:
    """Clips of the subset "small" in `fma_metadata/tracks.csv`, and `fma_small/000/000002.mp3`."""
    folders = audio_folders(root, FOLDERS)
    items = []
    for place, row in _rows(find_file(root, TABLES)):
        if row["set subset"] != "small":
            continue
        name = f"{parse_number(place, 'track_id', row['track_id']):06}"
        split = one_of(place, "set split", row["set split"], SPLIT_WORDS)
        items.append(
            Item(
                clip_id=name,
                track_id=name,
                path=find_audio(folders, f"{name[:3]}/{name}", SUFFIXES),
                target=one_of(place, "track genre_top", row["track genre_top"], GENRES),
                split=SPLIT_WORDS[split],
                artist=row["artist id"],
            )
        )
    return items


def _rows(path: Path) -> Iterator[Row]:
    """Rows of a table with two lines of names over its columns, and one over its index."""
    # Biographies go on over lines.
    rows = read_rows(path, multiline=True)
    (place, upper), (_, lower), _ = (next(rows, (f"{path}: line 1", [])) for _ in range(3))
    header = list(zip(upper, lower, strict=False))
    for column in COLUMNS:
        if header.count(column) != 1:
            raise TaskError(
                f"{place}: not one column {' '.join(column)!r}, as FMA's tracks.csv has"
            )
    places = {" ".join(column): header.index(column) for column in COLUMNS}
    for place, row in rows:
        if len(row) != len(header):
            raise TaskError(f"{place}: {len(row)} fields, and the header has {len(header)}")
        yield Row(place, {"track_id": row[0], **{name: row[i] for name, i in places.items()}})


TASK = Task(
    name="fma_small",
    title="FMA-small",
    source="Defferrard et al. 2017 (annotations CC BY 4.0; each track its own licence)",
    labels=GENRES,
    loss="cross_entropy",
    metrics=("accuracy",),
    primary="accuracy",
    reported_as={},
    split_rule="published: no artist in two",
    split_sizes={"train": 6_400, "valid": 800, "test": 800},
    clip_rule=ClipRule("whole files, 30 s", duration_s=30.0, tolerance_s=1.0),
    public=PublicLayout(FOLDERS, SUFFIXES, read_folder),
    known_faults={
        **dict.fromkeys(("098565", "098567", "098569"), "the public archive's lasts a second"),
        **dict.fromkeys(("099134", "108925", "133297"), "the public archive's holds no audio"),
    },
)
