"""Myna as models of Hugging Face transformers.

`myna export --to transformers` writes this module, with all that it needs of the package, into one
file of the folder that it makes: the folder is then loaded without the package.

Source: transformers' documentation, "Customizing models" and "Attention backends".
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from myna_plugin.adapters.hidden_states import (
    compute_mel,
    embed_scenes,
    pad_layers,
    read_layers,
    rows_by_length,
)
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.chunks import cut_chunks, fill_patches
from myna_plugin.model.encoder import POOLINGS, EncoderConfig, MynaEncoder, token_grid
from myna_plugin.model.spectrogram import MelSpectrogram
from myna_plugin.model.vit import HEAD_DIM, Attention, Block, FeedForward, Groups, sincos_positions


class MynaConfig(PretrainedConfig):
    """The encoder's configuration and what is asked of it.

    Attributes:
        encoder: the fields of `EncoderConfig`; its `scene_layers` and `scene_pooling` decide
            `pooler_output`, its `patchings` are joined in their order.
        hop_ms: milliseconds between the vectors of `last_hidden_state`.
        hidden_size: width D of the vectors of `last_hidden_state`.
        num_hidden_layers: number of hidden states.
        num_attention_heads: of every block.
        sampling_rate: 16000 Hz.
    """

    model_type = "myna"

    def __init__(
        self, encoder: dict[str, Any] | None = None, hop_ms: float = 50.0, **kwargs: Any
    ) -> None:
        fields = encoder or asdict(EncoderConfig())
        # As JSON gives it back, so that a configuration equals the one that was saved.
        self.encoder = json.loads(json.dumps(fields))
        self.hop_ms = hop_ms
        config = self.encoder_config()
        self.hidden_size = len(config.patchings) * config.embed_dim
        self.num_hidden_layers = config.depth
        self.num_attention_heads = config.num_heads
        self.sampling_rate = SAMPLE_RATE
        derived = ("hidden_size", "num_hidden_layers", "num_attention_heads", "sampling_rate")
        super().__init__(**{k: v for k, v in kwargs.items() if k not in derived})

    def encoder_config(self) -> EncoderConfig:
        """`encoder` as an `EncoderConfig`."""
        return EncoderConfig.of_fields(self.encoder)

    def scene_size(self) -> int:
        """Width of `pooler_output`."""
        encoder = self.encoder_config()
        layers = len(encoder.choose_scene_layers())
        return layers * POOLINGS[encoder.scene_pooling] * self.hidden_size


class MynaAttention(Attention):
    """`Attention` by the implementation that transformers was asked for."""

    is_causal = False

    def __init__(self, config: MynaConfig) -> None:
        encoder = config.encoder_config()
        super().__init__(encoder.embed_dim, encoder.num_heads)
        self.config = config

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        name = self.config._attn_implementation
        # transformers 5 has `ALL_ATTENTION_FUNCTIONS.get_interface()` for this, and lets a model's
        # implementation be changed if it finds these words in its source; transformers 4 has not.
        attend = attend_eagerly if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        mixed, _ = attend(self, query, key, value, attention_mask=None, scaling=HEAD_DIM**-0.5)
        return mixed


def weigh(query: Tensor, key: Tensor) -> Tensor:
    """How much each token heeds each other: shape (B, heads, N, N), rows of sum 1."""
    return (query @ key.transpose(-1, -2) * HEAD_DIM**-0.5).softmax(-1)


def attend_eagerly(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **_: Any
) -> tuple[Tensor, Tensor]:
    """Attention step by step, "eager" of transformers: mixed values (B, N, heads, 64), weights."""
    weights = weigh(query, key)
    return (weights @ value).transpose(1, 2), weights


class MynaLayer(GradientCheckpointingLayer, Block):
    """`Block` whose insides may be computed again on the way back, to save memory."""

    def __init__(self, config: MynaConfig) -> None:
        encoder = config.encoder_config()
        perceptron = FeedForward(encoder.embed_dim, encoder.mlp_dim)
        nn.ModuleList.__init__(self, [MynaAttention(config), perceptron])

    def forward(self, x: Tensor, groups: Groups | None = None) -> Tensor:
        return Block.forward(self, x, groups)


@dataclass(frozen=True)
class Sounds:
    """Sounds of one length among those of a batch: their rows, samples and mel power (B, M, F)."""

    rows: list[int]
    n_samples: int
    mel: Tensor


class MynaPreTrainedModel(PreTrainedModel):
    """What transformers must know of every model of Myna."""

    config_class = MynaConfig
    main_input_name = "input_values"
    base_model_prefix = "myna"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["MynaLayer"]  # noqa: RUF012 (as transformers types it)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what no file holds; transformers leaves constants empty too on loading."""
        super()._init_weights(module)
        if isinstance(module, MynaEncoder):
            for patching in module.config.patchings:
                grid = token_grid(patching, module.config.chunk_frames)
                codes = sincos_positions(*grid, module.config.embed_dim)
                module.get_buffer(f"positions_{patching}").copy_(codes)
        elif isinstance(module, MelSpectrogram):
            for name, constant in MelSpectrogram().named_buffers():
                module.get_buffer(name).copy_(constant)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As transformers has it, but whoever may read the configuration may read the weights."""
        super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        for weights in folder.glob("*.safetensors"):
            weights.chmod((folder / "config.json").stat().st_mode)


class MynaModel(MynaPreTrainedModel):
    """Myna as a model of transformers: waveforms -> sequence and scene embeddings."""

    def __init__(self, config: MynaConfig) -> None:
        super().__init__(config)
        # `model.` before every key: `myna_plugin.load_model` reads the same file.
        self.model = MynaEncoder(config.encoder_config())
        layers = (MynaLayer(config) for _ in range(self.model.config.depth))
        self.model.transformer.layers = nn.ModuleList(layers)
        self.mel = MelSpectrogram()
        self.post_init()

    def group(self, input_values: Tensor, attention_mask: Tensor | None) -> list[Sounds]:
        """Sounds of a batch (B, S) without their filling, those of equal length together."""
        lengths = _sound_lengths(input_values, attention_mask)
        return [
            Sounds(rows, lengths[rows[0]], compute_mel(self.mel, input_values[rows, :length]))
            for rows in rows_by_length(lengths)
            for length in [lengths[rows[0]]]
        ]

    def embed(self, groups: Sequence[Sounds]) -> Tensor:
        """Scene embeddings, float32, shape (B, `config.scene_size()`)."""
        encoder = self.model
        layers, pooling = encoder.config.choose_scene_layers(), encoder.config.scene_pooling
        patchings = encoder.config.patchings
        scenes = [embed_scenes(encoder, own.mel, patchings, layers, pooling) for own in groups]
        order = torch.tensor([row for own in groups for row in own.rows])
        return torch.cat(scenes)[order.argsort().to(scenes[0].device)]

    def read_states(self, groups: Sequence[Sounds]) -> tuple[Tensor, ...]:
        """Hidden states on the grid of `hop_ms`: L tensors (B, T, D), zero past a sound's end."""
        encoder, hop_ms = self.model, self.config.hop_ms
        read = [
            read_layers(encoder, own.mel, own.n_samples, encoder.config.patchings, hop_ms)
            for own in groups
        ]
        return pad_layers(_by_row(groups, read))

    def read_attentions(self, groups: Sequence[Sounds]) -> tuple[Tensor, ...]:
        """Attention of scene embeddings: L tensors (B, K, P, heads, N, N); see `forward`."""
        return pad_layers(_by_row(groups, [self._attentions_of(own.mel) for own in groups]))

    def _attentions_of(self, mel: Tensor) -> tuple[Tensor, ...]:
        """Of sounds of one length, mel power (B, M, F)."""
        config = self.model.config
        size = config.chunk_frames
        most = max(
            rows * columns for rows, columns in (token_grid(p, size) for p in config.patchings)
        )
        cuts = cut_chunks(mel, size, size)
        each = []  # [patching][layer]
        for patching in config.patchings:
            pieces = [self._weigh_chunks(cut, patching, most) for cut in cuts]
            each.append([torch.cat(own, dim=1) for own in zip(*pieces, strict=True)])
        return tuple(torch.stack(own, dim=2) for own in zip(*each, strict=True))

    def _weigh_chunks(self, chunks: Tensor, patching: str, most: int) -> list[Tensor]:
        """Of chunks (B, K, M, F), for each layer, filled up to `most` tokens."""
        x = self.model.tokens(fill_patches(chunks.flatten(0, 1), patching), patching)
        missing = most - x.shape[1]
        weights = []
        for layer in self.model.transformer.layers:
            attention = cast(MynaAttention, cast(MynaLayer, layer)[0])
            query, key, _ = attention.split_heads(attention.to_qkv(attention.norm(x)))
            filled = functional.pad(weigh(query, key), (0, missing, 0, missing))
            weights.append(filled.unflatten(0, chunks.shape[:2]))
            x = layer(x)
        return weights

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Embed sounds.

        Args:
            input_values: samples in [-1, 1] at 16 kHz, shape (B, S).
            attention_mask: 1 where a sample is sound and 0 where it fills up the batch on the
                right, shape (B, S). A sound's embedding does not depend on the filling.
            output_attentions: also return the attention of every block, whatever computes it: one
                more pass.
            output_hidden_states: also return the states of every block.
            return_dict: False for a tuple.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` (B, T, D), a vector every
            `config.hop_ms`, zero past a sound's end; `pooler_output` (B, D for each of the
            encoder's `scene_layers`, twice with "mean-std"), the scene embedding;
            `hidden_states`, if asked for, L tensors (B, T, D), the last being `last_hidden_state`;
            `attentions`, if asked for, L tensors (B, K, P, heads, N, N): of each of the K
            consecutive chunks that the scene embedding is the mean of, by each of the P patchings,
            between tokens row-major over the grid of patches; zero where a sound has no chunk, or
            a chunk not so many tokens.

        Raises:
            ValueError: a mask with filling elsewhere than on the right, or unusable audio.
        """
        config = self.config
        attentions = config.output_attentions if output_attentions is None else output_attentions
        states = (
            config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        groups = self.group(input_values, attention_mask)
        read = self.read_states(groups)
        output = BaseModelOutputWithPooling(
            last_hidden_state=read[-1],
            pooler_output=self.embed(groups),
            hidden_states=read if states else None,
            attentions=self.read_attentions(groups) if attentions else None,
        )
        return output.to_tuple() if return_dict is False else output


class MynaForAudioClassification(MynaPreTrainedModel):
    """Scene embeddings and a linear layer on them: waveforms -> classes, tags or numbers."""

    def __init__(self, config: MynaConfig) -> None:
        super().__init__(config)
        self.myna = MynaModel(config)
        self.classifier = nn.Linear(config.scene_size(), cast(int, config.num_labels))
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Classify sounds.

        Args:
            input_values: as `MynaModel`.
            attention_mask: as `MynaModel`.
            labels: int64 (B,) for classes; float (B, num_labels) for tags, each of 0 to 1; float
                (B,) or (B, num_labels) for numbers, with `config.problem_type` "regression".
            output_attentions: as `MynaModel`.
            output_hidden_states: as `MynaModel`.
            return_dict: False for a tuple.

        Returns:
            `SequenceClassifierOutput`: `loss`, where there are labels; `logits`
            (B, `config.num_labels`); `hidden_states` and `attentions`, if asked for.

        Raises:
            ValueError: as `MynaModel`.
        """
        config, myna = self.config, self.myna
        attentions = config.output_attentions if output_attentions is None else output_attentions
        states = (
            config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        groups = myna.group(input_values, attention_mask)
        logits = self.classifier(myna.embed(groups).to(self.classifier.weight.dtype))
        loss = None if labels is None else ForSequenceClassificationLoss(labels, logits, config)
        output = SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=myna.read_states(groups) if states else None,
            attentions=myna.read_attentions(groups) if attentions else None,
        )
        return output.to_tuple() if return_dict is False else output


def _by_row(
    groups: Sequence[Sounds], layers: Sequence[tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """L tensors (B, …) of each group -> of each sound of the batch, L tensors without B."""
    rows = {
        row: own
        for group, tensors in zip(groups, layers, strict=True)
        for row, *own in zip(group.rows, *tensors, strict=True)
    }
    return [tuple(rows[row]) for row in sorted(rows)]


def _sound_lengths(input_values: Tensor, attention_mask: Tensor | None) -> list[int]:
    """Samples of each sound before the filling on its right."""
    if input_values.ndim != 2:
        raise ValueError(f"input_values must have shape (B, S), got {tuple(input_values.shape)}")
    if attention_mask is None:
        return [input_values.shape[1]] * len(input_values)
    lengths = attention_mask.long().sum(1)
    right = torch.arange(input_values.shape[1], device=lengths.device) < lengths[:, None]
    if not torch.equal(right, attention_mask.bool()):
        raise ValueError("attention_mask may leave out samples at the right end only")
    return lengths.tolist()
