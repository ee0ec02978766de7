"""ONNX: one graph from a waveform of any length to chunk and scene embeddings.

The mel spectrogram is in the graph, as a convolution with the rows of the windowed Fourier
transform, and reflection as a gather: every ONNX runtime has these, where STFT and reflecting pads
of unknown length are patchy. Lengths follow the rule of `myna_plugin.model.embedding`; a partial
chunk is filled with silence to a full one, whose surplus tokens are masked out of attention and
mean, which is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin._version import __version__
from myna_plugin.common.errors import InputError
from myna_plugin.common.files import replacing
from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.model.audio import HOP_LENGTH, MARGIN, N_FFT, SAMPLE_RATE
from myna_plugin.model.chunks import embed_moments, token_moments
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import PATCHINGS, token_grid
from myna_plugin.model.spectrogram import MelSpectrogram
from myna_plugin.model.vit import HEAD_DIM, Attention, Block, FeedForward

OPSET = 18
TOLERANCES = {"float32": 1e-4, "int8": 0.2}
"""Precision of an export's products -> the largest distance from torch's embedding that it may
show, in parts of its norm. A fifth is a cosine of 0.98."""

CHECK_SECONDS = (1.0, 3.1, 30.0)
"""Lengths at which an export is held against torch: less than a chunk, a little more, many."""

EXTRA = "'myna-plugin[onnx]'"

INPUT = "waveform"
OUTPUTS = ("scene_embeddings", "chunk_embeddings", "chunk_frames")


class ExportError(InputError):
    """An export whose embeddings are not torch's; nothing was written."""


