"""The table of recorded sources, `recorded_sources.yaml`: where, whose, and what they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myna_plugin.common.files import parse_yaml, read_text

TABLE = Path(__file__).with_suffix(".yaml")

LICENCES = ("CC0", "PD", "CC BY")
"""Creative Commons Zero, public domain, Creative Commons Attribution: what a source may have."""


@dataclass(frozen=True)
class Source:
    """A collection of recordings.

    Attributes:
        address: where it is found.
        commit: which of its states, a commit or a package's version.
        licence: one of `LICENCES`.
        attribution: whom to name.
        evidence: where the licence is said.
    """

    address: str
    commit: str
    licence: str
    attribution: str
    evidence: str

    def __post_init__(self) -> None:
        if self.licence not in LICENCES:
            raise ValueError(f"{self.address}: {self.licence} is none of {', '.join(LICENCES)}")


@dataclass(frozen=True)
class Recorded:
    """An instrument from recorded notes; the table says what each means."""

    program: int
    name: str
    folder: str
    files: str = ""
    layers: Sequence[str] = ()
    transpose: int = 0
    pitches: Mapping[str, float] = field(default_factory=dict)
    sfz: str = ""
    lasting: bool = False
    longest_s: float = 3.0
    spacing: int = 5
    release_s: float = 0.3


@dataclass(frozen=True)
class Kit:
    """A drum kit; the table says what each means."""

    program: int
    name: str
    parts: Mapping[str, Mapping[int, str | Sequence[str]]] = field(default_factory=dict)
    objects: int | None = None


@dataclass(frozen=True)
class Objects:
    """Struck things: a folder, and words of which a recording's name has one."""

    folder: str
    words: Sequence[str]


@dataclass(frozen=True)
class Table:
    """All of the table; `sources` by folder."""

    sources: Mapping[str, Source]
    instruments: Sequence[Recorded]
    kits: Sequence[Kit]
    objects: Objects

    def source_of(self, folder: str) -> str:
        """The source to which a folder belongs.

        Raises:
            KeyError: none: it has no licence, and is not to be used.
        """
        for name in self.sources:
            if folder == name or folder.startswith(f"{name}/"):
                return name
        raise KeyError(folder)


def read_table(path: Path = TABLE) -> Table:
    """Read the table of sources."""
    told: dict[str, Any] = parse_yaml(read_text(path), path)
    return Table(
        {folder: Source(**source) for folder, source in told["sources"].items()},
        [Recorded(**instrument) for instrument in told["instruments"]],
        [Kit(**kit) for kit in told["kits"]],
        Objects(**told["objects"]),
    )
