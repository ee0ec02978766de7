"""How far work is: a bar on a terminal, now and then a line elsewhere, such as in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LINE_S = 30.0
"""Between lines where there is no terminal, seconds; before the first of them, too."""


def is_watched() -> bool:
    """Whether standard error is a terminal; it may be closed, too."""
    return sys.stderr is not None and sys.stderr.isatty()


class ProgressBar(tqdm):
    """tqdm's bar on standard error; where that is no terminal, the same in lines without the bar.

    Args:
        iterable: passed through and counted; None to count by `update`.
        desc: what begins the bar, or each line.
        total: of all; None for not known, or the length of `iterable`.
        options: further ones of `tqdm.tqdm`.

    >>> list(ProgressBar("ab", "letters", unit=" letters"))
    ['a', 'b']
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: float | None = None,
        **options: Any,
    ) -> None:
        self._is_drawn, self._told_s = is_watched(), 0.0
        if sys.stderr is None:
            options["disable"] = True
        if not self._is_drawn:
            form = options.get("bar_format", "").replace("|{bar}|", "")
            # No columns are no bar, and tqdm's own form. `refresh` alone decides when a line is
            # written, so all updates must come to it.
            options |= {"bar_format": form, "ncols": None if form else 0, "dynamic_ncols": False}
            options["miniters"] = 0
        super().__init__(iterable, desc, total, **options)
        if not self._is_drawn:
            self.sp = None  # by which tqdm draws, and at the end draws once more

    def refresh(
        self,
        nolock: bool = False,
        lock_args: tuple[bool | None, float | None] | tuple[bool | None] | None = None,
    ) -> None:
        """Draw the bar, or write a line if it is time for one."""
        if self._is_drawn or self.disable:
            super().refresh(nolock, lock_args)
        elif (elapsed_s := self.format_dict["elapsed"]) - self._told_s >= LINE_S:
            self._told_s = elapsed_s
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Take the bar away while something else is written; a line stays."""
        if self._is_drawn:
            super().clear(nolock)
