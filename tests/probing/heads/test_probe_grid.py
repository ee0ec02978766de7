import pytest

from myna_plugin.probing.heads import FAST_GRID, GRID, HeadConfig, LinearConfig


def test_the_grid_has_216_different_configurations() -> None:
    assert len(GRID) == len(set(GRID)) == 216


def test_the_grid_crosses_the_values_of_the_paper() -> None:
    values = {
        "standardize": {False, True},
        "hidden_units": {0, 512},
        "batch_size": {64, 256},
        "learning_rate": {1e-5, 1e-4, 1e-3},
        "dropout": {0.25, 0.5, 0.75},
        "l2": {0.0, 1e-4, 1e-3},
    }
    for name, expected in values.items():
        assert {getattr(config, name) for config in GRID} == expected


def test_the_fast_grid_goes_from_the_strongest_penalty_on_without_and_with_standardisation() -> (
    None
):
    penalties = [config.penalty for config in FAST_GRID if config.standardize]
    assert penalties == sorted(set(penalties), reverse=True)
    assert tuple(LinearConfig(s, p) for s in (False, True) for p in penalties) == FAST_GRID


@pytest.mark.parametrize("penalty", [0.0, -1.0])
def test_a_penalty_that_is_not_positive_is_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match="penalty must be positive"):
        LinearConfig(True, penalty)


@pytest.mark.parametrize(
    "change",
    [{"hidden_units": -1}, {"batch_size": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}, {"l2": -1}],
)
def test_a_value_out_of_range_is_refused_by_name(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        HeadConfig(**(GRID[0].to_dict() | change))  # type: ignore[arg-type]
