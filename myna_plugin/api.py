"""`Myna`: audio in, NumPy out.

>>> import numpy as np
>>> from myna_plugin import Myna
>>> myna = Myna.from_pretrained("")  # or "myna-hybrid", or the path of a checkpoint
>>> second = np.zeros(22_050, dtype=np.float32)
>>> myna.embed(second, sample_rate=22_050).shape
(6144,)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast, overload

import numpy as np
import torch
from torch import Tensor

from myna_plugin.common.devices import choose_device
from myna_plugin.common.numbers import check_number
from myna_plugin.hear import load_model
from myna_plugin.model.audio import SAMPLE_RATE, load_audio, resample
from myna_plugin.model.embedding import Embedder, as_dense

Audio = str | os.PathLike[str] | np.ndarray | Tensor
"""A file, or a waveform of shape (S,) or (C, S)."""


class Myna:
    """A Myna model for people: files and arrays in, arrays out.

    Attributes:
        embedder: the `torch.nn.Module` behind it, on its device.
        sample_rate: Hz that the model listens at; other audio is resampled.
        embedding_size: numbers of an embedding, D.

    >>> myna = Myna.from_pretrained("")
    >>> myna.embedding_size, myna.sample_rate
    (6144, 16000)
    """

    def __init__(self, embedder: Embedder) -> None:
        if not isinstance(embedder, Embedder):
            made = "Myna.from_pretrained makes one of a checkpoint"
            raise TypeError(f"embedder must be an Embedder, got {type(embedder).__name__}: {made}")
        self.embedder = embedder.eval()
        self.sample_rate = SAMPLE_RATE
        self.embedding_size = embedder.scene_embedding_size

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "",
        *,
        embedding: str = "auto",
        device: str | torch.device = "auto",
        precision: str = "float32",
        hop_ms: float | None = None,
        timestamp_layer: int | None = None,
        timestamp_reading: str | None = None,
        scene_layers: Sequence[int] | None = None,
        scene_pooling: str | None = None,
        tokens: float = 1,
        chunk_frames: int | None = None,
        batch_size: int | None = None,
        compile: bool = False,
    ) -> Myna:
        """Load a model; `load_model` says more of each option.

        Args:
            name: as for `load_model`: "myna-base", "myna-vertical", "myna-hybrid" or "myna-85m"; a
                file, or a folder for transformers; "owner/name"; "" or "tiny" for the packaged.
            embedding: "square", "vertical", "hybrid" (both, concatenated), or "auto": hybrid
                where the checkpoint has both tokenizers.
            device: "auto" (CUDA, else Apple's GPU, else the CPU), "cpu", "mps", "cuda", "cuda:N".
            precision: "float32", "bfloat16" or "float16"; bfloat16 also on CPUs that have it; on
                "mps" the first alone.
            hop_ms: milliseconds between timestamp embeddings.
            timestamp_layer: the block, from 1, that they are read off.
            timestamp_reading: "tokens" or "vertical-deltas".
            scene_layers: the blocks, from 1, whose mean tokens an embedding joins.
            scene_pooling: "mean", or "mean-std" to follow each mean with the deviation.
            tokens: the share of each chunk's tokens that `embed` encodes: 1, 0.5, 0.25 or 0.125.
            chunk_frames: frames of 32 ms that the encoder sees at once.
            batch_size: chunks a pass of the encoder; None chooses by device.
            compile: run the encoder through `torch.compile`, for large jobs on CUDA.

        Raises:
            CheckpointError: the weights cannot be found, read or verified, or cannot give
                `embedding`.
            DeviceError, LayerError: there is no such device here, or no such block.
            TypeError: no path, or no number where one is needed.
            ValueError: another option outside its range.
        """
        chosen = choose_device(device, precision)
        embedder = load_model(
            name,
            embedding=embedding,
            hop_ms=hop_ms,
            timestamp_layer=timestamp_layer,
            timestamp_reading=timestamp_reading,
            scene_layers=scene_layers,
            scene_pooling=scene_pooling,
            tokens=tokens,
            chunk_frames=chunk_frames,
            batch_size=batch_size,
            precision=precision,
            compile=compile,
        )
        return cls(embedder.to(chosen))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.embedder.mel.window.device

    @overload
    def embed(self, audio: Audio, sample_rate: int | None = ...) -> np.ndarray: ...
    @overload
    def embed(self, audio: Sequence[Audio], sample_rate: int | None = ...) -> np.ndarray: ...
    def embed(self, audio: Audio | Sequence[Audio], sample_rate: int | None = None) -> np.ndarray:
        """One vector a sound: the mean over its chunks of about three seconds.

        Args:
            audio: the path of a file; or a waveform in [-1, 1], floating point, shape (S,) or
                (C, S), whose channels are averaged; or a list of these.
            sample_rate: Hz of the waveforms; files know their own.

        Returns:
            float32, shape (D,); of a list (N, D).

        Raises:
            AudioError: a file that cannot be decoded; the message names it.
            TypeError: neither a file nor a waveform, or a rate that is no whole number.
            ValueError: a waveform without sample rate, of another shape or type, or with NaN.

        >>> myna = Myna.from_pretrained("")
        >>> stereo = np.zeros((2, 44_100), dtype=np.float32)
        >>> myna.embed([stereo, stereo[:, :9_000]], sample_rate=44_100).shape
        (2, 6144)
        """
        if not isinstance(audio, list | tuple):
            return self._embed_one(cast(Audio, audio), sample_rate)
        rows = [self._embed_one(one, sample_rate) for one in audio]
        return np.stack(rows) if rows else np.empty((0, self.embedding_size), np.float32)

    def embed_timestamps(
        self, audio: Audio, sample_rate: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A vector every `hop_ms`, centred on its time, the first at 0, none past the end.

        Args:
            audio: as for `embed`, one sound.
            sample_rate: as for `embed`.

        Returns:
            Vectors, float32, shape (T, D), and their times in milliseconds, float32, shape (T,).

        Raises:
            AudioError: as `embed`.
            ValueError: as `embed`.

        >>> myna = Myna.from_pretrained("", hop_ms=100)
        >>> vectors, times_ms = myna.embed_timestamps(np.zeros(8_000), sample_rate=16_000)
        >>> vectors.shape, times_ms.tolist()
        ((6, 1152), [0.0, 100.0, 200.0, 300.0, 400.0, 500.0])
        """
        vectors, times_ms = self.embedder.embed_timestamps(self._waveform(audio, sample_rate))
        return vectors[0].cpu().numpy(), times_ms[0].cpu().numpy()

    def _embed_one(self, audio: Audio, sample_rate: int | None) -> np.ndarray:
        return self.embedder.embed_scenes(self._waveform(audio, sample_rate))[0].cpu().numpy()

    def _waveform(self, audio: Audio, sample_rate: int | None) -> Tensor:
        """Mono audio at the model's rate, shape (1, S)."""
        if isinstance(audio, str | os.PathLike):
            return load_audio(Path(audio)).unsqueeze(0)
        if not hasattr(audio, "__array__"):
            got = type(audio).__name__
            raise TypeError(f"audio must be a path, an array or a tensor, got {got}")
        samples = _as_array(audio) if isinstance(audio, Tensor) else np.asarray(audio)
        if sample_rate is None:
            raise ValueError("a waveform needs sample_rate=, in Hz")
        rate = int(check_number("sample_rate", sample_rate, int, 1))
        return torch.from_numpy(resample(mix_to_mono(samples), rate, SAMPLE_RATE))[None]


def _as_array(audio: Tensor) -> np.ndarray:
    # NumPy knows no bfloat16.
    dense = as_dense(audio).cpu()
    return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()


def mix_to_mono(samples: np.ndarray) -> np.ndarray:
    """A waveform (S,), or the mean of the channels of (C, S), as float32.

    Raises:
        ValueError: another shape, no samples, integers, or NaN or infinite samples.

    >>> mix_to_mono(np.array([[0.0, 1.0, 0.5], [0.0, 0.0, 0.5]]))
    array([0. , 0.5, 0.5], dtype=float32)
    """
    if samples.ndim not in (1, 2) or 0 in samples.shape:
        raise ValueError(f"a waveform has shape (S,) or (C, S), got {samples.shape}")
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise ValueError(f"a waveform has shape (C, S), got {samples.shape}: transpose it")
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"a waveform is floating point in [-1, 1], got {samples.dtype}")
    mono = samples.mean(axis=0) if samples.ndim == 2 else samples
    if not np.isfinite(mono).all():
        raise ValueError("the waveform holds NaN or infinite samples")
    return np.ascontiguousarray(mono, dtype=np.float32)
