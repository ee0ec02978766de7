"""A part of a file, read without the rest, is that part of the whole file."""

import numpy as np
import pytest
import soundfile
from sound_encoding import encode

from myna_plugin.model import audio, sound_files
from myna_plugin.model.audio import AudioError, find_middle, load_audio, stream_audio
from myna_plugin.model.containers import Container

RATE = 44_100
SECONDS = 24

KINDS = {
    "wav": ("pcm_s16le", {}, {}),
    "w64": ("pcm_f32le", {}, {}),
    "aiff": ("pcm_s16be", {}, {}),
    "flac": ("flac", {}, {}),
    "mp3": ("libmp3lame", {"b": "128k"}, {}),
    "variable.mp3": ("libmp3lame", {"q": "4"}, {}),
    "without-xing.mp3": ("libmp3lame", {"q": "4"}, {"write_xing": "0"}),
    "m4a": ("aac", {"b": "128k"}, {}),
    "alac.m4a": ("alac", {}, {}),
    "aac": ("aac", {"b": "128k"}, {}),
    "opus": ("libopus", {"b": "96k"}, {}),
    "wv": ("wavpack", {}, {}),
}
"""Ending, and FFmpeg's encoder, its settings and the muxer's."""


def rumble(seconds, rate, seed=0):
    """Stereo noise that swells and fades, so that no two places are alike, shape (2, S)."""
    noise = np.random.default_rng(seed).standard_normal((2, round(seconds * rate)))
    swelling = 0.1 + 0.05 * np.sin(np.arange(noise.shape[1]) / rate * 2.1)
    return (np.cumsum(noise, axis=1) % 2 - 1).astype(np.float32) * swelling.astype(np.float32)


def write(path, kind, seconds=SECONDS):
    codec, settings, options = KINDS[kind]
    rate = 48_000 if codec == "libopus" else RATE
    encode(path, codec, rumble(seconds, rate), rate, options=options, **settings)
    return path


def read_part(path, span, **options):
    return np.concatenate(list(stream_audio(path, span=span, **options)))


def check(path, spans=((0.0, 5.0), (0.3, 1.7), (7.123_456, 11.9), (19.0, None)), tolerance=1e-6):
    whole = load_audio(path).numpy()
    for start_s, stop_s in spans:
        part = read_part(path, (start_s, stop_s))
        stop = None if stop_s is None else round(16_000 * stop_s)
        expected = whole[round(16_000 * start_s) : stop]
        assert len(part) == len(expected)
        if path.name in ("a.m4a", "a.aac"):
            # AAC may have noise that the decoder draws, newer encoders of FFmpeg's use it: what it
            # draws depends on what it has decoded before.
            assert np.linalg.norm(part - expected) < 0.02 * np.linalg.norm(expected)
        else:
            np.testing.assert_allclose(part, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_that_of_the_whole(tmp_path, kind):
    check(write(tmp_path / f"a.{kind}", kind))


def test_a_part_of_vorbis_is_that_of_the_whole(tmp_path):
    sound = rumble(SECONDS, RATE).T
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", RATE, 2) as file:
        for start in range(0, len(sound), RATE):  # libsndfile overflows its stack on long Vorbis
            file.write(sound[start : start + RATE])
    check(tmp_path / "a.ogg")


@pytest.mark.parametrize("kind", ["flac", "variable.mp3"])
def test_little_more_than_the_part_is_decoded(tmp_path, monkeypatch, kind):
    path = write(tmp_path / f"a.{kind}", kind)
    decoded = []

    def counting(frames):
        for frame in frames:
            decoded.append(frame.samples / frame.sample_rate)
            yield frame

    def counting_blocks(blocks):
        for block in blocks:
            decoded.append(len(block.samples) / block.sample_rate)
            yield block

    real_frames, real_blocks = Container._frames, sound_files._libsndfile_blocks
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 0.5)
    monkeypatch.setattr(Container, "_frames", lambda self: counting(real_frames(self)))
    monkeypatch.setattr(
        sound_files, "_libsndfile_blocks", lambda *given: counting_blocks(real_blocks(*given))
    )
    assert len(read_part(path, (10.5, 12.5))) == 32_000
    assert 2 < sum(decoded) < 6.5  # a second or two on either side, and a second for the decoder


def test_damage_is_told_of_the_part_alone(tmp_path):
    path = write(tmp_path / "a.mp3", "mp3")
    content = bytearray(path.read_bytes())
    place = len(content) * 18 // SECONDS
    content[place : place + 2_000] = bytes(2_000)
    path.write_bytes(content)
    for span, n_told in (((4.0, 8.0), 0), ((16.0, 20.0), 1), ((0.0, None), 1)):
        told = []
        read_part(path, span, note=lambda _, text, told=told: told.append(text))
        assert [text.split(":")[0] for text in told] == ["damaged"] * n_told


def test_the_middle(tmp_path):
    path = write(tmp_path / "a.flac", "flac", 10)
    assert find_middle(path, 4) == ((3.0, 7.0), 10.0)
    assert find_middle(path, 10) == ((0.0, None), 10.0)
    assert find_middle(path, 2, (1.0, 4.0)) == ((1.5, 3.5), 3.0)
    assert find_middle(path, 2, (4.0, None)) == ((6.0, 8.0), 6.0)
    assert find_middle(path, 2, (4.0, 99.0)) == ((6.0, 8.0), 6.0)
    assert find_middle(path, 9, (4.0, None)) == ((4.0, None), 6.0)
    whole = load_audio(path).numpy()
    np.testing.assert_allclose(load_audio(path, seconds=4).numpy(), whole[48_000:112_000], 0, 1e-6)
    assert np.array_equal(load_audio(path, seconds=11).numpy(), whole)


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_a_part_behind_the_end_is_told(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", kind, 3)
    with pytest.raises(AudioError, match=r"ends before 9\.00 s$"):
        read_part(path, (9.0, 10.0))
    with pytest.raises(AudioError, match=r"ends before 9\.00 s$"):
        find_middle(path, 1, (9.0, 10.0))
