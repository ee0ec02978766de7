from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from tiny_library import load_tiny, write_model, write_noise

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
        (np.zeros(99), 0, "sample_rate must be at least 1"),
        (np.zeros(99), 10**12, "sample_rate must be at least 1 and at most"),
        (torch.zeros(99, device="meta"), 16_000, "got a meta tensor"),
        (torch.zeros(99).to_sparse(), 16_000, "got a torch.sparse_coo tensor"),
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


NO_NUMBERS = ("4", None, [4], True, object(), np.array([1.0, 2.0]), float("nan"), float("inf"))


@pytest.mark.parametrize("audio", [None, 3, b"a.wav", {}, [None]])
def test_what_is_no_audio_is_refused(myna, audio):
    with pytest.raises(TypeError, match="audio must be a path, an array or a tensor, got"):
        myna.embed(audio, 16_000)


@pytest.mark.parametrize("rate", [*NO_NUMBERS, 16_000.0])
def test_a_rate_is_a_whole_number(myna, song, rate):
    for read in (partial(myna.embed, np.zeros(99)), partial(load_audio, song)):
        with pytest.raises((TypeError, ValueError), match="sample_rate"):
            read(sample_rate=rate)


@pytest.mark.parametrize("option", ["hop_ms", "batch_size"])
def test_numbers_of_a_model_are_finite_and_in_range(tmp_path, option):
    model = write_model(tmp_path)
    for value in (*NO_NUMBERS, 0, 1e-300, -1, 10**12):
        if value is not None:  # which leaves the choice to us
            with pytest.raises((TypeError, ValueError), match=f"{option} must be"):
                load_model(model, **{option: value})


def test_a_batch_is_a_whole_number(tmp_path):
    model = write_model(tmp_path)
    assert load_model(model, batch_size=np.int64(4)).batch_size == 4
    with pytest.raises(TypeError, match=r"batch_size must be a whole number, got 4\.5"):
        load_model(model, batch_size=4.5)


@pytest.mark.parametrize("source", [None, 3, b"x", ["a"]])
def test_what_is_no_path_is_no_model(source):
    for load in (load_model, Myna.from_pretrained):
        with pytest.raises(TypeError, match="must be a path or a name"):
            load(source)
    with pytest.raises(TypeError, match="embedder must be an Embedder"):
        Myna(source)


def test_torch_devices_and_bfloat16_are_taken(tmp_path, myna):
    assert load_tiny(tmp_path).device == torch.device("cpu")
    path = tmp_path / "myna-hybrid.pth"
    assert Myna.from_pretrained(path, device=torch.device("cpu")).device.type == "cpu"
    with pytest.raises(ValueError, match=r"device mps: torch .* sees no Apple GPU here"):
        Myna.from_pretrained(path, device=torch.device("mps"))
    halves = torch.linspace(-0.5, 0.5, 16_000).bfloat16()
    assert np.array_equal(myna.embed(halves, 16_000), myna.embed(halves.float(), 16_000))


def test_what_is_missing_is_named(myna):
    with pytest.raises(AudioError, match=r"gone\.mp3: no such file"):
        myna.embed("gone.mp3")
    for name in ("nothing", "n" * 5000, f"{'n' * 5000}.pth"):
        with pytest.raises(CheckpointError, match=f"^{name}: no such file"):
            Myna.from_pretrained(name)
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
