import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rendered.tasks import choose_soundfonts
from myna_plugin.common.errors import MissingPackageError
from recipes.rendered import blocks
from recipes.rendered.blocks import StorePlan, draw_block
from recipes.rendered.performance import PROGRAMS
from recipes.rendered.render import render_notes
from recipes.rendered.sampler import instruments_of
from recipes.rendered.soundfont_writer import DRUMS, write_soundfont
from recipes.rendered.soundfonts import (
    REFERENCE_DB,
    SoundfontError,
    balance_db,
    find_soundfonts,
    load_soundfont,
    programs_of,
    soundfont_digest,
)
from recipes.rendered.sources import Sources

pytest_plugins = ("rendered_fixtures",)

RATE = 16_000


def play(soundfont, program, pitch, seconds=1.0, duration=0.9, velocity=100, gains_db=(0.0,)):
    note = np.array([[0.0, duration, pitch, velocity, 0]])
    return render_notes(note, (program,), soundfont, seconds, gains_db=gains_db)


def level_db(sound):
    return 10 * np.log10(np.mean(np.square(sound)) + 1e-20)


def loudest_near(sound, hz):
    """Frequency of the loudest partial within a tone of `hz`."""
    n = 1 << 18
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), n))
    frequencies = np.fft.rfftfreq(n, 1 / RATE)
    near = np.abs(np.log2(frequencies[1:] / hz)) < 2 / 12
    return frequencies[1:][near][spectrum[1:][near].argmax()]


@pytest.mark.parametrize("program", [0, 16, 24, 40, 56, 71, 73, 80])
def test_written_instruments_are_in_tune(soundfont, program):
    for pitch in (50, 57, 64, 71):
        hz = 440 * 2 ** ((pitch - 69) / 12)
        assert abs(1200 * np.log2(loudest_near(play(soundfont, program, pitch), hz) / hz)) < 30


def test_every_program_is_heard_throughout_its_range(soundfont):
    for program, (low, high) in PROGRAMS.items():
        for pitch in (low, (low + high) // 2, high):
            assert level_db(play(soundfont, program, pitch, 0.5)) > -60, (program, pitch)


def test_drums_sound_and_differ(soundfont):
    def centroid(key):
        strike = np.array([[0.0, 0.2, key, 100, 0]])
        sound = render_notes(np.zeros((0, 5)), (0,), soundfont, 0.5, drums=strike)
        power = np.abs(np.fft.rfft(sound)) ** 2
        assert power.sum() > 0, key
        return np.sum(power * np.fft.rfftfreq(len(sound), 1 / RATE)) / power.sum()

    heights = {key: centroid(key) for key in DRUMS}
    assert heights[36] < 1000 < heights[38] < heights[42]


def test_the_same_seed_gives_the_same_file(tmp_path):
    one = write_soundfont(tmp_path / "one.sf2", seed=3, programs=[40]).read_bytes()
    same = write_soundfont(tmp_path / "same.sf2", seed=3, programs=[40]).read_bytes()
    other = write_soundfont(tmp_path / "other.sf2", seed=4, programs=[40]).read_bytes()
    assert one == same != other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.sf2", "other.sf2", "same.sf2"]


def test_balancing_makes_instruments_about_equally_loud(soundfont):
    for program in (0, 11, 19, 40, 73):
        gain = balance_db(soundfont, program, 66)
        sound = play(soundfont, program, 66, 0.5, 0.5, velocity=90, gains_db=(gain,))
        assert level_db(sound) == pytest.approx(REFERENCE_DB, abs=1.5)


def test_without_the_synthesiser_the_error_says_how_to_install_it(soundfont, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    load_soundfont.cache_clear()
    with pytest.raises(MissingPackageError, match="pip install --no-deps tinysoundfont"):
        load_soundfont(soundfont)


def test_what_is_no_soundfont_is_refused(tmp_path):
    with pytest.raises(SoundfontError, match="no such file"):
        load_soundfont(str(tmp_path / "absent.sf2"))
    (tmp_path / "broken.sf2").write_bytes(b"RIFF nonsense")
    with pytest.raises(SoundfontError, match=r"broken\.sf2: not a soundfont"):
        load_soundfont(str(tmp_path / "broken.sf2"))


def test_programs_are_those_that_a_soundfont_has(soundfont, tmp_path):
    assert programs_of(soundfont) == tuple(PROGRAMS)
    few = write_soundfont(tmp_path / "few.sf2", seed=0, programs=[73, 5, 118])
    assert programs_of(str(few)) == (5, 73)
    assert {row for row in instruments_of([str(few)]) if not row[2]} == {
        (str(few), 5, False),
        (str(few), 73, False),
    }
    none = write_soundfont(tmp_path / "none.sf2", seed=0, programs=[])
    with pytest.raises(SoundfontError, match=r"none\.sf2: no General MIDI programs"):
        programs_of(str(none))


def test_a_soundfont_is_asked_for_its_own_programs_alone(soundfont, tmp_path, monkeypatch):
    few = str(write_soundfont(tmp_path / "few.sf2", seed=0, programs=[5, 40, 73]))
    plan = StorePlan(Sources(composed=4), (soundfont, few), transpositions=1, clip_seconds=4.0)
    clips = [clip for number in range(12) for clip in draw_block(plan, number)]
    drawn = {font: set() for font in plan.soundfonts}
    for clip in clips:
        drawn[clip.soundfont] |= set(clip.performance.programs)
    assert drawn[few] == {5, 40, 73}
    assert len(drawn[soundfont]) > 40
    # A soundfont with all programs is played as if nobody had asked.
    whole = StorePlan(Sources(composed=4), (soundfont,), transpositions=1, clip_seconds=4.0)
    asked = [clip.performance for clip in draw_block(whole, 0)]
    monkeypatch.setattr(blocks, "programs_of", lambda path: range(128))
    assert [clip.performance for clip in draw_block(whole, 0)] == asked


def test_labelled_clips_want_all_programs(soundfont, tmp_path):
    few = write_soundfont(tmp_path / "few.sf2", seed=1, programs=[5, 40])
    with pytest.raises(SoundfontError, match=r"few\.sf2: lacks programs"):
        choose_soundfonts([few], [Path(soundfont)], tmp_path)


def test_found_soundfonts_can_be_loaded():
    found = find_soundfonts()
    if not found:
        pytest.skip("no soundfont is installed, nor pretty_midi, which brings one")
    assert load_soundfont(str(found[-1])).get_preset_count() > 0
    assert len(soundfont_digest(str(found[-1]))) == 64
