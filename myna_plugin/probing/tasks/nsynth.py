"""NSynth: pitch and instrument family of 305,979 notes of four seconds.

Source: Engel et al., "Neural audio synthesis of musical notes with WaveNet autoencoders", 2017
(magenta.tensorflow.org/datasets/nsynth, "json/wav"), with their split: no instrument of the
training set is in another. Accuracy is what X-ARES and MARBLE 1 report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from myna_plugin.common.files import read_json_object
from myna_plugin.probing.tasks.folders import find_audio, one_of
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.task import MIDI_NOTES, SPLITS, ClipRule, Item, Task, TaskError

FAMILIES = (
    *("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string"),
    *("synth_lead", "vocal"),
)
"""In the data set's own order; synth_lead is in the training set alone."""

FOLDERS = tuple(f"nsynth-{split}/audio" for split in SPLITS)


def read_instruments(root: Path) -> list[Item]:
    """Notes of `nsynth-{train,valid,test}/{examples.json,audio/}` with their instrument family."""
    return _read(root, "instrument_family_str", lambda place, name: one_of(*place, name, FAMILIES))


def read_pitches(root: Path) -> list[Item]:
    """The same notes with their pitch, a MIDI number."""
    return _read(root, "pitch", lambda place, note: one_of(*place, str(note), MIDI_NOTES))


def _read(root: Path, field: str, parse: Callable[[tuple[str, str], Any], str]) -> list[Item]:
    items = []
    for split in SPLITS:
        path = root / f"nsynth-{split}" / "examples.json"
        audio = [path.parent / "audio"]
        for name, note in read_json_object(path).items():
            place = f"{path}: {name}"
            items.append(
                Item(
                    clip_id=name,
                    track_id=name,
                    path=find_audio(audio, name, (".wav",)),
                    target=parse((place, field), _field(place, note, field)),
                    split=split,
                    artist=str(_field(place, note, "instrument_str")),
                )
            )
    return items


def _field(place: str, note: Any, name: str) -> Any:
    if not isinstance(note, Mapping) or name not in note:
        raise TaskError(f"{place}: no field {name!r}")
    return note[name]


INSTRUMENT = Task(
    name="nsynth_instrument",
    title="NSynth instruments",
    source="Engel et al. 2017 (CC BY 4.0)",
    labels=FAMILIES,
    loss="cross_entropy",
    metrics=("accuracy",),
    primary="accuracy",
    reported_as={},
    split_rule="published: no instrument of the training set is in another",
    split_sizes={"train": 289_205, "valid": 12_678, "test": 4_096},
    clip_rule=ClipRule("whole files, 4 s", duration_s=4.0),
    public=PublicLayout(FOLDERS, (".wav",), read_instruments),
)

PITCH = replace(
    INSTRUMENT,
    name="nsynth_pitch",
    title="NSynth pitch",
    labels=MIDI_NOTES,
    metrics=("accuracy", "chroma_accuracy"),
    public=PublicLayout(FOLDERS, (".wav",), read_pitches),
)
