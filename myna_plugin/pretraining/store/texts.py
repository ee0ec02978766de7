"""Byte strings by the million, such as the paths of a collection."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Texts:
    """Byte strings in two arrays, so that a million of them are not a million objects.

    Attributes:
        data: all strings end to end, uint8.
        ends: where each ends in `data`, int64.

    >>> list(Texts.of([b"one", b"", b"three"]))
    [b'one', b'', b'three']
    """

    data: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> Texts:
        """Collect strings, keeping none of the objects."""
        data, ends = bytearray(), array("q")
        for string in strings:
            data += string
            ends.append(len(data))
        return cls(np.frombuffer(data, np.uint8), np.frombuffer(ends, np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence[Texts]) -> Texts:
        """The strings of all parts, in order."""
        shifts = np.cumsum([0] + [len(part.data) for part in parts])
        ends = [part.ends + shift for part, shift in zip(parts, shifts, strict=False)]
        return cls(np.concatenate([part.data for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes:
        row = range(len(self))[row]
        return self.data[self.ends[row - 1] if row else 0 : self.ends[row]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each string, int64."""
        return np.diff(self.ends, prepend=0)
