"""The two things taken from torchaudio: its GTZAN lists and its resampling on any device.

torchaudio's wheels link against CUDA, so beside a CPU-only torch (or one built for another CUDA
version) `import torchaudio` fails although its Python code is all that is needed here. This module
is the only one that imports torchaudio; it does so on first use.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

EXTENSION = "torchaudio._extension"

KAISER_BEST = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}
"""Source: torchaudio's resampling tutorial, librosa's "kaiser_best"."""


def gtzan_split(split: str) -> tuple[str, ...]:
    """Track names of GTZAN's fault-filtered split, e.g. "blues.00029".

    Args:
        split: "train" (443 tracks), "valid" (197) or "test" (290).

    Raises:
        ValueError: another name.
        ImportError: torchaudio is missing or broken beyond its compiled part.

    Source: Kereliuk et al. 2015, as listed in `torchaudio.datasets.gtzan`.

    >>> len(gtzan_split("valid"))
    197
    """
    if split not in ("train", "valid", "test"):
        raise ValueError(f"unknown split {split!r}; known: train, valid, test")
    load_torchaudio()
    lists = importlib.import_module("torchaudio.datasets.gtzan")
    return tuple(getattr(lists, f"filtered_{split}"))


def resample(waveform: Tensor, rate: int, target_rate: int) -> Tensor:
    """Resample on the tensor's own device, keeping gradients.

    For files read on the CPU `myna_plugin.model.audio.resample` is faster.

    Args:
        waveform: samples, shape (..., S), any floating type.
        rate: Hz of `waveform`.
        target_rate: Hz of the result.

    Returns:
        Shape (..., ceil(S * target_rate / rate)).

    Raises:
        ImportError: torchaudio is missing or broken beyond its compiled part.

    >>> import torch
    >>> resample(torch.zeros(2, 44_100), 44_100, 16_000).shape
    torch.Size([2, 16000])
    """
    if rate == target_rate:
        return waveform
    functional = load_torchaudio().functional
    return functional.resample(waveform, rate, target_rate, **KAISER_BEST)


@functools.cache
def load_torchaudio() -> ModuleType:
    """Import torchaudio, without its compiled part where that does not load.

    Raises:
        ImportError: torchaudio is not installed, or its Python part fails too.
    """
    try:
        return importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        if error.name != "torchaudio":
            raise
        raise ImportError("torchaudio is not installed: pip install torchaudio") from error
    except (ImportError, OSError, RuntimeError) as error:
        # OSError: a CUDA library is missing; RuntimeError: built for another CUDA version;
        # ImportError: only one of its two libraries loaded.
        return _load_without_extension(error)


def _load_without_extension(cause: Exception) -> ModuleType:
    """Import torchaudio anew with a stand-in for its compiled part."""
    _forget_torchaudio()
    sys.modules[EXTENSION] = extension = _stand_in()
    try:
        torchaudio = importlib.import_module("torchaudio")
    except Exception as error:
        _forget_torchaudio()
        raise ImportError(
            f"torchaudio cannot be imported ({cause}), nor without its compiled part ({error})"
        ) from error
    torchaudio._extension = extension  # type: ignore[attr-defined]
    return torchaudio


def _forget_torchaudio() -> None:
    """Drop what a failed import left behind, so that the next one starts afresh."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]


def _stand_in() -> ModuleType:
    """What torchaudio 2.11 asks of its `_extension`, saying that nothing is compiled."""
    module = ModuleType(EXTENSION, "Stand-in: torchaudio's compiled part does not load here.")
    vars(module).update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, fail_if_no_align=_refuse)
    return module


def _refuse(function: Callable) -> Callable:
    """Decorate a function that needs the compiled part: calling it is an error."""

    @functools.wraps(function)
    def refused(*_args: object, **_kwargs: object) -> NoReturn:
        raise RuntimeError(f"{function.__name__} needs torchaudio's compiled part")

    return refused
