"""The demo tasks: HEAR's format, true labels, whole files, and the generator they came from."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from myna_plugin.common.errors import InputError
from myna_plugin.hear_eval import demo
from myna_plugin.model.audio import AudioError
from tools import make_demo_tasks

KEY, ONSET = "myna_demo_key-v1-full", "myna_demo_onset-v1-full"
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo tasks, unpacked."""
    return demo.unpack_demo_tasks(tmp_path_factory.mktemp("demo") / "tasks")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_labels(task: Path) -> dict[str, int]:
    with (task / "labelvocabulary.csv").open(newline="") as file:
        return {row["label"]: int(row["idx"]) for row in csv.DictReader(file)}


def pitch_class_energy(samples: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Spectral energy folded to pitch classes from C on, shape (12,)."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 65_536)) ** 2
    frequencies = np.fft.rfftfreq(65_536, 1 / 16_000)
    inside = (frequencies > low_hz) & (frequencies < high_hz)
    pitches = np.round(12 * np.log2(frequencies[inside] / 440) + 69).astype(int)
    return np.bincount(pitches % 12, power[inside], minlength=12)


@pytest.mark.parametrize("name", [KEY, ONSET])
def test_tasks_are_complete_in_hear_format(tasks: Path, name: str) -> None:
    metadata = read_json(tasks / name / "task_metadata.json")
    labels = read_labels(tasks / name)

    assert f"{metadata['task_name']}-{metadata['version']}-{metadata['mode']}" == name
    assert tuple(metadata["splits"]) == SPLITS
    assert sorted(labels.values()) == list(range(len(labels)))
    for split in SPLITS:
        truth = read_json(tasks / name / f"{split}.json")
        folder = tasks / name / "16000" / split
        assert {path.name for path in folder.iterdir()} == set(truth)
        for clip in truth:
            info = soundfile.info(folder / clip)
            assert (info.samplerate, info.channels, info.format) == (16_000, 1, "WAV")
            assert info.frames == 16_000 * metadata["sample_duration"]


def test_audio_is_in_the_key_it_is_labelled_with(tasks: Path) -> None:
    truth = read_json(tasks / KEY / "test.json")
    scales = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}
    shares = []
    for clip, (label,) in truth.items():
        samples, _ = soundfile.read(tasks / KEY / "16000" / "test" / clip)
        energy = pitch_class_energy(samples, 100, 1_000)
        mode = label.split()[1]
        tonic = read_labels(tasks / KEY)[label] % 12
        shares.append(energy[[(tonic + step) % 12 for step in scales[mode]]].sum() / energy.sum())

    # 7 of 12 pitch classes would hold 58 % of the energy if the key were another one.
    assert np.mean(shares) > 0.85


def test_packed_tasks_stay_small() -> None:
    assert sum(path.stat().st_size for path in demo.PACKED.rglob("*") if path.is_file()) <= 3e6


def test_unpacking_again_writes_only_what_is_missing(tasks: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tasks.rglob("*") if path.is_file()}
    lost = tasks / KEY / "16000" / "valid" / "valid-007.wav"
    content = lost.read_bytes()
    lost.unlink()

    assert demo.unpack_demo_tasks(tasks) == tasks

    assert lost.read_bytes() == content
    after = {path: path.stat().st_mtime_ns for path in tasks.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == {lost}


def test_unpacking_what_is_broken_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"
    audio = packed / "task" / "16000" / "test"
    audio.mkdir(parents=True)
    (audio / "a.ogg").write_bytes((demo.PACKED / KEY / "16000/test/test-000.ogg").read_bytes())
    (audio / "b.ogg").write_bytes(b"no audio")
    (packed / "task" / "task_metadata.json").write_text("{}")
    monkeypatch.setattr(demo, "PACKED", packed)

    with pytest.raises(AudioError, match=r"b\.ogg"):
        demo.unpack_demo_tasks(tmp_path / "tasks")

    assert not (tmp_path / "tasks").exists()


def test_missing_data_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACKED", tmp_path / "nothing")

    with pytest.raises(FileNotFoundError, match="reinstall"):
        demo.unpack_demo_tasks(tmp_path / "tasks")


def test_packed_clips_come_from_the_generator() -> None:
    key_audio = make_demo_tasks.make_key_clip("Eb major", (make_demo_tasks.SEED, 0, 0, 3))
    onset_audio, notes = make_demo_tasks.make_onset_clip((make_demo_tasks.SEED, 1, 2, 5))

    for made, name in (
        (key_audio, f"{KEY}/16000/train/train-003.ogg"),
        (onset_audio, f"{ONSET}/16000/test/test-005.ogg"),
    ):
        packed, _ = soundfile.read(demo.PACKED / name)
        assert packed.shape == made.shape
        assert np.corrcoef(made, packed)[0, 1] > 0.9
    events = read_json(demo.PACKED / ONSET / "test.json")["test-005.wav"]
    assert events == [make_demo_tasks.event(note) for note in notes]


def test_a_folder_that_cannot_hold_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "tasks"):
        with pytest.raises(InputError, match=r"/file: cannot be written into"):
            demo.unpack_demo_tasks(folder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=9_000_000))
    with pytest.raises(InputError, match=r"tasks: \d\d\.\dMB are needed, .* 9\.00MB left"):
        demo.unpack_demo_tasks(tmp_path / "tasks")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"No space left on device: .*test-000\.wav'"):
        demo.unpack_demo_tasks(tmp_path / "tasks")


def test_notes_begin_where_they_are_labelled(tasks: Path) -> None:
    classes = read_labels(tasks / ONSET)
    rises = []
    for clip, events in read_json(tasks / ONSET / "test.json").items():
        samples, _ = soundfile.read(tasks / ONSET / "16000" / "test" / clip)
        for event in events:
            onset, label = round(16 * event["start"]), classes[event["label"]]
            before = samples[max(onset - 1_600, 0) : onset]
            after = samples[onset : onset + 1_600]
            if len(before) == 1_600:
                energies = [pitch_class_energy(part, 250, 1_050)[label] for part in (before, after)]
                rises.append(energies[1] > 2 * energies[0])

    assert len(rises) > 80
    assert np.mean(rises) > 0.8
