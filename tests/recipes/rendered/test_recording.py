from dataclasses import replace

import numpy as np
import pytest

from recipes.rendered.recording import (
    EQ_HZ,
    FADE,
    NOISES,
    Conditions,
    Recording,
    _compress,
    _convolve,
    _fade,
    _impulse_response,
    _microphone_gain,
    _minimum_phase,
    apply_recording,
    draw_recording,
    noise_bank,
)

RATE = 16_000


def tone(seconds=2.0, hz=440.0, peak=0.5):
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def rms_db(sound):
    return 10 * np.log10(np.mean(np.square(np.asarray(sound, float))) + 1e-30)


def test_plain_conditions_change_the_level_alone():
    sound = tone()
    recorded = apply_recording(sound, Recording((Conditions(peak_db=-20.0),)))
    np.testing.assert_allclose(recorded, sound * (0.1 / np.abs(sound).max()), atol=2e-5)


def test_convolution_is_numpys():
    rng = np.random.default_rng(0)
    sound, kernel = rng.standard_normal(5000), rng.standard_normal(700)
    expected = np.convolve(sound, kernel)[: len(sound)]
    np.testing.assert_allclose(_convolve(sound, kernel), expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_any_recording_is_finite_not_silent_and_not_clipped(seed):
    rng = np.random.default_rng(seed)
    sound = tone(7.0) * np.linspace(0.2, 1, 7 * RATE, dtype=np.float32)
    for changing in (False, True):
        recorded = apply_recording(sound, draw_recording(rng, 7.0, changing=changing))
        assert recorded.dtype == np.float32
        assert recorded.shape == sound.shape
        assert np.isfinite(recorded).all()
        assert 10 ** (-36 / 20) * 0.2 < np.abs(recorded).max() < 1


def test_the_same_recording_gives_the_same_sound():
    sound, recording = tone(), draw_recording(np.random.default_rng(3), 2.0, changing=True)
    one, other = apply_recording(sound, recording), apply_recording(sound, recording)
    np.testing.assert_array_equal(one, other)


def test_silence_stays_silent():
    recording = draw_recording(np.random.default_rng(0), 2.0, changing=True)
    assert not apply_recording(np.zeros(2 * RATE, np.float32), recording).any()


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_the_level_asked_for(kind):
    """What is added to the music, which is known here, has the level of the ratio."""
    sound = tone(5.0)
    plain = Conditions(peak_db=0.0, seed=5)
    noisy = replace(plain, noises=((kind, 1.0),), snr_db=20.0)
    recorded = apply_recording(sound, Recording((noisy,)))
    # Scaled to its peak afterwards: find the music in it again.
    scale = float(recorded @ sound / (sound @ sound))
    assert rms_db(sound * scale) - rms_db(recorded - sound * scale) == pytest.approx(20, abs=1.5)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_banks_are_normalised_and_clean(kind):
    bank = noise_bank(kind)
    assert np.sqrt(np.mean(bank**2)) == pytest.approx(1, rel=1e-3)
    assert abs(bank.mean()) < 1e-3
    assert np.isfinite(bank).all()


def test_noises_differ_in_colour():
    def centroid(kind):
        power = np.abs(np.fft.rfft(noise_bank(kind)[: 1 << 17])) ** 2
        return (power * np.fft.rfftfreq(1 << 17, 1 / RATE)).sum() / power.sum()

    assert centroid("hum 50 Hz") < centroid("babble") < centroid("white")
    assert centroid("brown") < centroid("pink") < centroid("white")


@pytest.mark.parametrize("rt60_s", [0.4, 0.9, 1.4])
def test_reverberation_decays_in_its_time(rt60_s):
    """Schroeder's backward integral of the kernel falls by 25 dB in 25/60 of the time."""
    conditions = Conditions(rt60_s=rt60_s, reverberant_db=0.0, damping=1.0)
    kernel = _impulse_response(conditions, np.random.default_rng(0))[round(0.06 * RATE) :]
    energy = np.cumsum(kernel[::-1].astype(float) ** 2)[::-1]
    decibels = 10 * np.log10(energy / energy[0])
    fallen = np.argmax(decibels < -25) / RATE
    assert fallen == pytest.approx(rt60_s * 25 / 60, rel=0.25)


def test_the_direct_sound_stays_in_place_and_the_room_rings_after_it():
    click = np.zeros(RATE, np.float32)
    click[4000] = 1.0
    wet = Conditions(rt60_s=0.5, reverberant_db=-6.0, peak_db=0.0)
    recorded = apply_recording(click, Recording((wet,)))
    assert np.abs(recorded).argmax() == 4000
    assert np.abs(recorded[:4000]).max() < 1e-6
    assert np.abs(recorded[4500:8000]).max() > 1e-3


def test_the_room_hears_what_was_played_before_the_conditions_changed():
    click = np.zeros(2 * RATE, np.float32)
    click[RATE - 400] = 1.0
    wet = Conditions(rt60_s=1.0, reverberant_db=0.0)
    recorded = apply_recording(click, Recording((Conditions(), wet), (1.0,)))
    assert np.abs(recorded[RATE + FADE : RATE + 4000]).max() > 1e-3


def test_the_microphone_has_the_gain_that_was_drawn():
    curve = (-6.0, -3.0, 0.0, 3.0, 6.0, 3.0, 0.0, -3.0, -6.0)
    conditions = Conditions(eq_db=curve)
    response = np.abs(np.fft.rfft(_minimum_phase(_microphone_gain(conditions))))
    hz = np.fft.rfftfreq(2 * (len(response) - 1), 1 / RATE)
    measured = np.interp(EQ_HZ[3:-1], hz, 20 * np.log10(response))
    assert measured == pytest.approx(curve[3:-1], abs=0.5)


def test_cuts_and_the_steep_low_pass_take_away_what_they_should():
    low, high = tone(hz=60, peak=0.25), tone(hz=6000, peak=0.25)

    def share_db(conditions, part):
        recorded = apply_recording(low + high, Recording((conditions,)))
        scale = float(recorded @ part / (part @ part))
        return 20 * np.log10(abs(scale) + 1e-9)

    cut = Conditions(low_cut_hz=250.0)
    assert share_db(cut, high) - share_db(cut, low) > 15
    dull = Conditions(high_cut_hz=1800.0)
    assert share_db(dull, low) - share_db(dull, high) > 12
    coded = Conditions(low_pass_hz=4000.0)
    assert share_db(coded, low) - share_db(coded, high) > 25


def test_compression_narrows_loud_and_soft():
    sound = np.concatenate([tone(1.0, peak=0.05), tone(1.0, peak=0.8)])
    level = float(np.sqrt(np.mean(sound**2)))
    squeezed = _compress(sound, Conditions(compression=4.0, threshold_db=-12.0), level)

    def contrast(x):
        return rms_db(x[RATE + 2000 :]) - rms_db(x[: RATE - 2000])

    assert contrast(squeezed) < contrast(sound) - 6


def test_fades_of_neighbours_sum_to_one():
    sound = np.full(4 * RATE, 0.5, np.float32)
    sound[::2] *= -1
    same = Conditions(peak_db=-6.0)
    one = apply_recording(sound, Recording((same,)))
    three = apply_recording(sound, Recording((same, same, same), (1.0, 2.5)))
    np.testing.assert_allclose(three, one, atol=1e-4)
    rise, fall = _fade(4 * FADE, True, False), _fade(4 * FADE, False, True)
    np.testing.assert_allclose(rise[:FADE] + fall[-FADE:], 1, atol=1e-6)


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


def test_drawn_conditions_lie_within_their_bounds():
    rng = np.random.default_rng(0)
    drawn = [draw_recording(rng, 5.0).conditions[0] for _ in range(400)]
    rooms = [c.rt60_s for c in drawn if c.rt60_s]
    assert 0.1 <= min(rooms) < 0.2 < 1.6 < max(rooms) <= 1.8
    assert 0.65 < len(rooms) / len(drawn) < 0.85
    assert all(8 <= c.snr_db <= 45 and -35 <= c.peak_db <= -1 for c in drawn)
    assert all(abs(gain) <= 14 for c in drawn for gain in c.eq_db)
    assert {kind for c in drawn for kind, _ in c.noises} == set(NOISES)


def test_borders_closer_than_a_fade_to_the_ends_do_no_harm():
    sound = tone(2.0)
    conditions = (Conditions(), Conditions(peak_db=-12.0), Conditions())
    recorded = apply_recording(sound, Recording(conditions, (0.001, 1.9995)))
    assert recorded.shape == sound.shape
    assert np.isfinite(recorded).all()
