"""A task in HEAR's format, small enough to probe in a test."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 8_000
"""Hz."""

PITCHES = {"low": 0, "high": 19}
"""Semitones above 220 Hz."""


def write_task(folder: Path, name: str = "pitches", files: int = 6) -> Path:
    """Low tones and high ones, half a second each; `files` of both in every split."""
    folder.mkdir()
    metadata = {
        "task_name": name,
        "version": "1.0",
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "trainvaltest",
        "sample_duration": 0.5,
        "evaluation": ["top1_acc"],
        "splits": ["train", "valid", "test"],
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    (folder / "labelvocabulary.csv").write_text("idx,label\n0,low\n1,high\n")
    time = np.arange(RATE // 2) / RATE
    for split in ("train", "valid", "test"):
        audio = folder / str(RATE) / split
        audio.mkdir(parents=True)
        labels = {f"{split}-{n}-{label}.wav": [label] for n in range(files) for label in PITCHES}
        (folder / f"{split}.json").write_text(json.dumps(labels))
        for file, (label,) in labels.items():
            pitch = PITCHES[label] + int(file.split("-")[1]) % 3
            soundfile.write(
                audio / file, 0.3 * np.sin(2 * np.pi * 220 * 2 ** (pitch / 12) * time), RATE
            )
    return folder
