"""What options take, numbers and paths that are checked, and the options of many commands."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

import click

from myna_plugin.common.files import parse_json

LARGEST = 2**31 - 1
"""No length, size, count or seed is above this."""


class Number(click.ParamType):
    """A whole number or a finite one, within limits.

    Args:
        kind: `int` or `float`.
        low: the smallest.
        high: the largest.
        above: whether `low` itself is refused.

    >>> Number(float, 0, above=True).convert("2.5", None, None)
    2.5
    """

    def __init__(
        self,
        kind: type[int] | type[float],
        low: float = 0,
        high: float = LARGEST,
        *,
        above: bool = False,
    ) -> None:
        self.kind, self.low, self.high, self.above = kind, low, high, above
        self.name = "integer" if kind is int else "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        """Parse and check."""
        try:
            number = self.kind(value)
        except ValueError:
            self.fail(f"{value!r} is no {self.name}", param, ctx)
        # NaN compares as false.
        if not (self.low < number if self.above else self.low <= number) or number > self.high:
            least = f"{'above' if self.above else 'at least'} {self.low:,}"
            self.fail(f"must be {least} and at most {self.high:,}, got {value}", param, ctx)
        return number


POSITIVE_INT = Number(int, 1)
NON_NEGATIVE_INT = Number(int)
POSITIVE_FLOAT = Number(float, above=True)


class NamedPath(click.Path):
    """A path; not the empty one, which would mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check, and make it a `Path` if that is asked for."""
        if not str(value):
            self.fail("is empty; name a file or a folder", param, ctx)
        return super().convert(value, param, ctx)


class JsonObject(click.ParamType):
    """A JSON object, as a dictionary.

    >>> JsonObject().convert('{"hop_ms": 25}', None, None)
    {'hop_ms': 25}
    """

    name = "JSON"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """Parse."""
        if isinstance(value, dict):
            return value
        example = """write it like '{"hop_ms": 25}'"""
        shown = reprlib.repr(value)
        try:
            read = parse_json(value, shown)
            json.dumps(read, allow_nan=False)
        except ValueError as error:
            self.fail(f"{error}; {example}", param, ctx)
        if not isinstance(read, dict):
            self.fail(f"{shown} is no JSON object; {example}", param, ctx)
        return read


PATH = NamedPath(path_type=Path)
FILE = NamedPath(path_type=Path, dir_okay=False)
FOLDER = NamedPath(path_type=Path, file_okay=False)

DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|mps|cuda|cuda:N",
    help="Where to compute; auto takes CUDA if there is any, else Apple's GPU (mps).",
)

WORKERS = click.option(
    "--workers",
    type=Number(int, 1, 4096),
    help="Files to work on at a time.  [default: one a core]",
)

SEED = click.option(
    "--seed",
    type=NON_NEGATIVE_INT,
    default=0,
    show_default=True,
    help="Of all that is drawn at random.",
)
