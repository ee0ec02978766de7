"""Everything of a task but its audio: what heareval could not use is found, and named."""

import csv
import io
import json

import pytest
from hear_eval.generate_tasks import event_task, scene_task

from myna_plugin.common.errors import InputError
from myna_plugin.probing.tasks import TaskError
from myna_plugin.probing.tasks.hear_folder import (
    BEAT_SCORE,
    METRICS,
    MISSING_VALUES,
    as_pandas_has_them,
    find_tasks,
    read_folder,
    read_vocabulary,
)


def edit(path, change):
    """Change the JSON in a file: `change` returns the new value, or mutates the old."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))


def setting(**values):
    return lambda metadata: {**metadata, **values}


def without(key):
    return lambda metadata: {k: v for k, v in metadata.items() if k != key}


def test_reads_scene_task(tmp_path):
    task = read_folder(scene_task(tmp_path / "scene"))
    assert (task.name, task.embedding_type, task.sample_duration) == ("scene", "scene", 0.5)
    assert task.metrics == ("top1_acc", "mAP")
    assert [len(labels) for labels in task.splits.values()] == [6, 6, 6]
    assert task.models_per_grid == 0


def test_folds_after_the_first_train_one_model_each(tmp_path):
    assert read_folder(scene_task(tmp_path / "folds", folds=4)).models_per_grid == 3


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
        (setting(splits=["train", "valid", "test", "/tmp/x"]), "plain name"),
        (setting(splits=3), "splits is 3"),
        (setting(task_name="../../evil"), "task_name is '../../evil'"),
        (setting(task_name="/evil"), "task_name is '/evil'"),
        (setting(task_name=3), "task_name is 3"),
        (without("task_name"), "task_name is None"),
        (without("embedding_type"), "embedding_type is None"),
        (setting(sample_duration=float("nan")), "sample_duration"),
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
    with pytest.raises(TaskError, match=rf"task_metadata\.json: .*{fault}"):
        read_folder(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"\\ud800": []}',
        "\udcff",
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"a": ' + "9" * 5000 + "}",
    ],
)
@pytest.mark.parametrize("name", ["task_metadata.json", "valid.json"])
def test_json_that_is_none_is_bad_input(tmp_path, name, text):
    folder = scene_task(tmp_path / "scene")
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"{name}: (not JSON|must hold a JSON|cannot be read)"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda labels: labels.clear(), "lists no files"),
        (setting(**{"x.wav": []}), "x.wav: .*1 label, not 0"),
        (setting(**{"x.wav": ["low", "high"]}), "x.wav: .*1 label, not 2"),
        (setting(**{"x.wav": ["middle"]}), "x.wav: 'middle' not in labelvocabulary.csv"),
        (setting(**{"x.wav": [["low"]]}), "x.wav: .* not in labelvocabulary.csv"),
        (setting(**{"x.wav": "low"}), "x.wav: labels must be a list"),
        *(
            (setting(**{name: ["low"]}), "plain file name")
            for name in ("../x.wav", "/tmp/x.wav", "a/x.wav", "a\\x.wav", "", "..")
        ),
    ],
)
def test_unusable_scene_labels_are_bad_input(tmp_path, change, fault):
    folder = scene_task(tmp_path / "scene")
    edit(folder / "test.json", change)
    with pytest.raises(TaskError, match=rf"test\.json: .*{fault}"):
        read_folder(folder)


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
    with pytest.raises(TaskError, match=r"train\.json: x\.wav: .* is no event"):
        read_folder(folder)


def test_sound_without_events_is_fine(tmp_path):
    folder = event_task(tmp_path / "event")
    edit(folder / "train.json", setting(**{"train0.wav": []}))
    assert read_folder(folder).splits["train"]["train0.wav"] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "columns"),
        ("idx,label\n", "idx"),
        ("idx,label\n0,low,\n1,high,\n", "not CSV"),
        ("idx,label\n0,low\n1\n", "not CSV"),
        ("idx,label\n0,low\none,high\n", "idx"),
        (f"idx,label\n0,low\n1,{'x' * 200_000}\n", "not CSV"),
        ("index,label\n0,low\n1,high\n", "columns"),
        ("idx,label\n1,low\n2,high\n", "idx"),
        ("idx,label\n0,low\n1,low\n", "low occurs more than once"),
        ("idx,label\n0,low\n1,NA\n", "'NA' is none for pandas"),
    ],
)
def test_unusable_vocabulary_is_bad_input(tmp_path, text, fault):
    folder = scene_task(tmp_path / "scene")
    (folder / "labelvocabulary.csv").write_text(text)
    with pytest.raises(InputError, match=rf"labelvocabulary\.csv.*{fault}"):
        read_folder(folder)


COLUMNS = [
    ["007", "10"],
    ["007", "near"],
    [" 5", "+4"],
    ["1", "2.50"],
    ["1e3", ".5"],
    ["-0", "-inf"],
    ["true", "FALSE"],
    ["True", "1"],
    ["tRUE", " a"],
    ["a,b", 'say "c"'],
    ["1_0", "0x1"],
]


@pytest.mark.parametrize("column", COLUMNS)
def test_labels_are_what_pandas_makes_of_them(tmp_path, column):
    """heareval reads the vocabulary by pandas; this package does without."""
    pandas = pytest.importorskip("pandas", reason="comes with the hear-eval extra")
    text = io.StringIO()
    csv.writer(text).writerows([("idx", "label"), *enumerate(column)])
    (tmp_path / "v.csv").write_text(text.getvalue())
    expected = pandas.read_csv(tmp_path / "v.csv")["label"].astype(str).tolist()
    assert as_pandas_has_them(column) == expected
    assert read_vocabulary(tmp_path / "v.csv") == tuple(expected)


def test_missing_values_are_those_of_pandas(tmp_path):
    parsers = pytest.importorskip("pandas.io.parsers.readers", reason="comes with hear-eval")
    assert parsers.STR_NA_VALUES == MISSING_VALUES


def test_the_vocabulary_may_be_in_any_order_with_blank_lines(tmp_path):
    (tmp_path / "v.csv").write_text("\ufefflabel,idx\r\nhigh,1\r\n\r\nlow,0\r\n")
    assert read_vocabulary(tmp_path / "v.csv") == ("low", "high")


@pytest.mark.parametrize("name", ["task_metadata.json", "labelvocabulary.csv", "train.json"])
def test_missing_file_is_bad_input(tmp_path, name):
    folder = scene_task(tmp_path / "scene")
    (folder / name).unlink()
    with pytest.raises(TaskError, match=f"{name} is missing"):
        read_folder(folder)


def test_finds_tasks_and_passes_over_what_is_none(tmp_path):
    for name in ("b", "a", ".cache", "__MACOSX"):
        (tmp_path / name).mkdir()
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "notes.txt").touch()
    assert [folder.name for folder in find_tasks(tmp_path, ["all"])] == ["a", "b"]
    assert [folder.name for folder in find_tasks(tmp_path, ["b"])] == ["b"]


def test_missing_empty_and_mistaken_tasks_folders_are_bad_input(tmp_path):
    with pytest.raises(TaskError, match="nowhere: no such folder"):
        find_tasks(tmp_path / "nowhere", ["all"])
    with pytest.raises(TaskError, match="holds no tasks"):
        find_tasks(tmp_path, ["all"])
    scene_task(tmp_path / "tasks" / "scene")
    with pytest.raises(TaskError, match="is one task"):
        find_tasks(tmp_path / "tasks" / "scene", ["all"])
    with pytest.raises(TaskError, match=r"no task scenes; it has scene"):
        find_tasks(tmp_path / "tasks", ["scenes"])
    with pytest.raises(TaskError, match=rf"use --tasks-dir {tmp_path}/tasks"):
        read_folder(tmp_path / "tasks")


def test_metrics_are_exactly_those_of_heareval():
    from heareval.score import SoundEventScore, available_scores

    events = {
        name
        for name, score in available_scores.items()
        if issubclass(getattr(score, "func", score), SoundEventScore)
    }
    assert set(METRICS["event"]) == {*events, BEAT_SCORE}
    assert set(METRICS["scene"]) == set(available_scores) - events


def test_a_folder_that_is_not_there_is_said_to_be_so(tmp_path):
    with pytest.raises(TaskError, match=r"absent: no such folder$"):
        read_folder(tmp_path / "absent")
