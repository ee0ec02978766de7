"""VocalSet: technique and singer of a cappella recordings by twenty singers.

Source: Wilkins et al., "VocalSet: a singing voice dataset", 2018 (zenodo.org/records/1203819). Its
ten techniques and five test singers are those of the archive's `test_singers_technique.txt`, which
MARBLE 1 follows too. No list tells validation from training, nor splits the singers' own task:
both are dealt here, singers and recordings whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from myna_plugin.probing.tasks.folders import any_case, audio_folders
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.task import UNSPLIT, ClipRule, Item, Task, TaskError

TECHNIQUES = (
    *("belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo"),
    *("vibrato", "vocal_fry"),
)
"""Those that the paper classifies; `fast_forte`, `messa` and others count for singers alone."""

SINGERS = (*(f"female{n}" for n in range(1, 10)), *(f"male{n}" for n in range(1, 12)))

TEST_SINGERS = ("female2", "female8", "male3", "male5", "male10")

FOLDERS = ("FULL", "*/FULL", ".")

COPY = re.compile(r"\(\d+\)$")
"""Ending of a name that a browser gave to a second copy; there is one in the archive."""


def read_techniques(root: Path) -> list[Item]:
    """Recordings `FULL/SINGER/EXERCISE/TECHNIQUE/….wav` of ten techniques; five singers test."""
    return [
        replace(
            item,
            target=technique,
            split="test" if item.artist in TEST_SINGERS else UNSPLIT,
        )
        for item, technique in _find(root)
        if technique in TECHNIQUES
    ]


def read_singers(root: Path) -> list[Item]:
    """All recordings with their singer, every one of whom is in each split."""
    return [replace(item, target=str(item.artist), artist=None) for item, _ in _find(root)]


def _find(root: Path) -> Iterator[tuple[Item, str]]:
    """Every recording, with its technique; names repeat, so that folders are part of a clip's."""
    folder = audio_folders(root, FOLDERS)[0]
    files = [
        path
        for singer in SINGERS
        for path in sorted((folder / singer).glob(f"*/*/*{any_case('.wav')}"))
        if not path.name.startswith("._") and not COPY.search(path.stem)
    ]
    if not files:
        raise TaskError(
            f"{folder}: no recordings like female1/arpeggios/belt/f1_arpeggios_belt_a.wav"
        )
    for path in files:
        singer, exercise, technique = path.relative_to(folder).parts[:3]
        name = f"{singer}.{exercise}.{technique}.{path.stem}"
        yield Item(name, name, path, split=UNSPLIT, artist=singer), technique


TECHNIQUE = Task(
    name="vocalset_technique",
    title="VocalSet techniques",
    source="Wilkins et al. 2018 (CC BY 4.0)",
    labels=TECHNIQUES,
    loss="cross_entropy",
    metrics=("accuracy", "class_mean_accuracy"),
    primary="accuracy",
    reported_as={},
    split_rule="published test singers; of the others a fifth by clips validates, singers whole",
    clip_rule=ClipRule("whole files, mostly 3 to 20 s", duration_s=None),
    public=PublicLayout(FOLDERS, (".wav",), read_techniques),
)

SINGER = replace(
    TECHNIQUE,
    name="vocalset_singer",
    title="VocalSet singers",
    labels=SINGERS,
    split_rule="recordings dealt 8 : 1 : 1",
    public=PublicLayout(FOLDERS, (".wav",), read_singers),
)
