"""Everything that decides a training run, checked; the defaults are the paper's."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from myna_plugin.common.errors import InputError
from myna_plugin.model.encoder import SIZES, EncoderConfig
from myna_plugin.model.spectrogram import N_MELS
from myna_plugin.pretraining.step.crops import Versions
from myna_plugin.pretraining.step.losses import LOSSES
from myna_plugin.pretraining.step.masking import MASKINGS, count_kept
from myna_plugin.pretraining.step.optimiser import OPTIMISERS, SCHEDULES

FREE_TO_CHANGE = (
    "epochs",
    "max_steps",
    "graph",
    "log_every",
    "monitor_every",
    "probe_every",
    "probe_tasks",
    "probe_grid",
    "checkpoint_every",
    "keep_last",
    "keep_every",
    "tensorboard",
)
"""Settings that a resumed run may change: they leave every step's mathematics as it is."""


class SettingsError(InputError):
    """A setting that is unknown, of the wrong type or out of range; one line says which."""


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of a training run. Source of the defaults: paper §3.6, §4.6; released code.

    Attributes:
        objective: what is trained for.
        size: of the Vision Transformer: vit-ti, vit-s, vit-b or vit-l.
        depth: transformer blocks; None for the size's own.
        patchings: square, vertical or both; both make the hybrid model.
        projector: output widths of the linear layers before the contrastive loss (the paper does
            not give them); unused by the masked auto-encoder.
        log_mel: feed log(1 + power) to the encoder.
        fixed_scaling: gain, mean and deviation, to feed log(1 + gain * power), less the mean, over
            the deviation, so that patches keep their loudness; None scales each by itself, as the
            paper does. [1000, 4.4, 3] suits music at full scale.
        initial_weights: a checkpoint to start from in place of random weights: a file, a published
            name or an hf:// address as `load_model` takes them, or '' for the packaged model. Its
            projector comes along if it has one of these widths. `seed` draws all else.
        crop_frames: frames of a crop; 96 are 3.07 seconds.
        masking: how the visible patches are chosen.
        mask_ratio: fraction of patches removed.
        loss: contrastive loss: decoupled (the paper's equation), nt_xent or sogclr.
        temperature: tau.
        gamma: of sogclr: weight of the newest sum in its moving averages.
        decoder_depth: blocks of the masked auto-encoder's decoder.
        batch_size: clips of a step, over all processes.
        clips_per_block: neighbouring clips of the store that always come into a batch together;
            in a store whose neighbours differ in one respect alone (one passage in several keys,
            say) they are hard negatives. 1, the paper's, shuffles clip by clip.
        versions: clips of the store that are versions of one sound (played by other instruments,
            shifted in pitch, ...); its two views are cut from two of them. An augmentation, which
            the paper does without: 1. The store must tell that it was made of such blocks.
        version_stride: how far apart in the store the versions of a sound are.
        version_share: chance that two views come from two versions rather than from one; a list
            gives every patching its own.
        epochs: passes over the store.
        max_steps: length of the run in steps, in place of `epochs`.
        optimiser: adam (the paper's), or muon, which takes Adam for what is no matrix of a block.
        learning_rate: the highest where it changes.
        schedule: of the learning rate: constant (the paper's), or cosine, which falls to 0 at the
            run's last step.
        warmup_steps: first steps, over which the learning rate rises evenly.
        weight_decay: of Adam, added to the gradient.
        seed: decides weights, order, crops and masks.
        held_out_clips: clips never trained on, for monitoring (the paper trains on all).
        device: auto, cpu or cuda; auto takes a GPU where there is one.
        precision: auto, float32 or bfloat16; auto is bfloat16 on a GPU.
        frames_on: where the store's frames are kept: on the GPU (device), on disk and read ahead
            (host), or on the GPU if they fit (auto).
        graph: replay steps from a CUDA graph on a GPU.
        tile_rows: rows of the similarity matrix held at once; None for all.
        recompute: activation checkpointing: less memory, about a third more arithmetic.
        log_every: steps between rows of train.csv; also between looks at the loss on a GPU.
        monitor_every: steps between measurements of alignment, uniformity and rank.
        monitor_clips: clips they are measured on, held-out ones if there are.
        probe_tasks: tasks to probe the encoder on while it is trained: folders in HEAR's format,
            or NAME=FOLDER for gtzan, giantsteps, emomusic and magnatagatune. Heads are selected
            and scored on validation; test is not looked at.
        probe_every: steps between probes, each with a checkpoint; 0 for one at the end alone.
        probe_grid: heads that a probe selects from, as `myna probe --grid`: linear ones fitted to
            the end within seconds (fast), or the paper's 216 (full).
        checkpoint_every: steps between checkpoints.
        keep_last: newest checkpoints kept.
        keep_every: checkpoints at multiples of this many steps stay for good; 0 for none.
        tensorboard: write TensorBoard events too.

    Raises:
        SettingsError: a value is out of range.
    """

    objective: Literal["contrastive", "mae"] = "contrastive"
    size: str = "vit-s"
    depth: int | None = None
    patchings: tuple[str, ...] = ("square", "vertical")
    projector: tuple[int, ...] = (384, 128)
    log_mel: bool = False
    fixed_scaling: tuple[float, ...] | None = None
    initial_weights: str | None = None
    crop_frames: int = 96
    masking: str = "uniform"
    mask_ratio: float = 0.9
    loss: str = "decoupled"
    temperature: float = 0.1
    gamma: float = 0.9
    decoder_depth: int = 4
    batch_size: int = 4096
    clips_per_block: int = 1
    versions: int = 1
    version_stride: int = 1
    version_share: tuple[float, ...] = (1.0,)
    epochs: int = 500
    max_steps: int | None = None
    optimiser: str = "adam"
    learning_rate: float = 3e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 1e-5
    seed: int = 0
    held_out_clips: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    frames_on: Literal["auto", "device", "host"] = "auto"
    graph: bool = True
    tile_rows: int | None = 1024
    recompute: bool = False
    log_every: int = 50
    monitor_every: int = 1000
    monitor_clips: int = 1024
    probe_tasks: tuple[str, ...] = ()
    probe_every: int = 0
    probe_grid: Literal["fast", "full"] = "fast"
    checkpoint_every: int = 1000
    keep_last: int = 3
    keep_every: int = 10_000
    tensorboard: bool = True

    def __post_init__(self) -> None:
        self._check_names()
        self._check_ranges()
        self._check_version_share()
        try:
            self._check_blocks()
            count_kept(1, self.mask_ratio)
            self.encoder_config()
        except ValueError as error:
            # The encoder's chunks are cut as crops are here.
            told = str(error).replace("chunk_frames", "crop_frames")
            raise SettingsError(told) from error

    def _check_names(self) -> None:
        tables: dict[str, Collection[str]] = {
            "size": SIZES,
            "masking": MASKINGS,
            "loss": LOSSES,
            "optimiser": OPTIMISERS,
            "schedule": SCHEDULES,
        }
        for name, known in tables.items():
            if getattr(self, name) not in known:
                raise SettingsError(
                    f"{name}: unknown {getattr(self, name)!r}; known: {', '.join(known)}"
                )

    def _check_ranges(self) -> None:
        at_least = {
            0: (
                "seed",
                "held_out_clips",
                "keep_every",
                "weight_decay",
                "warmup_steps",
                "probe_every",
            ),
            1: (
                "depth",
                "decoder_depth",
                "clips_per_block",
                "versions",
                "version_stride",
                "epochs",
                "max_steps",
                "tile_rows",
                "log_every",
                "monitor_every",
                "checkpoint_every",
                "keep_last",
            ),
            2: ("batch_size", "monitor_clips"),
        }
        for lowest, names in at_least.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and value < lowest:
                    raise SettingsError(f"{name}: must be at least {lowest}, got {value}")
        for name in ("temperature", "learning_rate", "gamma"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name}: must be above 0, got {getattr(self, name)}")
        if self.held_out_clips == 1:
            raise SettingsError("held_out_clips: must be 0 or at least 2, got 1")
        if self.probe_every and not self.probe_tasks:
            raise SettingsError("probe_every: needs probe_tasks, the tasks to probe on")
        if self.gamma > 1:
            raise SettingsError(f"gamma: must not exceed 1, got {self.gamma}")

    def _check_version_share(self) -> None:
        if len(self.version_share) not in (1, len(self.patchings)):
            raise SettingsError(
                f"version_share: must be one value or {len(self.patchings)}, one for every "
                f"patching, got {len(self.version_share)}"
            )
        if not all(0 <= share <= 1 for share in self.version_share):
            raise SettingsError(f"version_share: must be 0 to 1, got {list(self.version_share)}")

    def _check_blocks(self) -> None:
        span, block = self.view_versions.span, self.clips_per_block
        if self.batch_size % self.view_versions.sounds_per_block(block):
            raise SettingsError(
                f"batch_size: must be a multiple of clips_per_block={block}"
                + (f" / versions={self.versions}" if self.versions > 1 else "")
                + f", got {self.batch_size}"
            )
        if self.held_out_clips % self.clips_together:
            name = "clips_per_block" if block >= span else "versions * version_stride"
            raise SettingsError(
                f"held_out_clips: must be a multiple of {name}={self.clips_together}, "
                f"got {self.held_out_clips}"
            )

    def encoder_config(self) -> EncoderConfig:
        """The encoder that these settings train."""
        projector = self.projector if self.objective == "contrastive" else ()
        changes: dict[str, Any] = {} if self.depth is None else {"depth": self.depth}
        return EncoderConfig.of_size(
            self.size,
            patchings=self.patchings,
            projector=projector,
            log_mel=self.log_mel,
            fixed_scaling=self.fixed_scaling,
            chunk_frames=self.crop_frames,
            **changes,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain numbers, strings and lists by name, as `with_changes` takes them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def with_changes(self, changes: Mapping[str, Any]) -> PretrainSettings:
        """These settings with some replaced, names and types checked.

        Args:
            changes: value by name, as YAML or the command line give them. A number in a string
                that YAML did not take for one (3e-4) is accepted.

        Raises:
            SettingsError: an unknown name (the nearest known one is named), a wrong type, or a
                value out of range.

        >>> PretrainSettings().with_changes({"batch_sise": 8})
        Traceback (most recent call last):
        myna_plugin.pretraining.run.settings.SettingsError: batch_sise: unknown setting; did you mean batch_size?
        """  # noqa: E501 - the message as it is printed
        read: dict[str, Any] = {name: read_value(name, value) for name, value in changes.items()}
        return replace(self, **read)

    @property
    def view_versions(self) -> Versions:
        """Which clips are versions of one sound."""
        return Versions(self.versions, self.version_stride, self.version_share)

    @property
    def clips_together(self) -> int:
        """Neighbouring clips that are held out, or trained on, together."""
        return max(self.clips_per_block, self.view_versions.span)

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate changes."""
        return self.schedule != "constant" or self.warmup_steps > 0

    @property
    def free_to_change(self) -> set[str]:
        """Names of the settings that may change when the run is resumed."""
        # Of a schedule every step's learning rate follows from the length of the run.
        bound = set() if self.schedule == "constant" else {"epochs", "max_steps"}
        return set(FREE_TO_CHANGE) - bound

    def differences(self, other: PretrainSettings) -> list[str]:
        """Names of the settings that differ and may not, should one run go on as the other."""
        return [
            field.name
            for field in fields(self)
            if field.name not in self.free_to_change
            and getattr(self, field.name) != getattr(other, field.name)
        ]

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        return self.epochs * steps_per_epoch if self.max_steps is None else self.max_steps

    def tokens_per_clip(self) -> tuple[int, int]:
        """Tokens that go through the encoder and through the decoder for every clip of a step."""
        tokens = N_MELS * self.crop_frames // 256
        groups = len(self.patchings)
        kept = MASKINGS[self.masking].tokens_kept(tokens, self.mask_ratio)
        if self.objective == "mae":
            return groups * kept, groups * tokens
        return 2 * groups * kept, 0


TYPES: dict[str, Any] = get_type_hints(PretrainSettings)
"""Type of each setting."""


def read_value(name: str, value: object) -> Any:
    """A setting's value in the type it must have; SettingsError otherwise."""
    if name not in TYPES:
        near = difflib.get_close_matches(str(name), TYPES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(TYPES)}"
        raise SettingsError(f"{name}: unknown setting; {hint}")
    try:
        return _convert(value, TYPES[name])
    except ValueError as error:
        raise SettingsError(f"{name}: must be {error}, got {value!r}") from None


def _convert(value: object, kind: Any) -> object:
    """`value` as `kind`; a ValueError says what it must be."""
    origin, choices = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        try:
            return _convert(value, choices[0])
        except ValueError as error:
            raise ValueError(f"{error} or null") from None
    if origin is Literal:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return value
    if origin is tuple:
        listed = value if isinstance(value, list | tuple) else [value]
        try:
            return tuple(_convert(item, choices[0]) for item in listed)
        except ValueError as error:
            raise ValueError(f"a list, each item {error}") from None
    return _convert_scalar(value, kind)


def _convert_scalar(value: object, kind: type) -> object:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise ValueError("a number") from None
        if not math.isfinite(number):
            raise ValueError("a finite number")
        return number
    # bool is a kind of int to Python, not to a user.
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ValueError(
        {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]
    )
