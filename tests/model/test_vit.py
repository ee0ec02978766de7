import literal_pipeline
import pytest
import torch

from myna_plugin.model import vit
from myna_plugin.model.vit import Transformer, patchify, sincos_positions


@pytest.mark.parametrize("patching", ["square", "vertical"])
def test_patchify_equals_cutting_with_loops(patching):
    chunk = torch.randn(128, 96)
    expected = literal_pipeline.cut_patches(chunk, patching)
    actual = patchify(chunk.unsqueeze(0), literal_pipeline.PATCHES[patching])[0]
    assert torch.equal(actual, expected)


def test_patchify_refuses_a_ragged_spectrogram():
    with pytest.raises(ValueError, match="97 frames do not divide"):
        patchify(torch.zeros(1, 128, 97), (16, 16))


@pytest.mark.parametrize(("rows", "columns"), [(8, 6), (1, 48), (8, 1)])
def test_positions_equal_the_formula(rows, columns):
    expected = literal_pipeline.position_codes(rows, columns, 64)
    torch.testing.assert_close(sincos_positions(rows, columns, 64), expected, rtol=0, atol=2e-6)


def test_positions_need_a_width_divisible_by_four():
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_positions(2, 2, 10)


CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # rounding, in numbers of size one


def make_transformer():
    generator = torch.Generator().manual_seed(0)
    transformer = Transformer(64, depth=2, num_heads=1, mlp_dim=128).requires_grad_(False)
    for weight in transformer.parameters():
        if weight.ndim == 2:  # wide enough that one GELU is not the other
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return transformer


def test_sequences_of_several_lengths_share_a_pass_as_if_alone():
    transformer = make_transformer()
    groups = [torch.randn(count, length, 64) for count, length in [(3, 5), (2, 5), (1, 2), (4, 1)]]
    states = transformer.states(groups, [2, 1])
    for (last, first), tokens in zip(states, groups, strict=True):
        for i, sequence in enumerate(tokens):
            torch.testing.assert_close(
                last[i : i + 1], chain(transformer, sequence[None], 2), **CLOSE
            )
            torch.testing.assert_close(
                first[i : i + 1], chain(transformer, sequence[None], 1), **CLOSE
            )


def chain(transformer, tokens, depth):
    for block in transformer.layers[:depth]:
        tokens = block(tokens)
    return tokens


@pytest.fixture
def onednn(monkeypatch):
    """oneDNN's products, faster here or not; which layers were given to them."""
    called, takes = [], vit.takes_onednn

    def told(layer, x):
        called.append(layer) if takes(layer, x) else None
        return takes(layer, x)

    monkeypatch.setattr(vit, "onednn_pays", lambda: True)
    monkeypatch.setattr(vit, "takes_onednn", told)
    return called


def test_onednn_computes_the_same(onednn):
    transformer, tokens = make_transformer(), torch.randn(3, 7, 64)
    with torch.enable_grad():
        expected = transformer(tokens)
        assert not onednn
    with torch.no_grad():
        torch.testing.assert_close(transformer(tokens), expected, **CLOSE)
        assert len({*onednn}) == 2 * 4


def test_layers_that_others_hooked_replaced_or_cast_are_theirs(onednn):
    class Zero(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 0

    transformer, tokens = make_transformer(), torch.randn(3, 7, 64)
    attention, perceptron = transformer.layers[0]
    hooked, replaced = perceptron.net[3], Zero(64, 64, bias=False)
    attention.to_out, seen = replaced, []
    hooked.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        transformer(tokens)
        assert seen == [1]
        assert onednn
        assert not {hooked, replaced} & {*onednn}
        onednn.clear()
        with torch.autocast("cpu", torch.bfloat16):
            transformer(tokens)
        double = transformer.double()(tokens.double())
        assert double.dtype == torch.float64
