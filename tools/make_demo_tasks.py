"""Synthesise the demo tasks that the package carries: 24 keys and note onsets, in HEAR's format.

    python -m tools.make_demo_tasks                  # rewrites myna_plugin/hear_eval/demo_tasks
    python -m tools.make_demo_tasks --folder tasks   # writes elsewhere

Everything is generated here from seeds: chord progressions, melodies, drum patterns, timbres and
rooms. No recording or composition of anybody is in it; the result is released as CC0.

Every clip has a seed of its own, made of the task, the split and its number. Key, instruments,
tempo, octave, tuning, room and noise are drawn independently, so none of them tells another.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
from numpy.random import Generator
from tqdm import tqdm

from myna_plugin.common.files import write_json
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.task import SPLITS
from tools.demo_music import Note, draw_voice, drums, produce, render

FOLDER = Path(__file__).parent.parent / "myna_plugin" / "hear_eval" / "demo_tasks"
SEED = 20_261

PITCH_CLASSES = tuple(key.split()[0] for key in KEYS[:12])
MODES = ("major", "minor")

CLIPS_PER_KEY = {"train": 6, "valid": 2, "test": 2}
ONSET_CLIPS = {"train": 30, "valid": 8, "test": 8}
KEY_CLIP_S = 3.0
ONSET_CLIP_S = 5.0

OPUS_COMPRESSION = 0.945
"""libsndfile's scale from 0 (256 kbit/s) to 1 (6 kbit/s); this is about 23 kbit/s."""

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}

CHORDS = {
    "I": (0, 4, 7), "ii": (2, 5, 9), "iii": (4, 7, 11), "IV": (5, 9, 12), "V": (7, 11, 14),
    "V7": (7, 11, 14, 17), "vi": (9, 12, 16), "i": (0, 3, 7), "iio": (2, 5, 8), "III": (3, 7, 10),
    "iv": (5, 8, 12), "VI": (8, 12, 15), "VII": (10, 14, 17),
}  # fmt: skip
"""Semitones above the tonic."""

PROGRESSIONS = {
    "major": (
        "I IV V I", "I vi IV V", "ii V7 I", "I V vi IV", "IV V7 I", "I ii V7 I", "I iii IV V",
        "V7 I IV I",
    ),
    "minor": (
        "i iv V i", "i VI V7 i", "iio V7 i", "i VII VI V", "iv V7 i", "i iio V7 i", "i III iv V",
        "V7 i iv i",
    ),
}  # fmt: skip
"""Each settles its key: none is also the progression of a relative key."""


def voicing(chord: tuple[int, ...], tonic: int, rng: Generator) -> list[int]:
    """A chord's MIDI pitches, each pitch class put somewhere near the middle of the keyboard."""
    floor = int(rng.integers(50, 62))
    return sorted(floor + (tonic + semitone - floor) % 12 for semitone in chord)


def accompany(pitches: list[int], start: float, seconds: float, rng: Generator) -> list[Note]:
    """Play a chord as a block, repeated, or broken."""
    style = str(rng.choice(["block", "repeated", "broken"]))
    if style == "block":
        return [Note(start, 0.95 * seconds, pitch) for pitch in pitches]
    steps = int(rng.choice([2, 4]))
    step_s = seconds / steps
    if style == "repeated":
        return [Note(start + i * step_s, 0.8 * step_s, p) for i in range(steps) for p in pitches]
    order = rng.permutation(pitches)
    return [
        Note(start + i * step_s, 1.5 * step_s, int(order[i % len(order)])) for i in range(steps)
    ]


def melody(
    chord: tuple[int, ...], key: tuple[int, str], start: float, seconds: float, rng: Generator
) -> list[Note]:
    """Chord tones on the beat, scale tones between them, with rests."""
    tonic, mode = key
    steps = int(rng.choice([1, 2, 3, 4]))
    floor = int(rng.integers(64, 76))
    notes = []
    for i in range(steps):
        semitone = int(rng.choice(chord if i % 2 == 0 else SCALES[mode]))
        pitch = floor + (tonic + semitone - floor) % 12
        if rng.random() < 0.85:
            notes.append(Note(start + i * seconds / steps, 0.9 * seconds / steps, pitch))
    return notes


