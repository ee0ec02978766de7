import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from myna_plugin.model.audio import AudioError, load_audio
from myna_plugin.model.decoding import AUDIO_SUFFIXES, decode_audio, estimate_seconds

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="the program ffmpeg is not on PATH"
)


def noise(seconds, rate=16_000, channels=1):
    generator = np.random.default_rng(0)
    return (0.1 * generator.standard_normal((int(seconds * rate), channels))).astype(np.float32)


@pytest.fixture
def m4a(tmp_path):
    """Two seconds of stereo AAC."""
    soundfile.write(tmp_path / "noise.wav", noise(2, 44_100, 2), 44_100)
    path = tmp_path / "sound.m4a"
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "noise.wav", "-c:a", "aac", path]
    subprocess.run(command, check=True)
    return path


@needs_ffmpeg
def test_m4a_is_decoded_mixed_and_resampled(m4a, tmp_path):
    samples = decode_audio(m4a)
    # AAC adds up to a few frames of 1024 samples of padding.
    assert 2 * 16_000 <= len(samples) < 2.2 * 16_000
    plain = tmp_path / "plain.wav"
    subprocess.run(["ffmpeg", "-v", "error", "-i", m4a, "-c:a", "pcm_f32le", plain], check=True)
    np.testing.assert_array_equal(samples, load_audio(plain))


@needs_ffmpeg
def test_a_broken_m4a_is_named_with_ffmpegs_reason(tmp_path):
    path = tmp_path / "broken.m4a"
    path.write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(AudioError, match=r"broken\.m4a: ffmpeg cannot decode it \(") as caught:
        decode_audio(path)
    assert "0x" not in str(caught.value)
    assert str(tmp_path / "broken.m4a") in str(caught.value)


@pytest.fixture
def stand_in_ffmpeg(tmp_path, monkeypatch):
    """Puts a shell script under the name ffmpeg on PATH; it sees the arguments as "$@"."""

    def install(script):
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def test_ffmpeg_is_asked_for_the_first_sound_track_of_a_local_file(tmp_path, stand_in_ffmpeg):
    soundfile.write(tmp_path / "answer.w64", noise(1, 8_000, 2), 8_000, subtype="FLOAT")
    stand_in_ffmpeg(
        f'printf "%s\\n" "$@" > {tmp_path}/arguments\n'
        f'for last; do :; done; cp {tmp_path}/answer.w64 "$last"'
    )
    path = tmp_path / "-i http:x.m4a"
    path.write_bytes(b"?")
    np.testing.assert_array_equal(decode_audio(path), load_audio(tmp_path / "answer.w64"))
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[arguments.index("-i") + 1] == f"file:{path}"
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"
    assert arguments[arguments.index("-map") + 1] == "0:a:0"


def test_what_ffmpeg_says_goes_into_the_error(tmp_path, stand_in_ffmpeg):
    stand_in_ffmpeg("echo '[mov @ 0x55d0c0ffee] moov atom not found' >&2; exit 1")
    path = tmp_path / "a.m4a"
    path.write_bytes(b"?")
    with pytest.raises(AudioError) as caught:
        decode_audio(path)
    assert str(caught.value) == f"{path}: ffmpeg cannot decode it (moov atom not found)"


def test_a_track_without_samples_is_named_by_its_own_path(tmp_path, stand_in_ffmpeg):
    soundfile.write(tmp_path / "answer.w64", noise(0), 8_000)
    stand_in_ffmpeg(f'for last; do :; done; cp {tmp_path}/answer.w64 "$last"')
    path = tmp_path / "a.webm"
    path.write_bytes(b"?")
    with pytest.raises(AudioError, match=f"^{path}: holds no samples"):
        decode_audio(path)


def test_without_ffmpeg_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.M4A"
    path.write_bytes(b"?" * 16_000)
    with pytest.raises(AudioError, match=r"a\.M4A: .* needs? the program ffmpeg.*run again"):
        decode_audio(path)
    assert estimate_seconds(path) == 0


def test_a_missing_file_is_missing_whatever_its_kind(tmp_path):
    for suffix in (".wav", ".m4a"):
        with pytest.raises(AudioError, match="no such file"):
            decode_audio(tmp_path / f"gone{suffix}")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff", ".w64"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_estimates_are_close_for_what_libsndfile_reads(tmp_path, suffix, rate):
    path = tmp_path / f"sound{suffix}"
    soundfile.write(path, noise(5, rate), rate)
    assert suffix in AUDIO_SUFFIXES
    assert estimate_seconds(path) == pytest.approx(5, abs=0.2)


def test_a_header_that_lies_does_not_inflate_the_estimate(tmp_path):
    """A FLAC header may claim 2^36 samples: 50 days at 16 kHz."""
    path = tmp_path / "liar.flac"
    soundfile.write(path, noise(5), 16_000)
    content = bytearray(path.read_bytes())
    assert content[:4] == b"fLaC"
    (packed,) = struct.unpack(">Q", content[18:26])
    content[18:26] = struct.pack(">Q", packed | (1 << 36) - 1)
    path.write_bytes(content)
    assert soundfile.info(path).duration > 1e6
    assert estimate_seconds(path) < 1000


def test_nothing_is_estimated_for_what_is_no_audio_file(tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("text.wav", "folder.wav", "pipe.wav", "gone.wav"):
        assert estimate_seconds(tmp_path / name) == 0


def test_a_name_that_is_not_utf8_is_refused_in_words():
    with pytest.raises(AudioError, match="not valid UTF-8: rename"):
        decode_audio(Path(os.fsdecode(b"/music/caf\xe9.wav")))
