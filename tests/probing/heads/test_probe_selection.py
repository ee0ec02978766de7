"""Selection on validation, test scores once, and what is refused."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from myna_plugin.probing.heads import (
    HeadTask,
    ProbeResult,
    Split,
    build_grid,
    select,
    summarize_scores,
)
from myna_plugin.probing.heads.combining import RULES

N_FEATURES = 6
N_CLASSES = 3
GRID = build_grid(
    hidden_units=(0, 8), batch_size=(16,), learning_rate=(1e-3, 1e-2), dropout=(0.25,), l2=(0.0,)
)


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> Mapping[str, float]:
    return {"accuracy": accuracy_score(targets, outputs.argmax(1))}


TASK = HeadTask("cross_entropy", N_CLASSES, "accuracy", accuracy)


def make_split(n_rows: int, seed: int, rows_per_item: int = 0) -> Split:
    """Embeddings of three classes that overlap; with items, rows of an item share its class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(N_CLASSES, N_FEATURES))
    if not rows_per_item:
        classes = rng.integers(0, N_CLASSES, n_rows)
        return Split(centres[classes] + rng.normal(size=(n_rows, N_FEATURES)), classes)
    items = np.repeat(np.arange(n_rows // rows_per_item), rows_per_item)
    classes = rng.integers(0, N_CLASSES, len(items) // rows_per_item)[items]
    order = rng.permutation(len(items))
    features = centres[classes] + 2 * rng.normal(size=(len(items), N_FEATURES))
    return Split(features[order], classes[order], items[order])


class Splits(NamedTuple):
    """Train, validation and test."""

    train: Split
    valid: Split
    test: Split


def make_splits(rows_per_item: int = 0) -> Splits:
    return Splits(*(make_split(60, seed, rows_per_item) for seed in (1, 2, 3)))


def quick_probe(splits: Splits, task: HeadTask = TASK, seed: int = 0) -> ProbeResult:
    train, valid, test = splits
    return select(train, valid, task, GRID, seed=seed, patience=10, progress=False).score(test)


def test_the_winner_is_the_first_of_the_best_on_validation() -> None:
    selection = quick_probe(make_splits()).selection
    scores = [head.valid_score for head in selection.heads]
    assert [head.config for head in selection.heads] == list(GRID)
    assert len(set(scores)) > 1
    assert selection.winner == int(np.argmax(scores))
    assert selection.valid_score == max(scores)


def test_the_kept_weights_are_those_that_gave_the_validation_score() -> None:
    splits = make_splits()
    selection = quick_probe(splits).selection
    logits = selection.predict(splits.valid.features)
    assert accuracy(logits, splits.valid.targets)["accuracy"] == selection.valid_score


def test_test_is_scored_once_and_after_training() -> None:
    calls: list[int] = []

    def count(outputs: np.ndarray, targets: np.ndarray) -> Mapping[str, float]:
        calls.append(len(targets))
        return accuracy(outputs, targets)

    splits = make_splits()
    test = make_split(37, 4)
    quick_probe(
        Splits(splits.train, splits.valid, test),
        HeadTask("cross_entropy", N_CLASSES, "accuracy", count),
    )
    assert calls == [37]


def test_standardisation_is_fitted_on_train_alone() -> None:
    splits = make_splits()
    train = Split(splits.train.features * 50 + 7, splits.train.targets)
    grid = build_grid((True,), (0,), (16,), (1e-2,), (0.25,), (0.0,))
    selection = select(train, splits.valid, TASK, grid, patience=4, progress=False)
    assert selection.scaler is not None
    np.testing.assert_allclose(selection.scaler.mean_, train.features.mean(0), rtol=1e-5)
    np.testing.assert_allclose(selection.scaler.scale_, train.features.std(0), rtol=1e-5)


def test_a_winner_without_standardisation_takes_features_as_they_are() -> None:
    splits = make_splits()
    grid = build_grid((False,), (0,), (16,), (1e-2,), (0.25,), (0.0,))
    selection = select(splits.train, splits.valid, TASK, grid, patience=4, progress=False)
    assert selection.scaler is None
    expected = selection.head(torch.from_numpy(splits.test.features)).numpy()
    assert np.array_equal(selection.predict(splits.test.features), expected)


def test_items_are_scored_by_the_rule_that_is_best_on_validation() -> None:
    task = HeadTask("cross_entropy", N_CLASSES, "accuracy", accuracy, rules=tuple(RULES))
    splits = make_splits(rows_per_item=4)
    result = quick_probe(splits, task)
    selection = result.selection
    valid_scores = []
    for rule in RULES:
        # By hand, one item at a time, from the winner's logits.
        logits = selection.predict(splits.valid.features)
        correct = []
        for item in range(15):
            rows = splits.valid.items == item  # type: ignore[comparison-overlap]
            combined = {
                "vote": np.bincount(logits[rows].argmax(1), minlength=N_CLASSES),
                "max": logits[rows].max(0),
                "mean_logit": logits[rows].mean(0),
                "mean_probability": torch.from_numpy(logits[rows]).softmax(1).mean(0).numpy(),
            }[rule]
            correct.append(combined.argmax() == splits.valid.targets[rows][0])
        valid_scores.append(np.mean(correct))
    assert selection.rule == list(RULES)[int(np.argmax(valid_scores))]
    assert selection.valid_score == pytest.approx(max(valid_scores))
    assert result.outputs.shape == (15, N_CLASSES)
    assert result.items is not None
    assert result.items.tolist() == list(range(15))
    assert result.targets.tolist() == [
        splits.test.targets[splits.test.items == item][0] for item in range(15)
    ]
    assert result.scores == accuracy(result.outputs, result.targets)


def test_combining_the_rows_of_items_scores_higher_than_the_rows() -> None:
    splits = make_splits(rows_per_item=4)
    result = quick_probe(splits)
    logits = result.selection.predict(splits.test.features)
    assert result.scores["accuracy"] > accuracy(logits, splits.test.targets)["accuracy"]


def test_seeds_are_summarised_by_mean_and_deviation() -> None:
    splits = make_splits()
    results = [quick_probe(splits, seed=seed) for seed in (0, 1, 2)]
    values = [result.scores["accuracy"] for result in results]
    mean, deviation = summarize_scores([result.scores for result in results])["accuracy"]
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1))
    assert np.isnan(summarize_scores([results[0].scores])["accuracy"][1])


def test_what_the_caller_has_is_left_as_it_was() -> None:
    splits = make_splits()
    arrays = [split.features for split in splits._asdict().values()]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)  # as of a file mapped into memory
    state, n_threads = torch.random.get_rng_state(), torch.get_num_threads()
    quick_probe(splits)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == n_threads
    for array, copy in zip(arrays, copies, strict=True):
        assert np.array_equal(array, copy)


