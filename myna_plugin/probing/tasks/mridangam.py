"""Mridangam strokes: ten kinds of stroke on drums of six tunings, each tuning a session."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from myna_plugin.probing.tasks.folders import any_case
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.splits import FOLD_RULE
from myna_plugin.probing.tasks.task import UNSPLIT, ClipRule, Item, Task, TaskError

STROKES = ("bheem", "cha", "dheem", "dhin", "num", "ta", "tha", "tham", "thi", "thom")

TONICS = ("b", "c", "csh", "d", "dsh", "e")

SUFFIX = ".wav"

NAME = re.compile(r"\d+__akshaylaya__(?P<stroke>[a-z]+)-(?P<tonic>[a-z]+)-\d+")
"""As on Freesound: number, owner, stroke, tonic, which one."""


def read_strokes(root: Path) -> list[Item]:
    """Strokes of files like `224030__akshaylaya__dhin-csh-001.wav` in whichever folders.

    Their sessions, one a tonic, stand as artists, so that none is in two splits.
    """
    return [
        Item(path.stem, path.stem, path, stroke, UNSPLIT, artist=tonic)
        for path, stroke, tonic in _find(root)
    ]


def read_tonics(root: Path) -> list[Item]:
    """The same files with the tonic of the drum."""
    return [Item(path.stem, path.stem, path, tonic, UNSPLIT) for path, _, tonic in _find(root)]


def _find(root: Path) -> list[tuple[Path, str, str]]:
    found: dict[str, tuple[Path, str, str]] = {}
    for path in sorted(root.rglob(f"*{any_case(SUFFIX)}")):
        if named := NAME.fullmatch(path.stem):
            stroke, tonic = named["stroke"], named["tonic"]
            if stroke not in STROKES or tonic not in TONICS:
                raise TaskError(
                    f"{path}: {stroke!r} on {tonic!r} is no stroke and tonic of the set"
                )
            found.setdefault(path.stem, (path, stroke, tonic))
    if not found:
        raise TaskError(f"{root}: no files like 224030__akshaylaya__dhin-csh-001.wav")
    return list(found.values())


STROKE = Task(
    name="mridangam_stroke",
    title="Mridangam strokes",
    source="Anantapadmanabhan, Bellur and Murthy 2013 (CC BY 3.0)",
    labels=STROKES,
    loss="cross_entropy",
    metrics=("accuracy",),
    primary="accuracy",
    reported_as={},
    split_rule=f"no session in two splits; {FOLD_RULE}",
    folds=len(TONICS),
    clip_rule=ClipRule("whole files, mostly under a second", duration_s=None),
    public=PublicLayout((".",), (SUFFIX,), read_strokes),
)

TONIC = replace(
    STROKE,
    name="mridangam_tonic",
    labels=TONICS,
    split_rule=f"stroke by stroke; {FOLD_RULE}",
    folds=5,
    public=PublicLayout((".",), (SUFFIX,), read_tonics),
)
