import pytest

from myna_plugin.probing.heads import FAST_GRID, GRID, HeadConfig


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


def test_the_fast_grid_is_part_of_the_grid() -> None:
    assert len(FAST_GRID) == 32
    assert set(FAST_GRID) < set(GRID)


@pytest.mark.parametrize(
    "change",
    [{"hidden_units": -1}, {"batch_size": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}, {"l2": -1}],
)
def test_a_value_out_of_range_is_refused_by_name(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        HeadConfig(**(GRID[0].to_dict() | change))  # type: ignore[arg-type]