def make_key_clip(key: str, seed: Iterable[int]) -> np.ndarray:
    """A progression in a key.

    Args:
        key: one of `KEYS`.
        seed: the clip's own numbers.

    Returns:
        3 s of mono audio in [-1, 1], float32, shape (48000,).
    """
    rng = np.random.default_rng(list(seed))
    tonic_name, mode = key.split()
    tonic = PITCH_CLASSES.index(tonic_name)
    chords = [CHORDS[name] for name in str(rng.choice(PROGRESSIONS[mode])).split()]
    chord_s = KEY_CLIP_S / len(chords)
    parts: dict[str, list[Note]] = {"chords": [], "bass": [], "melody": []}
    for i, chord in enumerate(chords):
        start = i * chord_s
        parts["chords"] += accompany(voicing(chord, tonic, rng), start, chord_s, rng)
        bass = 36 + (tonic + chord[0]) % 12
        parts["bass"] += [Note(start, 0.9 * chord_s, bass)]
        parts["melody"] += melody(chord, (tonic, mode), start, chord_s, rng)

    cents = rng.uniform(-15, 15)
    mix = render(parts["chords"], draw_voice(rng), KEY_CLIP_S, cents)
    for part, chance in (("bass", 0.8), ("melody", 0.8)):
        if rng.random() < chance:
            level = rng.uniform(0.5, 1.2)
            mix += level * render(parts[part], draw_voice(rng), KEY_CLIP_S, cents)
    if rng.random() < 0.6:
        mix += rng.uniform(0.2, 0.8) * drums(rng, chord_s / 2, KEY_CLIP_S)
    return produce(mix, rng)


MIN_GAP_S = 0.1
"""Silence kept between two notes of one pitch class, so that each has an onset of its own."""


def draw_notes(rng: Generator, beat_s: float) -> list[Note]:
    """Notes of a five-second clip, no two of one pitch class closer than 100 ms."""
    notes: list[Note] = []
    scale = SCALES[str(rng.choice(MODES))]
    tonic = int(rng.integers(12))
    start = float(rng.uniform(0.05, 0.4))
    while start < ONSET_CLIP_S - 0.35:
        step_s = beat_s * float(rng.choice([0.5, 1.0, 1.5], p=[0.6, 0.3, 0.1]))
        for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
            pitch_class = (tonic + int(rng.choice(scale))) % 12
            # Two octaves from C4: within them the mel bands still tell semitones apart.
            pitch = 60 + pitch_class + 12 * int(rng.integers(2))
            held_s = min(max(0.15, step_s * rng.uniform(0.5, 1.4)), ONSET_CLIP_S - start - 0.1)
            earlier = [n for n in notes if n.pitch % 12 == pitch_class]
            if all(n.end + MIN_GAP_S <= start for n in earlier):
                notes.append(Note(start, held_s, pitch, rng.uniform(0.6, 1.0)))
        start += step_s * rng.uniform(0.95, 1.05)
    return notes


def make_onset_clip(seed: Iterable[int]) -> tuple[np.ndarray, list[Note]]:
    """One instrument playing single notes and small chords, with or without drums.

    Args:
        seed: the clip's own numbers.

    Returns:
        5 s of mono audio in [-1, 1], float32, shape (80000,), and its notes by onset.
    """
    rng = np.random.default_rng(list(seed))
    beat_s = 60 / rng.uniform(80, 140)
    notes = draw_notes(rng, beat_s)
    mix = render(notes, draw_voice(rng), ONSET_CLIP_S, rng.uniform(-15, 15))
    if rng.random() < 0.5:
        mix += rng.uniform(0.1, 0.5) * drums(rng, beat_s, ONSET_CLIP_S)
    return produce(mix, rng), sorted(notes, key=lambda note: note.start)


def event(note: Note) -> dict[str, str | float]:
    """A note as HEAR writes an event, times in ms."""
    return {
        "label": PITCH_CLASSES[note.pitch % 12],
        "start": round(1000 * note.start, 1),
        "end": round(1000 * note.end, 1),
    }


