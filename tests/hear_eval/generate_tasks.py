"""Tiny HEAR tasks for tests: tones that a spectrogram tells apart."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

LOW_HZ, HIGH_HZ = 220.0, 1760.0
PITCHES = {"low": LOW_HZ, "high": HIGH_HZ}


def tone(frequency: float, duration_s: float, rate: int, seed: int) -> np.ndarray:
    """A tone under noise, float32."""
    times = np.arange(round(duration_s * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.01, len(times))
    return (0.3 * np.sin(2 * np.pi * frequency * times) + noise).astype(np.float32)


def write_task(
    folder: Path,
    metadata: dict[str, Any],
    splits: dict[str, dict[str, list]],
    sounds: dict[str, np.ndarray],
    rate: int,
    suffix: str = ".wav",
) -> Path:
    """Write a task whose audio lies in `<rate>/SPLIT/` as files of the type `suffix`."""
    folder.mkdir(parents=True)
    complete = {"task_name": folder.name, "splits": list(splits), **metadata}
    (folder / "task_metadata.json").write_text(json.dumps(complete))
    (folder / "labelvocabulary.csv").write_text("idx,label\n0,low\n1,high\n")
    for split, labels in splits.items():
        (folder / f"{split}.json").write_text(json.dumps(labels))
        (folder / str(rate) / split).mkdir(parents=True)
        for name in labels:
            path = folder / str(rate) / split / Path(name).with_suffix(suffix)
            encoded = io.BytesIO()  # soundfile syncs a file of its own to disk: slow
            soundfile.write(encoded, sounds[name], rate, format=suffix[1:])
            path.write_bytes(encoded.getvalue())
    return folder


def scene_task(folder: Path, rate: int = 48_000, suffix: str = ".wav", folds: int = 0) -> Path:
    """Low or high tone; half a second each; trainvaltest, or k-fold with `folds`."""
    names = [f"fold{i:02d}" for i in range(folds)] or ["train", "valid", "test"]
    splits: dict[str, dict[str, list]] = {}
    sounds = {}
    for split in names:
        splits[split] = {}
        for index in range(6):
            name, label = f"{split}{index}.wav", ("low", "high")[index % 2]
            splits[split][name] = [label]
            seed = len(sounds)
            sounds[name] = tone(PITCHES[label] * (1 + 0.02 * index), 0.5, rate, seed)
    metadata = {
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "new_split_kfold" if folds else "trainvaltest",
        "sample_duration": 0.5,
        "evaluation": ["top1_acc", "mAP"],
    }
    return write_task(folder, metadata, splits, sounds, rate, suffix)


def event_task(folder: Path, rate: int = 44_100, suffix: str = ".ogg") -> Path:
    """Two seconds with one tone of a second, low or high, somewhere in them."""
    splits: dict[str, dict[str, list]] = {}
    sounds = {}
    for split in ("train", "valid", "test"):
        splits[split] = {}
        for index in range(4):
            name, label = f"{split}{index}.wav", ("low", "high")[index % 2]
            start = 0.2 * index
            sound = 0.003 * np.random.default_rng(index).normal(0, 1, 2 * rate).astype(np.float32)
            begin = round(start * rate)
            sound[begin : begin + rate] += tone(PITCHES[label], 1.0, rate, index)
            sounds[name] = sound
            splits[split][name] = [
                {"label": label, "start": 1000 * start, "end": 1000 * (start + 1)}
            ]
    metadata = {
        "embedding_type": "event",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "sample_duration": 2.0,
        "evaluation": ["segment_1s_er", "event_onset_200ms_fms"],
    }
    return write_task(folder, metadata, splits, sounds, rate, suffix)
