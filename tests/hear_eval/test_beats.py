"""The F-measure of beats: mir_eval's, beside heareval's own, and the real heareval with it."""

from functools import partial

import mir_eval.beat
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from heareval.predictions.task_predictions import create_events_from_prediction
from heareval.score import EventBasedScore
from task_layouts import ONE_LAYOUT

from myna_plugin.cli.probe import probe
from myna_plugin.hear_eval.beats import BeatFMeasure
from myna_plugin.probing.tasks.hear_format import EVENT_SETTINGS

VOCABULARY = {"beat": 0}


def draw_files(seed):
    """Reference and estimated beats of five files, in ms: early, late, missing and too many."""
    rng = np.random.default_rng(seed)
    files = {}
    for number in range(5):
        beats = np.arange(200, 20_000, rng.uniform(150, 700))
        found = beats + rng.normal(0, 20 * (number + 1), len(beats))
        found = [*found[rng.random(len(beats)) < 0.8], *rng.uniform(0, 20_000, 5 * number)]
        files[f"{number}.wav"] = (beats, np.maximum(found, 0))
    files["none.wav"] = (np.array([500.0, 900.0]), np.array([]))
    return files


def as_events(times):
    return [{"label": "beat", "start": float(t), "end": float(t) + 100} for t in times]


@pytest.mark.parametrize("seed", range(3))
def test_score_is_mir_evals_mean_over_files(seed):
    files = draw_files(seed)
    targets = {name: as_events(beats) for name, (beats, _) in files.items()}
    predictions = {name: as_events(found) for name, (_, found) in files.items()}
    alone = [
        mir_eval.beat.f_measure(beats / 1000, np.sort(found) / 1000)
        for beats, found in files.values()
    ]
    score = BeatFMeasure(label_to_idx=VOCABULARY)
    assert score(predictions, targets) == pytest.approx(np.mean(alone))
    assert 0.3 < np.mean(alone) < 0.9


@pytest.mark.filterwarnings("ignore:Undefined:")
def test_heareval_agrees_on_a_file_but_not_on_all_of_them():
    """Its event-based F-measure with 70 ms is the same on one file; over files it adds up hits."""
    heareval = partial(EventBasedScore, scores=("f_measure",), name="onsets")
    params = {"evaluate_onset": True, "evaluate_offset": False, "t_collar": 0.07}
    theirs, ours = heareval(VOCABULARY, params=params), BeatFMeasure(label_to_idx=VOCABULARY)
    files = {name: pair for name, pair in draw_files(0).items() if len(pair[1])}
    events = {
        name: ({name: as_events(found)}, {name: as_events(beats)})
        for name, (beats, found) in files.items()
    }
    for pair in events.values():
        assert theirs(*pair)[0][1] == pytest.approx(ours(*pair))
    together = [{name: events[name][side][name] for name in events} for side in (0, 1)]
    assert abs(theirs(*together)[0][1] - ours(*together)) > 0.01


def test_fast_beats_survive_what_is_done_to_frames():
    """Perfect frames of 350 beats a minute: all by our grid, hardly any by heareval's own."""
    starts = np.arange(300.0, 29_000, 170.0)
    events = [{"label": "beat", "start": t, "end": t + 85.0} for t in starts]
    times = np.arange(0, 30_000, 25.0)
    frames = {
        t: torch.tensor([float(any(e["start"] <= t <= e["end"] for e in events))]) for t in times
    }
    score = BeatFMeasure(label_to_idx=VOCABULARY)

    def measure(median_filter_ms, min_duration):
        found = create_events_from_prediction(
            frames, {0: "beat"}, 0.5, median_filter_ms, min_duration
        )
        return score({"a": found}, {"a": events})

    grid = EVENT_SETTINGS["beats"]["evaluation_params"]["event_postprocessing_grid"]
    for median_filter_ms in grid["median_filter_ms"]:
        for min_duration in grid["min_duration"]:
            assert measure(median_filter_ms, min_duration) > 0.98
    assert measure(250, 125) < 0.2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("ballroom")
    ONE_LAYOUT["ballroom_beats"][0](root)
    return root


def test_a_probe_of_clips_looks_and_refuses(data, tmp_path):
    options = ["--task", "ballroom_beats", "--root", str(data)]
    checked = CliRunner().invoke(probe, [*options, "--check"])
    assert checked.exit_code == 0
    assert "12 of 12 clips present" in checked.output
    result = CliRunner().invoke(probe, [*options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "use myna export-task --to hear, then hear-eval" in result.output
    assert not (tmp_path / "out").exists()
