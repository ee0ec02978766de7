"""The vote of nearest neighbours is its rule's, written out, and scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from myna_plugin.probing.heads import HeadTask, Split, score_neighbours
from myna_plugin.probing.heads.neighbours import count_votes


def accuracy(outputs, targets):
    return {"accuracy": (outputs.argmax(1) == targets).mean()}


TASK = HeadTask("cross_entropy", 6, "accuracy", accuracy)


def make_split(n_rows, seed, items=None):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 5, n_rows)  # the sixth is nobody's
    centres = np.random.default_rng(99).normal(size=(6, 8))
    return Split(centres[classes] + 1.5 * rng.normal(size=(n_rows, 8)) + 1.0, classes, items)


def votes_written_out(train, features, n_classes):
    """Clip by clip: unit vectors, ten greatest products, softmax of them over 0.07, votes."""
    units = torch.nn.functional.normalize(torch.from_numpy(train.features), dim=1)
    shares = np.zeros((len(features), n_classes))
    for row, vector in enumerate(torch.from_numpy(features)):
        products = units @ torch.nn.functional.normalize(vector, dim=0)
        nearest = products.argsort(descending=True)[:10]
        for share, which in zip((products[nearest] / 0.07).softmax(0), nearest, strict=True):
            shares[row, train.targets[which]] += float(share)
    return shares


def test_votes_are_those_of_the_rule():
    train, test = make_split(80, 1), make_split(40, 2)
    found = count_votes(train, test.features, 6)
    np.testing.assert_allclose(found, votes_written_out(train, test.features, 6), atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1)
    assert not found[:, 5].any()
    # Length does not count.
    np.testing.assert_allclose(count_votes(train, 7 * test.features, 6), found, atol=1e-5)


def test_scores_are_those_of_scikit_learn():
    train, test = make_split(80, 1), make_split(40, 2)

    def softmax(distances):
        weights = np.exp(-distances / 0.07)
        return weights / weights.sum(1, keepdims=True)

    classifier = KNeighborsClassifier(10, weights=softmax, metric="cosine")
    classifier.fit(train.features, train.targets)
    expected = classifier.score(test.features, test.targets)
    assert 0.3 < expected < 1
    assert score_neighbours(train, test, TASK) == {"accuracy": pytest.approx(expected)}


def test_of_items_the_votes_of_rows_are_averaged():
    train, test = make_split(80, 1), make_split(30, 2)
    shares = votes_written_out(train, test.features, 6)
    items = np.repeat(np.arange(10), 3)[::-1]
    targets = test.targets[::3].repeat(3)
    of_items = np.stack([shares[items == item].mean(0) for item in range(10)])
    expected = (of_items.argmax(1) == [targets[items == item][0] for item in range(10)]).mean()
    found = score_neighbours(train, Split(test.features, targets, items), TASK)
    assert found == {"accuracy": pytest.approx(expected)}


def test_few_training_clips_all_vote():
    train, test = make_split(4, 1), make_split(20, 2)
    assert count_votes(train, test.features, 6).sum(1) == pytest.approx(np.ones(20))


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        (HeadTask("mse", 2, "r2", accuracy), "test", "vote for classes, not for mse"),
        (TASK, "train", r"train\.features: 1 of 80 rows hold NaN"),
        (TASK, "test", r"test\.features: 1 of 40 rows hold NaN"),
    ],
)
def test_what_cannot_be_used_is_named(task, name, message):
    splits = {"train": make_split(80, 1), "test": make_split(40, 2)}
    splits[name].features[3, 2] = np.nan
    with pytest.raises(ValueError, match=message):
        score_neighbours(splits["train"], splits["test"], task)
