"""The configurations that a probe is selected from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import ClassVar

HIDDEN_UNITS = 512


@dataclass(frozen=True)
class HeadConfig:
    """One configuration of a head and its training.

    Attributes:
        standardize: whether features are brought to zero mean and unit variance on train.
        hidden_units: width of the hidden layer; 0 for a linear head.
        batch_size: rows of a training step, all of train where that is smaller.
        learning_rate: of Adam.
        dropout: probability of dropping an input feature, and a hidden unit.
        l2: L2 penalty, added to the gradient (Adam's `weight_decay`).

    Raises:
        ValueError: a value out of range; the message names it.
    """

    standardize: bool
    hidden_units: int
    batch_size: int
    learning_rate: float
    dropout: float
    l2: float

    def __post_init__(self) -> None:
        if self.hidden_units < 0 or self.batch_size < 1:
            raise ValueError(f"hidden_units must be at least 0 and batch_size at least 1: {self}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1): {self}")
        if self.learning_rate <= 0.0 or self.l2 < 0.0:
            raise ValueError(f"learning_rate must be positive and l2 not negative: {self}")

    def to_dict(self) -> dict[str, bool | int | float]:
        """The configuration as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class LinearConfig:
    """A linear head that is fitted to the end, with nothing random.

    Attributes:
        standardize: whether features are brought to zero mean and unit variance on train.
        penalty: L2 penalty, relative to the loss summed over outputs and averaged over rows, and
            to features whose mean variance is 1.

    Raises:
        ValueError: the penalty is not positive.
    """

    hidden_units: ClassVar[int] = 0
    dropout: ClassVar[float] = 0.0

    standardize: bool
    penalty: float

    def __post_init__(self) -> None:
        if self.penalty <= 0.0:
            raise ValueError(f"penalty must be positive: {self}")

    def to_dict(self) -> dict[str, bool | int | float]:
        """The configuration as JSON holds it."""
        return asdict(self)


def build_grid(
    standardize: tuple[bool, ...] = (False, True),
    hidden_units: tuple[int, ...] = (0, HIDDEN_UNITS),
    batch_size: tuple[int, ...] = (64, 256),
    learning_rate: tuple[float, ...] = (1e-5, 1e-4, 1e-3),
    dropout: tuple[float, ...] = (0.25, 0.5, 0.75),
    l2: tuple[float, ...] = (0.0, 1e-4, 1e-3),
) -> tuple[HeadConfig, ...]:
    """Every combination of the given values; without arguments, the paper's 216.

    Source: paper Appendix C, after JukeMIR.

    >>> len(build_grid())
    216
    >>> len(build_grid(hidden_units=(0,), learning_rate=(1e-3,)))
    36
    """
    values = product(standardize, hidden_units, batch_size, learning_rate, dropout, l2)
    return tuple(HeadConfig(*row) for row in values)


GRID = build_grid()
"""The 216 configurations of JukeMIR's protocol."""

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5)

FAST_GRID = tuple(LinearConfig(*row) for row in product((False, True), PENALTIES))
"""Linear heads, each at the least of its loss: seconds, for a quick look.

Their scores are not comparable with published ones.
"""

Config = HeadConfig | LinearConfig

Grid = Sequence[HeadConfig] | Sequence[LinearConfig]

GRIDS: dict[str, Grid] = {"full": GRID, "fast": FAST_GRID}
"""Grids by name. Only scores of the full one may be compared with published ones."""
