"""Counts and distributions of every masking policy."""

import pytest
import torch
from scipy.stats import chi2

from myna_plugin.pretraining.step.masking import MASKINGS, count_kept, draw_masks, find_masking

GRIDS = [(8, 6), (1, 48)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(tokens: torch.Tensor, n_tokens: int) -> torch.Tensor:
    return torch.bincount(tokens.flatten(), minlength=n_tokens).double()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("policy", MASKINGS)
@pytest.mark.parametrize("mask_ratio", [0.0, 0.1, 0.5, 0.75, 0.9, 0.95])
def test_every_policy_keeps_what_it_says(policy, grid, mask_ratio):
    tokens = draw_masks(policy, 50, grid, mask_ratio, generator())
    assert tokens.shape == (2, 50, find_masking(policy).tokens_kept(48, mask_ratio))
    assert tokens.dtype == torch.int64
    assert tokens.min() >= 0
    assert tokens.max() < 48
    ordered = tokens.sort(-1).values
    assert (ordered[..., 1:] > ordered[..., :-1]).all(), "a token was drawn twice"


def test_the_paper_keeps_5_of_48_tokens():
    assert count_kept(48, 0.9) == 5


@pytest.mark.parametrize("policy", MASKINGS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_token_is_equally_likely(policy, grid):
    pairs = 8000
    tokens = draw_masks(policy, pairs, grid, 0.9, generator(1))
    for view in tokens:
        expected = pairs * 5 / 48
        statistic = ((counts(view, 48) - expected) ** 2 / expected).sum()
        # Draws without replacement vary less than the multinomial, so the bound is a safe one.
        assert statistic < chi2.ppf(0.9999, 47)


def test_uniform_views_are_independent():
    first, second = draw_masks("uniform", 20_000, (8, 6), 0.9, generator(3))
    shared = (first[:, :, None] == second[:, None, :]).sum((1, 2)).double()
    assert shared.mean().item() == pytest.approx(25 / 48, abs=0.02)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("mask_ratio", [0.0, 0.5, 0.9])
def test_disjoint_views_share_no_token(grid, mask_ratio):
    first, second = draw_masks("disjoint", 500, grid, mask_ratio, generator(4))
    assert not (first[:, :, None] == second[:, None, :]).any()


@pytest.mark.parametrize("policy", MASKINGS)
def test_the_generator_decides_alone(policy):
    torch.manual_seed(0)
    first = draw_masks(policy, 9, (8, 6), 0.9, generator(7))
    torch.manual_seed(1)
    assert torch.equal(first, draw_masks(policy, 9, (8, 6), 0.9, generator(7)))
    assert not torch.equal(first, draw_masks(policy, 9, (8, 6), 0.9, generator(8)))


def test_bad_requests_say_what_is_allowed():
    with pytest.raises(ValueError, match="known: uniform, disjoint"):
        draw_masks("random", 2, (8, 6), 0.9, generator())
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1"):
        draw_masks("uniform", 2, (8, 6), 1, generator())
