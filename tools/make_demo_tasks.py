"""Synthesise the demo tasks that the package carries: 24 keys and note onsets, in HEAR's format.

    python tools/make_demo_tasks.py                   # rewrites myna_plugin/hear_eval/demo_tasks
    python tools/make_demo_tasks.py --folder /tmp/t   # writes elsewhere

Everything is generated here from seeds: chord progressions, melodies, drum patterns, timbres and
rooms. No recording or composition of anybody is in it; the result is released as CC0.

Every clip has a seed of its own, made of the task, the split and its number. Key, instruments,
tempo, octave, tuning, room and noise are drawn independently, so none of them tells another.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import soundfile
from numpy.random import Generator
from scipy.signal import butter, fftconvolve, sosfilt
from tqdm import tqdm

SAMPLE_RATE = 16_000
FOLDER = Path(__file__).parent.parent / "myna_plugin" / "hear_eval" / "demo_tasks"
SEED = 20_261

PITCH_CLASSES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
MODES = ("major", "minor")
KEYS = tuple(f"{tonic} {mode}" for mode in MODES for tonic in PITCH_CLASSES)

SPLITS = ("train", "valid", "test")
CLIPS_PER_KEY = {"train": 6, "valid": 2, "test": 2}
ONSET_CLIPS = {"train": 30, "valid": 8, "test": 8}
KEY_CLIP_S = 3.0
ONSET_CLIP_S = 5.0

OPUS_COMPRESSION = 0.945
"""libsndfile's scale from 0 (256 kbit/s) to 1 (6 kbit/s); this is about 23 kbit/s."""

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}

CHORDS = {
    "I": (0, 4, 7),
    "ii": (2, 5, 9),
    "iii": (4, 7, 11),
    "IV": (5, 9, 12),
    "V": (7, 11, 14),
    "V7": (7, 11, 14, 17),
    "vi": (9, 12, 16),
    "i": (0, 3, 7),
    "iio": (2, 5, 8),
    "III": (3, 7, 10),
    "iv": (5, 8, 12),
    "VI": (8, 12, 15),
    "VII": (10, 14, 17),
}
"""Semitones above the tonic."""

PROGRESSIONS = {
    "major": (
        "I IV V I",
        "I vi IV V",
        "ii V7 I",
        "I V vi IV",
        "IV V7 I",
        "I ii V7 I",
        "I iii IV V",
        "V7 I IV I",
    ),
    "minor": (
        "i iv V i",
        "i VI V7 i",
        "iio V7 i",
        "i VII VI V",
        "iv V7 i",
        "i iio V7 i",
        "i III iv V",
        "V7 i iv i",
    ),
}
"""Each settles its key: none is also the progression of a relative key."""


@dataclass(frozen=True)
class Note:
    """A note: start and length in seconds, MIDI pitch, loudness in (0, 1]."""

    start: float
    seconds: float
    pitch: int
    velocity: float = 1.0

    @property
    def end(self) -> float:
        """Where it is released, seconds."""
        return self.start + self.seconds


Voice = Callable[[float, float], np.ndarray]
"""(frequency in Hz, held seconds) -> samples, release included."""

RELEASE_S = 0.06


def envelope(n_samples: int, attack_s: float) -> np.ndarray:
    """Linear attack, level one, raised-cosine release over the last 60 ms."""
    shape = np.minimum(1.0, np.arange(n_samples) / (attack_s * SAMPLE_RATE))
    release = int(RELEASE_S * SAMPLE_RATE)
    shape[-release:] *= 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, release))
    return shape


def note_times(held_s: float) -> np.ndarray:
    """Sample times of a note held for `held_s`, release included, seconds."""
    return np.arange(int((held_s + RELEASE_S) * SAMPLE_RATE)) / SAMPLE_RATE


