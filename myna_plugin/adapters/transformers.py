"""Hugging Face transformers: `AutoModel.from_pretrained(FOLDER)` for a folder of ours.

Importing this module registers the model type, after which the Auto classes know it. A folder that
`myna export --to transformers` wrote also names these classes in its `auto_map`, so that
`trust_remote_code=True` finds them without that import; either way myna-plugin is installed.

Source: transformers' documentation, "Customizing models" and "Custom feature extractors".
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from myna_plugin.adapters.hidden_states import (
    compute_mel,
    embed_scenes,
    pad_layers,
    read_layers,
    rows_by_length,
)
from myna_plugin.adapters.toolkits import import_toolkit
from myna_plugin.common.errors import InputError
from myna_plugin.common.files import replacing
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.checkpoint import embedding_patchings, to_safetensors
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import PATCHINGS, POOLINGS, EncoderConfig, MynaEncoder, token_grid
from myna_plugin.model.spectrogram import MelSpectrogram
from myna_plugin.model.vit import sincos_positions

transformers = import_toolkit(
    "transformers", "'myna-plugin[transformers]'", "myna_plugin.adapters.transformers"
)
modeling_outputs = import_toolkit(
    "transformers.modeling_outputs", "'myna-plugin[transformers]'", "MynaModel"
)

MODELING_FILE = "modeling_myna.py"
MODELING_TEXT = '''"""Myna for transformers: needs pip install 'myna-plugin[transformers]'."""

from myna_plugin.adapters.transformers import MynaConfig, MynaModel

__all__ = ["MynaConfig", "MynaModel"]
'''

FEATURE_EXTRACTOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": SAMPLE_RATE,
    "padding_value": 0.0,
    "do_normalize": False,
    "return_attention_mask": True,
}
"""transformers' own extractor of raw waveforms: it checks the rate, pads, and masks the padding."""


class MynaConfig(transformers.PretrainedConfig):  # type: ignore[name-defined]
    """The encoder's configuration and what is asked of it.

    Attributes:
        encoder: the fields of `EncoderConfig`; its `scene_layers` and `scene_pooling`
            decide `pooler_output`.
        embedding: "square", "vertical", "hybrid" or "auto".
        hop_ms: milliseconds between the vectors of `last_hidden_state`.
        hidden_size: width D of the vectors of `last_hidden_state`.
        num_hidden_layers: number of hidden states.
        sampling_rate: 16000 Hz.
    """

    model_type = "myna"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        embedding: str = "auto",
        hop_ms: float = 50.0,
        **kwargs: Any,
    ) -> None:
        fields = encoder or asdict(EncoderConfig())
        # As JSON gives it back, so that a configuration equals the one that was saved.
        self.encoder = json.loads(json.dumps(fields))
        self.embedding = embedding
        self.hop_ms = hop_ms
        config = self.encoder_config()
        patchings = embedding_patchings(embedding, config.patchings)
        self.hidden_size = len(patchings) * config.embed_dim
        self.num_hidden_layers = config.depth
        self.sampling_rate = SAMPLE_RATE
        derived = ("hidden_size", "num_hidden_layers", "sampling_rate")
        super().__init__(**{k: v for k, v in kwargs.items() if k not in derived})

    def encoder_config(self) -> EncoderConfig:
        """`encoder` as an `EncoderConfig`."""
        return EncoderConfig.of_fields(self.encoder)


