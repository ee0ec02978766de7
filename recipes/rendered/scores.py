"""Scores: works of notated music as plain notes in seconds, read from files or composed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import parse_json

MAJOR, MINOR = 0, 1
"""Modes of a key."""

DRUMS = "drums"
"""Name of a part whose pitches name drums, not notes."""

DEFAULT_TEMPO = 100.0
STYLE_TEMPO = {
    "lied": 84.0,
    "chorale": 80.0,
    "quartet": 108.0,
    "classical_piano": 112.0,
    "romantic_piano": 108.0,
    "baroque_keyboard": 92.0,
    "baroque_trio": 88.0,
    "ragtime": 92.0,
    "folk_dance": 120.0,
}
"""Quarter notes a minute where a work tells none; a performance varies them."""

TEMPO_RANGE = (40.0, 208.0)
"""What a metronome shows; marks outside it are read as the nearest of these."""

NOTATED_KEYS = ("bach-370-chorales",)
"""Corpora with one notated key a work, although the works modulate: it holds where they end."""

UNKEPT_KEYS = ("joplin",)
"""Corpora whose notated keys are not taken: most rags end a fourth above the key they begin in."""

NOTATED_KEY_S = 15.0
"""Seconds before a work's end for which its notated key is taken."""

SPLITS = (("train", 0.7), ("valid", 0.1), ("test", 0.2))


