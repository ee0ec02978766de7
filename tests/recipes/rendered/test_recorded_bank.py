"""Recorded notes become a soundfont: in tune, on all keys, without clicks, from known folders."""

import re

import numpy as np
import pytest
from commands import run_command
from recorded_sounds import FILE_RATE, hz_of, save, strike, tone

from recipes.rendered import recorded_bank
from recipes.rendered.percussion import KITS
from recipes.rendered.performance import PROGRAMS
from recipes.rendered.recorded_bank import main, write_bank
from recipes.rendered.recorded_notes import RATE, midi_pitch, read_regions
from recipes.rendered.recorded_sources import (
    LICENCES,
    Kit,
    Objects,
    Recorded,
    Source,
    Table,
    read_table,
)
from recipes.rendered.render import render_notes
from recipes.rendered.sf2_file import DRUM_BANK, KEY_RANGE, Instrument, Tone, soundfont_file
from recipes.rendered.soundfonts import programs_of


def play(soundfont, program, pitch, velocity=100, seconds=1.0, duration=0.9):
    note = np.array([[0.0, duration, pitch, velocity, 0]])
    return render_notes(note, (program,), str(soundfont), seconds)


def pitch_of(sound, near):
    """MIDI pitch of the loudest partial within a tone of `near`."""
    n = 1 << 18
    part = sound[1600:12_000]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), n))
    pitches = 69 + 12 * np.log2(np.fft.rfftfreq(n, 1 / 16_000)[1:] / 440)
    inside = np.abs(pitches - near) < 2
    return pitches[inside][spectrum[1:][inside].argmax()]


def partial_db(sound, pitch, order):
    """Level of a partial above the fundamental's."""
    spectrum = np.abs(np.fft.rfft(sound[1600:12_000] * np.hanning(10_400)))
    hz = np.fft.rfftfreq(10_400, 1 / 16_000)

    def level(number):
        return spectrum[np.abs(hz - number * hz_of(pitch)) < 12].max()

    return 20 * np.log10(level(order) / level(1))


def source(**changes):
    told = {
        "address": "https://example.org/notes",
        "commit": "0" * 40,
        "licence": "CC0",
        "attribution": "nobody",
        "evidence": "LICENSE",
    }
    return Source(**told | changes)


def table(*instruments, kits=(), objects=None):
    return Table(
        {"own": source(), "other": source()}, instruments, kits, objects or Objects("own", ("hit",))
    )


@pytest.fixture
def bank(tmp_path):
    """A function that writes the bank of some instruments and kits over `tmp_path`."""

    def write(*instruments, name="bank.sf2", **more):
        write_bank(tmp_path / name, tmp_path, table(*instruments, **more))
        return tmp_path / name

    return write


@pytest.fixture
def kit(tmp_path):
    """A drum kit of two drums."""
    save(tmp_path / "own" / "drums" / "kick.wav", strike(60, 0.1))
    save(tmp_path / "own" / "drums" / "hat.wav", strike(5000, 0.03))
    return Kit(0, "Two drums", {"own/drums": {36: "kick", 42: "hat"}})


@pytest.mark.parametrize(
    ("files", "name", "transpose"),
    [
        (r"(?P<note>[A-G][#bs]?\d)\.ogg", "{note}.ogg", 0),
        (r"x_(?P<midi>\d+)__.*\.wav", "x_{midi:03d}__z.wav", 0),
        (r"(?P<note>[A-G][#b]?\d)_f\.flac", "{lower}_f.flac", 12),
    ],
)
def test_notes_in_names_sound_at_their_pitch_on_every_key(
    tmp_path, bank, kit, files, name, transpose
):
    for note in ("C3", "F#3", "Eb4", "A4"):
        pitch = midi_pitch(note)
        lower = note[:-1] + str(int(note[-1]) - 1)
        save(tmp_path / "own" / name.format(note=note, midi=pitch, lower=lower), tone(pitch))
    recorded = Recorded(0, "Own", "own", files, transpose=transpose)
    path = bank(recorded, kits=(kit,))
    for key in range(36, 90, 3):
        assert pitch_of(play(path, 0, key), key) == pytest.approx(key, abs=0.1), key


