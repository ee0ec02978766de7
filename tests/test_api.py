import numpy as np
import pytest
import soundfile
import torch
from tiny_library import load_tiny, write_noise

from myna_plugin import Myna, get_scene_embeddings, get_timestamp_embeddings, load_model
from myna_plugin.model.audio import AudioError, load_audio
from myna_plugin.model.tensors import CheckpointError


@pytest.fixture
def myna(tmp_path):
    return load_tiny(tmp_path)


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (100_000, 2))
    soundfile.write(path, noise, 44_100)
    return path


def test_a_file_is_embedded_as_by_the_hear_functions(tmp_path, myna, song):
    hear = load_model(tmp_path / "myna-hybrid.pth")
    audio = load_audio(song)[None]

    vector = myna.embed(str(song))
    vectors, times_ms = myna.embed_timestamps(song)

    assert vector.dtype == np.float32
    assert np.array_equal(vector, get_scene_embeddings(audio, hear)[0].numpy())
    expected, times = get_timestamp_embeddings(audio, hear)
    assert np.array_equal(vectors, expected[0].numpy())
    assert np.array_equal(times_ms, times[0].numpy())


@pytest.mark.parametrize("kind", [np.asarray, np.float64, torch.from_numpy])
def test_a_waveform_is_mixed_and_resampled_like_a_file(myna, song, kind):
    samples, rate = soundfile.read(song, dtype="float32")

    vector = myna.embed(kind(samples.T.copy()), sample_rate=rate)

    assert np.allclose(vector, myna.embed(song), rtol=1e-4, atol=1e-5)


def test_a_list_gives_a_row_each(tmp_path, myna, song):
    other = write_noise(tmp_path / "other.wav", 30_000)
    waveform, rate = soundfile.read(other, dtype="float32")

    rows = myna.embed([song, waveform, str(other)], sample_rate=rate)

    assert rows.shape == (3, myna.embedding_size) == (3, 128)
    assert np.array_equal(rows[0], myna.embed(song))
    assert np.array_equal(rows[1], rows[2])
    assert myna.embed([]).shape == (0, 128)


@pytest.mark.parametrize(
    ("audio", "sample_rate", "message"),
    [
        (np.zeros(99), None, "needs sample_rate"),
        (np.zeros(99), 0, "at least 1 Hz"),
        (np.zeros((99, 2)), 16_000, r"shape \(C, S\), got \(99, 2\): transpose it"),
        (np.zeros((1, 2, 99)), 16_000, "shape"),
        (np.zeros(0), 16_000, "shape"),
        (np.zeros(99, np.int16), 16_000, "floating point"),
        (np.array([0.0, np.nan]), 16_000, "NaN"),
    ],
)
def test_waveforms_that_cannot_be_meant_are_refused(myna, audio, sample_rate, message):
    with pytest.raises(ValueError, match=message):
        myna.embed(audio, sample_rate)


def test_what_is_missing_is_named(myna):
    with pytest.raises(AudioError, match=r"gone\.mp3: no such file"):
        myna.embed("gone.mp3")
    with pytest.raises(CheckpointError, match="nothing: no such file"):
        Myna.from_pretrained("nothing")
    for device in ("cuda:99", "tpu"):
        with pytest.raises(ValueError, match=device):
            Myna.from_pretrained("", device=device)


def test_options_reach_the_model(tmp_path):
    load_tiny(tmp_path)
    path = tmp_path / "myna-hybrid.pth"
    square = Myna.from_pretrained(path, embedding="square", device="cpu", hop_ms=200)

    assert square.embedding_size == 64
    assert square.device == torch.device("cpu")
    assert square.embed_timestamps(np.zeros(16_000), 16_000)[1].tolist() == [
        0,
        200,
        400,
        600,
        800,
        1000,
    ]
