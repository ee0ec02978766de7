"""Ballroom: beats of dance music, 698 recordings of half a minute.

Source: Gouyon et al., "An experimental comparison of audio tempo induction algorithms", 2006, for
the audio (mtg.upf.edu/ismir2004/contest/tempoContest/data1.tar.gz); Krebs, Böck and Widmer,
"Rhythmic pattern modeling for beat and downbeat tracking in musical audio", 2013, for the beats
(github.com/CPJKU/BallroomAnnotations), whose page lists thirteen recordings that are in it twice.
"""

from __future__ import annotations

import math
from pathlib import Path

from myna_plugin.common.files import read_text
from myna_plugin.probing.tasks.folders import audio_folders, find_audio
from myna_plugin.probing.tasks.hear_folder import BEAT_SCORE
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.task import UNSPLIT, ClipRule, Item, Task, TaskError

FOLDERS = ("BallroomData/*", "audio/*", "B_1.0/audio/*", ".")
"""Of the archive, and as mirdata unpacks it: a folder a dance."""

BEATS = ("BallroomAnnotations*", "annotations/beats", "B_1.0/annotations/beats", ".")

REPLICAS = frozenset(
    (
        *("Albums-Chrisanne2-12", "Albums-Fire-09", "Albums-Latin_Jam2-13", "Media-104705"),
        *("Albums-AnaBelen_Veneo-15", "Albums-Ballroom_Magic-18", "Albums-Latin_Jam-13"),
        *("Albums-Latin_Jam-14", "Albums-Latin_Jam-15", "Albums-Latin_Jam2-14"),
        *("Albums-Latin_Jam2-15", "Media-103414", "Media-103415"),
    )
)
"""The second of each pair, which is left out."""


def read_folder(root: Path) -> list[Item]:
    """Recordings of `BallroomAnnotations/NAME.beats` and `BallroomData/DANCE/NAME.wav`, unsplit.

    Their albums stand as artists, so that none is in two splits.
    """
    folders = audio_folders(root, FOLDERS)
    lists = [
        path for folder in audio_folders(root, BEATS) for path in sorted(folder.glob("*.beats"))
    ]
    if not lists:
        raise TaskError(f"{root}: no files like BallroomAnnotations/Albums-Cafe_Paradiso-05.beats")
    return [
        Item(
            clip_id=path.stem,
            track_id=path.stem,
            path=find_audio(folders, path.stem, (".wav",)),
            target=read_beats(path),
            split=UNSPLIT,
            artist=path.stem.rpartition("-")[0] if path.stem.startswith("Albums-") else None,
        )
        for path in lists
        if path.stem not in REPLICAS
    ]


def read_beats(path: Path) -> tuple[float, ...]:
    """Times of the beats, seconds, of lines like `9.430022675 3` (its place in the bar).

    Raises:
        InputError: the file cannot be read or has fewer than two beats; a line is not such a one,
            or its time does not rise. Names the file, and the line.
    """
    times: list[float] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            (time,) = map(float, fields[:1])
        except ValueError:
            time = math.nan
        if len(fields) != 2 or not 0.0 <= time < math.inf:
            raise TaskError(f"{path}: line {number}: {line!r} is not a time and a place in the bar")
        if times and time <= times[-1]:
            raise TaskError(f"{path}: line {number}: {line!r} is not after the beat before it")
        times.append(time)
    if len(times) < 2:
        raise TaskError(f"{path}: fewer than two beats")
    return tuple(times)


TASK = Task(
    name="ballroom_beats",
    title="Ballroom beats",
    source="Gouyon et al. 2006; Krebs, Böck and Widmer 2013",
    labels=("beat",),
    loss="beats",
    metrics=(BEAT_SCORE,),
    primary=BEAT_SCORE,
    reported_as={},
    split_rule="no album in two splits, replicas left out; dealt 8 : 1 : 1",
    clip_rule=ClipRule("whole files, 30 s", duration_s=30.0, tolerance_s=2.0),
    public=PublicLayout(FOLDERS, (".wav",), read_folder),
)
