"""mir_eval's F-measure of beats as a score of heareval's; imported in heareval's process alone.

heareval has event-based F-measures of 50 and 200 ms, by sed_eval, over all events of all files.
Beats are scored with a window of 70 ms, and by the mean over files.

Source: mir_eval, `beat.f_measure`. Nothing is cut off the beginning, as `beat.trim_beats` would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mir_eval.beat
import numpy as np
from heareval.score import ScoreFunction

from myna_plugin.probing.tasks.hear_folder import BEAT_SCORE

WINDOW_S = 0.07

Events = Mapping[str, Sequence[Mapping[str, Any]]]
"""By file: label, start and end in ms."""


class BeatFMeasure(ScoreFunction):
    """Mean over files of the F-measure of events' starts, whatever their labels."""

    name = BEAT_SCORE

    def _compute(self, predictions: Events, targets: Events, **_: Any) -> float:
        scores = [
            mir_eval.beat.f_measure(_starts(targets[file]), _starts(events), WINDOW_S)
            for file, events in predictions.items()
        ]
        return float(np.mean(scores))


def _starts(events: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """When events begin, seconds, in order."""
    return np.sort([event["start"] / 1000 for event in events])
