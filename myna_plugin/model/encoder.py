"""`MynaEncoder`: tokenizers of one or two patchings on a shared transformer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.common.errors import InputError
from myna_plugin.model.spectrogram import N_MELS
from myna_plugin.model.vit import HEAD_DIM, Transformer, patchify, sincos_positions

CHUNK_FRAMES = 96
"""Frames of a full encoder input: of the 98 in 50,000 samples, the most that 16 divides."""

LONGEST_CHUNK = 2**15
"""Frames, 17 minutes: the codes of its positions take 25 MB a patching."""

PATCHINGS: dict[str, tuple[int, int]] = {"square": (16, 16), "vertical": (128, 2)}
"""Patch size of each patching: (mel bands, frames). Paper §3.5."""

POOLINGS = {"mean": 1, "mean-std": 2}
"""What is taken of a sound's tokens, their mean or also their deviation -> how many of the two."""

TIMESTAMP_READINGS = {"tokens": 1, "vertical-deltas": 3}
"""How timestamp embeddings are read off the tokens, and how many times as wide they are for it."""

PATCH_AREA = 256

PATCH_NORM_EPS = 1e-5
"""Of the LayerNorm that a tokenizer begins with."""

TOKENIZER_NAMES = ("to_patch_embedding", "to_patch_embedding_b")
"""Where a checkpoint keeps its first and second tokenizer."""


@dataclass(frozen=True)
class Size:
    """Width, depth, number of heads and hidden width of the MLP of a Vision Transformer."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int


SIZES: dict[str, Size] = {
    "vit-ti": Size(192, 12, 3, 768),
    "vit-s": Size(384, 12, 6, 1536),
    "vit-b": Size(768, 12, 12, 3072),
    "vit-l": Size(1024, 24, 16, 4096),
}


@dataclass(frozen=True)
class InputScaling:
    """How a tokenizer scales mel power.

    Attributes:
        log_mel: take log(1 + gain * power) instead of power.
        fixed: gain, mean and deviation; every value becomes (log - mean) / deviation, so that a
            patch keeps its loudness. None: the gain is 1, and every patch is scaled to mean 0 and
            variance 1 by itself, as in published models.
    """

    log_mel: bool = False
    fixed: tuple[float, ...] | None = None

    def __str__(self) -> str:
        """As `myna info` tells it.

        >>> print(InputScaling(log_mel=True, fixed=(1e3, 4.4, 3.0)))
        (log(1 + 1000 * mel power) - 4.4) / 3
        """
        if self.fixed is None:
            return "log(1 + mel power)" if self.log_mel else "mel power"
        gain, mean, deviation = self.fixed
        return f"(log(1 + {gain:g} * mel power) - {mean:g}) / {deviation:g}"

    def of_power(self, power: Tensor) -> Tensor:
        """Mel power, or its logarithm; any shape."""
        if not self.log_mel:
            return power
        return power.log1p() if self.fixed is None else (power.float() * self.fixed[0]).log1p()

    def of_patches(self, values: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """What `of_power` gave, scaled, then times a norm's weight plus its bias: (..., 256)."""
        weight = None if norm is None else norm.weight.float()
        bias = None if norm is None else norm.bias.float()
        if self.fixed is None:
            return functional.layer_norm(values, (PATCH_AREA,), weight, bias, PATCH_NORM_EPS)
        mean, deviation = self.fixed[1:]
        scaled = (values - mean) / deviation
        return scaled if weight is None or bias is None else scaled * weight + bias


