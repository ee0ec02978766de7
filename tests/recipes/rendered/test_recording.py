from dataclasses import replace

import literal_recording
import numpy as np
import pytest
import torch

from recipes.rendered import recording_chain
from recipes.rendered.recording import EQ_HZ, Conditions, Recording, draw_conditions, draw_recording
from recipes.rendered.recording_chain import FADE, apply_recording, apply_recordings, tabulate

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


def tone(seconds=2.0, hz=440.0, peak=0.5):
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def music(n_clips, seconds, seed=0):
    """Noise that swells and falls silent, so that levels and thresholds matter."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    swell = np.abs(np.sin(2 * np.pi * time * rng.uniform(0.2, 1.0, (n_clips, 1))))
    sound = 0.2 * swell * rng.standard_normal((n_clips, len(time)))
    sound[:, len(time) // 2 : len(time) // 2 + 4000] *= 0.01
    return sound.astype(np.float32)


def record(sounds, recordings):
    pieces = tabulate(recordings, sounds.shape[1])
    return apply_recordings(torch.from_numpy(sounds), pieces).numpy()


def check(sounds, recordings):
    """Recorded together each is as it is recorded literally, and to the bit as it is alone."""
    recorded = record(sounds, recordings)
    assert recorded.dtype == np.float32
    for sound, recording, heard in zip(sounds, recordings, recorded, strict=True):
        expected = literal_recording.record(sound, recording)
        np.testing.assert_allclose(heard, expected, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(heard, apply_recording(sound, recording))


def test_drawn_recordings_are_the_literal_ones():
    """As stores have them: of several pieces and of one, of all rooms, kinds of noise and cuts."""
    rng = np.random.default_rng(0)
    check(music(12, 7.0), [draw_recording(rng, 7.0, changing=i % 4 > 0) for i in range(12)])


def test_many_pieces_at_once_are_as_one_by_one(monkeypatch):
    """As on a GPU."""
    rng = np.random.default_rng(1)
    recordings = [draw_recording(rng, 5.0, changing=i % 4 > 0) for i in range(16)]
    recordings += [Recording((FULL, PLAIN), (s / RATE,)) for s in (FADE // 4, 5 * RATE - FADE // 4)]
    sounds = music(len(recordings), 5.0)
    alone = record(sounds, recordings)
    monkeypatch.setitem(recording_chain.PIECES_AT_ONCE, "cpu", 16)
    np.testing.assert_allclose(record(sounds, recordings), alone, atol=1e-5 * np.abs(alone).max())


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
    """Alone, and all others without it."""
    alone = replace(PLAIN, **{name: getattr(FULL, name)})
    without = replace(FULL, **{name: getattr(PLAIN, name)})
    check(music(3, 1.5, seed=2), [Recording((c,)) for c in (alone, without, FULL)])
    plain, changed = record(
        np.repeat(music(1, 1.5), 2, axis=0), [Recording((c,)) for c in (PLAIN, alone)]
    )
    assert np.abs(plain - changed).max() > 1e-5


@pytest.mark.parametrize("border_s", [FADE / 4 / RATE, 0.3, 1.0 - FADE / 4 / RATE])
def test_pieces_fade_into_one_another_near_the_ends_too(border_s):
    check(music(1, 1.0), [Recording((FULL, PLAIN), (border_s,))])


def test_pieces_may_be_longer_than_the_banks_of_noise():
    """A minute and a quarter: the noise begins anew."""
    noisy = Conditions(noises=(("hum 50 Hz", 1.0),), snr_db=0.0, seed=3)
    check(music(1, 75.0), [Recording((noisy,))])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same():
    rng = np.random.default_rng(3)
    pieces = tabulate([draw_recording(rng, 7.0, changing=True) for _ in range(16)], 7 * RATE)
    sounds = torch.from_numpy(music(16, 7.0))
    recorded = apply_recordings(sounds.cuda(), pieces).cpu()
    torch.testing.assert_close(recorded, apply_recordings(sounds, pieces), rtol=0, atol=1e-4)


def rms_db(sound):
    return 10 * np.log10(np.mean(np.square(np.asarray(sound, float))) + 1e-30)


@pytest.mark.parametrize("kind", ["pink", "crackle"])
def test_noise_has_the_level_asked_for(kind):
    """What is added to the music, which is known here, has the level of the ratio."""
    sound = tone(5.0)
    plain = Conditions(peak_db=0.0, seed=5)
    noisy = replace(plain, noises=((kind, 1.0),), snr_db=20.0)
    recorded = apply_recording(sound, Recording((noisy,)))
    # Scaled to its peak afterwards: find the music in it again.
    scale = float(recorded @ sound / (sound @ sound))
    assert rms_db(sound * scale) - rms_db(recorded - sound * scale) == pytest.approx(20, abs=1.5)


@pytest.mark.parametrize("rt60_s", [0.4, 0.9, 1.4])
def test_reverberation_decays_in_its_time(rt60_s):
    """Schroeder's backward integral of what a click rings falls by 25 dB in 25/60 of the time."""
    click = np.eye(1, 2 * RATE, dtype=np.float32)[0]
    conditions = Conditions(rt60_s=rt60_s, reverberant_db=0.0, damping=1.0)
    kernel = apply_recording(click, Recording((conditions,)))[round(0.06 * RATE) :]
    energy = np.cumsum(kernel[::-1].astype(float) ** 2)[::-1]
    decibels = 10 * np.log10(energy / energy[0])
    fallen = np.argmax(decibels < -25) / RATE
    assert fallen == pytest.approx(rt60_s * 25 / 60, rel=0.25)


def test_the_microphone_has_the_gain_that_was_drawn():
    curve = (-6.0, -3.0, 0.0, 3.0, 6.0, 3.0, 0.0, -3.0, -6.0)
    click = np.eye(1, RATE, dtype=np.float32)[0]
    recorded = apply_recording(click, Recording((Conditions(eq_db=curve),)))
    response = np.abs(np.fft.rfft(recorded[:1024]))
    hz = np.fft.rfftfreq(2 * (len(response) - 1), 1 / RATE)
    measured = np.interp(EQ_HZ[3:-1], hz, 20 * np.log10(response))
    assert measured - measured[0] == pytest.approx(np.subtract(curve[3:-1], curve[3]), abs=0.5)


def test_changing_recordings_change_within_a_clip_and_fixed_ones_do_not():
    rng = np.random.default_rng(0)
    for _ in range(50):
        fixed = draw_recording(rng, 15.0)
        changing = draw_recording(rng, 15.0, changing=True)
        assert len(fixed.conditions) == 1
        assert not fixed.borders_s
        assert len(changing.conditions) == len(changing.borders_s) + 1 >= 3
        gaps = np.diff(changing.borders_s)
        assert ((gaps >= 2) & (gaps <= 6)).all()
        assert len(set(changing.conditions)) == len(changing.conditions)
