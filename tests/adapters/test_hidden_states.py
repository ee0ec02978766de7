"""Hidden states: a slow reference for every layer, batches, passes, and what is refused."""

from functools import partial

import literal_pipeline
import pytest
import torch
from conftest import published_state_dict

from myna_plugin import get_scene_embeddings, get_timestamp_embeddings, load_model
from myna_plugin.adapters import hidden_states
from myna_plugin.adapters.hidden_states import HiddenStates
from myna_plugin.model.checkpoint import embedding_patchings, load_encoder
from myna_plugin.model.embedding import Embedder

LENGTHS = (1, 700, 16_000, 49_152, 49_700, 192_000)
"""Samples: one frame, part of a patch, part of a chunk, a chunk, a little more, many."""


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(published_state_dict(2, depth=3), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def build(checkpoint, patches="hybrid", hop_ms=50.0):
    encoder = load_encoder(checkpoint, embedding=patches)
    return HiddenStates(encoder, embedding_patchings(patches, encoder.config.patchings), hop_ms)


def slow_states(model, sound):
    """Every state of one sound (S,): blocks one after another, chunks and columns one by one."""
    encoder, mel = model.encoder, model.mel(sound[None])[0]
    _, times = get_timestamp_embeddings(sound[None], Embedder(encoder, ("square",), hop_ms=37.5))
    states = []
    for n_blocks in (1, 2, 3):

        def encode(chunk, patching, n_blocks=n_blocks):
            tokens = encoder.tokens(chunk[None], patching)
            for block in encoder.transformer.layers[:n_blocks]:
                tokens = block(tokens)
            return (encoder.transformer.norm(tokens) if n_blocks == 3 else tokens)[0]

        parts = [
            literal_pipeline.read_timestamps(mel, times[0].tolist(), p, partial(encode, patching=p))
            for p in model.patchings
        ]
        states.append(torch.cat(parts, 1))
    return states


@pytest.mark.parametrize("patches", ["square", "vertical", "hybrid"])
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_each_state_is_read_off_the_tokens_after_its_block(checkpoint, sound, patches, n_samples):
    sounds = torch.cat([sound, sound.flip(-1)])[:, :n_samples]
    model = build(checkpoint, patches, hop_ms=37.5)
    with torch.no_grad():
        states = model(sounds)
        for row in (0, 1):
            for state, reference in zip(states, slow_states(model, sounds[row]), strict=True):
                torch.testing.assert_close(state[row], reference, rtol=1e-4, atol=1e-5)
    assert all(state.dtype == torch.float32 for state in states)


@pytest.mark.parametrize("pooling", ["mean", "mean-std"])
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_scenes_with_gradients_are_the_scene_embeddings(checkpoint, sound, n_samples, pooling):
    """Gradients are finite even where a lone token deviates from nothing."""
    sounds = torch.cat([sound, sound.flip(-1)])[:, :n_samples]
    model = build(checkpoint)
    model.requires_grad_(True)
    mel = model.mel(sounds)
    scenes = hidden_states.embed_scenes(model.encoder, mel, model.patchings, (3, 1), pooling)
    options = {"scene_layers": [3, 1], "scene_pooling": pooling}
    expected = get_scene_embeddings(sounds, load_model(checkpoint, **options))
    torch.testing.assert_close(scenes, expected, rtol=1e-5, atol=1e-5)
    scenes.square().sum().backward()
    gradients = [p.grad for p in model.encoder.transformer.parameters()]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_passes_change_nothing(checkpoint, sound, monkeypatch):
    model = build(checkpoint)
    whole = model(sound)
    monkeypatch.setattr(hidden_states, "CHUNKS_PER_PASS", 2)
    for state, expected in zip(model(sound), whole, strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_block(checkpoint, sound):
    model = build(checkpoint)
    model.requires_grad_(True)
    model(sound[:, :60_000])[-1].square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_autocast_leaves_the_mel_spectrogram_in_float32(checkpoint, sound):
    model = build(checkpoint)
    with torch.no_grad():
        exact = hidden_states.compute_mel(model.mel, sound)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(hidden_states.compute_mel(model.mel, sound), exact)
            states = model(sound)
        reference = model(sound)[-1]
    assert (states[-1] - reference).norm() < 0.02 * reference.norm()


def test_unusable_options_are_refused(checkpoint):
    with pytest.raises(ValueError, match="hop_ms"):
        build(checkpoint, hop_ms=0.0)
    encoder = load_encoder(checkpoint)
    with pytest.raises(ValueError, match="diagonal"):
        HiddenStates(encoder, ("diagonal",))


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(16_000), "shape"),
        (torch.zeros(1, 16_000, dtype=torch.int16), "floating point"),
        (torch.full((1, 16_000), torch.nan), "NaN"),
    ],
)
def test_unusable_audio_is_refused(checkpoint, audio, message):
    with pytest.raises(ValueError, match=message):
        build(checkpoint)(audio)
