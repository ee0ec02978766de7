"""Names in annotations stay inside their folders: in every reader, and in everything written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hear_eval.generate_tasks import scene_task
from task_layouts import BUILDERS

from myna_plugin.common.errors import InputError
from myna_plugin.probing.tasks import HEAR, TASKS, Item, load_task
from myna_plugin.probing.tasks.hear_format import write_task
from myna_plugin.probing.tasks.marble import write_items

NAMES = ("../../evil", "..", "/evil", "a/../../evil", "..\\evil", "evil\0", "")

PLACES = [
    (HEAR, None, "task_metadata.json", '"task_name": "task"', '"task_name": {}'),
    (HEAR, None, "task_metadata.json", '"splits": ["train"', '"splits": [{}'),
    (HEAR, None, "valid.json", '"valid0.wav"', "{}"),
    ("gtzan", "jukemir", "gtzan_ff.json", '"id": "rock.00003"', '"id": {}'),
    (
        "magnatagatune",
        "jukemir",
        "magnatagatune.json",
        '"mp3_path": "c/lvx',
        '"mp3_path": {}, "": "',
    ),
    ("giantsteps", "jukemir", "giantsteps_clips.json", '"id": 10089', '"id": {}'),
    ("giantsteps", "jukemir", "giantsteps_clips.json", '"0010089-0"', "{}"),
    ("emomusic", "jukemir", "emomusic.json", '"0013"', "{}"),
    (
        "gtzan",
        "marble",
        "data/GTZAN/GTZANGenre.val.jsonl",
        '"audio_path": ',
        '"audio_path": {}, "": ',
    ),
    ("gtzan", "marble", "data/GTZAN/GTZANGenre.val.jsonl", '"label"', '"clip_id": {}, "label"'),
    ("magnatagatune", "folder", "annotations_final.csv", '"c/lvx', '"c/../{0}/'),
    ("emomusic", "folder", "songs_info.csv", "\n13,", "\n{0},"),
    (
        "giantsteps",
        "folder",
        "giantsteps-mtg-key-dataset/annotations/annotations.txt",
        "5061",
        "{0}",
    ),
]
"""Task, layout, file; what stands there, and what a name is put into, in JSON or as it is."""


@pytest.fixture(autouse=True)
def no_audio(monkeypatch):
    """Names are looked at before any audio is."""
    monkeypatch.setattr("task_layouts.write_tone", lambda *arguments: None)


@pytest.mark.parametrize(("task", "layout", "file", "old", "new"), PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_readers_let_no_name_out(tmp_path, task, layout, file, old, new, name):
    root = tmp_path / "deep" / "task"
    if task == HEAR:
        scene_task(root)
    else:
        BUILDERS[task][layout](root)
    text = (root / file).read_text()
    assert old in text
    spoilt = text.replace(old, new.format(name if "{0}" in new else json.dumps(name)), 1)
    (root / file).write_text(spoilt)
    with pytest.raises(InputError, match=Path(file).name) as caught:
        load_task(task, root)
    (line,) = caught.value.lines
    assert "\n" not in line


@pytest.mark.parametrize("write", [write_task, write_items])
@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.parametrize("place", ["task", "clip_id", "split"])
def test_writers_let_no_name_out(tmp_path, write, name, place):
    """A task of a plug-in comes by no reader of ours."""
    task = replace(TASKS["gtzan"], name=name) if place == "task" else TASKS["gtzan"]
    item = Item("a", "a", tmp_path / "a.wav", "rock", "train")
    items = [item if place == "task" else replace(item, **{place: name})]
    with pytest.raises(InputError, match="plain name"):
        write(task, items, tmp_path / "deep" / "out")
    assert not any(tmp_path.iterdir())
