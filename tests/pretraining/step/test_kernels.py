"""Every Triton kernel against plain torch: on a CUDA device, or under Triton's interpreter."""

import doctest
import importlib.util
import os

import pytest
import torch
from torch import nn

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no CUDA device, and TRITON_INTERPRET=1 is not set", allow_module_level=True)

from myna_plugin.model.encoder import InputScaling
from myna_plugin.model.vit import Transformer, patchify
from myna_plugin.pretraining.step import kernels
from myna_plugin.pretraining.step.fused import FusedTransformer
from myna_plugin.pretraining.step.kernels import norms
from myna_plugin.pretraining.step.kernels.launching import RowSettings
from myna_plugin.pretraining.step.operations import KernelOperations, PlainOperations

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN = PlainOperations()
KERNELS = KernelOperations(kernels)


def draw(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def norm(width):
    layer = nn.LayerNorm(width).to(DEVICE)
    with torch.no_grad():
        layer.weight.copy_(1 + 0.3 * draw(width, seed=1))
        layer.bias.copy_(draw(width, seed=2))
    return layer.requires_grad_(False)


def agree(result, expected, tolerance=1e-5):
    for got, wanted in zip(result, expected, strict=True):
        assert got.shape == wanted.shape
        error = (got.double() - wanted.double()).norm() / wanted.double().norm()
        assert error < tolerance, f"relative error {error:.1e}"


@pytest.mark.parametrize("width", [64, 96, 384])
def test_add_norm_and_its_gradient(width):
    x, product, bias, layer = draw(37, width), draw(37, width, seed=3), draw(width), norm(width)
    identity = torch.eye(width, device=DEVICE)
    expected = PLAIN.linear_add_norm(product, identity, bias, x, layer)
    result = kernels.add_norm(x, product, bias, layer.weight, layer.bias, layer.eps)
    agree(result, expected)
    agree(
        kernels.add_norm(x, None, None, layer.weight, layer.bias, layer.eps), PLAIN.norm(x, layer)
    )

    dout, residual = draw(37, width, seed=4), draw(37, width, seed=5)
    for extra in (None, residual):
        sums, expected_sums = (ops.partial_sums(2, x) for ops in (KERNELS, PLAIN))
        for ops, partial in ((KERNELS, sums), (PLAIN, expected_sums)):
            dx = ops.norm_backward_into(partial[1], dout, expected, layer, extra)
            agree([dx], [PLAIN.norm_backward_into(partial[0], dout, expected, layer, extra)])
        agree([sums[1].sum(1)], [expected_sums[1].sum(1)])
    agree(KERNELS.norm_backward(dout, expected, layer), PLAIN.norm_backward(dout, expected, layer))


@pytest.mark.parametrize("settings", [(1, 1, 1, 1), (4, 4, 3, 2), (2, 1, 40, 1)])
def test_gradient_of_norm_with_any_settings(settings, monkeypatch):
    x, dout, layer = draw(37, 96), draw(37, 96, seed=1), norm(96)
    monkeypatch.setattr(norms, "NORM_BACKWARD", RowSettings(*settings))
    normed = PLAIN.norm(x, layer)
    agree(KERNELS.norm_backward(dout, normed, layer), PLAIN.norm_backward(dout, normed, layer))


@pytest.mark.parametrize("length", [1, 3, 5, 12, 24, 48])
def test_attention_and_its_gradient(length):
    heads, sequences = 2, 14
    qkv = draw(sequences * length, 3 * heads * 64)
    agree([kernels.attention(qkv, length, heads)], [PLAIN.attention(qkv, length, heads)])
    dout = draw(sequences * length, heads * 64, seed=1)
    agree(
        [kernels.attention_backward(qkv, dout, length, heads)],
        [PLAIN.attention_backward(qkv, dout, length, heads)],
    )


@pytest.mark.parametrize("tile", [(16, 3, 1), (32, 6, 2), (64, 12, 4), (128, 25, 4)])
def test_attention_in_any_tile(tile):
    qkv = draw(29 * 5, 192)
    agree([kernels.attention(qkv, 5, 1, tile)], [PLAIN.attention(qkv, 5, 1)])


def test_too_long_sequences_are_refused():
    with pytest.raises(ValueError, match="at most 64 tokens, got 65"):
        kernels.attention(draw(65, 192), 65, 1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_gelu_and_its_gradient(kind):
    # Half precision takes the tanh form, float32 the exact one.
    h, dout = 3 * draw(50, 96, dtype=kind), draw(50, 96, dtype=kind, seed=1)
    leaf = h.double().requires_grad_()
    form = "none" if kind == torch.float32 else "tanh"
    expected = nn.functional.gelu(leaf, approximate=form)
    (dh,) = torch.autograd.grad(expected, leaf, dout.double())
    tolerance = 1e-5 if kind == torch.float32 else 1e-3
    agree([kernels.gelu(h)], [expected], tolerance)
    agree(kernels.gelu_backward(dout, h), [dh, dh.sum(0)], tolerance)


@pytest.mark.parametrize(("patch_size", "columns"), [((16, 16), 6), ((128, 2), 48)])
@pytest.mark.parametrize(
    "scaling",
    [None, InputScaling(), InputScaling(log_mel=True), InputScaling(True, (1e3, 4.4, 3.0))],
)
def test_gather_equals_crop_patchify_mask(patch_size, columns, scaling):
    frames = draw(400, 128).exp().half()
    starts = torch.tensor([0, 7, 304, 100, 31], device=DEVICE)
    tokens = torch.stack([torch.randperm(48)[:5] for _ in starts]).to(DEVICE)
    crops = torch.stack([frames[s : s + 96].T for s in starts]).float()
    expected = patchify(crops, patch_size).gather(1, tokens[..., None].expand(-1, -1, 256))
    if scaling is not None:
        expected = scaling.of_patches(scaling.of_power(expected))
    arguments = frames, starts, tokens, patch_size, columns, torch.float32, scaling
    agree([kernels.gather_patches(*arguments)], [expected])


@pytest.mark.parametrize("with_positive", [False, True])
@pytest.mark.parametrize(("pairs", "width"), [(70, 24), (64, 128)])
def test_log_denominators_and_their_gradient(pairs, width, with_positive):
    from myna_plugin.pretraining.step.losses import excluded

    unit = nn.functional.normalize(draw(2, 2 * pairs, width), dim=-1).requires_grad_()
    similarity = unit @ unit.transpose(1, 2) / 0.1
    out = excluded(torch.arange(2 * pairs, device=DEVICE), 2 * pairs, with_positive, pairs)
    expected = similarity.masked_fill(out, -torch.inf).logsumexp(-1)
    upstream = draw(2, 2 * pairs, seed=1)
    (gradient,) = torch.autograd.grad(expected, unit, upstream)

    unit = unit.detach()
    result = kernels.log_denominators(unit, unit, 0.1, with_positive, 0)
    agree([result], [expected.detach()])
    weight = upstream * (10 - result).exp()
    agree(
        [kernels.log_denominators_backward(unit, unit, weight, weight, 0.1, with_positive, 0)],
        [gradient],
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_the_whole_transformer(recompute):
    torch.manual_seed(0)
    transformer = Transformer(96, 2, 2, 128).to(DEVICE)
    x = draw(7, 5, 96)
    results = []
    for operations in (PLAIN, KERNELS):
        fused = FusedTransformer.of(transformer, torch.float32, recompute, operations=operations)
        leaf = x.clone().requires_grad_()
        out = fused(leaf)
        weights = torch.linspace(-1, 1, out.numel(), device=DEVICE).view_as(out)
        gradients = torch.autograd.grad((out * weights).sum(), [leaf, *transformer.parameters()])
        results.append((out.detach(), *gradients))
    agree(results[1], results[0])


def test_examples_in_docstrings():
    # Collected here alone: without Triton the module cannot be imported.
    assert doctest.testmod(kernels).failed == 0
