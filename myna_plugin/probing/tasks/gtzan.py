"""GTZAN: ten genres, a thousand clips of 30 seconds, fault-filtered to 930."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from myna_plugin.probing.tasks.folders import audio_folders, find_audio
from myna_plugin.probing.tasks.layouts import JukemirLayout, MarbleLayout, PublicLayout
from myna_plugin.probing.tasks.task import SPLITS, ClipRule, Item, Task, TaskError

GENRES = (
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
)

FOLDERS = ("genres", "genres_original", "Data/genres_original", ".")
"""Of the original archive, of the copy on Kaggle (two depths), and of neither."""

SUFFIXES = (".wav", ".au")


def filtered_lists() -> dict[str, tuple[str, ...]]:
    """The fault-filtered lists: split -> names like "blues.00000".

    Raises:
        TaskError: torchaudio, which has them, cannot be imported.
    """
    try:
        from myna_plugin.common.torchaudio_bridge import gtzan_split

        return {split: gtzan_split(split) for split in SPLITS}
    except ImportError as error:
        raise TaskError(
            f"GTZAN's fault-filtered lists are torchaudio's, which cannot be imported ({error}); "
            "install it, or put JukeMIR's gtzan_ff.json.gz into the data folder"
        ) from error


def read_folder(root: Path) -> list[Item]:
    """Clips of `genres/GENRE/GENRE.00000.wav` (or `.au`), split by the fault-filtered lists."""
    folders = audio_folders(root, FOLDERS)
    return [
        Item(
            clip_id=name,
            track_id=name,
            path=find_audio(folders, f"{_genre(name)}/{name}", SUFFIXES),
            target=_genre(name),
            split=split,
        )
        for split, names in filtered_lists().items()
        for name in names
    ]


def _genre(name: str) -> str:
    return name.split(".")[0]


def _locate(key: str, entry: Mapping[str, Any]) -> Item:
    name = entry["extra"]["id"]
    return Item(clip_id=name, track_id=name, path=Path(f"{_genre(name)}/{name}"))


TASK = Task(
    name="gtzan",
    title="GTZAN",
    source="Tzanetakis and Cook 2002; filtered by Kereliuk et al. 2015 after Sturm 2013",
    labels=GENRES,
    loss="cross_entropy",
    metrics=("accuracy",),
    primary="accuracy",
    reported_as={"accuracy": "GTZAN"},
    split_rule="fault-filtered lists (torchaudio has them); 70 of the 1,000 clips are in none",
    split_sizes={"train": 443, "valid": 197, "test": 290},
    clip_rule=ClipRule("whole files, 30 s", duration_s=30.0, tolerance_s=1.0),
    public=PublicLayout(FOLDERS, SUFFIXES, read_folder),
    jukemir=JukemirLayout("gtzan_ff", _locate),
    marble=MarbleLayout(
        stem="GTZANGenre",
        folder="GTZAN",
        clip_seconds=30.2,
        metrics={
            "acc": {
                "class_path": "torchmetrics.Accuracy",
                "init_args": {"task": "multiclass", "num_classes": 10},
            }
        },
        monitor="val/acc",
    ),
    known_faults={
        "jazz.00054": "the copy on Kaggle holds a file that is not audio; the original archive's "
        "is good"
    },
)
