"""Losses against double loops, gradcheck, and tiles against the dense form."""

import math

import pytest
import torch
from torch.nn import functional

from myna_plugin.pretraining.step.losses import LOSSES, ContrastiveLoss


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def build(kind, pairs=6, **changes):
    extra = {"n_samples": 2 * pairs, "n_groups": 1} if kind == "sogclr" else {}
    return ContrastiveLoss(kind, **(extra | changes))


def naive_loss(kind, projected, temperature):
    """Two loops over views, as in the equation; projected (2, B, P)."""
    views, pairs, _ = projected.shape
    total = 0.0
    for u in range(views):
        for i in range(pairs):
            anchor = projected[u, i]

            def similarity(v, j, anchor=anchor):
                return functional.cosine_similarity(anchor, projected[v, j], dim=0) / temperature

            denominator = 0.0
            for v in range(views):
                for j in range(pairs):
                    positive = v != u and j == i
                    if j != i or (positive and kind == "nt_xent"):
                        denominator = denominator + similarity(v, j).exp()
            total = total - (similarity(1 - u, i) - denominator.log())
    return total / (views * pairs)


@pytest.mark.parametrize("kind", ["decoupled", "nt_xent"])
@pytest.mark.parametrize("tile_rows", [None, 1, 5, 100])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_equals_the_double_loop(kind, tile_rows, temperature):
    projected = draw(1, 2, 6, 3)
    loss = build(kind, temperature=temperature, tile_rows=tile_rows)(projected)
    torch.testing.assert_close(loss[0], naive_loss(kind, projected[0], temperature))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("tile_rows", [None, 5])
def test_gradcheck(kind, tile_rows):
    index = torch.arange(4)

    def function(projected):
        # A fresh module each time: sogclr's averages must not move between evaluations. On a first
        # visit its average is the batch's own sum, whose numerical derivative is then the true one.
        return build(kind, 4, tile_rows=tile_rows, temperature=0.5, gamma=1.0)(projected, index)

    projected = draw(1, 2, 4, 3).requires_grad_()
    if kind == "sogclr":
        # Its value follows the average, its gradient treats that as constant: at gamma 1 both are
        # those of the decoupled loss.
        loss = function(projected)
        other = build("decoupled", temperature=0.5)(projected)
        torch.testing.assert_close(loss, other)
        torch.testing.assert_close(
            torch.autograd.grad(loss.sum(), projected), torch.autograd.grad(other.sum(), projected)
        )
    else:
        assert torch.autograd.gradcheck(function, (projected,))


def naive_sogclr(projected, averages, index, gamma, temperature):
    """Loss, gradient weights of negatives and new averages of one patching, by loops."""
    unit = functional.normalize(projected, dim=-1)
    _, pairs, _ = unit.shape
    count = 2 * (pairs - 1)
    surrogate, value, new = 0.0, 0.0, {}
    for i in range(pairs):
        seen = []
        for u in range(2):
            exponentials = [
                ((unit[u, i] @ unit[v, j]) / temperature).exp()
                for v in range(2)
                for j in range(pairs)
                if j != i
            ]
            mean = sum(exponentials) / count
            old = averages.get(int(index[i]))
            average = mean.detach() if old is None else (1 - gamma) * old + gamma * mean.detach()
            positive = (unit[u, i] @ unit[1 - u, i]) / temperature
            surrogate = surrogate - positive + mean / average
            value = value - positive.detach() + (average * count).log()
            seen.append(average)
        new[int(index[i])] = sum(seen) / 2
    return surrogate / (2 * pairs), value / (2 * pairs), new


@pytest.mark.parametrize("tile_rows", [None, 4])
def test_sogclr_follows_every_samples_average(tile_rows):
    loss = ContrastiveLoss("sogclr", 0.3, tile_rows=tile_rows, gamma=0.7, n_samples=9)
    loss.double()
    averages = {}
    for step in range(4):
        index = torch.randperm(9, generator=torch.Generator().manual_seed(step))[:5]
        projected = draw(1, 2, 5, 3, seed=step).requires_grad_()
        surrogate, value, new = naive_sogclr(projected[0], averages, index, 0.7, 0.3)
        averages |= new
        got = loss(projected, index)
        torch.testing.assert_close(got[0], value)
        torch.testing.assert_close(
            torch.autograd.grad(got[0], projected), torch.autograd.grad(surrogate, projected)
        )
        for clip, average in averages.items():
            assert loss.log_average[0, clip].exp().item() == pytest.approx(average.item())


def test_sogclr_resumes_from_its_state():
    first = ContrastiveLoss("sogclr", n_samples=6)
    index = torch.arange(4)
    first(draw(1, 2, 4, 3), index)
    second = ContrastiveLoss("sogclr", n_samples=6)
    second.load_state_dict(first.state_dict())
    projected = draw(1, 2, 4, 3, seed=1)
    assert torch.equal(first(projected, index), second(projected, index))


def test_small_temperatures_stay_finite():
    projected = draw(1, 2, 6, 3, dtype=torch.float32).requires_grad_()
    for tile_rows in (None, 4):
        loss = build("decoupled", temperature=1e-3, tile_rows=tile_rows)(projected)
        (gradient,) = torch.autograd.grad(loss.sum(), projected)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


def test_chance_level():
    # Orthogonal views: every similarity is 0, so the loss is the log of the number of negatives.
    projected = torch.eye(8).view(1, 2, 4, 8)
    assert build("decoupled")(projected).item() == pytest.approx(math.log(6))
    assert build("nt_xent")(projected).item() == pytest.approx(math.log(7))


def test_bad_requests_say_what_is_allowed():
    with pytest.raises(ValueError, match="known: decoupled, nt_xent, sogclr"):
        ContrastiveLoss("triplet")
    with pytest.raises(ValueError, match="temperature must be positive"):
        ContrastiveLoss(temperature=0)
    with pytest.raises(ValueError, match="needs n_samples"):
        ContrastiveLoss("sogclr")
    with pytest.raises(ValueError, match=r"gamma must lie in \(0, 1\]"):
        ContrastiveLoss("sogclr", gamma=0, n_samples=3)
    with pytest.raises(ValueError, match="at least 2 samples"):
        ContrastiveLoss()(draw(1, 2, 1, 3))
    with pytest.raises(ValueError, match="numbers in the store"):
        ContrastiveLoss("sogclr", n_samples=3)(draw(1, 2, 3, 3))