def test_an_sfz_tells_pitches_and_dynamics(tmp_path, bank, kit):
    folder = tmp_path / "own"
    save(folder / "in here" / "s 1.wav", tone(60, partials=(1.0, 0.02)))
    save(folder / "in here" / "s 2.wav", tone(60, partials=(1.0, 1.0)))
    save(folder / "in here" / "s 3.wav", tone(67.5))
    save(folder / "in here" / "s 4.wav", tone(76))
    (folder / "own.sfz").write_text(
        "// a comment <region> sample=none.wav\n<global> lovel=0\n"
        "<group> hivel=79 <region> sample=in here\\s 1.wav lokey=c0 pitch_keycenter=c4\n"
        "<group> lovel=80\n<region>\nsample=in here/s 2.wav\nkey=60\n"
        "<group> <region> pitch_keycenter=68 tune=50 sample=in here/s 3.wav // sharp\n"
        "<region> trigger=release pitch_keycenter=40 sample=in here/gone.wav\n"
        "<group> lovel=90 <global> volume=0 <region> key=76 sample=in here/s 4.wav\n",
        encoding="utf-8",
    )
    regions = read_regions(folder / "own.sfz")
    assert [(r.pitch, r.low_velocity) for r in regions] == [(60, 0), (60, 80), (67.5, 0), (76, 0)]
    path = bank(Recorded(3, "Own", "own", sfz="own.sfz"), kits=(kit,))
    assert pitch_of(play(path, 3, 72, 70), 72) == pytest.approx(72, abs=0.1)
    assert partial_db(play(path, 3, 60, 79), 60, 2) < -30
    assert partial_db(play(path, 3, 60, 80), 60, 2) > -6


def test_layers_of_names_are_chosen_by_velocity(tmp_path, bank, kit):
    for layer, second in (("pp", 0.01), ("mf", 0.2), ("ff", 1.0), ("release", 3.0)):
        save(tmp_path / "own" / f"C4{layer}.wav", tone(60, partials=(1.0, second)))
    files = r"(?P<note>[A-G]\d)(?P<layer>\w+)\.wav"
    path = bank(Recorded(0, "Own", "own", files, ("pp", "ff")), kits=(kit,))
    soft, loud = play(path, 0, 60, 63), play(path, 0, 60, 64)
    assert partial_db(soft, 60, 2) < -35
    assert partial_db(loud, 60, 2) > -3
    # What is played louder sounds louder by the velocity alone: layers are of one level.
    ratio = np.sqrt(np.mean(loud**2) / np.mean(soft**2))
    assert ratio == pytest.approx(64 / 63, rel=0.15)


def test_a_lasting_note_lasts_and_does_not_click(tmp_path, bank, kit):
    sound = tone(60, 1.3)
    sound[round(1.0 * FILE_RATE) :] *= np.linspace(1, 0, len(sound) - round(1.0 * FILE_RATE))
    save(tmp_path / "own" / "C4.wav", sound)
    played = {}
    for lasting in (False, True):
        recorded = Recorded(0, "Own", "own", r"(?P<note>C4)\.wav", lasting=lasting)
        path = bank(recorded, kits=(kit,), name=f"{lasting}.sf2")
        played[lasting] = play(path, 0, 62, seconds=4.0, duration=4.0)
    assert np.abs(played[False][40_000:]).max() < 1e-4
    held = played[True][4_000:60_000]
    levels = np.sqrt((held.reshape(-1, 1000) ** 2).mean(1))
    assert levels.max() / levels.min() < 1.25
    clicks = np.abs(np.diff(held, 3))
    assert clicks.max() < 3 * np.percentile(clicks, 99)


def test_a_source_that_is_absent_is_left_out_and_said(tmp_path, bank, kit, monkeypatch):
    save(tmp_path / "own" / "C4.wav", tone(60))
    here = Recorded(7, "Here", "own", r"(?P<note>C4)\.wav")
    away = Recorded(9, "Away", "other/there", r"(?P<note>C4)\.wav")
    path = bank(here, away, kits=(kit, Kit(8, "Away", {"other": {36: "kick"}})))
    assert programs_of(str(path)) == (7,)
    monkeypatch.setattr(recorded_bank, "read_table", lambda: table(here, away, kits=(kit,)))
    status, said, _ = run_command(main, tmp_path / "again.sf2", "--sources", tmp_path)
    assert status == 0
    assert re.search(r"other: not there, left out\n.*2 presets", said)
    status, _, errors = run_command(main, tmp_path / "none.sf2", "--sources", tmp_path / "own")
    assert status == 2
    assert re.fullmatch(r"recorded_bank: .*has no source.*\n", errors)
    assert not (tmp_path / "none.sf2").exists()