def partials(
    frequency: float,
    held_s: float,
    *,
    level: Callable[[np.ndarray], np.ndarray],
    attack_s: float,
    decay: tuple[float, float] = (0.0, 0.0),
    inharmonicity: float = 0.0,
    vibrato: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Sum of sinusoidal partials below 7.5 kHz.

    Args:
        frequency: fundamental, Hz.
        held_s: seconds until the release.
        level: partial numbers (from 1) -> amplitudes.
        attack_s: seconds until full level.
        decay: (a, b): partial k falls as exp(-(a + b k) t).
        inharmonicity: B of a stiff string: partial k sounds at k f sqrt(1 + B k²).
        vibrato: (rate in Hz, depth as a share of the frequency).
    """
    t = note_times(held_s)
    k = np.arange(1, max(2, int(7_500 / frequency) + 1))
    ratios = k * np.sqrt(1 + inharmonicity * k**2)
    rate, depth = vibrato
    wobble = depth * np.sin(2 * np.pi * rate * t) / (2 * np.pi * rate) if rate else 0.0
    phase = 2 * np.pi * frequency * (t + wobble)
    amplitudes = np.where(frequency * ratios < 7_500, level(k), 0.0)
    fall = np.exp(-(decay[0] + decay[1] * k)[:, None] * t)
    samples = (amplitudes[:, None] * fall * np.sin(ratios[:, None] * phase)).sum(0)
    return samples * envelope(len(t), attack_s)


def organ(rng: Generator) -> Voice:
    """Drawbars: a few harmonics of random strength, sustained."""
    drawbars = dict(zip((1, 2, 3, 4, 6, 8), rng.uniform(0.1, 1.0, 6), strict=True))
    level = np.vectorize(lambda k: drawbars.get(int(k), 0.0))
    return partial(partials, level=level, attack_s=0.012)


def plucked(rng: Generator) -> Voice:
    """A string plucked at a random place; high partials die first."""
    place, tilt = rng.uniform(0.08, 0.4), rng.uniform(0.8, 1.4)
    return partial(
        partials,
        level=lambda k: np.sin(np.pi * k * place) / k**tilt,
        attack_s=0.003,
        decay=(rng.uniform(1.0, 3.0), rng.uniform(0.2, 0.6)),
    )


def struck(rng: Generator) -> Voice:
    """A stiff string struck by a hammer: stretched partials."""
    tilt = rng.uniform(1.0, 1.7)
    return partial(
        partials,
        level=lambda k: k**-tilt,
        attack_s=0.006,
        decay=(rng.uniform(0.5, 1.5), rng.uniform(0.1, 0.3)),
        inharmonicity=rng.uniform(1e-4, 6e-4),
    )


def bowed(rng: Generator) -> Voice:
    """Two detuned sawtooths with vibrato and a slow attack."""
    cents, attack = rng.uniform(2, 8), rng.uniform(0.03, 0.07)
    vibrato = (rng.uniform(4.5, 6.5), rng.uniform(0.001, 0.006))
    one = partial(partials, level=lambda k: 1 / k, attack_s=attack, vibrato=vibrato)

    def pair(frequency: float, held_s: float) -> np.ndarray:
        return one(frequency * 2 ** (cents / 1200), held_s) + one(
            frequency * 2 ** (-cents / 1200), held_s
        )

    return pair


def reed(rng: Generator) -> Voice:
    """Mostly odd harmonics, sustained."""
    tilt, even = rng.uniform(0.8, 1.5), rng.uniform(0.0, 0.3)
    return partial(
        partials,
        level=lambda k: np.where(k % 2 == 1, 1.0, even) / k**tilt,
        attack_s=rng.uniform(0.01, 0.03),
        vibrato=(rng.uniform(4, 6), rng.uniform(0, 0.003)),
    )


def electric_piano(rng: Generator) -> Voice:
    """Two-operator frequency modulation with a whole ratio and a falling index."""
    ratio, index = int(rng.integers(1, 5)), rng.uniform(0.8, 3.0)
    index_fall, fall = rng.uniform(2, 8), rng.uniform(0.5, 2)

    def voice(frequency: float, held_s: float) -> np.ndarray:
        t = note_times(held_s)
        # Carson's rule keeps the sidebands below the Nyquist frequency.
        depth = min(index, max(0.0, 7_500 / (ratio * frequency) - 1 - 1 / ratio))
        modulator = depth * np.exp(-index_fall * t) * np.sin(2 * np.pi * ratio * frequency * t)
        carrier = np.sin(2 * np.pi * frequency * t + modulator)
        return carrier * np.exp(-fall * t) * envelope(len(t), 0.004)

    return voice


INSTRUMENTS: dict[str, Callable[[Generator], Voice]] = {
    "organ": organ,
    "plucked": plucked,
    "struck": struck,
    "bowed": bowed,
    "reed": reed,
    "electric_piano": electric_piano,
}


def draw_voice(rng: Generator) -> Voice:
    """A random instrument with random settings."""
    return INSTRUMENTS[str(rng.choice(list(INSTRUMENTS)))](rng)


def add(mix: np.ndarray, samples: np.ndarray, start_s: float) -> None:
    """Add `samples` into `mix` from `start_s` on, cut at the end of the mix."""
    first = int(start_s * SAMPLE_RATE)
    length = min(len(samples), len(mix) - first)
    mix[first : first + length] += samples[:length]


def render(notes: Iterable[Note], voice: Voice, seconds: float, cents: float) -> np.ndarray:
    """Play notes on one instrument, tuned `cents` from A = 440 Hz; RMS 1 unless there are none."""
    mix = np.zeros(round(seconds * SAMPLE_RATE))
    for note in notes:
        frequency = 440 * 2 ** ((note.pitch - 69) / 12 + cents / 1200)
        samples = voice(frequency, note.seconds)
        add(mix, note.velocity * samples / np.sqrt(np.mean(samples**2)), note.start)
    return mix / max(np.sqrt(np.mean(mix**2)), 1e-9)


def kick(rng: Generator) -> np.ndarray:
    """A falling sine of 0.2 s."""
    t = np.arange(int(0.2 * SAMPLE_RATE)) / SAMPLE_RATE
    sweep = rng.uniform(40, 60) * t - rng.uniform(3, 6) * np.exp(-30 * t)
    return np.sin(2 * np.pi * sweep) * np.exp(-18 * t)


def noise_hit(rng: Generator, low_hz: float, seconds: float) -> np.ndarray:
    """High-passed noise that dies away: a snare or a hi-hat."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = rng.standard_normal(len(t)) * np.exp(-5 * t / seconds)
    return 0.5 * sosfilt(butter(2, low_hz, "highpass", fs=SAMPLE_RATE, output="sos"), noise)


def drums(rng: Generator, beat_s: float, seconds: float) -> np.ndarray:
    """A pattern of kick, snare and hi-hat in eighths; RMS 1."""
    mix = np.zeros(round(seconds * SAMPLE_RATE))
    pattern = {
        "kick": rng.random(8) < (0.9, 0.1, 0.3, 0.2, 0.7, 0.1, 0.3, 0.2),
        "snare": rng.random(8) < (0.0, 0.05, 0.8, 0.1, 0.0, 0.1, 0.8, 0.2),
        "hat": rng.random(8) < rng.uniform(0.3, 0.95),
    }
    for eighth in range(int(2 * seconds / beat_s)):
        start = eighth * beat_s / 2
        if pattern["kick"][eighth % 8]:
            add(mix, kick(rng), start)
        if pattern["snare"][eighth % 8]:
            add(mix, noise_hit(rng, 1_200, 0.15), start)
        if pattern["hat"][eighth % 8]:
            add(mix, 0.5 * noise_hit(rng, 5_000, 0.06), start)
    return mix / max(np.sqrt(np.mean(mix**2)), 1e-9)


def produce(mix: np.ndarray, rng: Generator) -> np.ndarray:
    """Room, tone control, background noise and level: the dry mix as a recording, float32."""
    decay_s = rng.uniform(0.05, 0.25)
    t = np.arange(int(4 * decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    room = rng.standard_normal(len(t)) * np.exp(-t / decay_s)
    wet = fftconvolve(mix, room / np.sqrt(np.sum(room**2)))[: len(mix)]
    mix = mix + rng.uniform(0.0, 0.35) * wet
    cutoff = rng.uniform(2_500, 7_500)
    mix = sosfilt(butter(1, cutoff, fs=SAMPLE_RATE, output="sos"), mix)
    hiss = np.cumsum(rng.standard_normal(len(mix)))
    hiss = sosfilt(butter(1, 200, "highpass", fs=SAMPLE_RATE, output="sos"), hiss)
    snr_db = rng.uniform(25, 50)
    mix += hiss * np.sqrt(np.mean(mix**2) / np.mean(hiss**2)) * 10 ** (-snr_db / 20)
    peak = 10 ** (rng.uniform(-9, -1) / 20)
    return (mix * peak / np.abs(mix).max()).astype(np.float32)


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


KEY_METADATA = {
    "task_name": "myna_demo_key",
    "version": "v1",
    "embedding_type": "scene",
    "prediction_type": "multiclass",
    "sample_duration": KEY_CLIP_S,
    "evaluation": ["top1_acc", "chroma_acc", "mAP"],
    "evaluation_params": {
        "task_specific_param_grid": {
            "batch_size": [16],
            "max_epochs": [60],
            "check_val_every_n_epoch": [4],
            "patience": [5],
        }
    },
}

ONSET_METADATA = {
    "task_name": "myna_demo_onset",
    "version": "v1",
    "embedding_type": "event",
    "prediction_type": "multilabel",
    "sample_duration": ONSET_CLIP_S,
    "evaluation": ["event_onset_50ms_fms", "segment_1s_er"],
    "evaluation_params": {
        "event_postprocessing_grid": {"median_filter_ms": [0, 150], "min_duration": [50, 100]},
        "task_specific_param_grid": {
            "batch_size": [128],
            "max_epochs": [40],
            "check_val_every_n_epoch": [4],
            "patience": [3],
        },
    },
}

TASKS = ((KEY_METADATA, KEYS, key_clips), (ONSET_METADATA, PITCH_CLASSES, onset_clips))


def write_audio(path: Path, audio: np.ndarray) -> None:
    """Write Ogg Opus at about 23 kbit/s."""
    with soundfile.SoundFile(
        path, "w", SAMPLE_RATE, 1, "OPUS", format="OGG", compression_level=OPUS_COMPRESSION
    ) as file:
        file.write(audio)


def write_json(path: Path, content: object, indent: int | None = None) -> None:
    """Write JSON that ends in a newline."""
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def write_task(folder: Path, metadata: dict, labels: tuple[str, ...], clips: Callable) -> None:
    """Write one task folder; audio is named .wav in SPLIT.json, as it will be when unpacked."""
    task = folder / f"{metadata['task_name']}-{metadata['version']}-full"
    task.mkdir(parents=True, exist_ok=True)
    shared = {
        "mode": "full",
        "split_mode": "trainvaltest",
        "splits": list(SPLITS),
        "license": "CC0-1.0",
    }
    write_json(task / "task_metadata.json", metadata | shared, indent=2)
    with (task / "labelvocabulary.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("idx", "label"), *enumerate(labels)])
    for split in SPLITS:
        audio_folder = task / str(SAMPLE_RATE) / split
        audio_folder.mkdir(parents=True, exist_ok=True)
        truth = {}
        for i, (audio, answer) in enumerate(tqdm(clips(split), f"{task.name} {split}")):
            write_audio(audio_folder / f"{split}-{i:03d}.ogg", audio)
            truth[f"{split}-{i:03d}.wav"] = answer
        write_json(task / f"{split}.json", truth)


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