class MynaModel(transformers.PreTrainedModel):  # type: ignore[name-defined]
    """Myna as a model of transformers: waveforms -> sequence and scene embeddings."""

    config_class = MynaConfig
    main_input_name = "input_values"
    base_model_prefix = "myna"
    _no_split_modules = ("Block",)

    def __init__(self, config: MynaConfig) -> None:
        super().__init__(config)
        # `model.` before every key: `myna_plugin.load_model` reads the same file.
        self.model = MynaEncoder(config.encoder_config())
        self.mel = MelSpectrogram()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
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

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Embed sounds.

        Args:
            input_values: samples in [-1, 1] at 16 kHz, shape (B, S).
            attention_mask: 1 where a sample is sound and 0 where it fills up the batch on the
                right, shape (B, S). A sound's embedding does not depend on the filling.
            output_hidden_states: also return the states of every block.
            return_dict: False for a tuple.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` (B, T, D), a vector every
            `config.hop_ms`, zero past a sound's end; `pooler_output` (B, D for each of the
            encoder's `scene_layers`, twice with "mean-std"), the scene embedding;
            `hidden_states`, if asked for, L tensors (B, T, D), the last being `last_hidden_state`.

        Raises:
            ValueError: a mask with filling elsewhere than on the right, or unusable audio.
        """
        config, encoder = self.config, self.model
        patchings = embedding_patchings(config.embedding, encoder.config.patchings)
        lengths = _sound_lengths(input_values, attention_mask)
        layers = encoder.config.choose_scene_layers()
        sequences: list[tuple[Tensor, ...]] = [()] * len(lengths)
        pooling = encoder.config.scene_pooling
        width = len(layers) * POOLINGS[pooling] * config.hidden_size
        scenes = input_values.new_empty(len(lengths), width, dtype=torch.float32)
        for rows in rows_by_length(lengths):
            length = lengths[rows[0]]
            mel = compute_mel(self.mel, input_values[rows, :length])
            scenes = scenes.index_copy(
                0,
                torch.tensor(rows, device=scenes.device),
                embed_scenes(encoder, mel, patchings, layers, pooling),
            )
            states = read_layers(encoder, mel, length, patchings, config.hop_ms)
            for row, *own in zip(rows, *states, strict=True):
                sequences[row] = tuple(own)
        padded = pad_layers(sequences)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        output = modeling_outputs.BaseModelOutputWithPooling(
            last_hidden_state=padded[-1],
            pooler_output=scenes,
            hidden_states=padded if output_hidden_states else None,
        )
        return output.to_tuple() if return_dict is False else output


transformers.AutoConfig.register(MynaConfig.model_type, MynaConfig, exist_ok=True)
transformers.AutoModel.register(MynaConfig, MynaModel, exist_ok=True)


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


def export_transformers(model: Embedder, folder: Path) -> None:
    """Write a folder for `AutoModel.from_pretrained`, as a whole.

    It holds `config.json`, `model.safetensors` (which `myna_plugin.load_model` reads too),
    `preprocessor_config.json` for `AutoFeatureExtractor` and the few lines of `modeling_myna.py`.

    Args:
        model: the model; its encoder, patchings, `scene_layers`, `scene_pooling` and `hop_ms`
            are kept.
        folder: to be made; an empty one is taken too.

    Raises:
        FileExistsError: the folder holds something.
        InputError: the model encodes a share of the tokens.
        OSError: it cannot be written; names it.
    """
    if model.tokens != 1:
        raise InputError(f"{folder}: not written; it encodes all tokens: load with tokens=1")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: not empty; name a new folder, or empty it")
    available = model.encoder.config.patchings
    config = MynaConfig(
        encoder=asdict(
            replace(
                model.encoder.config,
                scene_layers=model.scene_layers,
                scene_pooling=model.scene_pooling,
            )
        ),
        embedding=next(
            name
            for name in ("auto", "hybrid", *PATCHINGS)
            if embedding_patchings(name, available) == model.patchings
        ),
        hop_ms=model.hop_ms,
        dtype="float32",
        architectures=["MynaModel"],
        auto_map={
            "AutoConfig": "modeling_myna.MynaConfig",
            "AutoModel": "modeling_myna.MynaModel",
        },
    )
    state = model.encoder.state_dict()
    weights = {f"model.{name}": tensor.float().cpu() for name, tensor in state.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as made:
        config.save_pretrained(made)
        # Not `save_pretrained` of the model: its file may be read by its owner alone, and a full
        # disk is an error of its own to it.
        content = to_safetensors(weights, {"format": "pt"})
        (made / "model.safetensors").write_bytes(content)
        (made / MODELING_FILE).write_text(MODELING_TEXT)
        extractor = json.dumps(FEATURE_EXTRACTOR, indent=2) + "\n"
        (made / "preprocessor_config.json").write_text(extractor)
