"""Linear heads fitted to the end, against scikit-learn's, and selection among them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from myna_plugin.probing.heads import FAST_GRID, GRID, HeadTask, LinearConfig, Split, select

LATENT = np.random.default_rng(9).normal(size=(12, 40)) * np.geomspace(1, 0.05, 12)[:, None]
WEIGHTS = np.random.default_rng(10).normal(size=(12, 3))

TASKS = {
    loss: HeadTask(loss, 3, metric, lambda outputs, targets: {})
    for loss, metric in (
        ("cross_entropy", "accuracy"),
        ("bce", "roc_auc_macro"),
        ("mse", "r2"),
    )
}


def make_split(loss: str, n_rows: int, seed: int) -> Split:
    """Rows of correlated features, far from zero, and targets that they tell in part."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n_rows, 12))
    features = latent @ LATENT + 0.05 * rng.normal(size=(n_rows, 40)) + 3.0
    values = latent @ WEIGHTS + 2.0 * rng.normal(size=(n_rows, 3))
    targets = {"cross_entropy": values.argmax(1), "bce": (values > 1).astype(int), "mse": values}
    return Split(features, targets[loss])


def fit_by_scikit_learn(
    loss: str, train: Split, config: LinearConfig
) -> Callable[[np.ndarray], np.ndarray]:
    """The same head, in units in which a feature's mean variance is 1."""
    mean = train.features.mean(0)
    scale = train.features.std(0)
    if not config.standardize:
        scale = np.sqrt(np.square(scale).mean())

    def scaled(features: np.ndarray) -> np.ndarray:
        return ((features - mean) / scale).astype(np.float64)

    inputs, n_rows = scaled(train.features), len(train.features)
    if loss == "mse":
        ridge = Ridge(alpha=n_rows * config.penalty).fit(inputs, train.targets)
        return lambda features: ridge.predict(scaled(features))
    columns = [train.targets] if loss == "cross_entropy" else list(train.targets.T)
    models = [
        LogisticRegression(C=1 / (n_rows * config.penalty), tol=1e-9, max_iter=10_000).fit(
            inputs, column
        )
        for column in columns
    ]
    return lambda features: np.column_stack(
        [model.decision_function(scaled(features)) for model in models]
    )


@pytest.mark.parametrize("n_rows", [30, 150])  # fewer than features, and more
@pytest.mark.parametrize("config", [LinearConfig(s, p) for s in (False, True) for p in (1.0, 1e-2)])
@pytest.mark.parametrize("loss", sorted(TASKS))
def test_a_head_is_that_of_scikit_learn(loss: str, config: LinearConfig, n_rows: int) -> None:
    train, valid = make_split(loss, n_rows, 1), make_split(loss, 60, 2)
    selection = select(train, valid, TASKS[loss], [config], progress=False)
    found = selection.predict(valid.features)
    expected = fit_by_scikit_learn(loss, train, config)(valid.features)
    if loss == "cross_entropy":  # of which only differences between classes count
        found, expected = (x - x.mean(1, keepdims=True) for x in (found, expected))
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


def test_tags_that_are_not_known_are_left_out() -> None:
    """Each tag's head is that of the rows of which it is known."""
    train, valid = make_split("bce", 150, 1), make_split("bce", 60, 2)
    config, targets = LinearConfig(False, 1e-2), train.targets.astype(np.float32)
    targets[np.random.default_rng(3).random(targets.shape) < 0.5] = np.nan
    partial = Split(train.features, targets)
    selection = select(partial, valid, TASKS["bce"], [config], progress=False)
    mean, scale = train.features.mean(0), np.sqrt(train.features.var(0).mean())
    # scikit-learn adds up losses, ours takes their mean over all rows, known or not.
    strength = 1 / (len(targets) * config.penalty)
    for column in range(3):
        known = ~np.isnan(targets[:, column])
        model = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000)
        model.fit((train.features[known] - mean) / scale, targets[known, column])
        expected = model.decision_function((valid.features - mean) / scale)
        found = selection.predict(valid.features)[:, column]
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("loss", sorted(TASKS))
def test_a_head_is_the_same_alone_and_from_where_another_ended(loss: str) -> None:
    train, valid = make_split(loss, 80, 1), make_split(loss, 60, 2)
    grid = [LinearConfig(True, penalty) for penalty in (1e-2, 1.0, 1e-1)]
    heads = select(train, valid, TASKS[loss], grid, progress=False).heads
    for config, head in zip(grid, heads, strict=True):
        alone = select(train, valid, TASKS[loss], [config], progress=False)
        assert head.config == config
        assert alone.valid_score == pytest.approx(head.valid_score, abs=0.02)