BAD_SPLITS = {
    "NaN": ("features: 1 of 60 rows hold NaN", lambda x, y: (np.where(x == x[5, 2], np.nan, x), y)),
    "empty": ("features: the split is empty", lambda x, y: (x[:0], y[:0])),
    "width": (r"features must have shape \(rows, 6\)", lambda x, y: (x[:, :4], y)),
    "one class": ("targets: every row is of class 1", lambda x, y: (x, np.ones_like(y))),
    "class range": ("targets must be 0 to 2, got 3", lambda x, y: (x, y + 1)),
    "class type": ("targets must be class indices", lambda x, y: (x, y.astype(float))),
    "length": (r"targets must have shape \(60,\)", lambda x, y: (x, y[:-1])),
}


@pytest.mark.parametrize("name", ["valid", "test"])
@pytest.mark.parametrize("fault", sorted(BAD_SPLITS))
def test_a_bad_split_is_refused_by_name(name: str, fault: str) -> None:
    message, change = BAD_SPLITS[fault]
    splits = make_splits()
    good = getattr(splits, name)
    bad = Split(*change(good.features, good.targets))  # type: ignore[no-untyped-call]
    changed = splits._replace(**{name: bad})
    with pytest.raises(ValueError, match=f"^{name}.{message}"):
        quick_probe(changed)


