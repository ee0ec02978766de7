"""Numbers that a caller gives: of the right kind, finite, within limits."""

from __future__ import annotations

from numbers import Integral, Real
from typing import cast

from myna_plugin.common.options import LARGEST


def check_number(
    name: str, value: object, kind: type[int] | type[float], low: float, *, above: bool = False
) -> int | float:
    """The number as Python's own, a NumPy scalar too.

    Args:
        name: of the argument.
        value: what was given.
        kind: `int` or `float`.
        low: the smallest; the largest is `LARGEST`.
        above: whether `low` itself is refused.

    Raises:
        TypeError: no number, or no whole one.
        ValueError: NaN, infinity, or outside the limits.

    >>> check_number("hop_ms", 50, float, 0, above=True)
    50.0
    """
    wanted = Integral if kind is int else Real
    if isinstance(value, bool) or not isinstance(value, wanted):
        whole = "whole " if kind is int else ""
        raise TypeError(f"{name} must be a {whole}number, got {value!r}")
    number = cast(float, value)
    # NaN compares as false.
    if not (low < number if above else low <= number) or not number <= LARGEST:
        least = f"{'above' if above else 'at least'} {low:g}"
        raise ValueError(f"{name} must be {least} and at most {LARGEST:,}, got {value!r}")
    return kind(number)
