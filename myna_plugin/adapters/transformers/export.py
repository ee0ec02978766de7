"""`myna export --to transformers`: a folder for `AutoModel.from_pretrained`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from myna_plugin._version import __version__
from myna_plugin.adapters.transformers import modeling_myna
from myna_plugin.adapters.transformers.bundle import bundle_source
from myna_plugin.common.errors import InputError
from myna_plugin.common.files import replacing
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.checkpoint import to_safetensors
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import TOKENIZER_NAMES

AUTO_MAP = {
    "AutoConfig": "MynaConfig",
    "AutoModel": "MynaModel",
    "AutoModelForAudioClassification": "MynaForAudioClassification",
}
"""Auto class of transformers -> ours."""

MODELING = "modeling_myna"
"""The folder's one module; transformers copies it along when the model is saved again."""

HEAD = f"""Myna for transformers: written by myna-plugin {__version__} out of its own source.

It needs torch, transformers and nnAudio, and is used through the Auto classes with
`trust_remote_code=True`. MIT licence."""

FEATURE_EXTRACTOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": SAMPLE_RATE,
    "padding_value": 0.0,
    "do_normalize": False,
    "return_attention_mask": True,
}
"""transformers' own extractor of raw waveforms: it checks the rate, pads, and masks the padding."""


def export_transformers(model: Embedder, folder: Path) -> None:
    """Write a folder for `AutoModel.from_pretrained`, as a whole.

    It holds `config.json`, `model.safetensors` and `modeling_myna.py`, which need nothing of this
    package, and `preprocessor_config.json` for `AutoFeatureExtractor`. `myna_plugin.load_model`
    takes the folder too, and what transformers saves of it later.

    Args:
        model: the model; its patchings, `scene_layers`, `scene_pooling` and `hop_ms` are kept, a
            patching that it does not use is not.
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
    encoder = replace(
        model.encoder.config,
        patchings=model.patchings,
        scene_layers=model.scene_layers,
        scene_pooling=model.scene_pooling,
        projector=(),
    )
    config = modeling_myna.MynaConfig(
        encoder=asdict(encoder),
        hop_ms=model.hop_ms,
        dtype="float32",
        architectures=[AUTO_MAP["AutoModel"]],
        auto_map={auto: f"{MODELING}.{ours}" for auto, ours in AUTO_MAP.items()},
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as made:
        config.save_pretrained(made)
        # Not `save_pretrained` of the model: its file may be read by its owner alone, and a full
        # disk is an error of its own to it.
        content = to_safetensors(_weights(model), {"format": "pt"})
        (made / "model.safetensors").write_bytes(content)
        source = bundle_source(modeling_myna.__name__, tuple(AUTO_MAP.values()), HEAD)
        (made / f"{MODELING}.py").write_text(source, encoding="utf-8")
        extractor = json.dumps(FEATURE_EXTRACTOR, indent=2) + "\n"
        (made / "preprocessor_config.json").write_text(extractor)


def _weights(model: Embedder) -> dict[str, Tensor]:
    """The encoder's under `model.`, float32, with the tokenizers of the patchings used alone."""
    weights: dict[str, Tensor] = {}
    for name, module in model.encoder.named_children():
        if name not in (*TOKENIZER_NAMES, "linear_head"):
            weights |= module.state_dict(prefix=f"model.{name}.")
    for name, patching in zip(TOKENIZER_NAMES, model.patchings, strict=False):
        weights |= model.encoder.tokenizer(patching).state_dict(prefix=f"model.{name}.")
    return {name: tensor.float().cpu().contiguous() for name, tensor in weights.items()}