def test_the_penalty_is_chosen_on_validation() -> None:
    """Few rows of much noise want a strong penalty, many clean ones a weak one."""
    rng = np.random.default_rng(0)

    def split(n_rows: int, noise: float) -> Split:
        features = rng.normal(size=(n_rows, 40))
        values = features @ np.eye(40, 3)
        return Split(features, values + noise * rng.normal(size=(n_rows, 3)))

    chosen = [
        select(split(n, noise), split(300, noise), TASKS["mse"], FAST_GRID, progress=False).config
        for n, noise in ((50, 3.0), (500, 0.01))
    ]
    assert isinstance(chosen[0], LinearConfig)
    assert isinstance(chosen[1], LinearConfig)
    assert chosen[0].penalty >= 0.3
    assert chosen[1].penalty <= 1e-2


def test_classes_that_two_features_tell_apart_are_told_apart() -> None:
    angles = np.arange(60) * 2 * np.pi / 3 + np.linspace(-0.5, 0.5, 60)
    split = Split(np.column_stack([np.cos(angles), np.sin(angles)]), np.arange(60) % 3)
    selection = select(split, split, TASKS["cross_entropy"], FAST_GRID, progress=False)
    assert selection.valid_score == 1.0
    # The class whose third of the circle it is: 0, 120 and 240 degrees.
    middles = np.arange(3) * 2 * np.pi / 3
    points = np.column_stack([np.cos(middles), np.sin(middles)])
    assert selection.predict(points.astype(np.float32)).argmax(1).tolist() == [0, 1, 2]


def test_training_clips_of_one_class_alone_leave_that_class() -> None:
    train, valid = make_split("cross_entropy", 40, 1), make_split("cross_entropy", 60, 2)
    one = Split(train.features, np.full(40, 2))
    selection = select(one, valid, TASKS["cross_entropy"], FAST_GRID, progress=False)
    assert set(selection.predict(valid.features).argmax(1)) == {2}
    assert selection.valid_score == (valid.targets == 2).mean()


@pytest.mark.parametrize("tag", [0, 1])
def test_a_tag_that_training_has_always_or_never_is_predicted_so(tag: int) -> None:
    train, valid = make_split("bce", 80, 1), make_split("bce", 60, 2)
    targets = train.targets.copy()
    targets[:, 1] = tag
    selection = select(
        Split(train.features, targets), valid, TASKS["bce"], FAST_GRID, progress=False
    )
    logits = selection.predict(valid.features)
    assert np.isfinite(logits).all()
    assert ((logits[:, 1] > 0) == tag).all()
    other = select(train, valid, TASKS["bce"], [selection.config], progress=False)
    expected = other.predict(valid.features)[:, [0, 2]]
    np.testing.assert_allclose(logits[:, [0, 2]], expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("loss", sorted(TASKS))
def test_training_clips_that_are_all_alike_give_their_mean(loss: str) -> None:
    train, valid = make_split(loss, 30, 1), make_split(loss, 60, 2)
    alike = Split(np.full_like(train.features, 0.1), train.targets)
    selection = select(alike, valid, TASKS[loss], FAST_GRID, progress=False)
    assert np.ptp(selection.predict(valid.features), axis=0).max() < 1e-3


def test_threads_are_as_many_afterwards() -> None:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        split = make_split("mse", 30, 1)
        select(split, split, TASKS["mse"], FAST_GRID, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)


def test_two_kinds_of_configuration_are_refused() -> None:
    split = make_split("mse", 30, 1)
    with pytest.raises(ValueError, match=r"^grid: configurations of two kinds"):
        select(split, split, TASKS["mse"], [GRID[0], FAST_GRID[0]])  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_features_that_overflow_are_an_error_not_a_score() -> None:
    rng = np.random.default_rng(0)
    huge = [Split(rng.choice([-3e38, 3e38], (60, 8)), rng.integers(0, 3, 60)) for _ in range(2)]
    with pytest.raises(ValueError, match="overflowed"):
        select(*huge, TASKS["cross_entropy"], FAST_GRID, progress=False)
