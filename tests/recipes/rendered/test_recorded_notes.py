"""Recordings are cut, tuned and looped; no name leads out of its folder."""

import struct

import numpy as np
import pytest
from recorded_sounds import save, strike, tone

from recipes.rendered import recorded_objects
from recipes.rendered.recorded_bank import find_notes
from recipes.rendered.recorded_notes import (
    RATE,
    BankError,
    file_inside,
    measure_cents,
    read_loop,
    read_note,
    read_regions,
)
from recipes.rendered.recorded_sources import Recorded


def test_an_sfz_without_pitches_is_refused(tmp_path):
    (tmp_path / "own.sfz").write_text("<region> sample=a.wav", encoding="utf-8")
    with pytest.raises(BankError, match=r"own\.sfz: a\.wav has no pitch_keycenter"):
        read_regions(tmp_path / "own.sfz")


def test_notes_are_tuned_to_their_names_but_not_to_other_pitches():
    for cents in (-45, -12, 0, 30):
        sound = tone(57 + cents / 100, rate=RATE).astype(np.float32)
        assert measure_cents(sound, 57) == pytest.approx(cents, abs=2)
    assert measure_cents(tone(59, rate=RATE).astype(np.float32), 57) == 0


def test_a_files_own_loop_is_kept(tmp_path):
    path = tmp_path / "own.wav"
    save(path, tone(60, 1.0), subtype="PCM_16")
    assert read_loop(path) == (0, 0)
    loop = struct.pack("<IIIIII", 0, 0, 11_025, 33_074, 0, 0)
    body = struct.pack("<9I", 0, 0, 0, 60, 0, 0, 0, 1, 0) + loop
    data = path.read_bytes() + b"smpl" + struct.pack("<I", len(body)) + body
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    assert read_loop(path) == (11_025, 33_075)
    note = read_note(path, 60, 2.0, lasting=True)
    # At half the rate, less the silence before the onset.
    assert note.loop[1] - note.loop[0] == pytest.approx(11_025, abs=1)
    assert note.loop[0] == pytest.approx(5512, abs=20)


def test_names_never_lead_out_of_the_folder(tmp_path):
    inner = tmp_path / "own"
    save(tmp_path / "secret.wav", tone(60, 0.1))
    save(inner / "in.wav", tone(60, 0.1))
    (inner / "link.wav").symlink_to(tmp_path / "secret.wav")
    assert file_inside(inner, "in.wav") == inner / "in.wav"
    for name in ("../secret.wav", "..\\secret.wav", str(tmp_path / "secret.wav"), "link.wav"):
        with pytest.raises(BankError, match="lies outside"):
            file_inside(inner, name)
    (inner / "own.sfz").write_text(
        "<region> sample=..\\secret.wav pitch_keycenter=60", encoding="utf-8"
    )
    with pytest.raises(BankError, match="lies outside"):
        find_notes(Recorded(0, "Own", "own", sfz="own.sfz"), inner)
    with pytest.raises(BankError, match="lies outside"):
        find_notes(
            Recorded(0, "Own", "own", r"(?P<note>C4)?link\.wav", pitches={"link": 60}), inner
        )


def test_bad_recordings_are_named(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nonsense")
    with pytest.raises(BankError, match=r"broken\.wav: cannot be read"):
        read_note(tmp_path / "broken.wav", 60, 1.0, lasting=False)
    save(tmp_path / "silent.wav", np.zeros(1000))
    with pytest.raises(BankError, match=r"silent\.wav: is silent"):
        read_note(tmp_path / "silent.wav", 60, 1.0, lasting=False)
    with pytest.raises(BankError, match=r"gone\.wav: no such file"):
        file_inside(tmp_path, "gone.wav")
    with pytest.raises(BankError, match="has no recordings of Own"):
        find_notes(Recorded(0, "Own", "own", r"(?P<note>C4)\.wav"), tmp_path)


def test_kits_of_objects_take_other_objects_each_and_those_that_sound_alike(tmp_path, monkeypatch):
    like = {36: (80.0, 0.3), 42: (5000.0, 0.05), 47: (300.0, 0.2)}
    monkeypatch.setattr(recorded_objects, "LIKE", like)
    for number, (hz, seconds) in enumerate([(70, 0.1), (90, 0.1), (4800, 0.02), (5200, 0.02)]):
        save(tmp_path / f"hit {number}.wav", strike(hz, seconds, seed=number))
    for number in (4, 5):
        save(tmp_path / f"hit {number}.wav", strike(280 + 10 * number, 0.06, seed=number))
    swelling = strike(80, 0.1)[::-1]
    save(tmp_path / "hit swelling.wav", swelling)
    save(tmp_path / "speech.wav", strike(80, 0.1))
    kits = [recorded_objects.choose_objects(tmp_path, ["hit"], number) for number in (1, 2)]
    names = [{key: path.stem for key, path in kit.items()} for kit in kits]
    for kit in names:
        assert kit[36] in ("hit 0", "hit 1")
        assert kit[42] in ("hit 2", "hit 3")
        assert kit[47] in ("hit 4", "hit 5")
    assert not set(names[0].values()) & set(names[1].values())
    assert recorded_objects.choose_objects(tmp_path, ["hit"], 2) == kits[1]
    with pytest.raises(BankError, match="6 struck sounds of 9"):
        recorded_objects.choose_objects(tmp_path, ["hit"], 3)
