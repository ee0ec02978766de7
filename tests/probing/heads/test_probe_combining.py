"""The rules from rows to items, held against one item at a time."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import mode

from myna_plugin.probing.heads.combining import RULES, ItemRows
from myna_plugin.probing.heads.losses import LOSSES


def combine_one(logits: np.ndarray, rule: str, loss: str) -> np.ndarray:
    """An item's predictions (C,) from those of its rows (K, C)."""
    if rule == "vote":
        return np.bincount(logits.argmax(1), minlength=logits.shape[1])
    if rule == "max":
        return logits.max(0)
    if rule == "mean_probability" and loss == "cross_entropy":
        return softmax(logits, axis=1).mean(0)
    if rule == "mean_probability" and loss == "bce":
        return expit(logits).mean(0)
    return logits.mean(0)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("rule", sorted(RULES))
def test_rules_are_those_of_one_item_at_a_time(rule: str, loss: str) -> None:
    rng = np.random.default_rng(0)
    items = rng.permutation(np.repeat(["d", "a", "c", "b"], [1, 5, 2, 4]))
    logits = rng.normal(size=(3, len(items), 6))
    grouped = ItemRows(items, torch.device("cpu"))
    combined = grouped.combine(torch.from_numpy(logits), rule, LOSSES[loss])
    assert grouped.names.tolist() == ["a", "b", "c", "d"]
    for head in range(3):
        for number, item in enumerate(grouped.names):
            expected = combine_one(logits[head, items == item], rule, loss)
            np.testing.assert_allclose(combined[head, number], expected, atol=1e-12)


def test_the_first_row_of_an_item_is_one_of_its_rows() -> None:
    items = np.array([7, 3, 7, 3, 9])
    grouped = ItemRows(items, torch.device("cpu"))
    assert items[grouped.first].tolist() == grouped.names.tolist() == [3, 7, 9]


def test_of_equal_votes_the_first_class_wins() -> None:
    rows = np.array([[0.0, 3.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 3.0], [0.0, 3.0, 0.0]])
    grouped = ItemRows(np.zeros(4, dtype=int), torch.device("cpu"))
    votes = grouped.combine(torch.from_numpy(rows)[None], "vote", LOSSES["cross_entropy"])
    assert votes.argmax(-1).item() == mode(rows.argmax(1)).mode == 1
