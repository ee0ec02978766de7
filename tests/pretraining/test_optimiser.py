"""Learning rates: their course, and that an update takes them whether number or tensor."""

import pytest
import torch

from myna_plugin.pretraining.optimiser import SCHEDULES, build_adam, rate_at, set_learning_rate


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


def test_a_tensor_takes_the_rate_in_place_and_updates_as_a_number_does():
    """As on a GPU, where a recorded graph reads the tensor at its place."""
    weights = []
    for as_tensor in (False, True):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
        optimiser = build_adam([parameter], 0.1, scheduled=True)
        assert isinstance(optimiser.param_groups[0]["lr"], float)  # on a CPU
        if as_tensor:
            optimiser.param_groups[0]["lr"] = torch.tensor(0.1, dtype=torch.float64)
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
