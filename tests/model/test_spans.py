"""A part of a file, read without the rest, is that part of the whole file."""

import re

import numpy as np
import pytest
import soundfile
from sound_encoding import encode

from myna_plugin.model import audio, sound_files
from myna_plugin.model.audio import (
    AudioError,
    find_middle,
    load_audio,
    probe_ends,
    read_info,
    stream_audio,
    stream_middle,
)
from myna_plugin.model.containers import Container

RATE = 44_100
SECONDS = 24

KINDS = {
    "wav": ("pcm_s16le", {}, {}),
    "w64": ("pcm_f32le", {}, {}),
    "au": ("pcm_s16be", {}, {}),
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
    assert len(load_audio(path, seconds=0.001)) == 16
    with pytest.raises(ValueError, match=r"seconds must be at least 0\.001"):
        load_audio(path, seconds=0.0001)


def test_the_middle_of_a_flac_that_states_no_length(tmp_path):
    """As an encoder writes it into a pipe."""
    path = write(tmp_path / "a.flac", "flac")
    whole = load_audio(path).numpy()
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples, in 36 bits
    content[22:26] = bytes(4)
    path.write_bytes(content)
    told = []
    again = load_audio(path, note=lambda _, text: told.append(text)).numpy()
    assert (told, read_info(path).duration_s) == ([], SECONDS)
    np.testing.assert_array_equal(again, whole)
    assert find_middle(path, 4) == ((10.0, 14.0), SECONDS)
    check(path)


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_a_part_behind_the_end_is_told(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", kind, 3)
    with pytest.raises(AudioError, match=r"ends before 9\.00 s$"):
        read_part(path, (9.0, 10.0))
    with pytest.raises(AudioError, match=r"ends before 9\.00 s$"):
        find_middle(path, 1, (9.0, 10.0))


@pytest.mark.parametrize("kind", ["flac", "mp3", "au"])
def test_the_middle_of_a_file_that_was_cut_off(tmp_path, kind):
    """Its header states 24 s: what is there has a middle of its own."""
    path = write(tmp_path / f"a.{kind}", kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 10])
    told = []
    part = load_audio(path, note=lambda _, text: told.append(text), seconds=4).numpy()
    whole = load_audio(path, note=lambda *_: None).numpy()
    assert len(part) == 64_000
    assert [text.split(":")[0] for text in told] == ["read short"]
    assert re.fullmatch(r"read short: 7\.\d\d s of the 24\.00 s that its header states", told[0])
    there_s = float(told[0].split()[2])
    first = round((there_s - 4) / 2 * 16_000)
    best = min(
        range(first - 200, first + 200), key=lambda at: np.abs(part - whole[at:][:64_000]).max()
    )
    np.testing.assert_allclose(part, whole[best:][:64_000], rtol=0, atol=1e-6)
    with pytest.raises(AudioError, match=r"ends before 20\.00 s$"):
        stream_middle(path, 1, note=lambda *_: None, within=(20.0, 22.0))
    with pytest.raises(AudioError, match=r"cannot be decoded|ends before"):
        read_part(path, (20.0, 22.0))


@pytest.mark.parametrize("ending", [b"", b"LIST\x04\0\0\0abcd"])
@pytest.mark.parametrize("sizes", [(0, 0), (36, 0), (384_036, 0), (0xFFFF_FFFF, 0xFFFF_FFFF)])
def test_a_wav_whose_recorder_never_went_back_to_its_header(tmp_path, sizes, ending):
    path = tmp_path / "a.wav"
    soundfile.write(path, rumble(6, 16_000).T, 16_000)
    content = path.read_bytes()
    whole = load_audio(path).numpy()
    of_file, of_sound = (size.to_bytes(4, "little") for size in sizes)
    place = content.index(b"data") + 4
    path.write_bytes(content[:4] + of_file + content[8:place] + of_sound + content[place + 4 :])
    told = []
    again = load_audio(path, note=lambda _, text: told.append(text)).numpy()
    np.testing.assert_array_equal(again, whole)
    assert (told, read_info(path).duration_s, probe_ends(path)[1]) == ([], 6.0, "")
    np.testing.assert_allclose(
        load_audio(path, seconds=2).numpy(), whole[32_000:64_000], rtol=0, atol=1e-6
    )
    # One that is finished, and empty, has what follows its sound for no sound.
    empty = content[:place] + bytes(4) + ending
    path.write_bytes(empty[:4] + (len(empty) - 8).to_bytes(4, "little") + empty[8:])
    with pytest.raises(AudioError, match="holds no samples"):
        load_audio(path)
