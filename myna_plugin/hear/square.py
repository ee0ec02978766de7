"""HEAR module of square embeddings alone, for evaluators that give load_model no options."""

from __future__ import annotations

from functools import partial

from myna_plugin.hear import get_scene_embeddings, get_timestamp_embeddings
from myna_plugin.hear import load_model as load_any_model

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

load_model = partial(load_any_model, embedding="square")
