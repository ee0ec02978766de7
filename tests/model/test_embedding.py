import math
import subprocess
import sys
import weakref
from dataclasses import replace

import literal_pipeline
import numpy as np
import pytest
import torch
from conftest import PATCHINGS, published_state_dict
from torch._dynamo.testing import CompileCounter

import myna_plugin
from myna_plugin.model import embedding
from myna_plugin.model.chunks import (
    TOKEN_SHARES,
    average_chunks,
    choose_tokens,
    encode_chunks,
    pool_consecutive,
    timestamp_count,
)
from myna_plugin.model.embedding import DELTA_MS, Embedder
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.model.vit import Transformer

KINDS = {"base": "square", "vertical": "vertical", "hybrid": "hybrid"}


def tiny_embedder(patchings=("square", "vertical"), **options):
    config = EncoderConfig(patchings=patchings, embed_dim=64, depth=2, num_heads=1, mlp_dim=128)
    return Embedder(initialise(MynaEncoder(config), 0).eval(), patchings, **options)


def relative_error(actual, expected):
    return ((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


@pytest.mark.parametrize("size", ["tiny", "vit-s"])
@pytest.mark.parametrize("kind", PATCHINGS)
def test_golden_chunks_equal_the_literal_pipeline(tmp_path, sound, kind, size):
    shapes = {"dim": 384, "depth": 12, "mlp_dim": 1536} if size == "vit-s" else {}
    weights = published_state_dict(PATCHINGS[kind], **shapes)
    torch.save(weights, tmp_path / f"myna-{kind}.pth")
    model = myna_plugin.load_model(tmp_path / f"myna-{kind}.pth")
    waveform = sound[:, :110_000]
    expected = literal_pipeline.embed_chunks(waveform, weights, KINDS[kind])
    actual, _ = model.embed_chunks(waveform)
    assert model.scene_embedding_size == expected.shape[1]
    assert relative_error(actual[0, : len(expected)], expected) < 1e-4


@pytest.mark.parametrize("layers", [None, [2], [1], [2, 1], (1, 2)])
@pytest.mark.parametrize("kind", PATCHINGS)
def test_scene_layers_equal_the_literal_pipeline(tmp_path, sound, kind, layers):
    """For each layer, square then vertical: mean tokens through the final norm."""
    weights = published_state_dict(PATCHINGS[kind])
    torch.save(weights, tmp_path / "weights.pth")
    model = myna_plugin.load_model(
        tmp_path / "weights.pth", embedding=KINDS[kind], scene_layers=layers
    )
    for n_samples in (20_000, 60_000):
        waveform = sound[:, :n_samples]
        expected = literal_pipeline.embed_scene(waveform, weights, KINDS[kind], layers or [2])
        assert model.scene_embedding_size == len(expected)
        assert relative_error(model.embed_scenes(waveform)[0], expected) < 1e-4
    width = 64 * len(model.patchings)
    assert model.timestamp_embedding_size == width
    assert model.scene_embedding_size == len(layers or [2]) * width


@pytest.mark.parametrize("kind", PATCHINGS)
def test_deviations_are_those_of_all_tokens(tmp_path, sound, kind):
    """Each mean is followed by the deviation, as the literal pipeline has it from all tokens."""
    weights = published_state_dict(PATCHINGS[kind])
    # A feature far from zero that hardly changes: its mean square is 10^8 times its variance.
    weights["transformer.norm.weight"][0], weights["transformer.norm.bias"][0] = 1e-2, 100.0
    torch.save(weights, tmp_path / "weights.pth")
    # Of one batch size, since some processors' products round by it.
    options = {"embedding": KINDS[kind], "scene_layers": [2, 1], "batch_size": 2}
    model = myna_plugin.load_model(tmp_path / "weights.pth", scene_pooling="mean-std", **options)
    for n_samples in (1100, 20_000, 120_000):
        waveform = sound[:, :n_samples]
        expected = literal_pipeline.token_statistics(waveform, weights, KINDS[kind], [2, 1])
        actual = model.embed_scenes(waveform)[0]
        assert model.scene_embedding_size == len(actual) == len(expected)
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
        means = myna_plugin.load_model(tmp_path / "weights.pth", **options)(waveform)
        assert torch.equal(actual.unflatten(0, (-1, 2, 64))[:, 0].flatten(), means[0])


@pytest.mark.parametrize("share", TOKEN_SHARES)
@pytest.mark.parametrize("kind", PATCHINGS)
def test_a_share_of_the_tokens_equals_the_literal_pipeline(tmp_path, sound, kind, share):
    weights = published_state_dict(PATCHINGS[kind])
    torch.save(weights, tmp_path / "weights.pth")
    options = {"embedding": KINDS[kind], "scene_layers": [2, 1]}
    model = myna_plugin.load_model(tmp_path / "weights.pth", tokens=share, **options)
    whole = myna_plugin.load_model(tmp_path / "weights.pth", **options)
    for n_samples in (1_100, 7_000, 49_152, 192_000):
        waveform = sound[:, :n_samples]
        expected = literal_pipeline.embed_scene(waveform, weights, KINDS[kind], [2, 1], share)
        assert relative_error(model.embed_scenes(waveform)[0], expected) < 1e-4
    exact = whole.embed_scenes(sound)
    assert torch.equal(model.embed_scenes(sound), exact) == (share == 1)
    # They need every column.
    assert torch.equal(model.embed_timestamps(sound)[0], whole.embed_timestamps(sound)[0])


@pytest.mark.parametrize("patching", ["square", "vertical"])
@pytest.mark.parametrize("share", TOKEN_SHARES[1:])
def test_consecutive_chunks_choose_every_token(patching, share):
    """A full chunk's once; where a count does not divide, or chunks are short, at least once."""
    every = round(1 / share)
    for n_frames in (1, 2, 16, 17, 50, 96, 98, 192):
        (chosen,) = choose_tokens([patching], n_frames, share, torch.arange(7, 7 + every))
        rows, width = {"square": (8, 16), "vertical": (1, 2)}[patching]
        count = rows * math.ceil(n_frames / width)
        assert set(chosen.flatten().tolist()) == set(range(count))
        assert all(len(set(row)) == len(row) for row in chosen.tolist())
        assert chosen.shape[1] == min(max(math.ceil(share * count), 6), count)
        if count % (6 * every) == 0:
            assert chosen.numel() == count
            places = torch.zeros(count).index_fill(0, chosen[0], 1).view(rows, -1)
            # As evenly as can be, over frequency and over time.
            for sums in (places.sum(0), places.sum(1)):
                assert sums.max() - sums.min() <= 1


def test_a_long_sound_is_summed_as_it_is_encoded(sound, monkeypatch):
    """Memory does not grow with a sound's length: no vectors are kept until the last chunk."""
    kept, most = [], []

    def pool(*arguments):
        vectors = pool_consecutive(*arguments)
        kept.append(weakref.ref(vectors))
        most.append(sum(reference() is not None for reference in kept))
        return vectors

    monkeypatch.setattr("myna_plugin.model.embedding.pool_consecutive", pool)
    model, waveform = tiny_embedder(batch_size=1), sound.repeat(1, 4)
    scenes = model.embed_scenes(waveform)
    assert len(kept) >= 12
    assert max(most) <= 2
    assert relative_error(scenes, average_chunks(*model.embed_chunks(waveform))) < 1e-6


def test_a_sound_is_one_pass_however_long_its_last_chunk(sound, monkeypatch):
    passes, states = [], Transformer.states

    def counted(*arguments):
        passes.append(1)
        return states(*arguments)

    monkeypatch.setattr(Transformer, "states", counted)
    model = tiny_embedder()
    for n_samples in (1, 20_000, 49_151, 110_000):
        model.embed_scenes(sound[:, :n_samples])
        assert len(passes) == 1
        passes.clear()
    model.embed_timestamps(sound[:, :110_000])
    assert len(passes) == 1


def test_layers_are_joined_as_they_are_alone_and_the_last_is_the_default(sound):
    both = tiny_embedder(scene_layers=[1, 2])
    first, last = tiny_embedder(scene_layers=[1]), tiny_embedder()
    waveform = sound[:, :100_000]
    joined = torch.cat([first.embed_scenes(waveform), last.embed_scenes(waveform)], 1)
    assert torch.equal(both.embed_scenes(waveform), joined)
    assert torch.equal(last.embed_scenes(waveform), tiny_embedder(scene_layers=[2])(waveform))
    assert torch.equal(both.embed_timestamps(waveform)[0], last.embed_timestamps(waveform)[0])
    # A checkpoint may name the blocks itself, and the pooling.
    named = MynaEncoder(replace(both.encoder.config, scene_layers=(1, 2))).eval()
    named.load_state_dict(both.encoder.state_dict())
    assert torch.equal(Embedder(named, both.patchings).embed_scenes(waveform), joined)
    assert Embedder(named, both.patchings, scene_layers=[2]).scene_embedding_size == 128
    named.config = replace(named.config, scene_pooling="mean-std")
    assert Embedder(named, both.patchings).scene_embedding_size == 512
    plain = Embedder(named, both.patchings, scene_pooling="mean")
    assert torch.equal(plain.embed_scenes(waveform), joined)


def test_the_parts_of_a_scene_embedding_are_what_each_would_be_alone(sound):
    def part(name):
        kind, _, layers = name.partition("@")
        patchings = ("square", "vertical") if kind == "hybrid" else (kind,)
        chosen = [int(layer) for layer in layers.split("+")] if layers else None
        twin = Embedder(
            model.encoder, patchings, scene_layers=chosen, scene_pooling=model.scene_pooling
        )
        return twin.embed_scenes(waveform)

    waveform = sound[:, :60_000]
    plain = ["square", "vertical", "hybrid"]
    layered = [f"{kind}@{layer}" for layer in (2, 1) for kind in plain] + ["hybrid@2+1"]
    for layers, pooling, names in (
        (None, "mean", plain),
        (None, "mean-std", plain),
        ([2, 1], "mean", layered),
        ([2, 1], "mean-std", layered),
    ):
        model = tiny_embedder(scene_layers=layers, scene_pooling=pooling)
        scene = model.embed_scenes(waveform)
        parts = model.scene_parts()
        assert list(parts) == names
        for name, place in parts.items():
            torch.testing.assert_close(scene[:, place], part(name), rtol=1e-5, atol=1e-5)
    single = tiny_embedder(("vertical",), scene_layers=[1, 2]).scene_parts()
    assert list(single.items()) == [
        ("vertical@1", slice(0, 64)),
        ("vertical@2", slice(64, 128)),
        ("vertical@1+2", slice(0, 128)),
    ]
    assert tiny_embedder(("square",)).scene_parts() == {"square": slice(0, 64)}


@pytest.mark.parametrize("patching", ["square", "vertical"])
@pytest.mark.parametrize(
    "frames", [1, 2, 3, 15, 16, 17, 31, 32, 33, 94, 95, 96, 97, 98, 111, 112, 113, 191, 192, 193]
)
def test_the_rule_for_lengths_at_every_boundary(sound, patching, frames):
    """Full chunks, then what is left over its own patch columns, each weighted by its frames."""
    model = tiny_embedder((patching,))
    for n_samples in {max((frames - 1) * 512, 1), frames * 512 - 1}:
        waveform = sound[:, :n_samples]
        mel = model.mel(waveform)
        assert mel.shape[-1] == frames
        expected = torch.zeros(1, 64)
        for start in range(0, frames, 96):
            chunk = mel[..., start : start + 96]
            width = literal_pipeline.PATCHES[patching][1]
            columns = math.ceil(chunk.shape[-1] / width)
            padded = torch.zeros(1, 128, columns * width)
            padded[..., : chunk.shape[-1]] = chunk
            share = chunk.shape[-1] / frames
            expected += share * model.encoder(padded, patching).detach()
        torch.testing.assert_close(model.embed_scenes(waveform), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 0.25])
@pytest.mark.parametrize("n_samples", [1, 5_000, 49_152, 100_000, 192_000])
def test_batch_size_never_changes_the_result(sound, n_samples, tokens):
    waveform = torch.cat([sound, sound.flip(1), 0.1 * sound])[:, :n_samples]
    options = {"scene_pooling": "mean-std", "tokens": tokens}
    whole = tiny_embedder(batch_size=1000, **options)
    for batch_size in (1, 3, 4):
        small = tiny_embedder(batch_size=batch_size, **options)
        torch.testing.assert_close(
            small.embed_scenes(waveform), whole.embed_scenes(waveform), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            small.embed_timestamps(waveform)[0],
            whole.embed_timestamps(waveform)[0],
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.parametrize("tokens", [1, 0.125])
def test_a_sound_does_not_depend_on_the_others_in_its_batch(sound, tokens):
    model = tiny_embedder(scene_pooling="mean-std", tokens=tokens)
    others = torch.cat([sound, 0.5 * sound.flip(1), torch.zeros_like(sound), sound.roll(999, 1)])
    alone = model.embed_scenes(sound)
    torch.testing.assert_close(model.embed_scenes(others)[:1], alone, rtol=1e-5, atol=1e-5)
    sequence, _ = model.embed_timestamps(others)
    torch.testing.assert_close(sequence[:1], model.embed_timestamps(sound)[0], rtol=1e-5, atol=1e-5)


def test_thread_counts_agree(sound):
    model = tiny_embedder()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append((model.embed_scenes(sound), model.embed_timestamps(sound)[0]))
    finally:
        torch.set_num_threads(before)
    for scene, sequence in results[1:]:
        torch.testing.assert_close(scene, results[0][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sequence, results[0][1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("patchings", [("square",), ("vertical",), ("square", "vertical")])
@pytest.mark.parametrize("n_samples", [1, 8_000, 49_151, 49_152, 70_000, 98_304, 150_000])
def test_timestamps_equal_a_plain_overlap_and_interpolation(sound, patchings, n_samples):
    """The blockwise fast path against one sound, one chunk, one column at a time."""
    model = tiny_embedder(patchings, batch_size=4)
    waveform = sound[:, :n_samples]
    mel = model.mel(waveform)[0].detach()
    actual, times = model.embed_timestamps(waveform)
    expected = [
        literal_pipeline.read_timestamps(
            mel,
            times[0].tolist(),
            patching,
            lambda chunk, patching=patching: model.encoder.encode(chunk[None], patching)[0],
        )
        for patching in patchings
    ]
    torch.testing.assert_close(actual[0], torch.cat(expected, 1).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hop_ms", [50.0, 10.0, 20, 33.3, 1000, 0.7])
@pytest.mark.parametrize("n_samples", [1, 799, 800, 801, 16_000, 50_001])
def test_times_are_multiples_of_the_hop_and_end_with_the_sound(hop_ms, n_samples):
    count = timestamp_count(n_samples, hop_ms)
    duration_ms = n_samples / 16
    assert (count - 1) * hop_ms <= duration_ms < count * hop_ms * (1 + 1e-12)


def test_times_do_not_drift_over_hours(monkeypatch):
    """Times of ten hours, taken without encoding them."""
    model = tiny_embedder(hop_ms=33.3)
    monkeypatch.setattr(
        model, "_read", lambda sounds, positions: torch.zeros(1, len(positions), 128)
    )
    _, times = model.embed_timestamps(torch.zeros(1, 1).expand(1, 10 * 3600 * 16_000))
    index = torch.arange(times.shape[1], dtype=torch.float64)
    assert times.shape[1] == 1 + int(36_000_000 / 33.3)
    assert torch.equal(times[0], (index * 33.3).float())


def test_timestamps_follow_the_sound(sound):
    """A click's place in time is where the sequence differs from that without it."""
    model = tiny_embedder()
    clicked = sound.clone()
    clicked[:, 96_000:96_256] += 0.9
    plain, times = model.embed_timestamps(sound)
    moved, _ = model.embed_timestamps(clicked)
    difference = (moved - plain).norm(dim=-1)[0]
    assert abs(times[0, difference.argmax()].item() - 6000) <= 64


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(16_000), r"shape \(n_sounds, n_samples\), got \(16000,\)"),
        (torch.zeros(2, 0), r"got \(2, 0\)"),
        (torch.zeros(1, 100, dtype=torch.int16), "floating point"),
        (torch.full((1, 60_000), torch.nan), "NaN or infinite samples"),
        (torch.tensor([[0.0, torch.inf, 0.0]]), "NaN or infinite samples"),
    ],
)
def test_bad_audio_is_refused(audio, message):
    model = tiny_embedder()
    for embed in (model.embed_scenes, model.embed_timestamps):
        with pytest.raises(ValueError, match=message):
            embed(audio)


def test_nan_late_in_a_sound_is_found(sound):
    sound[0, -1] = torch.nan
    with pytest.raises(ValueError, match=r"between \d+\.\d+ s and 12\.0\d s"):
        tiny_embedder(batch_size=2).embed_scenes(sound)


def test_timestamps_of_an_earlier_block_are_those_of_a_model_that_ends_there(sound):
    model = tiny_embedder(timestamp_layer=1)
    shallow = MynaEncoder(replace(model.encoder.config, depth=1)).eval()
    shallow.load_state_dict(model.encoder.state_dict(), strict=False)
    expected = Embedder(shallow, model.patchings).embed_timestamps(sound)
    got = model.embed_timestamps(sound)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    whole = tiny_embedder()
    assert not torch.allclose(got[0], whole.embed_timestamps(sound)[0], atol=1e-2)
    assert torch.equal(model.embed_scenes(sound), whole.embed_scenes(sound))
    # A checkpoint may name the block itself.
    named = MynaEncoder(replace(model.encoder.config, timestamp_layer=1)).eval()
    named.load_state_dict(model.encoder.state_dict())
    by_name = Embedder(named, model.patchings)
    assert torch.equal(by_name.embed_timestamps(sound)[0], got[0])


@pytest.mark.parametrize("batch_size", [1, None])
def test_vertical_deltas_are_the_vertical_vectors_and_their_differences(sound, batch_size):
    """At a hop of `DELTA_MS` a vector's neighbours are those that it is compared with."""
    both = tiny_embedder()
    plain = Embedder(both.encoder, ("vertical",), hop_ms=DELTA_MS)
    vectors, times = plain.embed_timestamps(sound)
    model = tiny_embedder(
        hop_ms=DELTA_MS, timestamp_reading="vertical-deltas", batch_size=batch_size
    )
    got, got_times = model.embed_timestamps(sound)
    assert torch.equal(got_times, times)
    assert got.shape[-1] == model.timestamp_embedding_size == 3 * vectors.shape[-1]
    now, since, until = got.chunk(3, dim=-1)
    near = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(now, vectors, **near)
    torch.testing.assert_close(since[:, 1:], vectors.diff(dim=1), **near)
    torch.testing.assert_close(until[:, :-1], vectors.diff(dim=1), **near)
    assert since[:, 0].abs().max() == 0  # there is nothing before the first column
    assert since[:, 1:].abs().amax() > 0.1
    alike = tiny_embedder(batch_size=batch_size)
    assert torch.equal(model.embed_scenes(sound), alike.embed_scenes(sound))


def test_a_checkpoint_names_how_its_timestamps_are_read(sound):
    model = tiny_embedder()
    config = replace(model.encoder.config, timestamp_reading="vertical-deltas", timestamp_hop_ms=20)
    encoder = MynaEncoder(config).eval()
    encoder.load_state_dict(model.encoder.state_dict())
    named = Embedder(encoder, model.patchings)
    asked = tiny_embedder(hop_ms=20, timestamp_reading="vertical-deltas")
    got = named.embed_timestamps(sound)[0]
    assert torch.equal(got, asked.embed_timestamps(sound)[0])
    # The caller has the last word, and square patches alone have no vertical ones.
    options = {"hop_ms": 50, "timestamp_reading": "tokens"}
    back = Embedder(encoder, model.patchings, **options).embed_timestamps(sound)[0]
    assert torch.equal(back, model.embed_timestamps(sound)[0])
    square = Embedder(encoder, ("square",))
    assert square.timestamp_reading == "tokens"
    assert square.timestamp_embedding_size == config.embed_dim
    with pytest.raises(ValueError, match="needs vertical patches"):
        Embedder(encoder, ("square",), timestamp_reading="vertical-deltas")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestamp_reading": "deltas"}, "must be tokens or vertical-deltas, got 'deltas'"),
        ({"hop_ms": 0}, "hop_ms must be at least 0.0625"),
        ({"hop_ms": math.nan}, "hop_ms must be at least 0.0625"),
        ({"timestamp_layer": 0}, "timestamp_layer must be 1 to 2, got 0"),
        ({"timestamp_layer": 3}, "timestamp_layer must be 1 to 2, got 3"),
        ({"timestamp_layer": True}, "timestamp_layer must be 1 to 2, got True"),
        *(
            ({"scene_layers": layers}, "scene_layers must list different blocks from 1 to 2")
            for layers in ([0], [3], [1, 1], [], [True], [1.0], ["1"], "12", 1, {1: 2}, [[1]])
        ),
        *(
            ({"scene_pooling": pooling}, "scene_pooling must be mean or mean-std, got")
            for pooling in ("std", "", 1, ["mean"])
        ),
        *(
            ({"tokens": share}, r"tokens must be one of 1, 0\.5, 0\.25, 0\.125, got ")
            for share in (0, 0.3, 2, 1 / 3)
        ),
        ({"tokens": math.nan}, "tokens must be at least 0"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_embedder(**options)


def test_half_precision_stays_close_and_returns_float32(sound):
    for pooling in ("mean", "mean-std"):
        full = tiny_embedder(scene_pooling=pooling).embed_scenes(sound)
        half = tiny_embedder(scene_pooling=pooling, precision="bfloat16")
        assert half.embed_scenes(sound).dtype == torch.float32
        assert half.embed_timestamps(sound)[0].dtype == torch.float32
        assert 0 < relative_error(half.embed_scenes(sound), full) < 0.03


MEMORY_SCRIPT = """
import resource, sys
import torch
sys.path[:0] = sys.argv[1:]
from test_embedding import tiny_embedder
torch.set_num_threads(1)
model = tiny_embedder()
waveform = torch.rand(1, 20 * 60 * 16_000).mul_(0.2)
for minutes in (5, 20):
    model.embed_scenes(waveform[:, : minutes * 60 * 16_000])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_twenty_minutes_take_no_more_memory_than_five():
    command = [sys.executable, "-c", MEMORY_SCRIPT, "tests/model", "tests"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    five, twenty = map(int, run.stdout.split())
    assert twenty - five < 30  # megabytes; a copy of the waveform is 73


def test_a_short_sound_is_not_padded_to_a_full_chunk(sound):
    """Silence up to three seconds would move the embedding of a one-second sound."""
    model = tiny_embedder()
    waveform = sound[:, :16_000]
    padded = torch.nn.functional.pad(waveform, (0, 49_152 - 16_000))
    assert relative_error(model.embed_scenes(padded), model.embed_scenes(waveform)) > 0.01


def test_timestamps_are_like_the_chunks_around_them(sound):
    """The slow way to hear what happens when: three instruments that take turns."""
    last = {"timestamp_layer": 12, "scene_layers": [12], "scene_pooling": "mean"}
    last["timestamp_reading"] = "tokens"
    model = myna_plugin.load_model(hop_ms=500.0, **last)
    seconds = torch.arange(64_000) / 16_000
    sine = 0.3 * torch.sin(2 * torch.pi * 1500 * seconds)[None]
    noise = 0.1 * torch.randn(1, 64_000, generator=torch.Generator().manual_seed(0))
    waveform = torch.cat([sound[:, :64_000], sine, noise], 1)
    vectors, times = model.embed_timestamps(waveform)
    windows = literal_pipeline.embed_windows(
        model.mel(waveform)[0],
        times[0].tolist(),
        lambda window: model.pool_chunks(window[None], torch.zeros(1).long())[0].detach(),
    )
    vectors, windows = (v - v.mean(0) for v in (vectors[0], windows))
    similarity = torch.nn.functional.cosine_similarity
    shifted = [similarity(vectors.roll(k, 0), windows).mean() for k in range(len(vectors))]
    assert max(shifted) == shifted[0] > 0.7


@pytest.mark.parametrize("tokens", [1, 0.25])
def test_few_graphs_are_compiled_whatever_the_lengths(sound, monkeypatch, tokens):
    """torch compiles a function eight times at most, then runs it as it is."""
    graphs = CompileCounter()
    compiled = torch.compile(encode_chunks, backend=graphs)
    monkeypatch.setattr(embedding, "compiled_encode", lambda: compiled)
    model, eager = (tiny_embedder(tokens=tokens, compile=compile) for compile in (True, False))
    for n_samples in (250_000, 50_000, 110_000, 170_000, 140_000, 90_000, 220_000, 200_000, 1):
        waveform = sound.repeat(1, 5)[:, :n_samples]
        torch.testing.assert_close(model.embed_scenes(waveform), eager.embed_scenes(waveform))
    whole = graphs.frame_count
    assert 1 <= whole <= 3
    for _ in range(3):
        waveform = sound.repeat(1, 5)[:, :130_000]
        torch.testing.assert_close(model.embed_scenes(waveform), eager.embed_scenes(waveform))
    assert graphs.frame_count == whole + 1, "the rest of sounds that are all as long"
    for n_samples in (131_000, 131_000, 140_500, 140_500):
        model.embed_scenes(sound.repeat(1, 5)[:, :n_samples])
    assert graphs.frame_count == whole + 1