class ExportableMel(nn.Module):
    """`MelSpectrogram` as a convolution: (B, S) -> (B, 128, F)."""

    kernel: Tensor
    basis: Tensor

    def __init__(self, mel: MelSpectrogram) -> None:
        super().__init__()
        # Angles in float64, reduced to one turn first: float32 would lose the last digits of k·n.
        turns = torch.arange(N_FFT // 2 + 1)[:, None] * torch.arange(N_FFT) % N_FFT
        angle = turns.double() * (2 * torch.pi / N_FFT)
        kernel = torch.cat([angle.cos(), angle.sin()]) * mel.window.double()
        self.register_buffer("kernel", kernel.float().unsqueeze(1))
        self.register_buffer("basis", mel.basis.float())

    def forward(self, waveform: Tensor) -> Tensor:
        n_samples = waveform.shape[-1]
        index = torch.arange(-MARGIN, n_samples + MARGIN, device=waveform.device)
        # Reflection at both ends, repeated where the sound is shorter than the margin.
        last = n_samples - 1
        folded = (index.abs() + last) % torch.clamp(2 * torch.ones_like(index) * last, min=1)
        reflected = waveform[:, (folded - last).abs()]
        spectrum = functional.conv1d(reflected.unsqueeze(1), self.kernel, stride=HOP_LENGTH)
        real, imaginary = spectrum.chunk(2, dim=1)
        return self.basis @ (real.square() + imaginary.square())


class ExportableEmbedder(nn.Module):
    """`Embedder.embed_chunks` and `embed_scenes` without branches on the length.

    Source of the rule for lengths: `myna_plugin.model.embedding`.
    """

    def __init__(self, model: Embedder) -> None:
        super().__init__()
        self.mel = ExportableMel(model.mel)
        self.encoder = model.encoder
        self.patchings = model.patchings
        self.layers = model.scene_layers
        self.pooling = model.scene_pooling

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed whole sounds.

        Args:
            waveform: samples in [-1, 1] at 16 kHz, shape (B, S), S >= 1.

        Returns:
            Scene embeddings (B, D), chunk embeddings (B, K, D), and the frames of each chunk (K,).
        """
        size = self.encoder.config.chunk_frames
        mel = self.mel(waveform)
        n_frames = mel.shape[-1]
        n_chunks = (n_frames + size - 1) // size
        starts = torch.arange(n_chunks, device=mel.device) * size
        frames = (n_frames - starts).clamp(max=size)
        padded = functional.pad(mel, (0, n_chunks * size - n_frames))
        chunks = padded.reshape(mel.shape[0], mel.shape[1], n_chunks, size).transpose(1, 2)
        each = [self._pool(chunks, frames, p) for p in self.patchings]  # [patching][layer]
        pooled = torch.cat([one for layer in zip(*each, strict=True) for one in layer], dim=-1)
        share = frames.to(pooled.dtype) / n_frames
        averaged = (pooled * share.unsqueeze(-1)).sum(1)
        scenes, embedded = (
            embed_moments(moments, self.pooling, self.encoder.config.embed_dim)
            for moments in (averaged, pooled)
        )
        return scenes, embedded, frames.to(mel.dtype)

    def _pool(self, chunks: Tensor, frames: Tensor, patching: str) -> list[Tensor]:
        """Masked moments, for each layer, of chunks (B, K, M, F) with sound in the first
        `frames` (K,)."""
        width = PATCHINGS[patching][1]
        rows, columns = token_grid(patching, self.encoder.config.chunk_frames)
        filled = (frames + width - 1) // width
        visible = torch.arange(columns, device=frames.device) < filled.unsqueeze(-1)
        visible = visible.repeat(1, rows)  # (K, tokens), row-major
        tokens = self.encoder.tokens(chunks.flatten(0, 1), patching)
        tokens = tokens.reshape(chunks.shape[0], chunks.shape[1], rows * columns, -1)
        weight = visible.to(tokens.dtype).unsqueeze(-1)

        def average(state: Tensor) -> Tensor:
            return (state * weight).sum(2) / weight.sum(1)

        states = self._transform(tokens, visible)
        return [token_moments(state, self.pooling, average) for state in states]

    def _transform(self, tokens: Tensor, visible: Tensor) -> list[Tensor]:
        """Normed tokens (B, K, tokens, D) after each layer, blind to those that are not visible."""
        bias = torch.zeros_like(visible, dtype=tokens.dtype).masked_fill(~visible, -1e9)
        states = {}
        for layer, block in enumerate(self.encoder.transformer.layers, start=1):
            attention, perceptron = cast(tuple[Attention, FeedForward], tuple(cast(Block, block)))
            tokens = tokens + _attend(attention, tokens, bias[:, None, None, :])
            tokens = tokens + perceptron.net(tokens)
            if layer in self.layers:
                states[layer] = self.encoder.transformer.norm(tokens)
        return [states[layer] for layer in self.layers]


def _attend(attention: Attention, x: Tensor, bias: Tensor) -> Tensor:
    """`Attention` on (B, K, tokens, D) with `bias` (K, 1, 1, tokens) added to its logits."""
    qkv = attention.to_qkv(attention.norm(x)).unflatten(-1, (3, attention.num_heads, HEAD_DIM))
    query, key, value = (part.transpose(2, 3) for part in qkv.unbind(3))
    logits = query @ key.transpose(-1, -2) * HEAD_DIM**-0.5 + bias
    mixed = logits.softmax(-1) @ value
    return attention.to_out(mixed.transpose(2, 3).flatten(3))


def export_onnx(
    model: Embedder,
    path: Path,
    precision: str = "float32",
    facts: Mapping[str, str] | None = None,
) -> dict[float, float]:
    """Write a model as ONNX and hold the file against torch.

    The input `waveform` is float32 (batch, samples) at 16 kHz, both of any size; the outputs are
    `scene_embeddings` (batch, D), `chunk_embeddings` (batch, K, D) and `chunk_frames` (K,), always
    float32.

    Args:
        model: a float32 model on the CPU.
        path: the file to write, replaced as a whole and only if the check holds.
        precision: of `TOLERANCES`. "int8": the products with weights, which are rounded a column
            at a time to 7 bits, so that CPUs without VNNI do not overflow; tokens are rounded as
            they come.
        facts: for the file's metadata, such as "name" and "licence"; sample rate, patchings, layers
            and pooling are put there too.

    Returns:
        The largest distance from torch's embeddings at each of `CHECK_SECONDS`, in parts of
        their norm.

    Raises:
        ExportError: a difference above the precision's, or a model that encodes a share of the
            tokens.
        ImportError: onnx, onnxscript or onnxruntime is missing.
    """
    tolerance = TOLERANCES[precision]
    if model.tokens != 1:
        raise ExportError(f"{path}: not written; it encodes all tokens: load with tokens=1")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        import_toolkit(name, EXTRA, "export to ONNX")
    with replacing(path) as partial:
        _write(model, partial)
        if precision == "int8":
            _quantise(partial)
        _describe(partial, {**_facts(model, precision), **(facts or {})})
        differences = compare_onnx(model, partial)
        if not all(difference <= tolerance for difference in differences.values()):  # NaN too
            raise ExportError(
                f"{path}: not written; its embeddings differ from torch's by {differences} of "
                f"their norm at these seconds, more than {tolerance:g}"
            )
    return differences


def _write(model: Embedder, path: Path) -> None:
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples")
    exportable = ExportableEmbedder(model).eval()
    program = torch.onnx.export(
        exportable,
        (torch.zeros(2, 5 * SAMPLE_RATE),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes={"waveform": {0: batch, 1: samples}},
        verbose=False,
    )
    assert program is not None
    # Weights of any size, whose transposition torch leaves to every run, and to quantisation,
    # which then finds no constant to round.
    optimizer = import_toolkit("onnxscript.optimizer", EXTRA, "export to ONNX")
    optimizer.optimize(program.model, input_size_limit=1 << 31, output_size_limit=1 << 31)
    program.save(str(path), external_data=False)


def _quantise(path: Path) -> None:
    """Round the products with weights of a file to 8 bits, in place."""
    quantization = import_toolkit("onnxruntime.quantization", EXTRA, "--precision int8")
    shapes = import_toolkit("onnxruntime.quantization.shape_inference", EXTRA, "--precision int8")
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        shapes.quant_pre_process(str(path), str(prepared))
        quantization.quantize_dynamic(
            str(prepared),
            str(path),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
        )


def _facts(model: Embedder, precision: str) -> dict[str, str]:
    """What a file says of itself."""
    return {
        "sample_rate": str(SAMPLE_RATE),
        "patchings": ", ".join(model.patchings),
        "scene_layers": ", ".join(map(str, model.scene_layers)),
        "scene_pooling": model.scene_pooling,
        "precision": precision,
        "made_by": f"myna-plugin {__version__}",
    }


def _describe(path: Path, facts: Mapping[str, str]) -> None:
    """Put facts into a file's metadata, and take out where each node came from in our code."""
    onnx = import_toolkit("onnx", EXTRA, "export to ONNX")
    content = onnx.load(path)
    for node in content.graph.node:
        del node.metadata_props[:]
    onnx.helper.set_model_props(content, dict(sorted(facts.items())))
    path.write_bytes(content.SerializeToString())


def compare_onnx(model: Embedder, path: Path) -> dict[float, float]:
    """Largest distance of an ONNX file's embeddings from torch's, in parts of their norm.

    Args:
        model: the model that was exported.
        path: the ONNX file.

    Returns:
        For each of `CHECK_SECONDS`, over the scene and chunk embeddings of two sounds.
    """
    runtime = import_toolkit("onnxruntime", EXTRA, "checking an ONNX file")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = {}
    for seconds in CHECK_SECONDS:
        sounds = 0.1 * torch.randn(2, round(seconds * SAMPLE_RATE), generator=generator)
        scenes, chunks, _ = session.run(list(OUTPUTS), {INPUT: sounds.numpy()})
        pairs = (
            (scenes, model.embed_scenes(sounds).numpy()),
            (chunks, model.embed_chunks(sounds)[0].numpy()),
        )
        differences[seconds] = max(_relative_difference(*pair) for pair in pairs)
    return differences


def _relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    distance = np.linalg.norm(actual - expected, axis=-1)
    return float(np.max(distance / np.linalg.norm(expected, axis=-1)))
