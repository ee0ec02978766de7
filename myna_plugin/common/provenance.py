"""What results were made from, kept beside them: heareval itself only looks for its done-files.

heareval files embeddings by module name and options alone. Had the weights, the module's code or
the task's data changed since, it would take the old ones for the new. So each task's record says
what went in; what differs is made again, and the user is told why.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import importlib_metadata

from myna_plugin._version import __version__
from myna_plugin.common.files import read_json_object, write_json

RECORDS = ".hear-eval"
"""Hidden folder beside heareval's task folders."""

DISTRIBUTIONS = (
    "heareval",
    "torch",
    "pytorch-lightning",
    "numpy",
    "scikit-learn",
    "sed_eval",
    "soxr",
)
"""What scores may depend on."""

Inputs = dict[str, Any]


class Record:
    """What the stages of one task were made from.

    Args:
        path: JSON file, read now, written at each change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stages: dict[str, dict[str, Any]] = {
            stage: told
            for stage, told in read_json_object(path, {}).items()
            if isinstance(told, dict) and isinstance(told.get("inputs"), dict)
        }

    def changes(self, stage: str, inputs: Inputs) -> list[str] | None:
        """Which of `inputs` are not what `stage` was made from; None if that is not known."""
        if stage not in self.stages:
            return None
        before = self.stages[stage]["inputs"]
        return [name for name in {**before, **inputs} if before.get(name) != inputs.get(name)]

    def begin(self, stage: str, inputs: Inputs) -> None:
        """Note what `stage` is about to be made from, before anything of it is written."""
        self.stages[stage] = {"inputs": inputs}
        write_json(self.path, self.stages)

    def finish(self, stage: str, **made_with: Any) -> None:
        """Note when and with what `stage` was made."""
        self.stages[stage]["made"] = {"date": now(), "versions": versions(), **made_with}
        write_json(self.path, self.stages)

    def made(self, stage: str) -> dict[str, Any] | None:
        """What `finish` noted; None where the stage is not known to be finished."""
        return self.stages.get(stage, {}).get("made")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions(distributions: Iterable[str] = DISTRIBUTIONS) -> dict[str, str | None]:
    """Versions of Python, ours and each of `distributions`; None where one is not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "myna-plugin": __version__,
    }
    for name in distributions:
        try:
            found[name] = importlib_metadata.version(name)
        except importlib_metadata.PackageNotFoundError:
            found[name] = None
    return found
