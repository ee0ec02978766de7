"""Clips put together from samples, held against the synthesiser."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from myna_plugin.model.spectrogram import MelSpectrogram
from recipes.rendered import sampler
from recipes.rendered.percussion import DrumTrack
from recipes.rendered.performance import Performance
from recipes.rendered.render import perform, render_clip, render_notes
from recipes.rendered.sampler import VELOCITIES, make_bank, mix, tabulate_notes, to_peak
from recipes.rendered.scores import Score

pytest_plugins = ("rendered_fixtures",)

PIANO, ORGAN, VIOLIN = 0, 19, 40
SECONDS = 4.0
KIT = 0


@pytest.fixture(scope="module")
def bank(soundfont):
    instruments = [(soundfont, program, False) for program in (PIANO, ORGAN, VIOLIN)]
    return make_bank([*instruments, (soundfont, KIT, True)], workers=1)


def score_of(*notes):
    """A work of notes (onset, duration, pitch, velocity, part)."""
    return Score(np.array(notes, np.float32), "work", corpus="tests", group="work", beat_s=1.0)


def put_together(bank, soundfont, score, *performances):
    clips = [(score, performance, soundfont) for performance in performances]
    return mix(bank, tabulate_notes(clips, SECONDS, bank.index), SECONDS).numpy()


def played(soundfont, score, performance):
    """The same by the synthesiser, with the levels that clips get."""
    notes, drums = perform(score, performance, SECONDS)
    gains = sampler.balanced_gains(notes, performance, soundfont)
    track = performance.drums or DrumTrack("")
    return render_notes(
        notes,
        performance.programs,
        soundfont,
        SECONDS,
        gains_db=gains,
        tuning_cents=performance.tuning_cents,
        drums=drums,
        drum_kit=track.kit,
        drum_gain_db=track.gain_db,
    )


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def level_db(sound):
    return float(10 * np.log10(np.mean(np.square(sound))))


@pytest.mark.parametrize("program", [PIANO, ORGAN, VIOLIN])
@pytest.mark.parametrize("velocity", VELOCITIES)
def test_notes_are_the_synthesisers(program, velocity, bank, soundfont):
    """Begun in the pre-roll, held, let go early, and cut off by the clip's end."""
    score = score_of(
        (0.7, 0.5, 60, velocity, 0),
        (1.2, 0.9, 64, velocity, 0),
        (2.5, 0.1, 71, velocity, 0),
        (4.5, 1.0, 55, velocity, 0),
    )
    performance = Performance(start_s=0.9, programs=(program,))
    [sound] = put_together(bank, soundfont, score, performance)
    expected = played(soundfont, score, performance)
    assert correlation(sound, expected) > 0.98
    assert level_db(sound) == pytest.approx(level_db(expected), abs=0.3)


@pytest.mark.parametrize(("cents", "most_db"), [(0.0, 0.5), (12.0, 2.0)])
def test_a_passage_sounds_as_played(cents, most_db, bank, soundfont, scale):
    """Mel power where it is not soft; a tuning moves onsets by up to 1 ms, and so interference."""
    performance = Performance(
        start_s=3.3,
        transposition=2,
        tempo=1.1,
        programs=(PIANO, VIOLIN),
        gains_db=(0.0, -4.0),
        tuning_cents=cents,
        timing_s=0.01,
        articulation=0.8,
        drums=DrumTrack("waltz", kit=KIT, gain_db=-6.0, seed=2),
        seed=3,
    )
    sound = to_peak(torch.from_numpy(put_together(bank, soundfont, scale, performance)))
    expected = render_clip(scale, performance, soundfont, SECONDS).waveform
    a, b = MelSpectrogram()(torch.stack([sound[0], torch.from_numpy(expected)])).numpy()
    loud = b > 1e-4 * b.max()
    assert loud.mean() > 0.1
    assert np.abs(10 * np.log10((a[loud] + 1e-9) / b[loud])).mean() < most_db


def test_clips_of_a_batch_do_not_hear_each_other(bank, soundfont, scale, monkeypatch):
    """Also where their notes are added in several goes."""
    performances = [Performance(start_s=s, programs=(PIANO, ORGAN), seed=s) for s in range(3)]
    alone = [put_together(bank, soundfont, scale, p)[0] for p in performances]
    monkeypatch.setattr(sampler, "ROWS_AT_ONCE", 700)
    together = put_together(bank, soundfont, scale, *performances)
    np.testing.assert_allclose(together, alone, atol=1e-6 * np.abs(alone).max())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same(bank, soundfont, scale):
    notes = tabulate_notes(
        [(scale, Performance(programs=(PIANO, VIOLIN), tuning_cents=9.0), soundfont)],
        SECONDS,
        bank.index,
    )
    there = mix(replace(bank, samples=bank.samples.cuda()), notes, SECONDS)
    torch.testing.assert_close(there.cpu(), mix(bank, notes, SECONDS), rtol=0, atol=1e-5)
