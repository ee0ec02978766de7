import literal_pipeline
import pytest
import torch
from conftest import published_state_dict
from torch import nn

from myna_plugin.model.encoder import PATCHINGS, SIZES, EncoderConfig, MynaEncoder, initialise
from myna_plugin.model.vit import patchify

TINY = {"embed_dim": 64, "depth": 2, "num_heads": 1, "mlp_dim": 128}


def test_parameter_names_and_shapes_are_the_published_ones():
    encoder = MynaEncoder(EncoderConfig(**TINY, projector=(50,)))
    published = published_state_dict(2)
    published = {k.replace("linear_head.", "linear_head.0."): v for k, v in published.items()}
    actual = encoder.state_dict()
    assert {k: v.shape for k, v in actual.items()} == {k: v.shape for k, v in published.items()}


@pytest.mark.parametrize("patching", PATCHINGS)
@pytest.mark.parametrize("frames", [16, 48, 96, 192])
def test_encoding_equals_the_literal_one_at_any_width(patching, frames):
    weights = published_state_dict(2)
    encoder = MynaEncoder(EncoderConfig(**TINY))
    encoder.load_state_dict({k: v for k, v in weights.items() if "linear_head" not in k})
    mel = torch.rand(128, frames, generator=torch.Generator().manual_seed(0))
    name = {"square": "to_patch_embedding", "vertical": "to_patch_embedding_b"}[patching]
    expected = literal_pipeline.encode(mel, weights, patching, name)
    actual = encoder.encode(mel.unsqueeze(0), patching)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_log_mel_is_log1p_of_the_input():
    mel = 100 * torch.rand(1, 128, 96, generator=torch.Generator().manual_seed(0))
    plain = initialise(MynaEncoder(EncoderConfig(**TINY)), 0)
    logged = initialise(MynaEncoder(EncoderConfig(**TINY, log_mel=True)), 0)
    torch.testing.assert_close(logged(mel, "square"), plain(mel.log1p(), "square"))
    assert not torch.allclose(logged(mel, "square"), plain(mel, "square"))


def test_a_fixed_scaling_is_of_the_logarithm_and_keeps_loudness():
    gain, mean, deviation = scaling = (1e3, 4.4, 3.0)
    config = EncoderConfig(**TINY, log_mel=True, fixed_scaling=scaling)
    encoder = initialise(MynaEncoder(config), 0)
    mel = torch.rand(1, 128, 96, generator=torch.Generator().manual_seed(0))
    for patching in config.patchings:
        _, norm, linear, token_norm = encoder.tokenizer(patching)
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
        patches = patchify(((1 + gain * mel).log() - mean) / deviation, PATCHINGS[patching])
        tokens = token_norm(linear(patches * norm.weight + norm.bias))
        expected = tokens + encoder.positions(patching, 96 // PATCHINGS[patching][1])
        torch.testing.assert_close(encoder.tokens(mel, patching), expected)
    by_itself = initialise(MynaEncoder(EncoderConfig(**TINY)), 0)
    for model, differs in ((by_itself, False), (encoder, True)):
        far = (model(2 * mel, "square") - model(mel, "square")).abs().max() > 0.01
        assert far == differs


def test_a_single_patching_model_keeps_its_tokenizer_under_the_first_name():
    encoder = MynaEncoder(EncoderConfig(**TINY, patchings=("vertical",)))
    assert "to_patch_embedding.2.weight" in encoder.state_dict()
    assert not any("to_patch_embedding_b" in k for k in encoder.state_dict())
    with pytest.raises(ValueError, match="no 'square' tokenizer"):
        encoder(torch.zeros(1, 128, 96), "square")


def test_initialise_is_seeded_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    encoder = MynaEncoder(EncoderConfig(**TINY))
    torch.set_rng_state(before)
    first = {k: v.clone() for k, v in initialise(encoder, 5).state_dict().items()}
    assert torch.equal(torch.get_rng_state(), before)
    again = initialise(MynaEncoder(EncoderConfig(**TINY)), 5).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    other = initialise(encoder, 6).state_dict()
    assert not torch.equal(
        first["to_patch_embedding.2.weight"], other["to_patch_embedding.2.weight"]
    )


@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_heads_of_64(size):
    config = EncoderConfig.of_size(size)
    assert config.embed_dim == 64 * config.num_heads
    assert config.mlp_dim == 4 * config.embed_dim


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patchings": ("round",)}, "patchings must be different ones"),
        ({"patchings": ("square", "square")}, "patchings must be different ones"),
        ({"patchings": ()}, "one or two patchings"),
        ({"depth": 0}, "sizes must be positive"),
        ({"chunk_frames": 98}, "must be a multiple of 16 from 16 to 32768, for .*, got 98"),
        ({"chunk_frames": 0}, "chunk_frames must be a multiple of 16 .*, got 0$"),
        ({"chunk_frames": "96"}, "chunk_frames must be a multiple of 16 .*, got '96'$"),
        ({"chunk_frames": 96.0}, r"chunk_frames must be a multiple of 16 .*, got 96\.0$"),
        ({"timestamp_layer": 0}, "timestamp_layer must be 1 to"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**changes)


def test_unknown_size_names_the_known_ones():
    with pytest.raises(ValueError, match="vit-ti, vit-s, vit-b, vit-l"):
        EncoderConfig.of_size("vit-xl")
