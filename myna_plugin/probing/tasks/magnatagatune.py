"""MagnaTagATune: 29-second clips with any of the 50 most frequent tags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from myna_plugin.probing.tasks.folders import (
    audio_folders,
    find_audio,
    find_file,
    parse_number,
    read_table,
)
from myna_plugin.probing.tasks.layouts import JukemirLayout, MarbleLayout, PublicLayout
from myna_plugin.probing.tasks.task import ClipRule, Item, Task, TaskError

TAGS = (
    *("guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast"),
    *("piano", "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male"),
    *("singing", "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman"),
    *("male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice"),
    *("new age", "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice"),
    *("weird", "country", "metal", "female voice", "choral"),
)
"""The 50 most frequent of 188 tags, the most frequent first."""

FOLDERS = ("mp3", ".")

SUFFIXES = (".mp3", ".wav", ".flac")

ANNOTATIONS = ("annotations_final.csv", "annotations/annotations_final.csv")

CLIP_INFO = ("clip_info_final.csv", "annotations/clip_info_final.csv")

EMPTY_FILES: dict[str, str] = {
    "35644": "6/norine_braun-now_and_zen-08-gently-117-146.mp3 is empty in the public archive",
    "55753": "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233"
    ".mp3 is empty in the public archive",
    "57881": "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-le_petit_rien_xiveme"
    "_ordre_couperin-88-117.mp3 is empty in the public archive",
}
"""The three that JukeMIR leaves out as corrupt; with them the set would have 25,863 clips."""


def folder_split(mp3_path: str) -> str:
    """Split of a clip by the first character of its path: the 12:1:3 rule.

    Source: van den Oord et al. 2014.

    Raises:
        TaskError: no folder 0 … f.

    >>> [folder_split(path) for path in ("0/a.mp3", "b/a.mp3", "c/a.mp3", "f/a.mp3")]
    ['train', 'train', 'valid', 'test']
    """
    folder = mp3_path.partition("/")[0]
    if len(folder) != 1 or folder not in "0123456789abcdef":
        raise TaskError(f"mp3_path {mp3_path!r} does not start with a folder 0 … f")
    return "valid" if folder == "c" else "test" if folder in "def" else "train"


def read_folder(root: Path) -> list[Item]:
    """Clips of `annotations_final.csv` (and `clip_info_final.csv`) and `mp3/0/…` … `mp3/f/…`.

    A clip without any of the 50 tags counts; the three empty files do not.
    """
    annotations = find_file(root, ANNOTATIONS)
    folders = audio_folders(root, FOLDERS)
    songs = _read_songs(root)
    items = []
    rows = read_table(annotations, "clip_id", ("mp3_path", *TAGS), delimiter="\t")
    for number, (place, row) in rows.items():
        clip_id = _clip_id(number)
        if clip_id in EMPTY_FILES:
            continue
        try:
            split = folder_split(row["mp3_path"])
            path = find_audio(folders, row["mp3_path"].removesuffix(".mp3"), SUFFIXES)
        except TaskError as error:
            raise TaskError(f"{place}: clip {clip_id}: {error}") from error
        track_id, artist = songs.get(clip_id, (clip_id, None))
        items.append(
            Item(
                clip_id=clip_id,
                track_id=track_id,
                path=path,
                target=tuple(tag for tag in TAGS if _is_set(place, tag, row[tag])),
                split=split,
                artist=artist,
            )
        )
    return items


def _clip_id(number: int) -> str:
    return f"{number:05}"


def _is_set(place: str, tag: str, flag: str) -> bool:
    number = parse_number(place, tag, flag)
    if number > 1:
        raise TaskError(f"{place}: {tag}: {number} is neither 0 nor 1")
    return number == 1


def _track_id(url: str, track_number: str) -> str:
    return f"{url.strip()} {track_number.strip()}"


def _read_songs(root: Path) -> dict[str, tuple[str, str | None]]:
    """Track and artist of each clip; empty where the data folder lacks that table."""
    try:
        path = find_file(root, CLIP_INFO)
    except TaskError:
        return {}
    rows = read_table(path, "clip_id", ("artist", "url", "track_number"), delimiter="\t")
    return {
        _clip_id(number): (_track_id(row["url"], row["track_number"]), row["artist"])
        for number, (_, row) in rows.items()
    }


def _locate(key: str, entry: Mapping[str, Any]) -> Item:
    # The clip's offset is in the song; the public file is the clip alone.
    extra = entry["extra"]
    return Item(
        clip_id=key,
        track_id=_track_id(extra["url"], extra["track_number"]),
        path=Path(extra["mp3_path"].removesuffix(".mp3")),
        artist=extra["artist"],
    )


def _torchmetric(name: str) -> dict[str, Any]:
    return {
        "class_path": f"torchmetrics.{name}",
        "init_args": {"task": "multilabel", "num_labels": len(TAGS), "average": "macro"},
    }


TASK = Task(
    name="magnatagatune",
    title="MagnaTagATune",
    source="Law et al. 2009",
    labels=TAGS,
    loss="bce",
    metrics=("roc_auc_macro", "average_precision_macro"),
    primary="roc_auc_macro",
    reported_as={"roc_auc_macro": "MTT AUC", "average_precision_macro": "MTT AP"},
    split_rule="12:1:3 by folder: 0 … b train, c valid, d … f test; 56 artists are in several",
    split_sizes={"train": 18_706, "valid": 1_825, "test": 5_329},
    clip_rule=ClipRule("whole files, 29.1 s", duration_s=29.1),
    public=PublicLayout(FOLDERS, SUFFIXES, read_folder),
    jukemir=JukemirLayout("magnatagatune", _locate),
    marble=MarbleLayout(
        stem="MTT",
        folder="MTT",
        clip_seconds=30.0,
        metrics={"auroc": _torchmetric("AUROC"), "ap": _torchmetric("AveragePrecision")},
        monitor="val/auroc",
    ),
    known_faults=EMPTY_FILES,
)