class ScoreError(InputError):
    """Scores that cannot be read; the message names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class Score:
    """One work.

    Attributes:
        notes: float32 (n, 5), sorted by onset: onset in seconds, duration in seconds, MIDI pitch,
            velocity 1 to 127 (0 where the source gives none), part.
        work: name, unique within its corpus.
        corpus: collection that it is from.
        group: name shared by all copies and movements of one work; splits never divide it.
        split: train, valid or test.
        style: genre, empty where unknown.
        licence: of the source.
        keys: (onset in seconds, tonic pitch class, mode) of each local key; empty where unknown.
        parts: name of each part, empty where unknown; `DRUMS` marks percussion.
        beat_s: seconds of a quarter note.
        beats_per_bar: quarter notes in a bar, 0 where unknown.
    """

    notes: np.ndarray
    work: str
    corpus: str = ""
    group: str = ""
    split: str = "train"
    style: str = ""
    licence: str = ""
    keys: tuple[tuple[float, int, int], ...] = ()
    parts: tuple[str, ...] = field(default=())
    beat_s: float = 60.0 / DEFAULT_TEMPO
    beats_per_bar: int = 0

    @property
    def duration_s(self) -> float:
        """End of the last note, seconds."""
        return float((self.notes[:, 0] + self.notes[:, 1]).max(initial=0.0))

    @property
    def n_parts(self) -> int:
        """Number of part slots in use: one more than the highest."""
        return int(self.notes[:, 4].max(initial=-1)) + 1

    def key_during(self, start_s: float, stop_s: float) -> tuple[int, int] | None:
        """(tonic, mode) that holds throughout a span; None if it changes or is unknown.

        >>> score = Score(np.zeros((0, 5), np.float32), "x", keys=((0.0, 7, 0), (9.0, 2, 1)))
        >>> score.key_during(1.0, 9.0), score.key_during(8.0, 9.5), score.key_during(9.0, 99.0)
        ((7, 0), None, (2, 1))
        """
        held = [
            (tonic, mode)
            for i, (onset, tonic, mode) in enumerate(self.keys)
            if onset < stop_s and (i + 1 == len(self.keys) or self.keys[i + 1][0] > start_s)
        ]
        known_from_start = bool(self.keys) and self.keys[0][0] <= start_s + 1e-6
        return held[0] if known_from_start and len(set(held)) == 1 else None


def read_scores(folder: str | Path) -> list[Score]:
    """Scores of a folder with `works.jsonl` and `notes.npz`.

    A line of `works.jsonl` tells about one work; `notes.npz` has `notes` (n, 5) = onset, duration,
    MIDI pitch, velocity, part, all works end to end, and `lens`, notes per work. Times are seconds
    (`"unit": "sec"`) or quarter notes (`"qb"`), which `mm`, or the style's usual tempo, makes
    seconds.

    Raises:
        ScoreError: a file is missing or damaged, or the two do not fit each other.
    """
    folder = Path(folder)
    works_path, notes_path = folder / "works.jsonl", folder / "notes.npz"
    try:
        lines = works_path.read_text(encoding="utf-8").splitlines()
        works = [parse_json(line, f"line {number}") for number, line in enumerate(lines, start=1)]
        with np.load(notes_path, allow_pickle=False) as archive:
            notes, lengths = archive["notes"], archive["lens"]
    except FileNotFoundError as error:
        raise ScoreError(
            f"{error.filename}: no such file; a folder of scores holds works.jsonl and notes.npz"
        ) from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ScoreError(f"{folder}: cannot be read ({error}); restore it from a copy") from error
    if len(works) != len(lengths) or int(lengths.sum()) != len(notes):
        raise ScoreError(
            f"{folder}: works.jsonl has {len(works)} works and notes.npz {len(lengths)} with "
            f"{len(notes)} notes for {int(lengths.sum())}; restore both from one copy"
        )
    ends = np.cumsum(lengths)
    try:
        return [
            _score_of(work, notes[end - length : end])
            for work, length, end in zip(works, lengths, ends, strict=True)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ScoreError(f"{works_path}: a line lacks or garbles {error}") from error


def _score_of(work: dict[str, Any], notes: np.ndarray) -> Score:
    style = str(work.get("style", ""))
    mark = work.get("mm") or STYLE_TEMPO.get(style, DEFAULT_TEMPO)
    beat_s = 60.0 / float(np.clip(mark, *TEMPO_RANGE))
    scale = beat_s if work["unit"] == "qb" else 1.0
    notes = notes.astype(np.float32)
    notes[:, :2] *= scale
    keys = [(onset * scale, int(tonic), int(mode)) for onset, tonic, mode in work["keys"]]
    if work["corpus"] in UNKEPT_KEYS:
        keys = []
    elif work["corpus"] in NOTATED_KEYS and keys:
        end = float((notes[:, 0] + notes[:, 1]).max(initial=0.0))
        keys = [(max(end - NOTATED_KEY_S, 0.0), *keys[-1][1:])]
    return Score(
        notes=notes[np.argsort(notes[:, 0], kind="stable")],
        work=work["work"],
        corpus=work["corpus"],
        group=work["group"],
        split=work["split"],
        style=style,
        licence=work["licence"],
        keys=tuple(keys),
        parts=tuple(work.get("names") or ()),
        beat_s=beat_s,
    )


def split_of(group: str) -> str:
    """train (70 %), valid (10 %) or test (20 %), decided by the name of a group alone."""
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    for split, share in SPLITS:
        if place < share:
            return split
        place -= share
    return SPLITS[-1][0]


def read_midi_folder(folder: str | Path) -> list[Score]:
    """Scores of all MIDI files under a folder, in the order of their paths.

    Every instrument is a part. A file's group is the folder that it lies in, so put copies and
    movements of one work together; its split follows from the group. Keys are those of the key
    signature events, empty if there are none. A file that cannot be read ends the reading: none
    is left out in silence.

    Raises:
        ScoreError: no MIDI file is found, one is damaged, or pretty_midi is not installed.
    """
    folder = Path(folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".mid", ".midi"})
    if not paths:
        raise ScoreError(f"{folder}: no MIDI files (.mid, .midi) found")
    return [_read_midi(path, folder) for path in paths]


def _read_midi(path: Path, folder: Path) -> Score:
    try:
        import pretty_midi
    except ModuleNotFoundError as error:
        raise ScoreError(
            "to read MIDI files, pretty_midi is needed: pip install 'myna-plugin[rendered]'"
        ) from error

    try:
        midi = pretty_midi.PrettyMIDI(str(path))
    # The reader raises whatever its parser meets: OSError, ValueError, EOFError, KeyError, ...
    except Exception as error:
        raise ScoreError(
            f"{path}: cannot be read as MIDI ({error}); repair or remove it"
        ) from error
    rows = [
        (note.start, note.end - note.start, note.pitch, note.velocity, part)
        for part, instrument in enumerate(midi.instruments)
        for note in instrument.notes
    ]
    notes = np.array(sorted(rows), np.float32).reshape(-1, 5)
    keys = tuple(
        (float(change.time), change.key_number % 12, change.key_number // 12)
        for change in midi.key_signature_changes
    )
    _, tempi = midi.get_tempo_changes()
    group = path.parent.relative_to(folder).as_posix()
    group = path.stem if group == "." else group
    meters = midi.time_signature_changes
    return Score(
        notes=notes,
        work=path.relative_to(folder).as_posix(),
        corpus=folder.name,
        group=group,
        split=split_of(group),
        keys=keys,
        parts=tuple(DRUMS if i.is_drum else i.name.strip() for i in midi.instruments),
        beat_s=60.0 / float(np.clip(tempi[0] if len(tempi) else DEFAULT_TEMPO, *TEMPO_RANGE)),
        beats_per_bar=round(4 * meters[0].numerator / meters[0].denominator) if meters else 0,
    )


def select_scores(
    scores: Sequence[Score], *, split: str | None = None, licence: str | None = None
) -> list[Score]:
    """Those of a split and of a licence (None: all), in order."""
    return [
        score
        for score in scores
        if split in (None, score.split) and licence in (None, score.licence)
    ]
