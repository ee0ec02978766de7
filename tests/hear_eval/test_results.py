"""The table and the JSON say what heareval wrote."""

import json

import pytest

from myna_plugin.hear_eval.results import SCORES, Score, TaskResult, read_scores
from myna_plugin.probing.tasks.hear_folder import read_folder

from .generate_tasks import scene_task

FOLD = {"test_loss": 0.1, "test_top1_acc": 0.75, "test_mAP": 0.5, "validation_score": 0.7}
REST = {"hparams": {"lr": 0.1}, "postprocessing": [], "score_mode": "max", "embedding_path": "x"}


@pytest.fixture
def scores(tmp_path):
    """A function that reads the scores of a scene task from what heareval reports."""

    def read(report):
        task = read_folder(scene_task(tmp_path / "task"))
        (tmp_path / SCORES).write_text(json.dumps(report))
        return read_scores(task, tmp_path)

    return read


def test_fixed_splits_have_plain_scores(scores):
    assert scores({"test": FOLD, **REST}) == (
        [Score("top1_acc", 0.75), Score("mAP", 0.5)],
        {"test": FOLD},
    )


def test_folds_have_mean_and_deviation(scores):
    aggregate = {
        "test_top1_acc_mean": 0.8,
        "test_top1_acc_std": 0.1,
        "test_mAP_mean": 0.6,
        "test_mAP_std": float("nan"),
    }
    report = {"fold00": FOLD, "fold01": FOLD, "aggregated_scores": aggregate, **REST}
    found, folds = scores(report)
    assert found == [Score("top1_acc", 0.8, 0.1), Score("mAP", 0.6, None)]
    assert list(folds) == ["fold00", "fold01"]


def test_nan_is_no_score(scores):
    found, _ = scores({"test": {**FOLD, "test_top1_acc": float("nan")}, **REST})
    assert found[0] == Score("top1_acc", None)
    result = TaskResult("task", "scored", found, folds={"test": {"x": float("inf")}})
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["folds"]["test"]["x"] is None
