"""Myna music representations: HEAR module, pre-training recipes and MIR probe tasks."""

from myna_plugin._version import __version__
from myna_plugin.api import Myna
from myna_plugin.hear import get_scene_embeddings, get_timestamp_embeddings, load_model

__all__ = ["Myna", "__version__", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]
