"""A student that learns to give teachers' scene embeddings: targets, loss and the run.

The loss is the squared error to the teacher's vector, each feature less its mean and over its
deviation: 1 is what the mean alone reaches, so that 1 - loss is the share that is explained. No
cosine: it weighs a feature by its size, which says nothing of its worth (deviations are smaller
than means), and it does not see how long a vector is.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from myna_plugin.common.errors import InputError
from myna_plugin.model.checkpoint import load_weights, save_checkpoint
from myna_plugin.model.chunks import embed_moments, encode_chunks, pool_tokens
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.model.identity import digest_weights
from myna_plugin.pretraining.run.plan import fits_on_device
from myna_plugin.pretraining.run.settings import PretrainSettings
from myna_plugin.pretraining.step.autoencoder import unpatchify
from myna_plugin.pretraining.step.crops import Views, ViewSampler
from myna_plugin.pretraining.step.optimiser import build_optimiser, rate_at, set_learning_rate
from myna_plugin.pretraining.step.patches import HostViews, ResidentFrames, all_tokens
from myna_plugin.pretraining.store.reading import Store
from recipes.runs import Run

Batch = tuple[Tensor, list[Tensor] | None]
"""Mel power of crops (2 B, 128, F), and the tokens of each patching that the student sees: int64,
(2 B, k); None for all."""

MEASURED_BATCHES = 64
"""The first ones, over which the teacher's mean and deviation of each feature are taken."""


@dataclass(frozen=True)
class Settings:
    """What decides the weights after a step, beside store and teacher.

    Attributes:
        size: of the student, a name from `encoder.SIZES`.
        steps: of the whole run, by which the learning rate falls.
        batch_size: clips; of each two crops are taken.
        learning_rate: the highest, of Muon and Adam.
        mask_ratio: share of its tokens that the student does not see; the teacher sees all.
        seed: of weights, order, crops and masks.
        initial_weights: of the student, as `load_model` takes them.
    """

    size: str = "vit-ti"
    steps: int = 4000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    mask_ratio: float = 0.0
    seed: int = 0
    initial_weights: str | None = None


