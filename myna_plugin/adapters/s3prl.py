"""s3prl: importing this module adds the upstream `myna` to `s3prl.hub`, where s3prl is installed.

    import myna_plugin.adapters.s3prl
    from s3prl.nn import S3PRLUpstream
    upstream = S3PRLUpstream("myna", path_or_url="myna-hybrid.pth")

Source: s3prl 0.4.18: `s3prl/hub.py`, `s3prl/nn/upstream.py`, `s3prl/upstream/example`.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch import Tensor, nn

from myna_plugin.adapters.hidden_states import HiddenStates
from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.common.torchaudio_bridge import load_torchaudio
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.checkpoint import embedding_patchings, load_encoder


class UpstreamExpert(nn.Module):
    """Myna as an upstream of s3prl: a list of waveforms -> hidden states of all layers."""

    def __init__(
        self, ckpt: str | Path = "", embedding: str = "auto", hop_ms: float = 50.0
    ) -> None:
        """Load a model, frozen until the caller asks for gradients.

        Args:
            ckpt: as `model_file_path` of `myna_plugin.load_model`.
            embedding: "square", "vertical", "hybrid" or "auto".
            hop_ms: milliseconds between vectors; a whole number of samples.

        Raises:
            CheckpointError: the weights cannot be used, or cannot give `embedding`.
            ValueError: an option outside its range.
        """
        super().__init__()
        rate = hop_ms * SAMPLE_RATE / 1000
        if rate != int(rate):
            raise ValueError(f"hop_ms must be a whole number of samples at 16 kHz, got {hop_ms}")
        encoder = load_encoder(ckpt, embedding=embedding)
        patchings = embedding_patchings(embedding, encoder.config.patchings)
        self.model = HiddenStates(encoder, patchings, hop_ms)
        self.downsample_rate = int(rate)

    def get_downsample_rates(self, key: str) -> int:
        """Samples at 16 kHz between two vectors, the same for every key."""
        return self.downsample_rate

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Embed sounds.

        Args:
            wavs: samples in [-1, 1] at 16 kHz, each of shape (S,), on the model's device.

        Returns:
            "hidden_states": a tuple of L tensors (B, T, D), each sound's states zero past its own
            end and independent of the others; "last_hidden_state": the last of them.
        """
        states = self.model.forward_sounds(wavs)
        return {"hidden_states": states, "last_hidden_state": states[-1]}


def myna(ckpt: str | Path | None = None, refresh: bool = False, **options: Any) -> UpstreamExpert:
    """The upstream's entry.

    Args:
        ckpt: the checkpoint; None for the packaged model.
        refresh: s3prl's wish to download again; files here are the user's own or cached by hub.
        options: `embedding` and `hop_ms` of `UpstreamExpert`.
    """
    return UpstreamExpert(ckpt or "", **options)


def register() -> None:
    """Put `myna` into `s3prl.hub`.

    s3prl 0.4.18 does not import beside torchaudio 2.9 or newer, which has dropped what it calls:
    where that is so, stand-ins are put into torchaudio before, and a warning says so.

    Raises:
        ImportError: s3prl is missing or lacks something it needs.
    """
    import_toolkit("s3prl", "s3prl", "myna_plugin.adapters.s3prl")
    if added := _complete(load_torchaudio()):
        warnings.warn(
            f"for s3prl, torchaudio was given stand-ins of {' and '.join(added)}, which it has "
            "dropped; the effects are errors when called",
            UserWarning,
            stacklevel=2,
        )
    hub = import_toolkit("s3prl.hub", "s3prl", "myna_plugin.adapters.s3prl")
    hub.myna = myna  # type: ignore[attr-defined]


def _complete(torchaudio: ModuleType) -> list[str]:
    """Put what s3prl imports, and torchaudio lacks, into it; the names of that."""
    added = []
    if not hasattr(torchaudio, "set_audio_backend"):
        # Of decoders there is one left, so there is nothing to set.
        torchaudio.set_audio_backend = lambda backend: None  # type: ignore[attr-defined]
        added.append("set_audio_backend")
    if not hasattr(torchaudio, "sox_effects"):
        effects = ModuleType("torchaudio.sox_effects", "Stand-in: torchaudio has none any more.")
        vars(effects).update(dict.fromkeys(("apply_effects_tensor", "apply_effects_file"), _refuse))
        sys.modules[effects.__name__] = torchaudio.sox_effects = effects  # type: ignore[attr-defined]
        added.append("sox_effects")
    return added


def _refuse(*_arguments: object, **_options: object) -> NoReturn:
    raise RuntimeError("torchaudio 2.9 and newer have no sox effects; install torchaudio<2.9")


if importlib.util.find_spec("s3prl") is not None:  # else whoever asks for the hub is told
    register()