def test_a_bad_train_split_is_refused_by_name() -> None:
    splits = make_splits()
    for fault in ("NaN", "empty", "class range"):
        message, change = BAD_SPLITS[fault]
        bad = Split(*change(splits.train.features, splits.train.targets))  # type: ignore[no-untyped-call]
        with pytest.raises(ValueError, match=f"^train.{message}"):
            quick_probe(Splits(bad, splits.valid, splits.test))


def test_a_tag_without_positives_is_refused_by_column() -> None:
    rng = np.random.default_rng(0)
    tags = rng.integers(0, 2, (40, 3))
    split = Split(rng.normal(size=(40, 4)), tags)
    flat = Split(split.features, tags * [1, 1, 0])
    task = HeadTask("bce", 3, "roc_auc_macro", accuracy)
    with pytest.raises(ValueError, match=r"^valid\.targets: column 2 is 0 in every row"):
        select(split, flat, task, GRID, progress=False)
    with pytest.raises(ValueError, match=r"^train\.targets must be 0 or 1"):
        select(Split(split.features, tags * 2), split, task, GRID, progress=False)


def test_values_that_are_not_numbers_are_refused() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 2))
    split = Split(rng.normal(size=(40, 4)), values)
    values = values.copy()
    values[7, 1] = np.nan
    task = HeadTask("mse", 2, "r2", accuracy)
    with pytest.raises(ValueError, match=r"^valid\.targets must be finite, got .* in row 7"):
        select(split, Split(split.features, values), task, GRID, progress=False)


def test_rows_of_an_item_with_different_targets_are_refused() -> None:
    splits = make_splits(rows_per_item=4)
    targets = splits.valid.targets.copy()
    row = np.flatnonzero(splits.valid.items == 11)[1]
    targets[row] = (targets[row] + 1) % N_CLASSES
    bad = Split(splits.valid.features, targets, splits.valid.items)
    with pytest.raises(ValueError, match=r"^valid\.targets: the rows of item 11 have different"):
        quick_probe(Splits(splits.train, bad, splits.test))


def test_items_in_one_split_alone_are_refused() -> None:
    splits = make_splits(rows_per_item=4)
    bare = Split(splits.test.features, splits.test.targets)
    with pytest.raises(ValueError, match=r"^test\.items"):
        quick_probe(Splits(splits.train, splits.valid, bare))


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_embeddings_that_overflow_are_an_error_not_a_score() -> None:
    rng = np.random.default_rng(0)
    huge = [Split(rng.choice([-3e38, 3e38], (60, 64)), rng.integers(0, 3, 60)) for _ in range(2)]
    grid = build_grid((False,), (0,), (16,), (1e-2,), (0.25,), (0.0,))
    with pytest.raises(ValueError, match="overflowed"):
        select(huge[0], huge[1], TASK, grid, patience=2, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hinge", 2, "accuracy", accuracy), "unknown loss 'hinge'"),
        (("bce", 2, "accuracy", accuracy), "unknown metric for bce 'accuracy'"),
        (("cross_entropy", 2, "accuracy", accuracy, ("median",)), "unknown rule 'median'"),
        (("cross_entropy", 2, "accuracy", accuracy, ()), "rules are empty"),
        (("cross_entropy", 2, np.eye(3), accuracy), "pair scores must have shape"),
        (("bce", 2, np.eye(2), accuracy), "pair scores are for classes"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(arguments: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        HeadTask(*arguments)


def test_an_empty_grid_is_refused() -> None:
    splits = make_splits()
    with pytest.raises(ValueError, match=r"^grid"):
        select(splits.train, splits.valid, TASK, ())
