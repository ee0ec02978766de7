"""mteb: Myna for the audio tasks of MTEB (MAEB).

Importing this module adds the published and the packaged models to mteb's registry, where mteb is
installed:

    import mteb
    import myna_plugin.adapters.mteb
    model = mteb.get_model("oriyonay/myna-hybrid")
    mteb.evaluate(model, mteb.get_tasks(["GTZANGenre"]))

`python -m myna_plugin.adapters.mteb run -m oriyonay/myna-hybrid -t GTZANGenre` is mteb's own
command, which knows them. For other weights there is `MynaModel("runs/mine/model.safetensors")`. An
entry as a pull request would have it: `mteb.get_model_meta("oriyonay/myna-hybrid").to_python()`.

Source: mteb 2.26: `mteb/models/models_protocols.py`, `model_meta.py`, `get_model_meta.py` and its
documentation, "Adding a model".
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from myna_plugin.adapters.hidden_states import rows_by_length
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import told
from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.hear import load_model
from myna_plugin.model.audio import SAMPLE_RATE, resample
from myna_plugin.model.encoder import EncoderConfig, parameter_count
from myna_plugin.model.sources import PUBLISHED

PURPOSE = "myna_plugin.adapters.mteb"

LOCAL = "myna-plugin/local"
"""Name of a model that has none: mteb wants organization/model."""

PUBLISHED_FACTS: dict[str, Any] = {
    "public_training_code": "https://github.com/ghost-signal/myna",
    "public_training_data": "https://research.google.com/audioset/",
    # What mteb makes of AudioSet, whose music they were trained on (paper, §4.1).
    "training_datasets": {
        *("AudioSet", "AudioSetMini", "AudioSetStrongA2TRetrieval", "AudioSetStrongT2ARetrieval"),
    },
    "citation": """@misc{yonay2025myna,
  title={Myna: Masking-Based Contrastive Learning of Musical Representations},
  author={Yonay, Ori and Hammond, Tracy and Yang, Tianbao},
  year={2025},
  eprint={2502.12511},
  archivePrefix={arXiv}
}""",
}


@dataclass(frozen=True)
class Entry:
    """A model of mteb's registry.

    Attributes:
        weights: as `load_model` takes them.
        patchings: of the encoder.
        width: of its tokens.
        size: of a scene embedding.
    """

    weights: str
    patchings: tuple[str, ...]
    width: int
    size: int

    @property
    def parameters(self) -> int:
        """All are ViTs of 12 blocks, with heads of 64 and perceptrons four times as wide."""
        width = self.width
        config = EncoderConfig(self.patchings, width, 12, width // 64, 4 * width)
        return config.parameter_count


ENTRIES: dict[str, Entry] = {
    **{
        p.repository: Entry(name, p.patchings, p.width, p.width * len(p.patchings))
        for name, p in PUBLISHED.items()
    },
    # By the name in the files' metadata: other weights would be another model.
    "myna-plugin/myna-open-22m-hybrid": Entry("", ("square", "vertical"), 384, 6144),
    "myna-plugin/myna-open-5m-hybrid": Entry("tiny", ("square", "vertical"), 192, 3072),
}
"""By mteb's name, organization/model."""


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
            model_name: as `model_file_path` of `myna_plugin.load_model`, or a name of `ENTRIES`,
                such as "oriyonay/myna-hybrid".
            revision: of a repository on the Hugging Face hub; None for weights that are here, else
                its newest.
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
        self._meta: Any = None
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
        """The model's entry for mteb, a `ModelMeta`, which mteb may replace by its own.

        Raises:
            ImportError: mteb is missing.
        """
        if self._meta is None:
            names = [n for n, e in ENTRIES.items() if self.model_name in (n, e.weights)]
            size = self.model.scene_embedding_size
            self._meta = describe(*names, parameters=parameter_count(self.model.encoder), size=size)
        return self._meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self._meta = meta


def describe(name: str = LOCAL, *, parameters: int, size: int) -> Any:
    """A `ModelMeta` of mteb.

    Args:
        name: a key of `ENTRIES`, or that of some other model, of which nothing else is known.
        parameters: numbers in the encoder.
        size: of a scene embedding.

    Raises:
        ImportError: mteb is missing.
    """
    meta = import_toolkit("mteb.models.model_meta", "mteb", PURPOSE)
    published = name in {p.repository for p in PUBLISHED.values()}
    facts = dict.fromkeys(PUBLISHED_FACTS)
    if published:
        facts = PUBLISHED_FACTS
    elif name in ENTRIES:
        facts["training_datasets"] = set()  # none of mteb's: see the models' card
    return meta.ModelMeta(
        loader=MynaModel,
        name=name,
        revision=None,
        release_date=None,
        languages=None,
        modalities=["audio"],
        n_parameters=parameters,
        n_embedding_parameters=0,
        memory_usage_mb=round(parameters * 4 / 2**20),
        max_tokens=None,
        embed_dim=size,
        license="mit" if name in ENTRIES else None,
        open_weights=True if name in ENTRIES else None,
        framework=["PyTorch"],
        reference=f"https://huggingface.co/{name}" if published else None,
        similarity_fn_name="cosine",
        use_instructions=False,
        **facts,
    )


def register() -> None:
    """Put the models that mteb does not know yet into its registry.

    Raises:
        ImportError: mteb is missing.
    """
    known = import_toolkit("mteb.models.model_implementations", "mteb", PURPOSE).MODEL_REGISTRY
    for name, entry in ENTRIES.items():
        known.setdefault(name, describe(name, parameters=entry.parameters, size=entry.size))


def _source(model_name: str, revision: str | None) -> str:
    """What `load_model` calls a model that mteb names organization/model."""
    if model_name not in ENTRIES:
        return model_name
    return f"hf://{model_name}@{revision}" if revision else ENTRIES[model_name].weights


def _waveform(item: Mapping[str, Any]) -> Tensor:
    """Mono float32 samples at 16 kHz, shape (S,), of an audio item."""
    samples = np.asarray(item["array"], dtype=np.float32)
    if samples.ndim > 1:
        samples = samples.mean(axis=0)
    return torch.from_numpy(resample(samples, int(item["sampling_rate"]), SAMPLE_RATE))


def _normalise(embeddings: Any) -> Tensor:
    return functional.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=-1)


def main() -> None:
    """The command `mteb`, whose models ours are among."""
    with told("mteb"):
        command = import_toolkit("mteb.cli.build_cli", "mteb", PURPOSE)
    command.main()


if importlib.util.find_spec("mteb") is not None:
    register()

if __name__ == "__main__":
    main()
