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

from myna_plugin.pretraining import kernels
from myna_plugin.pretraining.fused import FusedTransformer, KernelOperations, PlainOperations
from myna_plugin.vit import Transformer, patchify

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN = PlainOperations()


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
        agree(
            kernels.norm_backward(dout, expected[0], *expected[2:], layer.weight, extra),
            PLAIN.norm_backward(dout, expected, layer, extra),
        )


@pytest.mark.parametrize("length", [1, 3, 5, 12, 24, 48])
def test_attention_and_its_gradient(length):
    heads, sequences = 2, 14
    qkv = draw(sequences * length, 3 * heads * 64)
    agree(
        [kernels.attention(qkv, length, heads)],
        [PLAIN.attention(qkv, length, heads)],
    )
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


def test_gelu_and_its_gradient():
    h, bias = 3 * draw(50, 96), draw(96)
    identity = torch.eye(96, device=DEVICE)
    agree([kernels.gelu(h, bias)], [PLAIN.linear_gelu(h, identity, bias)[1]])
    dout = draw(50, 96, seed=1)
    agree(
        kernels.gelu_backward(dout, h, bias),
        PLAIN.linear_gelu_backward(dout, identity, h, bias),
    )


@pytest.mark.parametrize("flatten", [False, True])
def test_products_with_gelu_in_their_epilogue(flatten):
    kind = torch.bfloat16 if DEVICE == "cuda" else torch.float16
    config = {**kernels.GELU_CONFIG, "ROWS": 64, "COLUMNS": 64, "FLATTEN": flatten}
    x, weight, bias = draw(150, 96, dtype=kind), draw(128, 96, dtype=kind) / 10, draw(128)
    agree(
        kernels.linear_gelu(x, weight, bias, config),
        PLAIN.linear_gelu(x.float(), weight.float(), bias),
        2e-3 if kind == torch.float16 else 1e-2,
    )
    dy, down, h = draw(150, 96, dtype=kind), draw(96, 128, dtype=kind), draw(150, 128, dtype=kind)
    agree(
        kernels.linear_gelu_backward(dy, down, h, bias, config),
        PLAIN.linear_gelu_backward(dy.float(), down.float(), h.float(), bias),
        2e-3 if kind == torch.float16 else 1e-2,
    )


@pytest.mark.parametrize("width", [96, 192])
def test_products_with_residual_and_norm_in_their_epilogue(width):
    kind = torch.bfloat16 if DEVICE == "cuda" else torch.float16
    tolerance = 2e-3 if kind == torch.float16 else 1e-2
    config = {**kernels.NORM_CONFIG, "ROWS": 64, "num_warps": 4}
    y, weight = draw(150, 128, dtype=kind), draw(width, 128, dtype=kind) / 10
    x, bias, layer = draw(150, width, dtype=kind), draw(width), norm(width)
    expected = PLAIN.linear_add_norm(y.float(), weight.float(), bias, x.float(), layer)
    agree(
        kernels.linear_add_norm(y, weight, bias, x, layer.weight, layer.bias, layer.eps, config),
        expected,
        tolerance,
    )
    up = draw(128, width, dtype=kind)
    total = expected[0].to(kind)
    agree(
        kernels.linear_norm_backward(y, up, total, *expected[2:], layer.weight, x, config),
        PLAIN.linear_norm_backward(
            y.float(), up.float(), (total.float(), *expected[1:]), layer, x.float()
        ),
        tolerance,
    )


@pytest.mark.parametrize(("patch_size", "columns"), [((16, 16), 6), ((128, 2), 48)])
@pytest.mark.parametrize("log_mel", [False, True])
def test_gather_equals_crop_patchify_mask(patch_size, columns, log_mel):
    frames = draw(400, 128).exp().half()
    starts = torch.tensor([0, 7, 304, 100, 31], device=DEVICE)
    tokens = torch.stack([torch.randperm(48)[:5] for _ in starts]).to(DEVICE)
    crops = torch.stack([frames[s : s + 96].T for s in starts]).float()
    crops = crops.log1p() if log_mel else crops
    expected = patchify(crops, patch_size).gather(1, tokens[..., None].expand(-1, -1, 256))
    arguments = frames, starts, tokens, patch_size, columns, torch.float32, log_mel
    agree([kernels.gather_patches(*arguments)], [expected], 1e-6)
    normed = nn.functional.layer_norm(expected, (256,))
    agree([kernels.gather_patches(*arguments, norm_eps=1e-5)], [normed])


@pytest.mark.parametrize("with_positive", [False, True])
@pytest.mark.parametrize(("pairs", "width"), [(70, 24), (64, 128)])
def test_log_denominators_and_their_gradient(pairs, width, with_positive):
    from myna_plugin.pretraining.losses import excluded

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
    for operations in (PLAIN, KernelOperations(kernels)):
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
