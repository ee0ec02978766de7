"""mteb: Myna for the audio tasks of MTEB (MAEB).

    import mteb
    from myna_plugin.adapters.mteb import MynaModel
    mteb.evaluate(MynaModel("myna-hybrid"), mteb.get_tasks(["GTZANGenre"]))

Source: mteb 2.26: `mteb/models/models_protocols.py`, `mteb/models/model_meta.py`, and its
documentation, "Defining the model".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from myna_plugin.adapters.hidden_states import rows_by_length
from myna_plugin.common.devices import choose_device
from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.hear import load_model
from myna_plugin.model.audio import SAMPLE_RATE, resample
from myna_plugin.model.encoder import parameter_count
from myna_plugin.model.sources import PUBLISHED

TRAINING_CODE = "https://github.com/ghost-signal/myna"
"""Of the published models."""


class MynaModel:
    """Myna as an encoder of mteb: audio items -> scene embeddings.

    Satisfies mteb's `EncoderProtocol` without deriving from its classes.
    """

    def __init__(
        self,
        model_name: str = "",
        revision: str | None = None,
        *,
        device: str | None = None,
        embedding: str = "auto",
        scene_layers: Sequence[int] | None = None,
        scene_pooling: str | None = None,
        tokens: float = 1,
    ) -> None:
        """Load a model.

        Args:
            model_name: as `model_file_path` of `myna_plugin.load_model`, or a published model's
                repository such as "oriyonay/myna-hybrid", as mteb names models.
            revision: of a repository on the Hugging Face hub; None for its newest.
            device: "cpu", "cuda" …; None takes CUDA where there is any.
            embedding: "square", "vertical", "hybrid" or "auto".
            scene_layers: blocks to read embeddings off; see `myna_plugin.load_model`.
            scene_pooling: "mean" or "mean-std"; see there.
            tokens: the share of the tokens that are encoded; see there.

        Raises:
            CheckpointError: the weights cannot be used, or cannot give `embedding`.
            LayerError: there is no such block.
            ValueError: no such embedding, pooling or share.
        """
        self.model_name = model_name
        self.revision = revision
        source = _source(model_name, revision)
        model = load_model(
            source,
            embedding=embedding,
            scene_layers=scene_layers,
            scene_pooling=scene_pooling,
            tokens=tokens,
        )
        self.model = model.to(device or choose_device("auto"))

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        show_progress_bar: bool = False,
        **encode_kwargs: Any,
    ) -> np.ndarray:
        """Embed the audio of batches.

        Args:
            inputs: batches with, under "audio", items of an "array" of samples, shape (S,) or
                (channels, S), and its "sampling_rate" in Hz.
            task_metadata: mteb's description of the task; Myna takes no prompts.
            hf_split: as above.
            hf_subset: as above.
            prompt_type: as above.
            show_progress_bar: whether to show one.
            encode_kwargs: mteb's other settings, such as a batch size, which `inputs` has already.

        Returns:
            float32, shape (number of items, D), in their order.

        Raises:
            ValueError: a batch without audio.
        """
        rows: list[np.ndarray] = []
        for batch in tqdm(inputs, disable=not show_progress_bar, unit="batch"):
            if "audio" not in batch:
                raise ValueError(f"Myna embeds audio; this batch has only {', '.join(batch)}")
            rows.append(self._embed([_waveform(item) for item in batch["audio"]]))
        return np.concatenate(rows)

    def _embed(self, sounds: Sequence[Tensor]) -> np.ndarray:
        embedded = np.empty((len(sounds), self.model.scene_embedding_size), dtype=np.float32)
        for rows in rows_by_length([len(sound) for sound in sounds]):
            embedded[rows] = self.model(torch.stack([sounds[row] for row in rows])).cpu().numpy()
        return embedded

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine similarity of every pair: (N, D), (M, D) -> (N, M)."""
        return _normalise(embeddings1) @ _normalise(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine similarity of corresponding rows: (N, D), (N, D) -> (N,)."""
        return (_normalise(embeddings1) * _normalise(embeddings2)).sum(-1)

    @property
    def mteb_model_meta(self) -> Any:
        """The model's entry for mteb, a `ModelMeta`.

        Raises:
            ImportError: mteb is missing.
        """
        meta = import_toolkit("mteb.models.model_meta", "mteb", "myna_plugin.adapters.mteb")
        n_parameters = parameter_count(self.model.encoder)
        published = next(
            (
                p.repository
                for name, p in PUBLISHED.items()
                if self.model_name in (name, p.repository)
            ),
            None,
        )
        return meta.ModelMeta(
            loader=MynaModel,
            name=published or "myna-plugin/local",
            revision=self.revision,
            release_date=None,
            languages=None,
            modalities=["audio"],
            n_parameters=n_parameters,
            memory_usage_mb=round(n_parameters * 4 / 2**20),
            max_tokens=None,
            embed_dim=self.model.scene_embedding_size,
            license="mit" if published else None,
            open_weights=True if published else None,
            public_training_code=TRAINING_CODE if published else None,
            public_training_data=None,
            framework=["PyTorch"],
            reference=f"https://huggingface.co/{published}" if published else None,
            similarity_fn_name="cosine",
            use_instructions=False,
            training_datasets=None,
        )


def _source(model_name: str, revision: str | None) -> str:
    """What `load_model` calls a model that mteb names by its repository."""
    repositories = {published.repository for published in PUBLISHED.values()}
    if model_name in repositories:
        return f"hf://{model_name}" + (f"@{revision}" if revision else "")
    return model_name


def _waveform(item: Mapping[str, Any]) -> Tensor:
    """Mono float32 samples at 16 kHz, shape (S,), of an audio item."""
    samples = np.asarray(item["array"], dtype=np.float32)
    if samples.ndim > 1:
        samples = samples.mean(axis=0)
    return torch.from_numpy(resample(samples, int(item["sampling_rate"]), SAMPLE_RATE))


def _normalise(embeddings: Any) -> Tensor:
    return functional.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=-1)
