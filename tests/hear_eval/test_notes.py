"""GuitarSet's notes: heareval's score of them."""

from functools import partial

import mir_eval.transcription
import numpy as np
import pytest
import torch
from heareval.predictions.task_predictions import create_events_from_prediction
from heareval.score import EventBasedScore

from myna_plugin.probing.tasks.hear_format import EVENT_SETTINGS
from myna_plugin.probing.tasks.task import MIDI_NOTES

ONSET_50_MS = {"evaluate_onset": True, "evaluate_offset": False, "t_collar": 0.05}
SCORE = partial(EventBasedScore, scores=("f_measure",), name="onsets")(
    {label: number for number, label in enumerate(MIDI_NOTES)}, params=ONSET_50_MS
)
"""What heareval makes of `event_onset_50ms_fms`."""


def draw_notes(seed, count):
    """Onset and offset, seconds, and pitch: none but others' notes come within 0.1 s of a note."""
    rng = np.random.default_rng(seed)
    onsets = np.cumsum(rng.uniform(0.1, 0.6, count))
    lengths = rng.uniform(0.12, 0.5, count)
    pitches = 40 + (np.arange(count) * 7) % 36  # seven others before one comes again
    return list(zip(onsets, onsets + lengths, pitches, strict=True))


def as_events(notes):
    return [{"label": str(p), "start": 1000 * on, "end": 1000 * off} for on, off, p in notes]


@pytest.mark.filterwarnings("ignore:Undefined:")
@pytest.mark.parametrize("seed", range(3))
def test_score_is_mir_evals_onset_f_measure(seed):
    """On one file; mir_eval has none over several."""
    rng = np.random.default_rng(100 + seed)
    notes = draw_notes(seed, 60)
    found = [
        (max(on + rng.normal(0, 0.04), 0), off + 0.2, pitch + (rng.random() < 0.2))
        for on, off, pitch in notes
        if rng.random() < 0.8
    ]

    def arrays(own):
        return np.array([(on, off) for on, off, _ in own]), np.array([p for *_, p in own], float)

    hertz = [mir_eval.util.midi_to_hz(arrays(own)[1]) for own in (notes, found)]
    *_, expected, _ = mir_eval.transcription.precision_recall_f1_overlap(
        arrays(notes)[0], hertz[0], arrays(found)[0], hertz[1], offset_ratio=None
    )
    events = {"a.wav": as_events(found)}, {"a.wav": as_events(notes)}
    assert SCORE(*events)[0][1] == pytest.approx(expected)
    assert 0.2 < expected < 0.8


@pytest.mark.filterwarnings("ignore:Undefined:")
@pytest.mark.parametrize("hop_ms", [25, 50])
def test_short_notes_survive_what_is_done_to_frames(hop_ms):
    """Perfect frames: nearly all notes by our grid, none of 160 ms by half of heareval's own."""
    notes = [(on, on + 0.16, pitch) for on, _, pitch in draw_notes(0, 60)]
    times = np.arange(0, 40_000, float(hop_ms))
    frames = np.zeros((len(times), len(MIDI_NOTES)))
    for on, off, pitch in notes:
        frames[(1000 * on <= times) & (times <= 1000 * off), pitch] = 1

    def find(median_filter_ms, min_duration):
        by_time = dict(zip(times, torch.tensor(frames), strict=True))
        labels = dict(enumerate(MIDI_NOTES))
        return create_events_from_prediction(by_time, labels, 0.5, median_filter_ms, min_duration)

    grid = EVENT_SETTINGS["notes"]["evaluation_params"]["event_postprocessing_grid"]
    found = find(*grid["median_filter_ms"], *grid["min_duration"])  # one of each, or heareval stops
    assert SCORE({"a": found}, {"a": as_events(notes)})[0][1] > 0.95
    assert find(250, 250) == []
