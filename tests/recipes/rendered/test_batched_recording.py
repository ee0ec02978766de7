"""Many recordings at once, held against `recording.apply_recording`, one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recipes.rendered.batched_recording import apply_recordings, tabulate
from recipes.rendered.recording import (
    FADE,
    Conditions,
    Recording,
    apply_recording,
    draw_conditions,
    draw_recording,
)

RATE = 16_000
PLAIN = Conditions(seed=7)
FULL = replace(
    draw_conditions(np.random.default_rng(1)),
    rt60_s=1.2,
    low_cut_hz=90.0,
    high_cut_hz=4000.0,
    noises=(("pink", 0.7), ("babble", 0.3)),
    snr_db=12.0,
    compression=4.0,
    threshold_db=-8.0,
    drive=1.5,
    low_pass_hz=3600.0,
)


def music(n_clips, seconds, seed=0):
    """Noise that swells and falls silent, so that levels and thresholds matter."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    swell = np.abs(np.sin(2 * np.pi * time * rng.uniform(0.2, 1.0, (n_clips, 1))))
    sound = 0.2 * swell * rng.standard_normal((n_clips, len(time)))
    sound[:, len(time) // 2 : len(time) // 2 + 4000] *= 0.01
    return sound.astype(np.float32)


def check(sounds, recordings):
    expected = np.stack([apply_recording(s, r) for s, r in zip(sounds, recordings, strict=True)])
    pieces = tabulate(recordings, sounds.shape[1])
    recorded = apply_recordings(torch.from_numpy(sounds), pieces).numpy()
    assert recorded.dtype == np.float32
    np.testing.assert_allclose(recorded, expected, atol=1e-5 * np.abs(expected).max())


def test_drawn_recordings_are_those_of_single_clips():
    """As stores have them: of several pieces and of one, of all rooms, kinds of noise and cuts."""
    rng = np.random.default_rng(0)
    check(music(24, 7.0), [draw_recording(rng, 7.0, changing=i % 4 > 0) for i in range(24)])


@pytest.mark.parametrize(
    "name",
    [
        "rt60_s",
        "noises",
        "compression",
        "drive",
        "low_pass_hz",
        "low_cut_hz",
        "high_cut_hz",
        "eq_db",
    ],
)
def test_each_condition_is_applied_or_left_out(name):
    """Alone, and all others without it; clips with and without it are in one batch."""
    alone = replace(PLAIN, **{name: getattr(FULL, name)})
    without = replace(FULL, **{name: getattr(PLAIN, name)})
    recordings = [Recording((c,)) for c in (PLAIN, alone, without, FULL)]
    check(music(4, 1.5, seed=2), recordings)
    sounds = np.repeat(music(1, 1.5), 2, axis=0)
    pieces = tabulate([Recording((PLAIN,)), Recording((alone,))], sounds.shape[1])
    plain, changed = apply_recordings(torch.from_numpy(sounds), pieces)
    assert float((plain - changed).abs().max()) > 1e-5


@pytest.mark.parametrize("border_s", [FADE / 4 / RATE, 0.3, 1.0 - FADE / 4 / RATE])
def test_pieces_fade_into_one_another_near_the_ends_too(border_s):
    check(music(2, 1.0), [Recording((FULL, PLAIN), (border_s,))] * 2)


def test_silence_stays_silent():
    recorded = apply_recordings(torch.zeros(2, RATE), tabulate([Recording((FULL,))] * 2, RATE))
    assert not recorded.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same():
    rng = np.random.default_rng(3)
    pieces = tabulate([draw_recording(rng, 7.0, changing=True) for _ in range(16)], 7 * RATE)
    sounds = torch.from_numpy(music(16, 7.0))
    expected = apply_recordings(sounds, pieces)
    recorded = apply_recordings(sounds.cuda(), pieces).cpu()
    torch.testing.assert_close(recorded, expected, rtol=0, atol=1e-4)
