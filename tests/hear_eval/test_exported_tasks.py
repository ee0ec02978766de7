"""The real, unmodified heareval on what `myna export-task` wrote."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from task_layouts import BUILDERS, ONE_LAYOUT

from myna_plugin.cli.export_task import export_task
from myna_plugin.cli.score_keys import score_keys
from myna_plugin.probing.tasks import hear_predictions, key_scores

from .conftest import install_tiny_module

WRITERS = {
    "ballroom_beats": ONE_LAYOUT["ballroom_beats"][0],
    "giantsteps": BUILDERS["giantsteps"]["folder"],
    "guitarset_notes": ONE_LAYOUT["guitarset_notes"][0],
    "magnatagatune": BUILDERS["magnatagatune"]["folder"],
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """All tasks in one run, by one quick head: its table, their folders, and what was said."""
    folder = tmp_path_factory.mktemp("exported")
    said = {}
    for task, write in WRITERS.items():
        (root := folder / "data" / task).mkdir(parents=True)
        write(root)
        options = ["--task", task, "--root", str(root), "--to", "hear", str(folder / "tasks")]
        result = CliRunner().invoke(export_task, options)
        assert result.exit_code == 0, result.output
        said[task] = result.output
    install_tiny_module(folder)
    command = ["myna_plugin.hear_eval", "--module", "tiny_hear", "--tasks-dir", "tasks"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--grid", "faster", "--grid-points", "1"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    embedded = folder / "embeddings" / "tiny_hear"
    return SimpleNamespace(tasks=folder / "tasks", said=said, out=done.stdout, embedded=embedded)


def report(scored, task):
    return json.loads((scored.embedded / task / "test.predicted-scores.json").read_text())


def test_tags_and_keys_are_scored_and_our_reading_gives_heareval_accuracy(scored):
    tags, keys = (report(scored, task)["test"] for task in ("magnatagatune", "giantsteps"))
    assert 0 <= tags["test_aucroc"] <= 1
    assert 0 <= tags["test_mAP"] <= 1
    folder = scored.embedded / "giantsteps"
    ours = key_scores.score_keys(hear_predictions.read_test_predictions(folder))
    assert ours["clip"]["accuracy"] == pytest.approx(keys["test_top1_acc"])
    assert ours["track"]["weighted_key_score"] <= ours["track"]["weighted_key_score_both_fifths"]
    result = CliRunner().invoke(score_keys, [str(folder)])
    assert result.exit_code == 0
    assert "| track |" in result.output


def test_beats_are_found_and_the_score_is_what_we_say_it_is(scored):
    """Clicks in noise, from a spectrogram's frames."""
    assert "mean over\nfiles" in (scored.tasks / "ballroom_beats" / "README.md").read_text()
    assert "beat_f_measure_70ms" in scored.out
    beats = report(scored, "ballroom_beats")["test"]
    assert beats["validation_score"] > 0.5
    assert beats["test_beat_f_measure_70ms"] > 0.5


def test_notes_are_scored_of_each_player(scored):
    """Tones in noise are found from a spectrogram's frames, of players who were not trained on."""
    assert "guitarset_notes: fold00 2, fold01 2, fold02 2," in scored.said["guitarset_notes"]
    assert "event_onset_50ms_fms" in scored.out
    notes = report(scored, "guitarset_notes")
    folds = [f"fold0{player}" for player in range(6)]
    assert [name for name in sorted(notes) if name.startswith("fold")] == folds
    mean = notes["aggregated_scores"]["test_event_onset_50ms_fms_mean"]
    assert mean == pytest.approx(
        np.mean([notes[fold]["test_event_onset_50ms_fms"] for fold in folds])
    )
    assert mean > 0  # ten epochs of three batches; heareval's default grid finds them all
