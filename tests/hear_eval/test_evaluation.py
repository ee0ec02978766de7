"""What is done again and what is not, and that one failure leaves the other tasks be.

heareval is stood in for by a process that writes the files which mark its stages as done; the
real one runs in test_end_to_end.
"""

import json
from pathlib import Path

import pytest

from myna_plugin.common.errors import InputError
from myna_plugin.hear_eval import evaluation
from myna_plugin.hear_eval.evaluation import (
    HearEvalRun,
    HearEvalSettings,
    count_embedded,
    count_trained,
    embed_task,
    evaluate,
    failure_noted,
    predict_task,
)
from myna_plugin.hear_eval.heareval_process import JobError
from myna_plugin.hear_eval.results import SCORES, TaskResult
from myna_plugin.probing.tasks.hear_folder import read_folder

from .generate_tasks import scene_task

FACTS = {
    "name": "tiny_hear",
    "sample_rate": 22050,
    "device": "cpu",
    "code": "c0",
    "location": "",
    "slug": "",
    "warnings": [],
}
"""Of a module that embeds."""


class FakeProcess:
    """Writes what heareval writes last; fails for the tasks in `failing`."""

    def __init__(self):
        self.jobs = []
        self.failing = ()
        self.score = 0.5

    def run(self, job, watch=None):
        self.jobs.append(job)
        if job.name == "examine":
            return FACTS
        arguments = job.arguments["arguments"]
        if job.name == "embed":
            options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
            (folder,) = [
                parent / options["--task"]
                for parent in [Path(options["--embeddings-dir"]) / "tiny_hear"]
            ]
        else:
            folder = Path(arguments[0])
        folder.mkdir(parents=True, exist_ok=True)
        watch()
        if folder.name in self.failing:
            (folder / "half-written").touch()
            raise JobError("ValueError: on purpose")
        if job.name == "embed":
            (folder / "profile.embeddings.json").write_text('{"time_elapsed": 2}')
            (folder / ".done.embeddings").touch()
        else:
            report = {"test": {"test_top1_acc": self.score, "test_mAP": 1, "validation_score": 0}}
            (folder / SCORES).write_text(json.dumps(report))
            (folder / "prediction-done.json").write_text('{"time": 3}')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def names(self):
        return [job.name for job in self.jobs]


@pytest.fixture
def process():
    return FakeProcess()


@pytest.fixture
def task(tmp_path):
    return read_folder(scene_task(tmp_path / "tasks" / "scene"))


@pytest.fixture
def make_run(tmp_path):
    """A function that makes a run; keyword arguments change its settings, facts or weights."""

    def make(weights=None, **changes):
        settings = {
            "module": "tiny_hear",
            "model": None,
            "model_options": {},
            "embeddings_dir": tmp_path / "embeddings",
            "grid": "default",
            "grid_points": 8,
            "environment": {},
            "allow_silent": False,
            "skip_predictions": False,
        }
        facts = dict(FACTS)
        for key, value in changes.items():
            (facts if key in facts else settings)[key] = value
        return HearEvalRun(HearEvalSettings(**settings), facts, weights)

    return make


def score(run, task, process, digest="d0"):
    result = TaskResult(task.name)
    embed_task(run, task, digest, process, result)
    predict_task(run, task, process, result)
    return result


def test_scores_and_seconds_are_those_of_heareval(make_run, task, process):
    result = score(make_run(), task, process)
    assert result.status == "scored"
    assert [str(score) for score in result.scores] == ["0.5000", "1.0000"]
    assert result.seconds == {"embeddings": 2, "predictions": 3}
    assert result.made["embeddings"]["versions"]["heareval"] == "2021.1.3"


def test_second_run_does_nothing(make_run, task, process):
    first = score(make_run(), task, process)
    assert process.names() == ["embed", "predict"]
    assert score(make_run(), task, process) == first
    assert process.names() == ["embed", "predict"]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"code": "c1"}, "the module's code"),
        ({"model_options": {"gain": 2}}, "the model options"),
        ({"sample_rate": 16000}, "the sample rate"),
        ({"weights": "w1"}, "the weights file"),
    ],
)
def test_what_has_changed_is_embedded_and_scored_again(
    make_run, task, process, capsys, changes, cause
):
    score(make_run(), task, process)
    score(make_run(**changes), task, process)
    assert process.names() == ["embed", "predict"] * 2
    assert f"embedding again, since {cause} changed" in capsys.readouterr().err
    score(make_run(**changes), task, process)
    assert process.names() == ["embed", "predict"] * 2


def test_of_two_runs_on_one_task_the_second_is_refused(make_run, task, process, monkeypatch):
    monkeypatch.setattr(evaluation, "HearevalProcess", lambda environment: process)
    run = make_run()
    with (
        run.locked(task),
        pytest.raises(InputError, match="scene: another hear-eval is at this task"),
    ):
        evaluate(run.settings, [task])
    assert process.names() == ["examine"]
    evaluate(run.settings, [task])
    assert process.names() == ["examine", "examine", "embed", "predict"]


