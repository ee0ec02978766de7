from dataclasses import replace

import numpy as np
import pytest
import tinysoundfont

from recipes.rendered.composer import compose_scores
from recipes.rendered.percussion import DrumTrack
from recipes.rendered.performance import Performance, draw_performance
from recipes.rendered.render import (
    PRE_ROLL_S,
    perform,
    render_clip,
    render_notes,
    run_in_workers,
)
from recipes.rendered.scores import DRUMS
from recipes.rendered.soundfonts import SYNTHESIS_RATE

pytest_plugins = ("rendered_fixtures",)

RATE = 16_000
NOTES = np.array(
    [
        [0.0, 0.5, 60, 100, 0],
        [0.5, 0.25, 64, 60, 0],
        [0.5, 1.0, 43, 90, 1],
        [0.75, 0.5, 64, 110, 0],
        [1.25, 0.6, 67, 80, 0],
    ]
)


def literal_render(notes, programs, soundfont, seconds):
    """The same by the synthesiser's public interface: stereo, and to the sample."""
    synth = tinysoundfont.Synth(samplerate=SYNTHESIS_RATE)
    font = synth.sfload(soundfont)
    for channel, program in enumerate(programs):
        synth.program_select(channel, font, 0, program)
    events = [(onset, 1, int(part), int(pitch), int(v)) for onset, _, pitch, v, part in notes]
    events += [(onset + d, 0, int(part), int(pitch), 0) for onset, d, pitch, _, part in notes]
    pieces, now = [], 0
    for seconds_at, is_on, channel, pitch, velocity in [*sorted(events), (seconds, 2, 0, 0, 0)]:
        frame = round((PRE_ROLL_S + seconds_at) * SYNTHESIS_RATE)
        if frame > now:
            pieces.append(np.frombuffer(synth.generate(frame - now), np.float32).copy())
            now = frame
        if is_on == 1:
            synth.noteon(channel, pitch, velocity)
        elif is_on == 0:
            synth.noteoff(channel, pitch)
    stereo = np.concatenate(pieces).reshape(-1, 2)
    return stereo.mean(1)[round(PRE_ROLL_S * SYNTHESIS_RATE) :: 2]


def correlation(one, other):
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def test_rendering_is_that_of_the_public_synthesiser(soundfont):
    """Up to the grid of onsets (2 ms) and the filter before decimation: little in the bass."""
    ours = render_notes(NOTES, (40, 43), soundfont, 2.0)
    literal = literal_render(NOTES, (40, 43), soundfont, 2.0)
    assert len(ours) == len(literal) == 2 * RATE

    def bass(sound):
        spectrum = np.fft.rfft(sound)
        spectrum[4000:] = 0
        return np.fft.irfft(spectrum)

    assert correlation(bass(ours), bass(literal)) > 0.99


def test_a_clip_does_not_depend_on_the_clip_before_it(soundfont):
    """To the last bit, which voices that still fade would change by the order of addition."""
    works = compose_scores(6, seed=0)
    rng = np.random.default_rng(0)
    played = [(score, draw_performance(score, 1.0, rng)) for score in works]

    def render_all(order):
        return [render_clip(score, how, soundfont, 1.0).waveform for score, how in order]

    for one, other in zip(render_all(played), render_all(played[::-1])[::-1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_sounds_before_the_first_note(soundfont):
    render_notes(np.array([[0.0, 9.0, p, 127, 0] for p in range(40, 90, 3)]), (19,), soundfont, 0.5)
    sound = render_notes(np.array([[0.3, 0.2, 60, 90, 0]]), (0,), soundfont, 0.6)
    assert not sound[: round(0.29 * RATE)].any()
    assert sound.any()


def test_tuning_moves_the_pitch(soundfont):
    note = np.array([[0.0, 2.0, 69, 100, 0]])

    def pitch_cents(cents):
        sound = render_notes(note, (16,), soundfont, 2.0, tuning_cents=cents)
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 20))
        near = slice(round(410 * (1 << 20) / RATE), round(470 * (1 << 20) / RATE))
        hz = (near.start + spectrum[near].argmax()) * RATE / (1 << 20)
        return 1200 * np.log2(hz / 440)

    assert pitch_cents(20.0) - pitch_cents(-20.0) == pytest.approx(40, abs=4)


