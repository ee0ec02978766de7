import os
import re

import numpy as np
import pytest
import soundfile

from myna_plugin.model.audio import (
    AudioError,
    load_audio,
    probe_ends,
    read_info,
    resample,
    stream_audio,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder, not a file"),
        (lambda path: path.symlink_to("gone.wav"), "is a link to gone.wav, no such file"),
        (os.mkfifo, "is a pipe or a device, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device, not a file"),
        (lambda path: path.write_bytes(b"not audio" * 99), r"cannot be decoded \(not audio.*\)"),
        (lambda path: path.write_bytes(b"RIFF" + bytes(99)), r"cannot be decoded \(.*\)"),
    ],
)
def test_the_words_are_right_and_name_the_file_once(tmp_path, make, message):
    path = tmp_path / "a.wav"
    make(path)
    for read in (load_audio, read_info, probe_ends):
        with pytest.raises(AudioError) as caught:
            read(path)
        assert re.fullmatch(f"{path}: {message}", str(caught.value))
        assert str(caught.value).count("a.wav") == 1


def test_no_samples_and_nan_are_named(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, dtype=np.float32), 16_000)
    with pytest.raises(AudioError, match=r"empty\.wav: holds no samples"):
        load_audio(tmp_path / "empty.wav")
    for name in ("none.wav", "none.mp3", "none.flac"):
        (tmp_path / name).touch()
        with pytest.raises(AudioError, match=f"{name}: cannot be decoded .the file has no bytes"):
            load_audio(tmp_path / name)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan], dtype=np.float32), 16_000, "FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: holds NaN"):
        load_audio(tmp_path / "nan.wav")


@pytest.mark.parametrize(
    ("suffix", "channels", "rate"),
    [
        ("wav", 1, 16_000),
        ("flac", 2, 44_100),
        ("mp3", 2, 48_000),
        ("mp3", 1, 22_050),  # a seek where a block ends gives other samples here
        ("ogg", 2, 22_050),
        ("wav", 5, 44_100),
    ],
)
def test_a_stream_is_the_file_decoded_averaged_and_resampled_at_once(
    tmp_path, suffix, channels, rate
):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (25 * rate + 7, channels))
    with soundfile.SoundFile(path, "w", rate, channels) as file:
        for start in range(0, len(noise), rate):  # libsndfile overflows its stack on long Vorbis
            file.write(noise[start : start + rate])
    blocks = list(stream_audio(path))

    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    expected = resample(samples.mean(axis=1), rate, 16_000)
    assert len(blocks) > 2
    # Two decoders of these, libsndfile's and FFmpeg's, round differently.
    tolerance = {"mp3": 1e-5, "ogg": 1e-6}.get(suffix, 0.0)
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=0, atol=tolerance)
    assert np.array_equal(load_audio(path).numpy(), np.concatenate(blocks))