def test_changed_task_is_embedded_again(make_run, task, process):
    score(make_run(), task, process, "d0")
    score(make_run(), task, process, "d1")
    assert process.names() == ["embed", "predict"] * 2


@pytest.mark.parametrize("changes", [{"grid": "fast"}, {"grid_points": 2}])
def test_changed_grid_is_only_scored_again(make_run, task, process, changes):
    score(make_run(), task, process)
    process.score = 0.25
    assert score(make_run(**changes), task, process).scores[0].value == 0.25
    assert process.names() == ["embed", "predict", "predict"]


@pytest.mark.parametrize("damaged", ["prediction-done.json", SCORES])
def test_half_written_scores_are_made_again(make_run, task, process, damaged):
    run = make_run()
    score(run, task, process)
    (run.folder / task.name / damaged).write_text('{"te')
    assert score(run, task, process).status == "scored"
    assert process.names() == ["embed", "predict", "predict"]


def test_half_written_embeddings_are_made_again(make_run, task, process):
    run = make_run()
    score(run, task, process)
    (run.folder / task.name / ".done.embeddings").unlink()
    (run.folder / task.name / "leftover").touch()
    score(run, task, process)
    assert process.names() == ["embed", "predict"] * 2
    assert not (run.folder / task.name / "leftover").exists()


def test_embeddings_of_unknown_origin_are_used_but_named(make_run, task, process, capsys):
    run = make_run()
    folder = run.folder / task.name
    folder.mkdir(parents=True)
    (folder / "profile.embeddings.json").write_text('{"time_elapsed": 2}')
    (folder / ".done.embeddings").touch()
    result = score(run, task, process)
    assert process.names() == ["predict"]
    assert f"delete {folder} to have them made again" in capsys.readouterr().err
    assert result.made["embeddings"] is None


def test_weights_files_of_one_name_do_not_share_a_folder(make_run, tmp_path):
    models = [tmp_path / "exp1" / "last.pt", tmp_path / "exp2" / "last.pt"]
    folders = {make_run(model=model).folder for model in [None, *models]}
    assert len(folders) == 3
    assert {folder.name for folder in folders} == {"tiny_hear"}


def test_failed_embedding_leaves_nothing_and_the_reason(make_run, task, process):
    run = make_run()
    process.failing = {"scene"}
    result = TaskResult(task.name)
    with failure_noted(run, task, "embeddings", result):
        embed_task(run, task, "d0", process, result)
    assert result.status == "failed"
    assert result.reason == "embeddings: ValueError: on purpose"
    assert not (run.folder / "scene").exists()
    process.failing = ()
    assert score(run, task, process).status == "scored"


def test_failed_prediction_keeps_the_embeddings(make_run, task, process):
    run = make_run()
    score(run, task, process)
    process.failing = {"scene"}
    result = TaskResult(task.name)
    embed_task(run, task, "d0", process, result)
    with failure_noted(make_run(grid="fast"), task, "predictions", result):
        predict_task(make_run(grid="fast"), task, process, result)
    assert (result.status, result.scores) == ("failed", [])
    assert not (run.folder / "scene" / SCORES).exists()  # the old grid's scores do not stand in
    process.failing = ()
    score(make_run(grid="fast"), task, process)
    assert process.names() == ["embed", "predict", "predict", "predict"]


def test_nan_score_is_a_failure(make_run, task, process):
    process.score = float("nan")
    result = TaskResult(task.name)
    run = make_run()
    with failure_noted(run, task, "predictions", result):
        embed_task(run, task, "d0", process, result)
        predict_task(run, task, process, result)
    assert result.status == "failed"
    assert "top1_acc is NaN" in result.reason


def test_heareval_that_leaves_nothing_is_a_failure(make_run, task, process, monkeypatch):
    monkeypatch.setattr(process, "run", lambda job, watch: None)
    with pytest.raises(JobError, match="left no embeddings"):
        embed_task(make_run(), task, "d0", process, TaskResult(task.name))


def test_progress_is_read_from_what_heareval_writes(tmp_path, task):
    assert count_embedded(tmp_path / "none", task) == 0
    (tmp_path / "train").mkdir()
    for name in ("a.wav.embedding.npy", "a.wav.target-labels.json", "b.wav.embedding.npy"):
        (tmp_path / "train" / name).touch()
    assert count_embedded(tmp_path, task) == 2
    log = tmp_path / "prediction.log"
    assert count_trained(log, 0) == 0
    line = "predict - scene - 2026-11-22 20:28:15,302 - 302 - "  # its format, predictions/runner.py
    log.write_text(f"{line} result: [1.0, 3]\n")
    old = log.stat().st_size
    with log.open("a") as stream:
        stream.write(f"{line}Grid point 1 of 2\n{line} result: [1.0, 3]\n")
        stream.write(f"{line}Validation Score for the Training Split: 0.5\n")
    assert count_trained(log, old) == 2
