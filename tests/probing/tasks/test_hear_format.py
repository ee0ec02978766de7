"""HEAR's task folders: written and read back, folds as heareval makes them, faults named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hear_eval.generate_tasks import event_task
from task_layouts import RATE, write_kfold_task, write_tone

from myna_plugin.probing.tasks import TASKS, TaskError, check, encode_targets, load_items, load_task
from myna_plugin.probing.tasks.hear_format import read_task, write_task

pytest_plugins = ("tiny_data_sets",)


def test_folds_are_heareval_s(tmp_path):
    write_kfold_task(tmp_path)
    for fold in range(5):
        task, items = read_task(tmp_path, test_fold=fold)
        assert task.folds == 5
        assert check(task, items).complete
        splits = {
            split: sorted({i.path.parent.name for i in items if i.split == split})
            for split in ("train", "valid", "test")
        }
        assert splits["test"] == [f"fold{fold:02}"]
        assert splits["valid"] == [f"fold{(fold + 1) % 5:02}"]
        assert len(splits["train"]) == 3
        assert len(items) == 15
    module = pytest.importorskip(
        "heareval.predictions.task_predictions", reason="heareval is not installed"
    )
    assert module.data_splits_from_folds([f"fold{i:02}" for i in range(5)])[4] == splits
    with pytest.raises(TaskError, match="5 ways to split, not 6"):
        read_task(tmp_path, test_fold=5)


def test_labels_are_text_in_the_order_of_the_vocabulary(tmp_path):
    write_kfold_task(tmp_path)
    task, items = load_task("hear", tmp_path)
    assert task.labels == ("near", "far", "3")
    assert encode_targets(task, items[:3]).tolist() == [0, 1, 2]
    assert (task.loss, task.primary) == ("cross_entropy", "accuracy")


def test_scores_that_do_not_fit_a_multilabel_task_are_left_out(tmp_path):
    write_kfold_task(tmp_path, "multilabel")
    task, _ = read_task(tmp_path)
    assert (task.loss, task.metrics) == ("bce", ("average_precision_macro",))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["d_prime"], "task_metadata.json: evaluation d_prime: none is for a multiclass task"),
        (["event_onset_200ms_fms"], "evaluation: heareval has no metric event_onset_200ms_fms"),
    ],
)
def test_tasks_without_a_score_of_ours_are_refused(tmp_path, metrics, message):
    write_kfold_task(tmp_path, evaluation=metrics)
    with pytest.raises(TaskError, match=message):
        read_task(tmp_path)


def test_event_tasks_are_refused(tmp_path):
    with pytest.raises(TaskError, match=r"task_metadata.json: embedding_type 'event': only scene"):
        read_task(event_task(tmp_path / "events"))


@pytest.mark.parametrize("name", ["gtzan", "magnatagatune", "giantsteps"])
def test_a_written_task_reads_back(built, tmp_path, name):
    task = TASKS[name]
    items = load_items(task, built(name, "folder"))
    write_task(task, items, tmp_path / name)
    again, read = load_task("hear", tmp_path / name)
    assert (again.name, again.labels, again.loss) == (task.name, task.labels, task.loss)
    assert {i.clip_id: (i.split, i.target) for i in read} == {
        i.clip_id: (i.split, i.target) for i in items
    }
    report = check(again, read)
    assert report.complete, report.text()
    assert {soundfile.info(i.path).samplerate for i in read} == {16_000}


def test_written_audio_is_the_clip(built, tmp_path):
    """The second clip of a track is its samples from 30 to 60 s, at any sample rate."""
    items = load_items(TASKS["giantsteps"], built("giantsteps", "folder"))
    track, rate = soundfile.read(items[0].path)
    write_task(TASKS["giantsteps"], items, tmp_path, sample_rate=rate)
    clip, _ = soundfile.read(tmp_path / str(rate) / "train" / "0005061-1.wav")
    np.testing.assert_allclose(clip, track[30 * rate : 60 * rate], atol=2 / 2**15)


def test_fitting_audio_is_linked_and_rates_join(built, tmp_path):
    items = load_items(TASKS["gtzan"], built("gtzan", "folder"))
    write_task(TASKS["gtzan"], items, tmp_path, sample_rate=RATE)
    linked = list((tmp_path / str(RATE)).rglob("*.wav"))
    assert len(linked) == len(items)
    assert all(path.is_symlink() and path.resolve().is_file() for path in linked)
    linked[0].unlink()
    linked[0].symlink_to(tmp_path / "moved away")
    write_task(TASKS["gtzan"], items, tmp_path, sample_rate=RATE)
    assert linked[0].is_file()
    write_task(TASKS["gtzan"], items, tmp_path, sample_rate=16_000)
    assert not any(path.is_symlink() for path in (tmp_path / "16000").rglob("*.wav"))
    assert len(list(tmp_path.rglob("blues.00000.wav"))) == 2


def test_duration_is_stated_only_if_it_is_one(built, tmp_path):
    items = load_items(TASKS["gtzan"], built("gtzan", "folder"))
    write_task(TASKS["gtzan"], items, tmp_path / "same")
    assert json.loads((tmp_path / "same/task_metadata.json").read_text())["sample_duration"] == 30.0
    write_tone(tmp_path / "short.wav", 0, 29.5)
    items[0] = replace(items[0], path=tmp_path / "short.wav")
    write_task(TASKS["gtzan"], items, tmp_path / "mixed")
    content = json.loads((tmp_path / "mixed/task_metadata.json").read_text())
    assert content["sample_duration"] is None


def test_another_export_is_not_written_over(built, tmp_path):
    items = load_items(TASKS["gtzan"], built("gtzan", "folder"))
    write_task(TASKS["gtzan"], items, tmp_path)
    with pytest.raises(TaskError, match=r"train.json: is of another export"):
        write_task(TASKS["gtzan"], items[1:], tmp_path)


def test_regression_is_refused(built, tmp_path):
    items = load_items(TASKS["emomusic"], built("emomusic", "folder"))
    with pytest.raises(TaskError, match="emomusic is a regression task; HEAR knows multiclass"):
        write_task(TASKS["emomusic"], items, tmp_path / "out")
    assert not (tmp_path / "out").exists()
