"""HEAR module: CLMR, a SampleCNN trained by contrast, the paper's predecessor; scenes alone.

myna probe --module clmr --model clmr_checkpoint_10000.pt ...
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from myna_plugin.common.errors import reason
from myna_plugin.model.tensors import READING_ERRORS, list_some
from myna_plugin.peers.card import Card, PeerError
from myna_plugin.peers.frames import FrameEncoder, get_scene_embeddings

__all__ = ["CARD", "get_scene_embeddings", "load_model"]

SAMPLE_RATE = 22_050

CARD = Card(
    "clmr",
    source="Spijkervet and Burgoyne 2021 (arXiv 2103.09410); network of Lee et al. 2017",
    rule="22.05 kHz; output of the last convolution for each 59,049 samples, mean by length",
    code_licence="MIT, written here after the paper",
    address="github.com/Spijkervet/CLMR, release 2.0: clmr_checkpoint_10000.zip, unpacked",
    weights_licence="MIT",
)

WINDOW = 3**10
"""59,049 samples, 2.7 s: what becomes one vector."""

WIDTHS = (128, 128, 128, 256, 256, 256, 256, 256, 256, 512)
"""Channels of the convolution at the front and of the nine that are pooled."""


class SampleCnn(FrameEncoder):
    """SampleCNN without its classifier, under the names that published checkpoints use.

    Source: Lee, Park, Kim, Nam 2017 (arXiv 1703.01789), table 1, the model of 59,049 samples.
    """

    def __init__(self) -> None:
        super().__init__(SAMPLE_RATE, WIDTHS[-1], WINDOW, WINDOW)
        blocks = [_block(WIDTHS[0], nn.Conv1d(1, WIDTHS[0], 3, stride=3))]
        for width_in, width in pairwise(WIDTHS):
            conv = nn.Conv1d(width_in, width, 3, padding=1)
            blocks.append(_block(width, conv).append(nn.MaxPool1d(3)))
        last = WIDTHS[-1]
        blocks.append(_block(last, nn.Conv1d(last, last, 3, padding=1)))
        self.sequential = nn.Sequential(*blocks)

    def encode(self, audio: Tensor) -> Tensor:
        """Windows (B, 59049) -> (B, 1, 512)."""
        return self.sequential(audio[:, None]).transpose(1, 2)


def _block(width: int, convolution: nn.Conv1d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm1d(width), nn.ReLU())


def load_model(model_file_path: str | Path = "") -> SampleCnn:
    """Load a checkpoint.

    Args:
        model_file_path: of CLMR's releases (`encoder.sequential…`), of its trainer
            (`state_dict`, `model.encoder.sequential…`), or of the encoder alone.

    Raises:
        PeerError: there is none, or it is another model's.
    """
    if not str(model_file_path):
        raise PeerError(f"clmr {CARD.needs()}")
    path = Path(model_file_path).expanduser()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except READING_ERRORS as error:
        told = reason(error)[:120]
        raise PeerError(f"{path}: cannot be read as a CLMR checkpoint ({told})") from error
    model = SampleCnn()
    model.load_state_dict(_take_encoder(path, content, model))
    return model.eval()


def _take_encoder(path: Path, content: object, model: nn.Module) -> dict[str, Tensor]:
    """The encoder's tensors under the model's names, checked: names, types and shapes."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    named = content if isinstance(content, dict) else {}
    tensors = {k: v for k, v in named.items() if isinstance(k, str) and isinstance(v, Tensor)}
    marked = {k: k.partition("sequential.") for k in tensors if "sequential." in k}
    if len(prefixes := {head for head, _, _ in marked.values()}) != 1:
        held = f"{len(prefixes)} encoders, of {list_some(map(repr, sorted(prefixes)))}"
        raise PeerError(f"{path}: holds {held if prefixes else 'no encoder'}; clmr needs one")
    encoder = {f"sequential.{tail}": tensors[k] for k, (_, _, tail) in marked.items()}
    wanted = model.state_dict()
    wrong = [k for k in wanted if k not in encoder or encoder[k].shape != wanted[k].shape]
    if wrong := wrong + sorted(set(encoder) - set(wanted)):
        raise PeerError(f"{path}: no SampleCNN as CLMR published; differs in {list_some(wrong)}")
    return encoder
