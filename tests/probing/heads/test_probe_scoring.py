"""The batched metrics are those of scikit-learn, torchmetrics and mir_eval, ties included."""

from collections.abc import Callable

import mir_eval
import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional.classification import (
    multilabel_auroc,
    multilabel_average_precision,
)

from myna_plugin.probing.heads import tabulate_pair_scores
from myna_plugin.probing.heads.scoring import METRICS, mean_pair_score
from myna_plugin.probing.tasks.metrics import METRICS as TASK_METRICS

KEYS = [
    f"{tonic} {mode}"
    for mode in ("major", "minor")
    for tonic in ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
]


def make_tags(rng: np.random.Generator, n_items: int, n_tags: int) -> np.ndarray:
    """0 or 1 per tag, from rare to common, both values in every column."""
    tags = (rng.random((n_items, n_tags)) < np.linspace(0.01, 0.9, n_tags)).astype(np.int64)
    tags[0], tags[1] = 0, 1
    return tags


def make_outputs(rng: np.random.Generator, shape: tuple[int, ...], ties: bool) -> np.ndarray:
    outputs = rng.normal(size=shape)
    return (np.round(outputs * 2) / 2 if ties else outputs).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("roc_auc_macro", metrics.roc_auc_score),
        ("average_precision_macro", metrics.average_precision_score),
    ],
)
def test_tag_metrics_are_scikit_learns(name: str, function: object, ties: bool) -> None:
    rng = np.random.default_rng(0)
    tags = make_tags(rng, 203, 12)
    outputs = make_outputs(rng, (5, 203, 12), ties)
    scores = METRICS["bce"][name](torch.from_numpy(tags))(torch.from_numpy(outputs))
    expected = [function(tags, head, average="macro") for head in outputs]  # type: ignore[operator]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("roc_auc_macro", metrics.roc_auc_score),
        ("average_precision_macro", metrics.average_precision_score),
    ],
)
def test_tags_that_are_not_known_do_not_count(name: str, function: Callable[..., float]) -> None:
    rng = np.random.default_rng(3)
    tags = make_tags(rng, 203, 12).astype(np.float32)
    tags[2:][rng.random((201, 12)) < 0.7] = np.nan
    outputs = make_outputs(rng, (5, 203, 12), ties=True)
    scores = METRICS["bce"][name](torch.from_numpy(tags))(torch.from_numpy(outputs))
    known = [~np.isnan(column) for column in tags.T]
    expected = [
        np.mean([function(tags[k, c], head[k, c]) for c, k in enumerate(known)]) for head in outputs
    ]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-13)
    for head, score in zip(outputs, expected, strict=True):  # as on test
        assert TASK_METRICS[name](head, tags, "abcdefghijkl") == pytest.approx(score, abs=1e-13)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("roc_auc_macro", multilabel_auroc),
        ("average_precision_macro", multilabel_average_precision),
    ],
)
def test_tag_metrics_are_torchmetrics(name: str, function: object, ties: bool) -> None:
    rng = np.random.default_rng(1)
    tags = make_tags(rng, 150, 7)
    # torchmetrics takes probabilities, and makes them of anything else.
    outputs = 1 / (1 + np.exp(-make_outputs(rng, (3, 150, 7), ties)))
    scores = METRICS["bce"][name](torch.from_numpy(tags))(torch.from_numpy(outputs))
    expected = [
        function(torch.from_numpy(head), torch.from_numpy(tags), num_labels=7)  # type: ignore[operator]
        for head in outputs
    ]
    np.testing.assert_allclose(scores, torch.stack(expected), rtol=0, atol=1e-6)


def test_outputs_that_are_all_equal_are_at_chance() -> None:
    tags = make_tags(np.random.default_rng(2), 50, 4)
    flat = torch.zeros(2, 50, 4)
    labels = torch.from_numpy(tags)
    assert METRICS["bce"]["roc_auc_macro"](labels)(flat).tolist() == [0.5, 0.5]
    assert METRICS["bce"]["d_prime"](labels)(flat).abs().max() < 1e-12
    precision = METRICS["bce"]["average_precision_macro"](labels)(flat)
    np.testing.assert_allclose(precision, tags.mean(), rtol=1e-13)


def test_d_prime_is_the_normal_quantile_of_each_tags_area() -> None:
    rng = np.random.default_rng(3)
    tags, outputs = make_tags(rng, 300, 6), make_outputs(rng, (2, 300, 6), ties=False)
    scores = METRICS["bce"]["d_prime"](torch.from_numpy(tags))(torch.from_numpy(outputs))
    normal = torch.distributions.Normal(0.0, 1.0)
    for score, head in zip(scores, outputs, strict=True):
        areas = torch.from_numpy(metrics.roc_auc_score(tags, head, average=None))
        np.testing.assert_allclose(score, (2**0.5 * normal.icdf(areas)).mean(), rtol=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_accuracy_is_scikit_learns(ties: bool) -> None:
    rng = np.random.default_rng(4)
    classes, outputs = rng.integers(0, 10, 197), make_outputs(rng, (6, 197, 10), ties)
    scores = METRICS["cross_entropy"]["accuracy"](torch.from_numpy(classes))
    expected = [metrics.accuracy_score(classes, head.argmax(1)) for head in outputs]
    assert scores(torch.from_numpy(outputs)).tolist() == expected


@pytest.mark.parametrize("ties", [False, True])
def test_the_weighted_key_score_is_mir_evals(ties: bool) -> None:
    def weighted_score(outputs: np.ndarray, targets: np.ndarray) -> float:
        pairs = zip(targets, outputs.argmax(1), strict=True)
        return float(
            np.mean([mir_eval.key.weighted_score(KEYS[right], KEYS[made]) for right, made in pairs])
        )

    rng = np.random.default_rng(5)
    keys, outputs = rng.integers(0, 24, 120), make_outputs(rng, (4, 120, 24), ties)
    pair_scores = tabulate_pair_scores(weighted_score, 24)
    scores = mean_pair_score(torch.from_numpy(keys), pair_scores)(torch.from_numpy(outputs))
    expected = [weighted_score(head, keys) for head in outputs]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-15)
    assert len(np.unique(pair_scores)) == 5  # 0, 0.2, 0.3, 0.5 and 1


def test_r2_is_scikit_learns() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(size=(125, 2)).astype(np.float32)
    outputs = values + rng.normal(size=(3, 125, 2)).astype(np.float32) * [0.5, 1.5]
    scores = METRICS["mse"]["r2"](torch.from_numpy(values))(torch.from_numpy(outputs))
    expected = [metrics.r2_score(values.astype(np.float64), head) for head in outputs]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-13)
