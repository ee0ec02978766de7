"""HEAR module: m-a-p/MERT-v1-330M, 330 million parameters.

myna probe --module mert-330m --model-options '{"layer": 6}' ...
"""

from __future__ import annotations

from functools import partial

from myna_plugin.peers.frames import get_scene_embeddings, get_timestamp_embeddings
from myna_plugin.peers.mert import load, mert_card

__all__ = ["CARD", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

CARD = mert_card("mert-330m", "m-a-p/MERT-v1-330M", khz=24)

load_model = partial(load, CARD, 24_000)
