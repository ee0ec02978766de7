"""MARBLE: `class_path: myna_plugin.adapters.marble.MynaEncoder` in its configurations.

Nothing of MARBLE is imported: it takes any module that turns waveforms into hidden states.
`myna recipes marble --out mine` copies configurations, and how to run them.

Source: github.com/a43992899/MARBLE, version 2: `marble/core/base_encoder.py`,
`marble/modules/transforms.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from myna_plugin.adapters.hidden_states import HiddenStates
from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.checkpoint import embedding_patchings, load_encoder
from myna_plugin.model.encoder import MynaEncoder as Encoder

TRAIN_MODES = ("freeze", "full", "lora")
PATCHES = ("square", "vertical", "hybrid")
LORA_TARGETS = ("to_qkv", "to_out")
"""Where LoRA goes: the attention's projections."""


class MynaEncoder(nn.Module):
    """Myna as an encoder of MARBLE: waveforms -> hidden states of all layers.

    Attributes:
        sample_rate: 16000 Hz, also `SAMPLING_RATE`.
        TOKEN_RATE: vectors a second, 1000 / hop_ms.
        NUM_FEATURES: width D of every hidden state: 768 for hybrid ViT-S, 384 for one patching.
        N_TRANSFORMER_LAYERS: number of hidden states L; 12 in every published model.
    """

    NAME = "Myna"
    SAMPLING_RATE = SAMPLE_RATE
    TOKEN_RATE: float = 20
    NUM_FEATURES = 768
    N_TRANSFORMER_LAYERS = 12

    def __init__(
        self,
        checkpoint: str | Path = "",
        patches: str = "hybrid",
        train_mode: str = "freeze",
        hop_ms: float = 50.0,
        lora_r: int = 8,
        lora_alpha: int = 16,
        lora_dropout: float = 0.1,
        lora_target_modules: Sequence[str] = LORA_TARGETS,
    ) -> None:
        """Load a model.

        Args:
            checkpoint: as `model_file_path` of `myna_plugin.load_model`.
            patches: "square", "vertical" or "hybrid" (both, concatenated).
            train_mode: "freeze" keeps every weight, "full" trains all that are used, "lora" adds
                low-rank adapters to the attention and trains those.
            hop_ms: milliseconds between vectors, a sample's 0.0625 at least.
            lora_r: rank of the adapters.
            lora_alpha: their scale, divided by the rank.
            lora_dropout: dropout before them, in [0, 1).
            lora_target_modules: which projections get one: "to_qkv", "to_out" or both.

        Raises:
            CheckpointError: the weights cannot be used, or cannot give `patches`.
            ValueError: an option outside its range.
            ImportError: `train_mode="lora"` without peft.
        """
        super().__init__()
        for name, value, known in (
            ("patches", patches, PATCHES),
            ("train_mode", train_mode, TRAIN_MODES),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        encoder = load_encoder(checkpoint, embedding=patches)
        patchings = embedding_patchings(patches, encoder.config.patchings)
        if train_mode == "full":
            _unfreeze(encoder, patchings)
        elif train_mode == "lora":
            _add_lora(encoder, lora_r, lora_alpha, lora_dropout, lora_target_modules)
        self.model = HiddenStates(encoder, patchings, hop_ms)
        self.train_mode = train_mode
        self.sample_rate = SAMPLE_RATE
        self.TOKEN_RATE = 1000 / hop_ms
        self.NUM_FEATURES = self.model.embedding_size
        self.N_TRANSFORMER_LAYERS = self.model.depth

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Hidden states of clips.

        Args:
            x: samples in [-1, 1] at 16 kHz, shape (B, 1, S) or (B, S).

        Returns:
            L tensors of shape (B, T, D), with T = 1 + floor(duration / hop_ms).

        Raises:
            ValueError: audio of several channels, of another shape, or not finite.
        """
        if x.ndim == 3 and x.shape[1] == 1:
            x = x.squeeze(1)
        if x.ndim != 2:
            raise ValueError(
                f"audio must have shape (B, 1, S) or (B, S), got {tuple(x.shape)}; "
                "set channels: 1 and channel_mode: mix in MARBLE's data section"
            )
        return self.model(x)


def _unfreeze(encoder: Encoder, patchings: tuple[str, ...]) -> None:
    """Train everything but a tokenizer that is not used: DDP refuses weights without gradients."""
    encoder.requires_grad_(True)
    for unused in set(encoder.config.patchings) - set(patchings):
        encoder.tokenizer(unused).requires_grad_(False)


def _add_lora(
    encoder: Encoder, rank: int, alpha: int, dropout: float, targets: Sequence[str]
) -> None:
    """Put low-rank adapters into a frozen encoder, in place."""
    if not targets or set(targets) - set(LORA_TARGETS):
        raise ValueError(f"lora_target_modules must be of {LORA_TARGETS}, got {tuple(targets)}")
    peft = import_toolkit("peft", "peft", "train_mode: lora")
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets)
    )
    # Not the encoder: it has a `config`, which peft before 0.18 takes for one of transformers'.
    peft.inject_adapter_in_model(config, encoder.transformer)
