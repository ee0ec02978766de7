"""Myna music representations: HEAR module, pre-training recipes and MIR probe tasks."""

import importlib
from typing import TYPE_CHECKING, Any

from myna_plugin._version import __version__

if TYPE_CHECKING:
    from myna_plugin.api import Myna
    from myna_plugin.hear import get_scene_embeddings, get_timestamp_embeddings, load_model

__all__ = ["Myna", "__version__", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, in which `myna --help` has long been read."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "api" if name == "Myna" else "hear"
    globals()[name] = getattr(importlib.import_module(f"myna_plugin.{home}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
