"""MERT through transformers: what `mert-95m`, `mert-330m` and `mert-95m-public` share.

Source: Li et al. 2023, "MERT: Acoustic Music Understanding Model with Large-Scale Self-supervised
Training" (arXiv 2306.00107), and the model cards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from myna_plugin.common.errors import one_line
from myna_plugin.common.files import read_json_object
from myna_plugin.peers.card import Card, PeerError
from myna_plugin.peers.frames import FrameEncoder
from myna_plugin.peers.weights import CONFIG, find_folder, require_all

WINDOW_S = 5
"""Length of the excerpts that it was pre-trained on (model card)."""

RULE = "{} kHz; mean over time of the mean of all hidden states (`layer` takes one), windows of 5 s"

OWN_CODE = {"feature_extractor_cqt": False, "deepnorm": False, "attention_relax": -1.0}
"""Settings whose other values HuBERT's class cannot follow, and their own."""


def mert_card(name: str, repository: str, khz: int) -> Card:
    """The card of one of the checkpoints."""
    return Card(
        name,
        source="arXiv 2306.00107; all layers as MARBLE's decoders take them (arXiv 2306.10548)",
        rule=RULE.format(khz),
        code_licence="Apache-2.0",
        package="transformers",
        install="'myna-plugin[transformers]'",
        repository=repository,
        weights_licence="CC BY-NC 4.0",
        commercial=False,
    )


class Mert(FrameEncoder):
    """MERT as a model of the HEAR API."""

    def __init__(self, backbone: nn.Module, sample_rate: int, normalise: bool, layer: int | None):
        """Wrap a backbone.

        Args:
            backbone: from transformers.
            sample_rate: Hz.
            normalise: whether a sound is to have mean 0 and variance 1.
            layer: the hidden state to take, 0 being the first block's input; None for the mean of
                all.
        """
        config: Any = backbone.config
        shortest = 1
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
            shortest = (shortest - 1) * stride + kernel
        super().__init__(sample_rate, config.hidden_size, WINDOW_S * sample_rate, shortest)
        self.backbone = backbone
        self.normalise = normalise
        self.layer = layer

    def prepare(self, audio: Tensor) -> Tensor:
        """Each sound less its mean, over its deviation, where the checkpoint asks for it.

        Source: transformers' `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`.
        """
        if not self.normalise:
            return audio
        variance = audio.var(1, correction=0, keepdim=True)
        return (audio - audio.mean(1, keepdim=True)) / (variance + 1e-7).sqrt()

    def encode(self, audio: Tensor) -> Tensor:
        """Windows (B, S) -> (B, T, D)."""
        states = self._hidden_states(audio)
        return torch.stack(states).mean(0) if self.layer is None else states[self.layer]

    def _hidden_states(self, audio: Tensor) -> list[Tensor]:
        """The first block's input, every block's output, the last one's after the final norm.

        By hooks: the repositories' own code gives none beside transformers 5.
        """
        states: list[Tensor] = []
        layers = self.backbone.get_submodule("encoder.layers")
        assert isinstance(layers, nn.ModuleList)
        hooks = [layers[0].register_forward_pre_hook(lambda _, given: states.append(given[0]))]
        for layer in layers[:-1]:
            hooks.append(layer.register_forward_hook(lambda _, __, given: states.append(_x(given))))
        try:
            last = self.backbone(audio).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return [*states, last]


def _x(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """What a block hands on; older code has it in a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def load(
    card: Card,
    sample_rate: int,
    model_file_path: str | Path = "",
    *,
    layer: int | None = None,
    download: bool = False,
    trust_remote_code: bool = False,
) -> Mert:
    """Load a checkpoint.

    Args:
        card: of the checkpoint.
        sample_rate: that it listens at, Hz.
        model_file_path: a folder as the repository is; "" for the repository itself.
        layer: the hidden state to take, from 0; None for the mean of all.
        download: whether to fetch the repository where it is not cached.
        trust_remote_code: whether to run the repository's own Python files. Without them
            transformers' HuBERT, of which MERT is made, loads the weights.

    Raises:
        MissingPackageError: transformers is not installed.
        PeerError: there are no weights, or they need the repository's own code.
        ValueError: no such layer.
    """
    card.require_package()
    folder = find_folder(card, model_file_path, download, trust_remote_code)
    settings = read_json_object(folder / CONFIG)
    sound = read_json_object(folder / "preprocessor_config.json")
    rate = sound.get("sampling_rate")
    if rate != sample_rate:
        raise PeerError(f"{folder}: listens at {rate} Hz, {card.name} at {sample_rate}")
    backbone = _load_own(folder) if trust_remote_code else _load_hubert(folder, settings)
    n_layers = settings.get("num_hidden_layers")
    if layer is not None and not 0 <= layer <= int(n_layers or 0):
        raise ValueError(f"layer must be from 0 to {n_layers}, got {layer}")
    card.tell_terms()
    return Mert(backbone, sample_rate, bool(sound.get("do_normalize", True)), layer).eval()


def _load_hubert(folder: Path, settings: dict[str, Any]) -> nn.Module:
    from transformers import HubertConfig, HubertModel

    for name, own in OWN_CODE.items():
        if settings.get(name, own) != own:
            raise PeerError(
                f"{folder}: has {name}, which its own code alone does: pass --model-options "
                "'{\"trust_remote_code\": true}' to run the Python files there"
            )
    named = {k: v for k, v in settings.items() if k not in ("model_type", "auto_map")}
    hubert: Any = HubertModel  # whose stubs do not know what output_loading_info returns
    try:
        backbone, told = hubert.from_pretrained(
            folder, config=HubertConfig(**named), output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise PeerError(f"{folder}: cannot be loaded ({one_line(error, 150)})") from error
    require_all(folder, told["missing_keys"])
    return backbone


def _load_own(folder: Path) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    auto: Any = AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        # HuBERT has asked for it since transformers 4.48 (huggingface/transformers#35656).
        config.conv_pos_batch_norm = False
        backbone, told = auto.from_pretrained(
            folder, config=config, trust_remote_code=True, output_loading_info=True
        )
    except Exception as error:  # the code is somebody else's
        raise PeerError(f"{folder}: its own code fails ({one_line(error, 150)})") from error
    require_all(folder, told["missing_keys"])
    return backbone
