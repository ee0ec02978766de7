"""Small data sets, built once, for the tests of the tasks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from task_layouts import BUILDERS, GTZAN_LISTS

from myna_plugin.tasks import gtzan


@pytest.fixture(autouse=True)
def small_gtzan_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of the small GTZAN in place of torchaudio's."""
    monkeypatch.setattr(gtzan, "filtered_lists", lambda: GTZAN_LISTS)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """From task and layout to a data folder that no test may change."""
    folders: dict[tuple[str, str], Path] = {}

    def build(task: str, layout: str) -> Path:
        if (task, layout) not in folders:
            folders[task, layout] = tmp_path_factory.mktemp(f"{task}-{layout}")
            BUILDERS[task][layout](folders[task, layout])
        return folders[task, layout]

    return build
