"""A folder of audio as one file of waveforms, whole or gone on with."""

import json
import os

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from full_disk import full_disk
from sound_encoding import tones

from myna_plugin.common.errors import InputError
from myna_plugin.common.locks import locked
from recipes.clmr import waveforms
from recipes.clmr.waveforms import Waveforms, main, write_waveforms

RATE = 44_100


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    (folder / "album").mkdir(parents=True)
    for name, hertz, seconds in (
        ("a.wav", 440, 4),
        ("album/b.flac", 880, 3),
        ("album/c.wav", 0, 1),
    ):
        soundfile.write(
            folder / name, 0.5 * tones(seconds, RATE, [hertz or 1])[0] * bool(hertz), RATE
        )
    (folder / "album" / "broken.mp3").write_bytes(b"no sound at all" * 99)
    (folder / "notes.txt").write_text("no sound")
    return folder


def test_sounds_lie_end_to_end_at_22050_hz(music, tmp_path):
    left_out = write_waveforms(music, tmp_path / "store", workers=1)
    store = Waveforms(tmp_path / "store")
    assert store.lengths.tolist() == [4 * 22_050, 3 * 22_050]
    assert store.starts.tolist() == [0, 4 * 22_050]
    for start, length, hertz in zip(store.starts, store.lengths, (440, 880), strict=True):
        spectrum = np.abs(np.fft.rfft(store.samples[start : start + length].astype(float)))
        assert spectrum.argmax() * 22_050 / length == hertz
    assert ["broken.mp3" in left_out[0], "c.wav: silent" in left_out[1]] == [True, True]


def test_a_store_is_known_by_what_it_holds(music, tmp_path):
    write_waveforms(music, tmp_path / "store", workers=1)
    write_waveforms(music, tmp_path / "same", workers=2)
    sound, rate = soundfile.read(music / "a.wav")
    soundfile.write(music / "a.wav", -sound, rate)  # as long, and another
    write_waveforms(music, tmp_path / "other", workers=1)
    store, same, other = (Waveforms(tmp_path / name) for name in ("store", "same", "other"))
    assert store.digest == same.digest != other.digest
    assert store.samples.size == other.samples.size


def test_a_killed_run_is_gone_on_with(music, tmp_path, monkeypatch):
    write_waveforms(music, tmp_path / "whole", workers=2)
    store = tmp_path / "store"
    write_waveforms(music, store, workers=1)
    index = store / "index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:2]) + lines[2][:9])  # killed within its third row
    with open(store / "waveforms.int16", "ab") as file:
        file.write(b"\1\2\3")
    with pytest.raises(InputError, match="no finished store"):
        Waveforms(store)
    decoded = []
    literal = waveforms.decode
    monkeypatch.setattr(waveforms, "decode", lambda path: decoded.append(path) or literal(path))
    write_waveforms(music, store, workers=1)
    assert len(decoded) == 3
    for name in ("waveforms.int16", "index.jsonl"):
        assert (store / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_cannot_be_used_is_one_line(music, tmp_path):
    def ends(*arguments):
        result = CliRunner().invoke(main, [*map(str, arguments)])
        return result.exit_code, result.output

    code, output = ends(tmp_path / "typo", tmp_path / "store")
    assert (code, "no such folder" in output) == (2, True)
    (tmp_path / "empty").mkdir()
    code, output = ends(tmp_path / "empty", tmp_path / "none")
    assert (code, "no file in it can be used" in output) == (2, True)
    code, output = ends(music, tmp_path / "store", "--workers", 1)
    assert (code, "2 sounds, 0.00 hours" in output) == (0, True)
    code, output = ends(music / "album", tmp_path / "store")
    assert (code, f"begun with {music}" in output) == (2, True)
    rows = [
        json.loads(line) for line in (tmp_path / "store" / "index.jsonl").read_text().splitlines()
    ]
    assert rows[-1] == {"sounds": 2}


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_utf8_is_written_out(music, tmp_path):
    odd = os.path.join(os.fsencode(music), b"caf\xe9.wav")
    os.rename(music / "a.wav", odd)
    with open(os.path.join(os.fsencode(music), b"bad\xe9.mp3"), "wb") as file:
        file.write(b"no sound")
    store = tmp_path / "store"
    told = write_waveforms(music, store, workers=1)
    assert len(told) == 3
    assert all(text.encode() for text in told)
    assert len(Waveforms(store).lengths) == 2
    before = (store / "index.jsonl").read_bytes()
    assert write_waveforms(music, store, workers=1) == told
    assert (store / "index.jsonl").read_bytes() == before


def test_rows_are_not_lost_when_a_run_cannot_go_on(music, tmp_path):
    store = tmp_path / "store"
    write_waveforms(music, store, workers=1)
    index = store / "index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    rows = [{"path": f"gone/{i}.wav", "fault": "x"} for i in range(400)]
    kept = "".join([*lines[:2], *(json.dumps(row) + "\n" for row in rows)])
    index.write_text(kept)
    with full_disk(), pytest.raises(OSError, match=r"index\.jsonl"):
        write_waveforms(music, store, workers=1)
    assert index.read_text() == kept


@pytest.mark.parametrize(
    "content", [b"5\n", b"[1]\n", b"{}\n", b'{"audio": "/x"}\n{"a": 1}\n', b"\xff\n", b"x\n"]
)
def test_another_index_is_refused_in_a_line(music, tmp_path, content):
    (tmp_path / "index.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"index.jsonl: ") as error:
        write_waveforms(music, tmp_path, workers=1)
    assert "\n" not in str(error.value)
    assert (tmp_path / "index.jsonl").read_bytes() == content


def test_two_runs_in_one_store_are_one_too_many(music, tmp_path):
    with locked(tmp_path / "lock", "busy"), pytest.raises(InputError, match="another run"):
        write_waveforms(music, tmp_path, workers=1)
    assert not (tmp_path / "index.jsonl").exists()
