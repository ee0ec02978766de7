"""Fixtures of the task tests, for `pytest_plugins = ("tiny_data_sets",)` in a test module.

Not a conftest.py: the one above this folder is imported by its name.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from task_layouts import BUILDERS, GTZAN_LISTS

from myna_plugin.probing.tasks import gtzan


@pytest.fixture(scope="session")
def built_folders() -> dict[tuple[str, str], Path]:
    return {}


@pytest.fixture
def built(
    built_folders: dict[tuple[str, str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, str], Path]:
    """From task and layout to a small data folder, built once, that no test may change.

    GTZAN's lists are the small one's meanwhile.
    """
    monkeypatch.setattr(gtzan, "filtered_lists", lambda: GTZAN_LISTS)

    def build(task: str, layout: str) -> Path:
        if (task, layout) not in built_folders:
            folder = tmp_path_factory.mktemp(f"{task}-{layout}")
            BUILDERS[task][layout](folder)
            built_folders[task, layout] = folder
        return built_folders[task, layout]

    return build
