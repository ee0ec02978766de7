"""MARBLE's `cli.py` where torchaudio cannot decode: audio is read with soundfile instead.

    python …/cli_soundfile.py fit --config probe.Myna.GS.yaml

Run in a checkout of MARBLE, in place of `python cli.py`, wherever torchaudio is 2.9 or newer
without torchcodec, or its compiled part does not load. Reads WAV, FLAC, OGG and MP3.
"""

import runpy
import sys

import soundfile
import torch

from myna_plugin.common.torchaudio_bridge import load_torchaudio


def load(
    path: str, frame_offset: int = 0, num_frames: int = -1, backend: str | None = None
) -> tuple[torch.Tensor, int]:
    """What `torchaudio.load` returns: samples (channels, S) in [-1, 1], and their rate in Hz.

    `backend` is MARBLE's wish for a decoder; there is one here.
    """
    samples, rate = soundfile.read(
        path, start=frame_offset, frames=num_frames, dtype="float32", always_2d=True
    )
    return torch.from_numpy(samples.T.copy()), rate


setattr(load_torchaudio(), "load", load)  # noqa: B010 - mypy knows no such attribute
sys.path.insert(0, "")  # MARBLE is imported from its checkout, the working directory
runpy.run_path("cli.py", run_name="__main__")