def test_transposing_moves_labels_and_leaves_all_else(scale, soundfont):
    performance = Performance(start_s=2.0, programs=(40, 42), gains_db=(0.0, -3.0), seed=3)
    one = render_clip(scale, performance, soundfont, 5.0)
    other = render_clip(scale, replace(performance, transposition=5), soundfont, 5.0)
    assert (one.key, other.key) == ((0, 0), (5, 0))
    assert other.keys == ((0.0, 5, 0),)
    np.testing.assert_array_equal(other.notes[:, 2], one.notes[:, 2] + 5)
    np.testing.assert_array_equal(np.delete(other.notes, 2, 1), np.delete(one.notes, 2, 1))
    assert one.programs == other.programs == (40, 42)
    assert not np.array_equal(one.waveform, other.waveform)


def test_labelled_notes_are_heard(scale, soundfont):
    """At the middle of each labelled note its frequency has more power than its neighbours."""
    clip = render_clip(scale, Performance(programs=(16, 19)), soundfont, 8.0)
    assert len(clip.notes) >= 16
    for onset, offset, pitch, _ in clip.notes[clip.notes[:, 0] > 0.1]:
        if offset > 7.9:
            continue
        middle = round((onset + offset) / 2 * RATE)
        cut = clip.waveform[middle - 4000 : middle + 4000] * np.hanning(8000)
        spectrum = np.abs(np.fft.rfft(cut, 1 << 16))

        def power(midi, spectrum=spectrum):
            return spectrum[round(440 * 2 ** ((midi - 69) / 12) * (1 << 16) / RATE)]

        assert power(pitch) > 3 * max(power(pitch - 0.5), power(pitch + 0.5))


def test_labels_are_the_scores_notes_in_the_clips_time(scale):
    clip_notes, drums = perform(scale, Performance(start_s=2.5, tempo=1.25, programs=(0, 0)), 4.0)
    upper = clip_notes[clip_notes[:, 4] == 0]
    assert upper[:, 0] == pytest.approx([-0.5, -0.4, 0.4, 1.2, 2.0, 2.8, 3.6], abs=1e-3)
    assert upper[:, 2].tolist() == [62, 64, 65, 67, 69, 71, 72]
    # The first had begun earlier than the pre-roll reaches: it is struck again there.
    assert upper[0, 0] + upper[0, 1] == pytest.approx(-0.4, abs=1e-3)
    assert upper[1:, 1] == pytest.approx(0.8)
    assert len(drums) == 0


def test_the_key_is_told_only_where_it_holds_throughout(scale, soundfont):
    changing = replace(scale, keys=((0.0, 0, 0), (6.0, 9, 1)))
    performance = Performance(start_s=4.0, tempo=0.8, transposition=2, programs=(0,))
    clip = render_clip(changing, performance, soundfont, 5.0)
    assert clip.key is None
    assert clip.keys == ((0.0, 2, 0), (2.5, 11, 1))
    assert render_clip(changing, replace(performance, start_s=6.0), soundfont, 5.0).key == (11, 1)
    assert render_clip(replace(scale, keys=()), performance, soundfont, 5.0).key is None


def test_percussion_is_heard_and_not_among_the_notes(scale, soundfont):
    plain = Performance(programs=(40, 42))
    drummed = replace(plain, drums=DrumTrack("rock", gain_db=6.0, seed=4))
    one = render_clip(scale, plain, soundfont, 8.0)
    other = render_clip(scale, drummed, soundfont, 8.0)
    np.testing.assert_array_equal(one.notes, other.notes)
    assert correlation(one.waveform, other.waveform) < 0.95


def test_a_scores_own_drums_play_drums(scale, soundfont):
    own = replace(scale, parts=("Melody", DRUMS))
    notes, drums = perform(own, Performance(programs=(40,)), 8.0)
    assert set(notes[:, 4]) == {0.0}
    assert len(drums) == len(notes)
    clip = render_clip(own, Performance(programs=(40,)), soundfont, 8.0)
    assert clip.programs == (40,)


def fail_at_two(number):
    if number == 2:
        raise KeyError("two")
    return number


def test_errors_of_workers_arrive():
    results = run_in_workers(fail_at_two, range(6), 1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(results)
