"""MARBLE's jsonl: written, read back, and with the fields that its loaders read."""

import json
from pathlib import Path

import pytest
import soundfile
from task_layouts import BUILDERS, RATE

from myna_plugin.probing.tasks import TASKS, check, load_items
from myna_plugin.probing.tasks.marble import write_items

pytest_plugins = ("tiny_data_sets",)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_written_task_reads_back(built, tmp_path, name):
    task = TASKS[name]
    items = load_items(task, built(name, "folder"))
    write_items(task, items, tmp_path)
    read = load_items(task, tmp_path, layout="marble")
    assert {i.clip_id: (i.split, i.track_id, i.target) for i in read} == {
        i.clip_id: (i.split, i.track_id, i.target) for i in items
    }
    assert check(task, read).complete


def test_tracks_are_cut_into_files(built, tmp_path):
    task = TASKS["giantsteps"]
    write_items(task, load_items(task, built("giantsteps", "folder")), tmp_path)
    clips = {i.clip_id: i for i in load_items(task, tmp_path, layout="marble")}
    clip = clips["0005061-2"]
    assert (clip.start_s, clip.end_s) == (0.0, None)
    assert clip.path == tmp_path / "audio" / "original" / "train" / "0005061-2.wav"
    assert soundfile.info(clip.path).duration == 30.0


def test_fields(built, tmp_path):
    task = TASKS["gtzan"]
    write_items(task, load_items(task, built("gtzan", "folder")), tmp_path)
    line = json.loads((tmp_path / "GTZANGenre.val.jsonl").read_text().splitlines()[0])
    assert line == {
        "clip_id": "blues.00003",
        "audio_path": str(tmp_path / "audio/original/valid/blues.00003.wav"),
        "ori_uid": "blues.00003",
        "label": "blues",
        "duration": 30.0,
        "sample_rate": RATE,
        "num_samples": 30 * RATE,
        "channels": 1,
    }
    linked = Path(line["audio_path"])
    assert linked.is_symlink()
    assert linked.resolve() == built("gtzan", "folder") / "genres/blues/blues.00003.wav"


def test_a_sample_rate_makes_files(built, tmp_path):
    task = TASKS["gtzan"]
    write_items(task, load_items(task, built("gtzan", "folder")), tmp_path, sample_rate=16_000)
    lines = [json.loads(x) for x in (tmp_path / "GTZANGenre.test.jsonl").read_text().splitlines()]
    assert {line["sample_rate"] for line in lines} == {16_000}
    assert all(line["audio_path"].startswith(str(tmp_path / "audio/16000/test")) for line in lines)
