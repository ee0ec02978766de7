"""The hand-written passes of the transformer against autograd."""

import pytest
import torch

from myna_plugin.model.vit import Transformer
from myna_plugin.pretraining.step.fused import FusedTransformer
from myna_plugin.pretraining.step.operations import PlainOperations


def build(dim=64, depth=2, heads=1, mlp_dim=96, dtype=torch.float64) -> Transformer:
    torch.manual_seed(0)
    transformer = Transformer(dim, depth, heads, mlp_dim).to(dtype)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return transformer


def loss_and_gradients(transformer, forward, x):
    x = x.clone().requires_grad_()
    out = forward(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    loss = (weights * out).sum()
    gradients = torch.autograd.grad(loss, [x, *transformer.parameters()])
    return out, gradients


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("dim", "heads", "length"), [(64, 1, 5), (32, 2, 1), (128, 2, 48)])
def test_hand_written_passes_equal_autograd(dim, heads, length, recompute):
    transformer = build(dim=dim, heads=heads)
    x = torch.randn(3, length, dim, dtype=torch.float64)
    expected = loss_and_gradients(transformer, transformer, x)
    fused = FusedTransformer.of(transformer, torch.float64, recompute, operations=PlainOperations())
    result = loss_and_gradients(transformer, fused, x)
    torch.testing.assert_close(result[0], expected[0], rtol=1e-10, atol=1e-12)
    for got, wanted in zip(result[1], expected[1], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


def test_gradients_are_float32_and_close_under_bfloat16():
    transformer = build(dtype=torch.float32)
    x = torch.randn(16, 5, 64)
    expected = loss_and_gradients(transformer, transformer, x)
    fused = FusedTransformer.of(transformer, torch.bfloat16, operations=PlainOperations())
    out, gradients = loss_and_gradients(transformer, fused, x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert (out - expected[0]).norm() < 0.02 * expected[0].norm()
    for got, wanted in zip(gradients[1:], expected[1][1:], strict=True):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() < 0.1 * wanted.norm()


def test_refresh_follows_the_parameters():
    transformer = build(dtype=torch.float32)
    fused = FusedTransformer.of(transformer, torch.bfloat16, operations=PlainOperations())
    x = torch.randn(4, 5, 64).bfloat16()
    before = fused(x)
    with torch.no_grad():
        transformer.layers[1][1].net[3].weight.mul_(2)
    assert torch.equal(fused(x), before)
    fused.copies.refresh()
    assert not torch.equal(fused(x), before)
