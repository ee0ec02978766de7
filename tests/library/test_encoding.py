import numpy as np
import pytest
import torch
from tiny_library import load_tiny

from myna_plugin.library.encoding import SceneEncoder, SequenceEncoder
from myna_plugin.library.segments import cut_segments, keep_blocks

LENGTHS = (1, 700, 16_000, 48_000, 49_152, 160_000, 900_000, 33_000, 33_100)


@pytest.fixture
def embedder(tmp_path):
    return load_tiny(tmp_path).embedder


@pytest.fixture
def waveforms():
    generator = np.random.default_rng(0)
    return [generator.uniform(-0.5, 0.5, n).astype(np.float32) for n in LENGTHS]


def feed(encoder, waveforms, order, cut=cut_segments):
    """Tracks in an order, all segments of one after the other."""
    ready = []
    for track in order:
        for i, segment in enumerate(cut([waveforms[track]], 96)):
            ready += encoder.add(track, segment, i == 0)
        ready += encoder.finish(track, len(waveforms[track]))
    ready += encoder.flush()
    return {done.track: done for done in ready}


@pytest.mark.parametrize(
    ("batch_seconds", "options"),
    [(None, {"scene_pooling": "mean-std"}), (3, {}), (12, {}), (12, {"tokens": 0.25})],
)
def test_rows_are_scene_embeddings(tmp_path, waveforms, batch_seconds, options):
    embedder = load_tiny(tmp_path, **options).embedder
    encoder = SceneEncoder(embedder, batch_seconds)

    rows = feed(encoder, waveforms, range(len(waveforms)))

    assert sorted(rows) == list(range(len(waveforms)))
    for track, waveform in enumerate(waveforms):
        expected = embedder.embed_scenes(torch.from_numpy(waveform)[None])[0].numpy()
        assert np.allclose(rows[track].embedding, expected, rtol=1e-4, atol=1e-5)
        assert rows[track].duration_s == len(waveform) / 16_000


@pytest.mark.parametrize("tokens", [1, 0.25])
def test_a_row_does_not_depend_on_the_tracks_around_it_to_the_bit(
    tmp_path, waveforms, monkeypatch, tokens
):
    embedder = load_tiny(tmp_path, tokens=tokens).embedder
    monkeypatch.setattr("myna_plugin.library.encoding.PARTIAL_BATCH", {"cpu": 4})
    encoder = SceneEncoder(embedder)
    forwards = feed(encoder, waveforms, range(len(waveforms)))
    backwards = feed(encoder, waveforms, range(len(waveforms) - 1, -1, -1))
    alone = feed(encoder, waveforms, [6])

    for track in range(len(waveforms)):
        assert np.array_equal(forwards[track].embedding, backwards[track].embedding), track
    assert np.array_equal(alone[6].embedding, forwards[6].embedding)


def test_a_track_that_begins_anew_or_is_dropped_leaves_no_trace(embedder, waveforms):
    encoder = SceneEncoder(embedder)
    for i, segment in enumerate(cut_segments([waveforms[6]], 96)):
        encoder.add(6, segment, i == 0)
    encoder.add(5, next(cut_segments([waveforms[5]], 96)), True)
    encoder.drop(5)

    rows = feed(encoder, waveforms, [6])

    assert list(rows) == [6]
    expected = feed(SceneEncoder(embedder), waveforms, [6])[6].embedding
    assert np.array_equal(rows[6].embedding, expected)


def test_sequences_are_timestamp_embeddings(tmp_path, waveforms):
    embedder = load_tiny(tmp_path, hop_ms=100.0).embedder
    rows = feed(SequenceEncoder(embedder), waveforms[:6], range(6), keep_blocks)

    for track, waveform in enumerate(waveforms[:6]):
        expected, _ = embedder.embed_timestamps(torch.from_numpy(waveform)[None])
        assert np.array_equal(rows[track].embedding, expected[0].numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_cuda_rows_are_scene_embeddings_whatever_is_around_them(tmp_path, waveforms, precision):
    embedder = load_tiny(tmp_path, precision=precision).embedder.to("cuda")
    encoder = SceneEncoder(embedder)
    forwards = feed(encoder, waveforms, range(len(waveforms)))
    backwards = feed(encoder, waveforms, range(len(waveforms) - 1, -1, -1))

    for track, waveform in enumerate(waveforms):
        row = forwards[track].embedding
        assert np.array_equal(row, backwards[track].embedding)
        expected = embedder.embed_scenes(torch.from_numpy(waveform)[None])[0].cpu().numpy()
        assert np.linalg.norm(row - expected) < 0.02 * np.linalg.norm(expected)


def test_a_row_does_not_depend_on_the_number_of_cores(embedder, waveforms):
    before, rows = torch.get_num_threads(), []
    try:
        for cores in (1, 3):
            torch.set_num_threads(cores)
            rows.append(feed(SceneEncoder(embedder, 6), waveforms, range(len(waveforms))))
    finally:
        torch.set_num_threads(before)
    for track in range(len(waveforms)):
        assert np.array_equal(rows[0][track].embedding, rows[1][track].embedding)
