"""ONNX files of `myna export` beside torch: seconds for one clip, size, likeness of the vectors.

\b
    python -m benchmarks.onnx_file
    python -m benchmarks.onnx_file --model tiny --threads 2

One process exports a model in each precision, then embeds one clip by all in turn. Likeness is the
cosine to torch's vectors, of the test clips of the demo tasks: the least and the mean, and the
least once the mean vector of the clips is taken off. What a file costs in scores is told by itself
as a HEAR module, here without timestamps:

\b
    python -m benchmarks.recordings --emotify data/emotify --module benchmarks.onnx_file \\
        --weights int8=small.onnx --baselines none --out out
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import myna_plugin
from myna_plugin.adapters.onnx import INPUT, OUTPUTS, TOLERANCES, export_onnx
from myna_plugin.cli.options import MODEL
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.options import POSITIVE_INT
from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.hear import load_model as load_torch
from myna_plugin.model.audio import SAMPLE_RATE, load_audio
from myna_plugin.probing.report.tables import markdown

DEMO_CLIPS = "hear_eval/demo_tasks/*/16000/test/*.ogg"


class OnnxFile(nn.Module):
    """A file of `myna export --to onnx`, run by onnxruntime.

    Attributes:
        sample_rate: 16000 Hz.
        scene_embedding_size: width of a scene embedding.
    """

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__()
        runtime = import_toolkit("onnxruntime", "'myna-plugin[onnx]'", "benchmarks.onnx_file")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        self.session = runtime.InferenceSession(str(path), options, providers=providers)
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = self(torch.zeros(1, SAMPLE_RATE)).shape[1]

    def forward(self, audio: Tensor) -> Tensor:
        """Scene embeddings (B, D) of samples (B, S)."""
        (scenes,) = self.session.run([OUTPUTS[0]], {INPUT: audio.numpy()})
        return torch.from_numpy(scenes)


def load_model(model_file_path: str) -> OnnxFile:
    """An exported file, with as many threads as torch has."""
    return OnnxFile(Path(model_file_path), torch.get_num_threads()).eval()


def get_scene_embeddings(audio: Tensor, model: OnnxFile) -> Tensor:
    """Embed sounds (B, S) at 16 kHz one by one, as int8 depends on a batch: (B, D)."""
    return torch.cat([model(sound[None]) for sound in audio])


def time_in_turn(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, one call of each after the other, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(own) for name, own in seconds.items()}


def likeness(vectors: Tensor, expected: Tensor) -> list[str]:
    """Least and mean cosine, and the least of centred vectors."""
    cosines = functional.cosine_similarity(vectors, expected)
    mean = expected.mean(0)
    centred = functional.cosine_similarity(vectors - mean, expected - mean)
    return [f"{value:.4f}" for value in (cosines.min(), cosines.mean(), centred.min())]


@click.command("benchmarks.onnx_file", cls=ToldCommand, help=__doc__)
@MODEL
@click.option("--threads", type=POSITIVE_INT, default=1, show_default=True)
@click.option("--seconds", type=POSITIVE_INT, default=30, show_default=True, help="Of the clip.")
@click.option("--clips", type=POSITIVE_INT, default=24, show_default=True, help="Of the demo's.")
@click.option("--repeats", type=POSITIVE_INT, default=9, show_default=True)
def main(model: str, threads: int, seconds: int, clips: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    loaded = load_torch(model)
    models: dict[str, nn.Module] = {"torch": loaded}
    sizes = {"torch": ""}
    with TemporaryDirectory() as folder:
        for precision in TOLERANCES:
            path = Path(folder) / f"{precision}.onnx"
            export_onnx(loaded, path, precision)
            models[f"ONNX, {precision}"] = OnnxFile(path, threads)
            sizes[f"ONNX, {precision}"] = f"{path.stat().st_size / 1e6:.1f}"
    generator = torch.Generator().manual_seed(0)
    clip = 0.1 * torch.randn(1, seconds * SAMPLE_RATE, generator=generator)
    taken = time_in_turn({name: partial(own, clip) for name, own in models.items()}, repeats)
    files = sorted(Path(myna_plugin.__file__).parent.glob(DEMO_CLIPS))
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, clips).round().astype(int)]
    sounds = [load_audio(path)[None] for path in chosen]
    vectors = {name: torch.cat([own(sound) for sound in sounds]) for name, own in models.items()}
    rows = [["", "ms", "times torch", "MB", "least cosine", "mean", "least, centred"]]
    for name, own in vectors.items():
        ratio = f"{taken['torch'] / taken[name]:.2f}"
        numbers = [f"{taken[name] * 1e3:.0f}", ratio, sizes[name]]
        rows.append([name, *numbers, *likeness(own, vectors["torch"])])
    date = time.strftime("%Y-%m-%d")
    click.echo(f"torch {torch.__version__}, {platform.machine()}, {threads} threads, {date}\n")
    click.echo(markdown(rows))


if __name__ == "__main__":
    main()
