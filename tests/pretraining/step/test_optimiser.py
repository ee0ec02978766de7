"""Learning rates: their course, and that an update takes them whether number or tensor. Muon."""

import copy

import pytest
import torch
from torch import nn

from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.pretraining.step.optimiser import (
    OPTIMISERS,
    SCHEDULES,
    build_optimiser,
    rate_at,
    set_learning_rate,
)


def test_a_constant_rate_is_the_same_at_every_step():
    assert {rate_at(step, 50, 3e-4) for step in range(50)} == {3e-4}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_rise_to_the_highest_and_never_rise_again(schedule):
    rates = [rate_at(step, 100, 2.0, schedule, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert max(rates) == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert min(rates) > 0


def test_a_cosine_ends_near_nothing_and_is_half_way_in_the_middle():
    assert rate_at(50, 100, 1.0, "cosine") == pytest.approx(0.5)
    assert rate_at(99, 100, 1.0, "cosine") < 1e-3


def test_a_run_no_longer_than_its_warm_up():
    assert [rate_at(step, 2, 1.0, "cosine", 4) for step in range(2)] == [0.25, 0.5]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_tensor_takes_the_rate_in_place_and_updates_as_a_number_does(name):
    """As on a GPU, where a recorded graph reads the tensor at its place."""
    weights = []
    for as_tensor in (False, True):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
        optimiser = build_optimiser(name, nn.ParameterList([parameter]), 0.1, scheduled=True)
        assert isinstance(optimiser.param_groups[0]["lr"], float)  # on a CPU
        if as_tensor:
            for group in optimiser.param_groups:
                group["lr"] = torch.tensor(0.1, dtype=torch.float64)
        place = optimiser.param_groups[0]["lr"]
        for rate in (0.05, 0.2, 0.01):
            set_learning_rate(optimiser, rate)
            parameter.grad = parameter.detach() ** 3
            optimiser.step()
            assert float(optimiser.param_groups[0]["lr"]) == pytest.approx(rate)
        assert (optimiser.param_groups[0]["lr"] is place) == as_tensor
        weights.append(parameter.detach().clone())
    torch.testing.assert_close(*weights)
    assert not torch.equal(weights[0], torch.linspace(-1, 1, 5, dtype=torch.float64))


def small_encoder():
    return initialise(MynaEncoder(EncoderConfig(("square", "vertical"), 64, 2, 1, 96)), 0)


def take_steps(model, optimisers, steps=12):
    torch.manual_seed(1)
    crops = torch.rand(8, 128, 96)
    target = torch.randn(8, 64)
    for _ in range(steps):
        for optimiser in optimisers:
            optimiser.zero_grad()
        sum((model(crops, p) - target).square().mean() for p in ("square", "vertical")).backward()
        for optimiser in optimisers:
            optimiser.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_is_that_of_torch_for_matrices_and_adam_for_the_rest():
    ours = small_encoder()
    begun, theirs = copy.deepcopy(ours), copy.deepcopy(ours)
    named = dict(theirs.named_parameters())
    matrices = [p for name, p in named.items() if "layers" in name and p.ndim == 2]
    others = [p for p in named.values() if not any(p is matrix for matrix in matrices)]
    assert len(matrices) == 8  # qkv, out and the perceptron's two, of two blocks
    take_steps(ours, [build_optimiser("muon", ours, 3e-3, 1e-4)])
    peer = torch.optim.Muon(matrices, 3e-3, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    take_steps(theirs, [peer, torch.optim.Adam(others, 3e-3, weight_decay=1e-4)])
    for (name, mine), other, start in zip(
        ours.named_parameters(), theirs.parameters(), begun.parameters(), strict=True
    ):
        # The iteration is in bfloat16, and batches of matrices round otherwise.
        way = (other - start).norm()
        assert way > 0, name
        assert (mine - other).norm() < 0.03 * way, name


def test_muon_goes_on_from_its_state_as_if_never_stopped():
    whole, halved = small_encoder(), small_encoder()
    optimiser = build_optimiser("muon", whole, 1e-3)
    take_steps(whole, [optimiser])
    take_steps(whole, [optimiser])
    first = build_optimiser("muon", halved, 1e-3)
    take_steps(halved, [first])
    second = build_optimiser("muon", halved, 1e-3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(halved, [second])
    for mine, other in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_muon_leaves_alone_what_has_no_gradient():
    encoder = small_encoder()
    begun = copy.deepcopy(encoder)
    optimiser = build_optimiser("muon", encoder, 1e-2)
    encoder(torch.rand(2, 128, 96), "square").sum().backward()
    optimiser.step()
    still = {
        name
        for (name, p), before in zip(encoder.named_parameters(), begun.parameters(), strict=True)
        if torch.equal(p, before)
    }
    assert "to_patch_embedding_b.2.weight" in still  # the vertical tokenizer had no part in it
    assert "to_patch_embedding.2.weight" not in still
    assert not any("layers" in name for name in still)
