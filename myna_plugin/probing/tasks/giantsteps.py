"""GiantSteps: the key of two-minute electronic dance tracks, from clips of 30 seconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from myna_plugin.common.files import read_text
from myna_plugin.probing.tasks.folders import (
    audio_folders,
    find_audio,
    parse_number,
    read_table,
)
from myna_plugin.probing.tasks.jukemir import clip_end
from myna_plugin.probing.tasks.layouts import JukemirLayout, MarbleLayout, PublicLayout
from myna_plugin.probing.tasks.task import UNSPLIT, ClipRule, Item, Task, TaskError

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")

SHARPS: dict[str, str] = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
"""The MTG set writes sharps, the Key set flats."""

KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)

TEST_SET = "giantsteps-key-dataset*"

TRAIN_SET = "giantsteps-mtg-key-dataset*"

FOLDERS = (f"{TRAIN_SET}/audio", f"{TEST_SET}/audio", "audio", ".")

SUFFIXES = (".LOFI.mp3", ".LOFI.wav", ".mp3", ".wav")

CLIP_SECONDS = 30.0

TRACK_SECONDS = 120.0

SHORT_TRACKS: dict[str, float] = {
    "0297010": 81.6,
    "0299801": 56.2,
    "0673637": 117.3,
    "1224698": 44.7,
    "1442809": 62.1,
    "3424038": 76.7,
    "4452003": 58.6,
    "5338500": 103.9,
}
"""Tracks shorter than two minutes, seconds (the Key set's README; JukeMIR's metadata)."""

CONFIDENT = 2
"""The MTG set's confidences are 0, 1 and 2; only 2 is used (Korzeniowski and Widmer 2018)."""


def parse_key(text: str) -> str:
    """A key as one of `KEYS`: any case, sharps or flats.

    Raises:
        TaskError: not one key of one mode.

    >>> parse_key("d# minor"), parse_key("Gb major"), parse_key("B major ")
    ('Eb minor', 'Gb major', 'B major')
    """
    words = text.split()
    if len(words) == 2:
        tonic = words[0].capitalize()
        key = f"{SHARPS.get(tonic, tonic)} {words[1].lower()}"
        if key in KEYS:
            return key
    raise TaskError(f"{text!r} is not a key like 'Eb minor' or 'd# minor'")