def test_seconds_are_told_by_source(tmp_path, bank, kit):
    save(tmp_path / "own" / "C4.wav", tone(60, 2.0))
    save(tmp_path / "own" / "C5.wav", tone(72, 1.0))
    path = bank(Recorded(0, "Own", "own", r"(?P<note>C\d)\.wav", longest_s=1.5), kits=())
    line = next(row for row in path.with_suffix(".md").read_text().splitlines() if "`own`" in row)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:4] == ["0" * 40, "CC0", "nobody"]
    assert int(cells[4]) == 2
    assert float(cells[5]) == pytest.approx(2.5, abs=0.05)
    assert cells[6] == "0 Own"


def test_every_source_has_address_commit_licence_and_attribution():
    whole = read_table()
    assert whole.sources
    for name, told in whole.sources.items():
        assert told.address.startswith("https://"), name
        assert re.fullmatch(r"[0-9a-f]{40}|\d\S*-\d+", told.commit), name
        assert told.licence in LICENCES, name
        assert told.attribution, name
        assert told.evidence, name
    for folder in [
        *(i.folder for i in whole.instruments),
        *(f for k in whole.kits for f in k.parts),
    ]:
        assert whole.source_of(folder) in whole.sources
    assert whole.source_of(whole.objects.folder) in whole.sources
    with pytest.raises(KeyError):
        whole.source_of("Tonejs-audio/casio")
    with pytest.raises(ValueError, match="CC BY-NC is none of"):
        source(licence="CC BY-NC")


def test_the_table_has_each_program_once_and_all_kits():
    whole = read_table()
    programs = [instrument.program for instrument in whole.instruments]
    assert programs == sorted(set(programs))
    assert set(programs) <= set(PROGRAMS)
    assert sorted(kit.program for kit in whole.kits) == sorted(KITS)
    for recorded in whole.instruments:
        assert len(recorded.name) <= 19
        assert sum(map(bool, (recorded.files, recorded.pitches, recorded.sfz))) == 1, recorded.name
        groups = re.compile(recorded.files).groupindex
        assert not recorded.files or {"note", "midi"} & set(groups), recorded.name
        assert ("layer" in groups) == bool(recorded.layers), recorded.name


def test_banks_are_the_same_each_time_and_leave_nothing_else(tmp_path, bank, kit):
    save(tmp_path / "own" / "C4.wav", tone(60, 1.0))
    recorded = Recorded(0, "Own", "own", r"(?P<note>C\d)\.wav")
    first, second = (bank(recorded, kits=(kit,), name=f"{n}.sf2").read_bytes() for n in (1, 2))
    assert first == second
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"own", "1.sf2", "1.md", "2.sf2", "2.md"}


def test_compressed_banks_of_any_length_can_be_read(tmp_path):
    lengths = set()
    for seed in range(8):
        noise = np.random.default_rng(seed).integers(-9000, 9000, 1000 + seed).astype("<i2")
        zones = [([(KEY_RANGE, 127 << 8)], Tone("noise", noise, RATE, 60.0))]
        made = [Instrument("a", 0, 0, zones), Instrument("b", DRUM_BANK, 0, zones)]
        path = tmp_path / f"{seed}.sf3"
        path.write_bytes(soundfont_file(made, "Noise", compressed=True))
        save(tmp_path / "alone.ogg", noise, RATE, subtype="VORBIS")
        lengths.add((tmp_path / "alone.ogg").stat().st_size % 2)
        assert programs_of(str(path)) == (0,)
        assert np.abs(play(path, 0, 60)).max() > 0.01
    # Odd ones, too, which the synthesiser's reader stumbles over unless they are filled up.
    assert lengths == {0, 1}