def key_clips(split: str) -> Iterable[tuple[np.ndarray, list[str]]]:
    """Audio and labels of the key task's split, the keys in turn."""
    for i in range(CLIPS_PER_KEY[split] * len(KEYS)):
        key = KEYS[i % len(KEYS)]
        yield make_key_clip(key, (SEED, 0, SPLITS.index(split), i)), [key]


def onset_clips(split: str) -> Iterable[tuple[np.ndarray, list[dict[str, str | float]]]]:
    """Audio and events of the onset task's split."""
    for i in range(ONSET_CLIPS[split]):
        audio, notes = make_onset_clip((SEED, 1, SPLITS.index(split), i))
        yield audio, [event(note) for note in notes]


def describe(
    name: str, seconds: float, kinds: tuple[str, str], evaluation: list[str], **parameters: Any
) -> dict[str, Any]:
    """Metadata of a task; `kinds` are of its embedding and of its prediction."""
    return {
        "task_name": name,
        "version": "v1",
        "embedding_type": kinds[0],
        "prediction_type": kinds[1],
        "sample_duration": seconds,
        "evaluation": evaluation,
        "evaluation_params": parameters,
        "mode": "full",
        "split_mode": "trainvaltest",
        "splits": list(SPLITS),
        "license": "CC0-1.0",
    }


def grid(batch_size: int, max_epochs: int, patience: int) -> dict[str, list[int]]:
    """What heareval trains its heads with."""
    return {
        "batch_size": [batch_size],
        "max_epochs": [max_epochs],
        "check_val_every_n_epoch": [4],
        "patience": [patience],
    }


KEY_METADATA = describe(
    "myna_demo_key",
    KEY_CLIP_S,
    ("scene", "multiclass"),
    ["top1_acc", "chroma_acc", "mAP"],
    task_specific_param_grid=grid(16, 60, 5),
)
ONSET_METADATA = describe(
    "myna_demo_onset",
    ONSET_CLIP_S,
    ("event", "multilabel"),
    ["event_onset_50ms_fms", "segment_1s_er"],
    event_postprocessing_grid={"median_filter_ms": [0, 150], "min_duration": [50, 100]},
    task_specific_param_grid=grid(128, 40, 3),
)

TASKS = ((KEY_METADATA, KEYS, key_clips), (ONSET_METADATA, PITCH_CLASSES, onset_clips))


def write_audio(path: Path, audio: np.ndarray) -> None:
    """Write Ogg Opus at about 23 kbit/s."""
    with soundfile.SoundFile(
        path, "w", SAMPLE_RATE, 1, "OPUS", format="OGG", compression_level=OPUS_COMPRESSION
    ) as file:
        file.write(audio)


def write_task(
    folder: Path, metadata: dict[str, Any], labels: tuple[str, ...], clips: Callable
) -> None:
    """Write one task folder; audio is named .wav in SPLIT.json, as it will be when unpacked."""
    task = folder / f"{metadata['task_name']}-{metadata['version']}-full"
    task.mkdir(parents=True, exist_ok=True)
    write_json(task / "task_metadata.json", metadata)
    with (task / "labelvocabulary.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("idx", "label"), *enumerate(labels)])
    for split in SPLITS:
        audio_folder = task / str(SAMPLE_RATE) / split
        audio_folder.mkdir(parents=True, exist_ok=True)
        truth = {}
        for i, (audio, answer) in enumerate(tqdm(clips(split), f"{task.name} {split}")):
            write_audio(audio_folder / f"{split}-{i:03d}.ogg", audio)
            truth[f"{split}-{i:03d}.wav"] = answer
        write_json(task / f"{split}.json", truth, indent=None)


@click.command()
@click.option(
    "--folder", type=click.Path(path_type=Path), default=FOLDER, help="Where to write the tasks."
)
def main(folder: Path) -> None:
    """Synthesise both demo tasks."""
    for metadata, labels, clips in TASKS:
        write_task(folder, metadata, labels, clips)


if __name__ == "__main__":
    main()