class LayerError(InputError):
    """Blocks to read embeddings off that the encoder does not have."""


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that a `MynaEncoder`'s shape and meaning depend on.

    Attributes:
        patchings: names from `PATCHINGS`, in the order of the checkpoint's tokenizers.
        embed_dim: token width D, a multiple of 4.
        depth: transformer blocks.
        num_heads: attention heads of 64.
        mlp_dim: hidden width of the blocks' perceptrons.
        projector: output widths of the projector's linear layers; empty for none.
        log_mel: whether the input is log(1 + power) instead of power (off in published models).
        fixed_scaling: None, or gain, mean and deviation: the input is log(1 + gain * power), less
            the mean, over the deviation, in place of a scaling of every patch by itself, which
            takes its loudness away (published models do). Needs `log_mel`.
        chunk_frames: frames of a full input, a multiple of every patch's frames.
        timestamp_layer: the block, from 1, whose tokens tell best what happens when, if that has
            been measured; None for the last one.
        timestamp_hop_ms: milliseconds between timestamp embeddings, if the caller names none.
        timestamp_reading: of `TIMESTAMP_READINGS`: "tokens" of all patchings, as published, or
            "vertical-deltas": of the vertical ones alone, each vector followed by its differences
            to those a little before and after. Without vertical patches it is "tokens".
        scene_layers: the blocks whose mean tokens a scene embedding joins, in this order; None for
            the last one alone, as the paper has it.
        scene_pooling: of `POOLINGS`: "mean", as the paper has it, or "mean-std", which puts the
            tokens' standard deviation after each mean.

    Raises:
        ValueError: an unknown or repeated patching, a size that is not positive, no such blocks, or
            an unknown pooling.
    """

    patchings: tuple[str, ...] = ("square", "vertical")
    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_dim: int = 1536
    projector: tuple[int, ...] = ()
    log_mel: bool = False
    fixed_scaling: tuple[float, ...] | None = None
    chunk_frames: int = CHUNK_FRAMES
    timestamp_layer: int | None = None
    timestamp_hop_ms: float = 50.0
    timestamp_reading: str = "tokens"
    scene_layers: tuple[int, ...] | None = None
    scene_pooling: str = "mean"

    def __post_init__(self) -> None:
        known = sorted(PATCHINGS)
        if not 1 <= len(self.patchings) <= len(TOKENIZER_NAMES):
            raise ValueError(f"one or two patchings of {known} are needed, got {self.patchings}")
        if set(self.patchings) - set(PATCHINGS) or len(set(self.patchings)) < len(self.patchings):
            raise ValueError(f"patchings must be different ones of {known}, got {self.patchings}")
        sizes = (self.embed_dim, self.depth, self.num_heads, self.mlp_dim, *self.projector)
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise ValueError(f"sizes must be positive whole numbers: {self}")
        if self.embed_dim % 4 or self.embed_dim < 8:
            raise ValueError(f"embed_dim must be a multiple of 4 from 8 on, got {self.embed_dim}")
        if type(self.log_mel) is not bool:
            raise ValueError(f"log_mel must be true or false, got {self.log_mel!r}")
        self._check_scaling()
        self.choose_timestamp_layer()
        self.choose_timestamp_reading()
        hop = self.timestamp_hop_ms
        if type(hop) not in (int, float) or not 0 < hop < float("inf"):
            raise ValueError(f"timestamp_hop_ms must be above 0, got {hop!r}")
        self.choose_scene_layers()
        self.choose_scene_pooling()
        whole, frames = math.lcm(*(PATCHINGS[p][1] for p in self.patchings)), self.chunk_frames
        if type(frames) is not int or not 1 <= frames <= LONGEST_CHUNK or frames % whole:
            raise ValueError(
                f"chunk_frames must be a multiple of {whole} from {whole} to {LONGEST_CHUNK}, for "
                f"patches that are {' and '.join(self.patchings)}, got {frames!r}"
            )

    def _check_scaling(self) -> None:
        if self.fixed_scaling is None:
            return
        # No comparison with NaN holds.
        numbers = [n for n in self.fixed_scaling if isinstance(n, int | float) and abs(n) < 1e9]
        if len(self.fixed_scaling) != 3 or len(numbers) != 3 or min(numbers[0], numbers[2]) <= 0:
            raise ValueError(
                "fixed_scaling must be three numbers, gain, mean and deviation, the first and the "
                f"last above 0, got {self.fixed_scaling!r}"
            )
        if not self.log_mel:
            raise ValueError("fixed_scaling is of the logarithm: it needs log_mel")

    @property
    def input_scaling(self) -> InputScaling:
        """What the tokenizers do to mel power."""
        return InputScaling(self.log_mel, self.fixed_scaling)

    def choose_timestamp_layer(self, wanted: int | None = None) -> int:
        """The block that timestamps are read off: the wanted one, the configuration's, or the last.

        Raises:
            LayerError: there is no such block.

        >>> config = EncoderConfig(timestamp_layer=4)
        >>> config.choose_timestamp_layer(), config.choose_timestamp_layer(12)
        (4, 12)
        """
        layers = (wanted, self.timestamp_layer, self.depth)
        layer = next(layer for layer in layers if layer is not None)
        if not self._has_block(layer):
            raise LayerError(f"timestamp_layer must be 1 to {self.depth}, got {layer!r}")
        return int(layer)

    def choose_timestamp_reading(
        self, wanted: str | None = None, patchings: Sequence[str] | None = None
    ) -> str:
        """The reading of timestamps: the one wanted, or the configuration's.

        Args:
            wanted: of `TIMESTAMP_READINGS`.
            patchings: those that are embedded with; None for all.

        Raises:
            ValueError: there is no such reading, or the one wanted not of these patchings.
        """
        reading = self.timestamp_reading if wanted is None else wanted
        if not isinstance(reading, str) or reading not in TIMESTAMP_READINGS:
            known = " or ".join(TIMESTAMP_READINGS)
            raise ValueError(f"timestamp_reading must be {known}, got {reading!r}")
        if reading == "tokens" or "vertical" in (patchings or self.patchings):
            return reading
        if wanted is None:
            return "tokens"
        raise ValueError(f"timestamp_reading {reading!r} needs vertical patches")

    def choose_scene_layers(self, wanted: Sequence[int] | None = None) -> tuple[int, ...]:
        """The blocks of scene embeddings: those wanted, the configuration's, or the last alone.

        Raises:
            LayerError: there are no such blocks, or one is named twice.

        >>> EncoderConfig().choose_scene_layers(), EncoderConfig().choose_scene_layers([8, 12])
        ((12,), (8, 12))
        """
        choices: tuple[Sequence[int] | None, ...] = (wanted, self.scene_layers, (self.depth,))
        layers = next(layers for layers in choices if layers is not None)
        listed = isinstance(layers, Sequence) and len(layers) > 0
        if not listed or not all(map(self._has_block, layers)) or len({*layers}) < len(layers):
            raise LayerError(
                f"scene_layers must list different blocks from 1 to {self.depth}, such as "
                f"[{self.depth}], got {layers!r}"
            )
        return tuple(map(int, layers))

    def choose_scene_pooling(self, wanted: str | None = None) -> str:
        """The pooling of scene embeddings: the one wanted, or the configuration's.

        Raises:
            ValueError: there is no such pooling.
        """
        pooling = self.scene_pooling if wanted is None else wanted
        if not isinstance(pooling, str) or pooling not in POOLINGS:
            raise ValueError(f"scene_pooling must be {' or '.join(POOLINGS)}, got {pooling!r}")
        return pooling

    def _has_block(self, layer: object) -> bool:
        # bool is a kind of int; True is no number of a block.
        whole = isinstance(layer, Integral) and not isinstance(layer, bool)
        return whole and 1 <= cast(int, layer) <= self.depth

    @property
    def parameter_count(self) -> int:
        """Weights of an encoder of this shape, its projector left out.

        >>> EncoderConfig().parameter_count == parameter_count(MynaEncoder())
        True
        """
        dim, inner = self.embed_dim, HEAD_DIM * self.num_heads
        tokenizer = 2 * PATCH_AREA + (PATCH_AREA + 1) * dim + 2 * dim
        attention = 2 * dim + 4 * inner * dim
        perceptron = 2 * dim + (dim + 1) * self.mlp_dim + (self.mlp_dim + 1) * dim
        return len(self.patchings) * tokenizer + self.depth * (attention + perceptron) + 2 * dim

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> EncoderConfig:
        """The configuration that JSON holds, where tuples became lists.

        Raises:
            ValueError: as the class.
            TypeError: an unknown field.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**values)

    @classmethod
    def of_size(cls, size: str, **changes: Any) -> EncoderConfig:
        """The configuration of a named size ("vit-ti", "vit-s", "vit-b", "vit-l").

        >>> EncoderConfig.of_size("vit-b", patchings=("vertical",)).embed_dim
        768
        """
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}; known: {', '.join(SIZES)}")
        return replace(cls(**asdict(SIZES[size])), **changes)