def student_config(size: str, teacher: EncoderConfig) -> EncoderConfig:
    """A size that reads what a teacher reads, its layers at the same share of the depth.

    Raises:
        InputError: no block of the student is at that share.

    >>> config = student_config("vit-l", EncoderConfig(scene_layers=(2, 6, 12), timestamp_layer=4))
    >>> config.scene_layers, config.timestamp_layer
    ((4, 12, 24), 8)
    """
    own, layers = EncoderConfig.of_size(size), list(teacher.choose_scene_layers())
    if teacher.timestamp_layer is not None:
        layers.append(teacher.timestamp_layer)
    if any(layer * own.depth % teacher.depth for layer in layers):
        raise InputError(
            f"--size {size}: its {own.depth} blocks have none where the teacher's {teacher.depth} "
            f"are read, after {', '.join(map(str, layers))}; choose another size"
        )
    placed = [layer * own.depth // teacher.depth for layer in layers]
    return replace(
        own,
        patchings=teacher.patchings,
        log_mel=teacher.log_mel,
        fixed_scaling=teacher.fixed_scaling,
        chunk_frames=teacher.chunk_frames,
        timestamp_layer=None if teacher.timestamp_layer is None else placed.pop(),
        timestamp_hop_ms=teacher.timestamp_hop_ms,
        timestamp_reading=teacher.timestamp_reading,
        scene_layers=tuple(placed),
        scene_pooling=teacher.scene_pooling,
    )


class Student(nn.Module):
    """An encoder, and the linear layer from its scene embedding to the teacher's width."""

    def __init__(self, encoder: MynaEncoder, width: int, seed: int, compile: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding_size = Embedder(encoder, encoder.config.patchings).scene_embedding_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(self.embedding_size, width)
        self.encode = torch.compile(encode_chunks) if compile else encode_chunks

    def embed(self, mel: Tensor, chosen: list[Tensor] | None = None) -> Tensor:
        """Scene embeddings of chunks, with gradients: (V, 128, F) -> (V, embedding_size).

        Args:
            mel: mel power.
            chosen: of each patching, the tokens that are seen, int64, (V, k); None for all.
        """
        config = self.encoder.config
        cut = None if chosen is None else [chosen]
        layers = config.choose_scene_layers()
        with torch.autocast(mel.device.type, torch.bfloat16, enabled=mel.is_cuda):
            (encoded,) = self.encode(self.encoder, [mel], config.patchings, layers, chosen=cut)
        pooled = pool_tokens(encoded, config.scene_pooling)
        return embed_moments(pooled, config.scene_pooling, config.embed_dim)

    def forward(self, mel: Tensor, chosen: list[Tensor] | None = None) -> Tensor:
        """Standardised vectors of the teacher, as it foretells them: (V, teacher's width)."""
        return self.head(self.embed(mel, chosen))


def embed_chunks_of(model: Embedder, mel: Tensor) -> Tensor:
    """A model's scene embeddings of sounds of one chunk: (V, 128, F) -> (V, width), float32."""
    with torch.no_grad():
        numbers = torch.zeros(len(mel), dtype=torch.int64, device=mel.device)
        return model.embed_pooled(model.pool_chunks(mel, numbers))


class Teachers:
    """Models that take the same input, by what each reads off it; the first tells the student's.

    Raises:
        InputError: their inputs differ.
    """

    def __init__(self, models: Sequence[Embedder]) -> None:
        self.models = list(models)
        self.configs = [model.encoder.config for model in models]
        for config in self.configs[1:]:
            for name in ("patchings", "log_mel", "fixed_scaling", "chunk_frames"):
                own, first = getattr(config, name), getattr(self.configs[0], name)
                if own != first:
                    raise InputError(
                        f"--teacher: their inputs differ: {name} {first} of the first, {own} of "
                        "another; give those that take the same"
                    )
        self.width = sum(model.scene_embedding_size for model in models)

    def __call__(self, mel: Tensor) -> Tensor:
        """`embed_chunks_of` each, one after another: (V, 128, F) -> (V, width)."""
        return torch.cat([embed_chunks_of(model, mel) for model in self.models], dim=1)


class Crops:
    """The crops of every step, a function of the step alone; all frames on the GPU if they fit.

    Raises:
        InputError: the store does not fill a batch, or a clip is shorter than a crop.
    """

    def __init__(
        self, store: Store, config: EncoderConfig, settings: Settings, device: torch.device
    ) -> None:
        self.config, self.mask_ratio = config, settings.mask_ratio
        alike = PretrainSettings(
            size=settings.size,
            patchings=config.patchings,
            crop_frames=config.chunk_frames,
            batch_size=settings.batch_size,
            mask_ratio=settings.mask_ratio,
        )
        resident = device.type == "cuda" and fits_on_device(alike, store, device)
        try:
            self.sampler = ViewSampler(
                store.offsets,
                store.frames,
                batch_size=settings.batch_size,
                patchings=config.patchings,
                mask_ratio=settings.mask_ratio,
                crop_frames=config.chunk_frames,
                seed=settings.seed,
                device=device if resident else "cpu",
            )
        except ValueError as error:
            raise InputError(f"{store.path}: {error}") from error
        self.frames = ResidentFrames(store, device) if resident else None
        self.host = HostViews(store, self.sampler, device, whole=True)

    def stream(self, first: int, last: int) -> Generator[Batch, None, None]:
        """The crops of some steps, the last left out, in order, on the device."""
        views = map(self.sampler.draw, range(first, last))
        for own in views if self.frames is not None else self.host.stream(first, last):
            yield self._cut(own)

    def _cut(self, views: Views) -> Batch:
        # Patches of the first patching are all of a crop, and all patchings have the same crops.
        patching, size = self.config.patchings[0], self.config.chunk_frames
        if views.patches is not None:
            patches = views.patches[0].flatten(0, 1).float()
        else:
            assert self.frames is not None
            tokens = all_tokens(views.tokens[0].flatten(0, 1), size).contiguous()
            patches = self.frames.patches(views.starts[0].flatten(), tokens, patching, size)
        seen = [*views.tokens.flatten(1, 2)] if self.mask_ratio else None
        return unpatchify(patches, patching, size), seen


class Training(Run):
    """A run, begun or gone on with.

    Args:
        store: of mel frames.
        teachers: on the CPU, in float32, reading what their checkpoints name.
        out: the run's folder, which is there.
        settings: of a run that is begun; one that goes on must have the same.
        device: to train on; bfloat16 on CUDA.
        compile: the student's encoder by `torch.compile`.

    Raises:
        InputError: the student cannot read what the first teacher does, teachers' inputs differ,
            the store is too small, or the folder has a run of other settings, store or teachers, or
            a damaged checkpoint.
    """

    columns = ("step", "epoch", "loss", "learning_rate", "crops_per_s", "minutes")
    averages = True

    def __init__(
        self,
        store: Store,
        teachers: Sequence[Embedder],
        out: Path,
        settings: Settings,
        device: str,
        compile: bool = False,
    ) -> None:
        self.settings, self.device = settings, torch.device(device)
        self.teachers = Teachers(teachers)
        config = student_config(settings.size, self.teachers.configs[0])
        begun = {
            **asdict(settings),
            "store": store.fingerprint,
            "teacher": ", ".join(digest_weights(t.encoder.state_dict()) for t in teachers),
            "teacher_config": json.dumps([asdict(each) for each in self.teachers.configs]),
        }
        state = self.go_on(out, begun)
        self.crops = Crops(store, config, settings, self.device)
        self.examples = 2 * settings.batch_size
        self.steps_per_epoch = self.crops.sampler.steps_per_epoch
        encoder = initialise(MynaEncoder(config), settings.seed)
        if settings.initial_weights is not None and state is None:
            load_weights(encoder, settings.initial_weights)
        width = self.teachers.width
        self.student = Student(encoder, width, settings.seed, compile).to(self.device)
        self.optimiser = build_optimiser(
            "muon", self.student, settings.learning_rate, scheduled=True
        )
        for teacher in teachers:
            teacher.to(self.device)
            if self.device.type == "cuda":
                teacher.encoder.to(torch.bfloat16)
        if state is None:
            self.mean, self.deviation = self._measure()
        else:
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        # Of the groups' options nothing may differ but what the device asks for.
        options = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({**state["optimiser"], "param_groups": options})
        self.mean, self.deviation = (state[k].to(self.device) for k in ("mean", "deviation"))

    def _measure(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each of the teachers' features; 1 for one that never changes."""
        total = squares = torch.zeros((), dtype=torch.float64, device=self.device)
        count = 0
        for mel, _ in self.crops.stream(0, MEASURED_BATCHES):
            vectors = self.teachers(mel).double()
            total, squares = total + vectors.sum(0), squares + vectors.square().sum(0)
            count += len(vectors)
        mean = total / count
        variance = squares / count - mean.square()
        # Below what float32 holds of a vector it is no change but rounding.
        varies = variance > 1e-12 * (squares / count)
        return mean.float(), torch.where(varies, variance, 1.0).sqrt().float()

    def target(self, mel: Tensor) -> Tensor:
        """The teachers' standardised vectors: (V, 128, F) -> (V, width)."""
        return (self.teachers(mel) - self.mean) / self.deviation

    def state(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "mean": self.mean,
            "deviation": self.deviation,
        }

    def save_encoder(self) -> None:
        facts = {name: self.begun[name] for name in ("store", "teacher")}
        facts |= {"steps": str(self.step), "settings": json.dumps(asdict(self.settings))}
        save_checkpoint(self.student.encoder, self.folder.final, facts)

    def batches(self, first: int, last: int) -> Generator[Batch, None, None]:
        return self.crops.stream(first, last)

    def told(self) -> tuple[float, ...]:
        return (self._rate(self.step - 1),)

    def _rate(self, step: int) -> float:
        steps = self.settings.steps
        return rate_at(step, steps, self.settings.learning_rate, "cosine", steps // 20)

    def take_step(self, batch: Batch) -> Tensor:
        mel, seen = batch
        set_learning_rate(self.optimiser, self._rate(self.step))
        self.optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(self.student(mel, seen), self.target(mel))
        loss.backward()
        self.optimiser.step()
        return loss.detach()
