"""Cutting and writing clips."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from myna_plugin.model.audio import AudioError
from myna_plugin.probing.tasks import Item, TaskError
from myna_plugin.probing.tasks.clips import load_clips, write_clips, write_wav

RATE = 8_000


@pytest.fixture
def ramp(tmp_path) -> Item:
    """A stereo file whose mean at second t is t / 100."""
    ramp = np.arange(10 * RATE) / RATE / 100
    soundfile.write(tmp_path / "ramp.wav", np.stack([ramp, ramp], 1), RATE, subtype="FLOAT")
    return Item("ramp", "ramp", tmp_path / "ramp.wav", "rock", "train")


def test_clips_are_cut_where_they_say(ramp):
    items = [ramp, replace(ramp, start_s=2.0, end_s=3.0), replace(ramp, start_s=9.5, end_s=20.0)]
    whole, middle, last = load_clips(ramp.path, items, RATE)
    assert [len(whole), len(middle), len(last)] == [10 * RATE, RATE, RATE // 2]
    np.testing.assert_allclose(middle[[0, -1]], [0.02, 0.03 - 0.01 / RATE], atol=1e-6)


def test_times_are_seconds_at_any_sample_rate(ramp):
    (clip,) = load_clips(ramp.path, [replace(ramp, start_s=4.0, end_s=5.0)], 16_000)
    assert len(clip) == 16_000
    assert float(clip.mean()) == pytest.approx(0.045, abs=1e-4)


def test_a_clip_after_the_end_is_refused(ramp):
    with pytest.raises(TaskError, match=r"ramp.wav: clip 'ramp' starts at 10 s, .* ends at 10 s"):
        load_clips(ramp.path, [replace(ramp, start_s=10.0, end_s=12.0)], RATE)


def test_writing_resumes_and_leaves_nothing_half_written(ramp, tmp_path):
    items = [replace(ramp, clip_id=str(i), start_s=float(i), end_s=float(i + 1)) for i in range(3)]
    names = {item.clip_id: tmp_path / "out" / f"{item.clip_id}.wav" for item in items}
    write_clips(items[:1], names, RATE)
    written = names["0"].stat().st_mtime_ns
    write_clips(items, names, RATE)
    assert names["0"].stat().st_mtime_ns == written
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0.wav", "1.wav", "2.wav"}
    info = soundfile.info(names["2"])
    assert (info.samplerate, info.frames, info.channels, info.subtype) == (RATE, RATE, 1, "PCM_16")


def test_an_unreadable_file_is_named(ramp, tmp_path):
    bad = replace(ramp, path=Path(tmp_path / "bad.wav"))
    bad.path.write_bytes(b"not audio")
    with pytest.raises(AudioError, match=r"bad\.wav"):
        write_clips([bad], {"ramp": tmp_path / "out" / "ramp.wav"}, None)
    assert not (tmp_path / "out").exists()


def test_a_clip_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.wav'"):
        write_wav(tmp_path / "a.wav", np.zeros(8, np.float32), RATE)
    assert not list(tmp_path.iterdir())