def parse_key_file(text: str) -> tuple[str, str]:
    """Key and confidence of a `.key` file, in any of the sets' three ways of writing it.

    The key is as written: "-" where there is none, several joined by "/" where it changes. The
    Key set gives no confidence; its keys count as confident.

    >>> parse_key_file("Eb minor")
    ('Eb minor', '2')
    >>> parse_key_file("f minor / g# major\\t1\\tmode is not clear\\n")
    ('f minor / g# major', '1')
    >>> parse_key_file("#@format: key\\ttimestamp(float)\\tkey(string)\\nkey 0 D major\\n")
    ('D major', '2')
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#@")]
    fields = lines[0].split("\t") if lines else [""]
    if fields[0] == "key":
        fields = fields[2:] or [""]
    elif fields[0].startswith("key "):
        fields = [fields[0].split(" ", 2)[2], *fields[1:]]
    return fields[0].strip(), fields[1].strip() if len(fields) > 1 else str(CONFIDENT)


def artist_splits(credits: Iterable[str]) -> dict[str, str]:
    """Train or valid for every artist of the MTG set: the hash rule of JukeMIR, 100 to 16.

    Whoever has worked with an artist of the validation set is in it too, over two steps, in the
    order of the table.

    Source: Castellon et al. 2021, github.com/p-lambda/jukemir.

    Args:
        credits: the artists of each track, joined by commas.

    Returns:
        artist -> "train" or "valid".
    """
    teams = [_artists(credit) for credit in credits]
    splits = {artist: _hash_split(artist) for team in teams for artist in team}
    for _ in range(2):
        for team in teams:
            if any(splits[artist] == "valid" for artist in team):
                splits.update(dict.fromkeys(team, "valid"))
    return splits


def _artists(credit: str) -> list[str]:
    return [artist.strip() for artist in credit.split(",")]


def _hash_split(artist: str) -> str:
    digest = hashlib.sha1(artist.lower().encode(), usedforsecurity=False).hexdigest()
    return "train" if int(digest, 16) % 116 < 100 else "valid"


def read_folder(root: Path) -> list[Item]:
    """Clips of `giantsteps-mtg-key-dataset*` (train, valid) and `giantsteps-key-dataset*` (test).

    Both are the public repositories with `audio/` filled by their scripts. Of the MTG set, tracks
    with confidence 2 and one key are used. Without its `beatport_metadata.txt` nobody knows the
    artists: its clips are left unsplit.
    """
    folders = audio_folders(root, FOLDERS)
    training, testing = _repository(root, TRAIN_SET), _repository(root, TEST_SET)
    items = []
    credits = _read_credits(training)
    splits = artist_splits(credits.values())
    for number, key in _read_training_keys(training).items():
        artist = credits.get(number)
        split = splits[_artists(artist)[0]] if artist else UNSPLIT
        items += _clips([training / "audio", *folders], number, key, split, artist)
    for number, path in _key_files(testing).items():
        key = _parse(path, parse_key_file(read_text(path))[0])
        items += _clips([testing / "audio", *folders], number, key, "test", None)
    return items


def _repository(root: Path, pattern: str) -> Path:
    found = [path for path in sorted(root.glob(pattern)) if (path / "annotations").is_dir()]
    if not found:
        raise TaskError(f"{root}: no folder {pattern.rstrip('*')} with annotations in it")
    return found[0]


def _key_files(repository: Path) -> dict[int, Path]:
    """The `.key` file of every track, by number; what macOS keeps beside files is passed over.

    Raises:
        TaskError: a file has no number in front, or that of another one.
    """
    found: dict[int, Path] = {}
    for path in sorted((repository / "annotations" / "key").glob("*.key")):
        if path.name.startswith("._"):
            continue
        number = parse_number(path, "file name", path.name.partition(".")[0])
        if number in found:
            raise TaskError(f"{path}: of the same track as {found[number].name}; remove one")
        found[number] = path
    return found


def _parse(place: object, key: str) -> str:
    try:
        return parse_key(key)
    except TaskError as error:
        raise TaskError(f"{place}: {error}") from error


def _read_training_keys(repository: Path) -> dict[int, str]:
    """Key of every usable track, by number, from the one table or else from the `.key` files."""
    table = repository / "annotations" / "annotations.txt"
    annotated: dict[int, tuple[object, str, str]]
    if os.path.lexists(table):
        rows = read_table(table, "ID", ("MANUAL KEY", "C"), delimiter="\t")
        annotated = {n: (place, row["MANUAL KEY"], row["C"]) for n, (place, row) in rows.items()}
    else:
        files = _key_files(repository)
        annotated = {n: (path, *parse_key_file(read_text(path))) for n, path in files.items()}
    return {
        number: _parse(place, key)
        for number, (place, key, confidence) in annotated.items()
        if _is_confident(place, confidence) and "/" not in key
    }


def _is_confident(place: object, confidence: str) -> bool:
    number = parse_number(place, "confidence", confidence)
    if number > CONFIDENT:
        raise TaskError(f"{place}: confidence: {number} is not 0, 1 or {CONFIDENT}")
    return number == CONFIDENT


def _read_credits(repository: Path) -> dict[int, str]:
    """Artists of every track, by number; empty where the repository lacks that table."""
    path = repository / "annotations" / "beatport_metadata.txt"
    if not os.path.lexists(path):
        return {}
    rows = read_table(path, "ID", ("ARTIST",), delimiter="\t")
    return {number: row["ARTIST"] for number, (_, row) in rows.items()}


def _clips(
    folders: Sequence[Path], number: int, key: str, split: str, artist: str | None
) -> list[Item]:
    """The full 30-second clips of a track, one after the other."""
    track_id = str(number).zfill(7)
    path = find_audio(folders, str(number), SUFFIXES)
    duration_s = SHORT_TRACKS.get(track_id, TRACK_SECONDS)
    return [
        Item(
            clip_id=f"{track_id}-{index}",
            track_id=track_id,
            path=path,
            target=key,
            split=split,
            start_s=index * CLIP_SECONDS,
            end_s=(index + 1) * CLIP_SECONDS,
            artist=artist,
        )
        for index in range(int(duration_s // CLIP_SECONDS))
    ]


def _locate(key: str, entry: Mapping[str, Any]) -> Item:
    clip, extra = entry["clip"], entry["extra"]
    return Item(
        clip_id=key,
        track_id=clip["audio_uid"],
        path=Path(str(extra["id"])),
        start_s=float(clip["clip_offset"]),
        end_s=clip_end(clip, CLIP_SECONDS),
        artist=extra.get("beatport_metadata", {}).get("ARTIST"),
    )


TASK = Task(
    name="giantsteps",
    title="GiantSteps",
    source="Knees et al. 2015; training set of the Music Technology Group, Barcelona",
    labels=KEYS,
    loss="cross_entropy",
    metrics=("weighted_key_score", "weighted_key_score_both_fifths", "accuracy"),
    primary="weighted_key_score",
    reported_as={"weighted_key_score": "GS"},
    split_rule="test is the GiantSteps Key set; the MTG key set's confident single keys are split "
    "by a hash of the artist, 100 to 16, collaborators together",
    split_sizes={"train": 3_687, "valid": 942, "test": 2_406},
    clip_rule=ClipRule(
        "30-second clips of two-minute tracks; scores are per track",
        duration_s=CLIP_SECONDS,
        # Decoders disagree by some milliseconds on where a compressed track ends.
        tolerance_s=0.1,
        per_track=True,
    ),
    public=PublicLayout(FOLDERS, SUFFIXES, read_folder),
    jukemir=JukemirLayout("giantsteps_clips", _locate),
    marble=MarbleLayout(
        stem="GS",
        folder="GS",
        clip_seconds=30.0,
        metrics={
            "acc": {
                "class_path": "torchmetrics.Accuracy",
                "init_args": {"task": "multiclass", "num_classes": 24},
            },
            "weighted_score": {"class_path": "marble.tasks.GS.probe.KeyWeightedScore"},
        },
        monitor="val/weighted_score",
    ),
    parse_label=parse_key,
)
