"""Everything of a task but its audio: what heareval could not use is found, and named."""

import json

import pytest

from myna_plugin.common.errors import InputError
from myna_plugin.hear_eval.hear_task import METRICS, find_tasks, read_task

from .generate_tasks import event_task, scene_task


def edit(path, change):
    """Change the JSON in a file: `change` returns the new value, or mutates the old."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))


def setting(**values):
    return lambda metadata: {**metadata, **values}


def without(key):
    return lambda metadata: {k: v for k, v in metadata.items() if k != key}


def test_reads_scene_task(tmp_path):
    task = read_task(scene_task(tmp_path / "scene"))
    assert (task.name, task.embedding_type, task.sample_duration) == ("scene", "scene", 0.5)
    assert task.metrics == ("top1_acc", "mAP")
    assert [len(labels) for labels in task.splits.values()] == [6, 6, 6]
    assert task.models_per_grid == 0


def test_folds_after_the_first_train_one_model_each(tmp_path):
    assert read_task(scene_task(tmp_path / "folds", folds=4)).models_per_grid == 3


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without("sample_duration"), "sample_duration"),
        (setting(sample_duration=0), "sample_duration"),
        (setting(sample_duration="1"), "sample_duration"),
        (setting(embedding_type="song"), "embedding_type is 'song'"),
        (setting(prediction_type="regression"), "prediction_type"),
        (setting(split_mode="random"), "split_mode"),
        (setting(splits=["train", "test"]), "valid missing"),
        (setting(splits=["train", "train", "valid", "test"]), "twice"),
        (setting(splits=["train", "valid", "../test"]), "plain name"),
        (setting(splits=["train", "valid"], split_mode="new_split_kfold"), "at least 3 folds"),
        (setting(evaluation=[]), "evaluation"),
        (setting(evaluation=["f1"]), "no metric f1"),
        (setting(evaluation=["segment_1s_er"]), "no metric segment_1s_er for scene"),
        (setting(evaluation_params=None), "evaluation_params"),
    ],
)
def test_unusable_metadata_is_bad_input(tmp_path, change, fault):
    folder = scene_task(tmp_path / "scene")
    edit(folder / "task_metadata.json", change)
    with pytest.raises(InputError, match=rf"task_metadata\.json: .*{fault}"):
        read_task(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
@pytest.mark.parametrize("name", ["task_metadata.json", "valid.json"])
def test_json_that_is_none_is_bad_input(tmp_path, name, text):
    folder = scene_task(tmp_path / "scene")
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=f"{name}.*JSON"):
        read_task(folder)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda labels: labels.clear(), "lists no files"),
        (setting(**{"x.wav": []}), "x.wav: .*1 label, not 0"),
        (setting(**{"x.wav": ["low", "high"]}), "x.wav: .*1 label, not 2"),
        (setting(**{"x.wav": ["middle"]}), "x.wav: middle is not in labelvocabulary.csv"),
        (setting(**{"x.wav": "low"}), "x.wav: labels must be a list"),
        (setting(**{"../x.wav": ["low"]}), "plain file name"),
    ],
)
def test_unusable_scene_labels_are_bad_input(tmp_path, change, fault):
    folder = scene_task(tmp_path / "scene")
    edit(folder / "test.json", change)
    with pytest.raises(InputError, match=rf"test\.json: .*{fault}"):
        read_task(folder)


@pytest.mark.parametrize(
    "event",
    [
        "low",
        {"label": "low", "start": 0},
        {"label": "low", "start": 5, "end": 4},
        {"label": "low", "start": 0, "end": float("nan")},
        {"start": 0, "end": 4},
    ],
)
def test_unusable_event_is_bad_input(tmp_path, event):
    folder = event_task(tmp_path / "event")
    edit(folder / "train.json", setting(**{"x.wav": [event]}))
    with pytest.raises(InputError, match=r"train\.json: x\.wav: .* is no event"):
        read_task(folder)


def test_sound_without_events_is_fine(tmp_path):
    folder = event_task(tmp_path / "event")
    edit(folder / "train.json", setting(**{"train0.wav": []}))
    assert read_task(folder).splits["train"]["train0.wav"] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not CSV"),
        ("index,label\n0,low\n1,high\n", "columns"),
        ("idx,label\n1,low\n2,high\n", "idx"),
        ("idx,label\n0,low\n1,low\n", "low occurs more than once"),
        # pandas, by which heareval reads this file, takes NA for a missing value
        ("idx,label\n0,low\n1,NA\n", "high is not in"),
    ],
)
def test_unusable_vocabulary_is_bad_input(tmp_path, text, fault):
    folder = scene_task(tmp_path / "scene")
    (folder / "labelvocabulary.csv").write_text(text)
    with pytest.raises(InputError, match=rf"labelvocabulary\.csv.*{fault}|{fault} label"):
        read_task(folder)


@pytest.mark.parametrize("name", ["task_metadata.json", "labelvocabulary.csv", "train.json"])
def test_missing_file_is_bad_input(tmp_path, name):
    folder = scene_task(tmp_path / "scene")
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        read_task(folder)


def test_finds_tasks_and_passes_over_what_is_none(tmp_path):
    for name in ("b", "a", ".cache", "__MACOSX"):
        (tmp_path / name).mkdir()
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "notes.txt").touch()
    assert [folder.name for folder in find_tasks(tmp_path, ["all"])] == ["a", "b"]
    assert [folder.name for folder in find_tasks(tmp_path, ["b"])] == ["b"]


def test_missing_empty_and_mistaken_tasks_folders_are_bad_input(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_tasks(tmp_path / "nowhere", ["all"])
    with pytest.raises(InputError, match="holds no tasks"):
        find_tasks(tmp_path, ["all"])
    scene_task(tmp_path / "tasks" / "scene")
    with pytest.raises(InputError, match="is one task"):
        find_tasks(tmp_path / "tasks" / "scene", ["all"])
    with pytest.raises(InputError, match=r"no task scenes; it has scene"):
        find_tasks(tmp_path / "tasks", ["scenes"])
    with pytest.raises(InputError, match=rf"use --tasks-dir {tmp_path}/tasks"):
        read_task(tmp_path / "tasks")


def test_metrics_are_exactly_those_of_heareval():
    from heareval.score import SoundEventScore, available_scores

    events = {
        name
        for name, score in available_scores.items()
        if issubclass(getattr(score, "func", score), SoundEventScore)
    }
    assert set(METRICS["event"]) == events
    assert set(METRICS["scene"]) == set(available_scores) - events