class Tokenizer(nn.Sequential):
    """Flat patches (B, N, 256) -> tokens (B, N, D) without positions.

    Parameters sit at indices 1, 2 and 3 (norm, linear, norm), as in published checkpoints; index
    0 is where those cut the patches, which `patchify` does here.
    """

    def __init__(self, dim: int, scaling: InputScaling | None = None) -> None:
        patch_norm = nn.LayerNorm(PATCH_AREA, eps=PATCH_NORM_EPS)
        super().__init__(nn.Identity(), patch_norm, nn.Linear(PATCH_AREA, dim), nn.LayerNorm(dim))
        self.scaling = scaling or InputScaling()

    def forward(self, patches: Tensor) -> Tensor:
        patch_norm, linear = cast(nn.LayerNorm, self[1]), cast(nn.Linear, self[2])
        # Mel power spans too many decades for half precision, so the first norm is in float32.
        normed = self.scaling.of_patches(patches.float(), patch_norm)
        return self[3](linear(normed.to(linear.weight.dtype)))


def build_projector(dim: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of the given output widths with ReLU between them; empty for no widths."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(zip((dim, *widths), widths, strict=False)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(before, after)]
    return nn.Sequential(*layers)


class MynaEncoder(nn.Module):
    """Spectrogram chunks -> tokens and embeddings, for each patching the model has.

    The state dict uses the names of published checkpoints: a single-patching model keeps its
    tokenizer under `to_patch_embedding` whichever patching it is; the second one is
    `to_patch_embedding_b`; the projector is `linear_head`. Positions are computed, not stored.

    Source: paper §3.4, §3.5.
    """

    def __init__(self, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EncoderConfig()
        for name, _ in zip(TOKENIZER_NAMES, config.patchings, strict=False):
            self.add_module(name, Tokenizer(config.embed_dim, config.input_scaling))
        self.transformer = Transformer(
            config.embed_dim, config.depth, config.num_heads, config.mlp_dim
        )
        if config.projector:
            self.linear_head = build_projector(config.embed_dim, config.projector)
        for patching in config.patchings:
            rows, columns = token_grid(patching, config.chunk_frames)
            self.register_buffer(
                f"positions_{patching}",
                sincos_positions(rows, columns, config.embed_dim),
                persistent=False,
            )

    def tokenizer(self, patching: str) -> Tokenizer:
        """The tokenizer of a patching; ValueError if the model has none."""
        if patching not in self.config.patchings:
            raise ValueError(
                f"this model has no {patching!r} tokenizer, only {self.config.patchings}"
            )
        module = self.get_submodule(TOKENIZER_NAMES[self.config.patchings.index(patching)])
        assert isinstance(module, Tokenizer)
        return module

    def positions(self, patching: str, columns: int) -> Tensor:
        """Position codes of a grid `columns` wide, shape (rows * columns, D)."""
        rows, full_columns = token_grid(patching, self.config.chunk_frames)
        codes = self.get_buffer(f"positions_{patching}")
        if columns == full_columns:
            return codes
        if columns < full_columns:
            return codes.view(rows, full_columns, -1)[:, :columns].reshape(rows * columns, -1)
        return sincos_positions(rows, columns, self.config.embed_dim).to(codes)

    def tokens(self, mel: Tensor, patching: str, chosen: Tensor | None = None) -> Tensor:
        """Tokens with positions, before the transformer.

        Args:
            mel: mel power, shape (B, 128, F), F a multiple of the patch's frames.
            patching: "square" or "vertical".
            chosen: numbers of the tokens to make, int64, shape (B, k); None for all.

        Returns:
            Shape (B, N, D), row-major over the grid of patches, or (B, k, D).
        """
        tokenizer = self.tokenizer(patching)
        patches = patchify(self.config.input_scaling.of_power(mel), PATCHINGS[patching])
        positions = self.positions(patching, mel.shape[-1] // PATCHINGS[patching][1])
        if chosen is not None:
            patches = patches.gather(1, chosen.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
            positions = positions[chosen]
        return tokenizer(patches) + positions

    def encode(self, mel: Tensor, patching: str) -> Tensor:
        """Encoded tokens of chunks: (B, 128, F) -> (B, N, D), row-major over the grid."""
        return self.transformer(self.tokens(mel, patching))

    def forward(self, mel: Tensor, patching: str) -> Tensor:
        """Chunk embeddings, the mean over tokens: (B, 128, F) -> (B, D)."""
        return self.encode(mel, patching).mean(1)


def token_grid(patching: str, n_frames: int) -> tuple[int, int]:
    """Rows and columns of patches over `n_frames` frames, which must fill whole patches.

    >>> token_grid("square", 96), token_grid("vertical", 96)
    ((8, 6), (1, 48))
    """
    bands, frames = PATCHINGS[patching]
    return N_MELS // bands, n_frames // frames


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers in a module.

    >>> round(parameter_count(MynaEncoder()) / 1e6, 1)
    21.5
    """
    return sum(parameter.numel() for parameter in module.parameters())


def initialise(encoder: MynaEncoder, seed: int) -> MynaEncoder:
    """Fill an encoder with seeded random weights, independent of the global generator.

    Linear weights are drawn uniform as by `torch.nn.Linear`, biases zero, norms identity.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
    return encoder
