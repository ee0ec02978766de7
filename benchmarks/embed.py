"""Speed of embeddings: seconds of audio a second, ours beside the literal pipeline in one process.

    python -m benchmarks.embed            # CPU with 1 and 2 threads, or CUDA where there is one
    python -m benchmarks.embed --clips 4 --repeats 3
    python -m benchmarks.embed --device cpu --size vit-ti --clips 1 --seconds 5 --repeats 1
    python -m benchmarks.embed --tokens 0.5 0.25 0.125
    python -m benchmarks.embed --device cpu --threads 1 --clips 1 --bfloat16

The literal pipeline is the published one as a user runs it: nnAudio's mel of the whole clip, its
consecutive chunks as one batch, one pass of a plain float32 Vision Transformer for each patching.
Weights are random; all models share them. Ways to compute take turns. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from nnAudio.features import MelSpectrogram as NnAudioMelSpectrogram
from torch import Tensor, nn

from myna_plugin.common.devices import DeviceError, choose_device
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import SIZES, EncoderConfig, MynaEncoder, initialise
from myna_plugin.model.vit import FeedForward

SAMPLE_RATE = 16_000
BOTH = ("square", "vertical")


class LiteralAttention(nn.Module):
    """Attention as three separate products, nothing fused."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.softmax = nn.Softmax(dim=-1)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        split = [
            t.unflatten(-1, (self.heads, 64)).transpose(1, 2)
            for t in self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        ]
        query, key, value = split
        weights = self.softmax(query @ key.transpose(-1, -2) * 64**-0.5)
        return self.to_out((weights @ value).transpose(1, 2).flatten(2))


class LiteralPipeline(nn.Module):
    """The published pipeline with the weights of one of our encoders."""

    def __init__(self, encoder: MynaEncoder) -> None:
        super().__init__()
        config = encoder.config
        self.mel = NnAudioMelSpectrogram(sr=SAMPLE_RATE, n_mels=128, verbose=False)
        self.encoder = encoder  # for its tokenizers and positions, which cost next to nothing
        self.attentions = nn.ModuleList()
        self.perceptrons = nn.ModuleList()
        for block in encoder.transformer.layers:
            attention, perceptron = block.children()
            assert isinstance(perceptron, FeedForward)
            literal = LiteralAttention(config.embed_dim, config.num_heads)
            literal.load_state_dict(attention.state_dict())
            self.attentions.append(literal)
            self.perceptrons.append(perceptron.net)

    def forward(self, waveform: Tensor) -> Tensor:
        """Mean over whole chunks: (B, S) -> (B, 2 D)."""
        mel = self.mel(waveform)
        count = mel.shape[-1] // 96
        chunks = mel[..., : count * 96].unflatten(-1, (count, 96)).transpose(1, 2).flatten(0, 1)
        halves = []
        for patching in BOTH:
            x = self.encoder.tokens(chunks, patching)
            for attention, perceptron in zip(self.attentions, self.perceptrons, strict=True):
                x = x + attention(x)
                x = x + perceptron(x)
            halves.append(self.encoder.transformer.norm(x).mean(1))
        return torch.cat(halves, -1).unflatten(0, (len(waveform), count)).mean(1)


def measure(run: Callable[[], object], device: str, repeats: int) -> float:
    """Median seconds of a call, after two to warm up."""
    ((seconds, _),) = measure_in_turn([run], device, repeats)
    return seconds


def measure_in_turn(
    runs: Sequence[Callable[[], object]], device: str, repeats: int
) -> list[tuple[float, float]]:
    """Median seconds of each call, by the clock and of the processor; two rounds to warm up.

    One after the other, round by round: what else the machine does then weighs on all alike.
    """
    rounds = []
    for _ in range(repeats + 2):
        taken = []
        for run in runs:
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            start, busy = time.perf_counter(), time.process_time()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            taken.append((time.perf_counter() - start, time.process_time() - busy))
        rounds.append(taken)
    each = zip(*rounds[2:], strict=True)
    return [
        (statistics.median(clock), statistics.median(busy))
        for clock, busy in (zip(*own, strict=True) for own in each)
    ]


def make_encoder(size: str) -> MynaEncoder:
    encoder = initialise(MynaEncoder(EncoderConfig.of_size(size, patchings=BOTH)), 0)
    return encoder.eval().requires_grad_(False)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


def table(
    title: str,
    rows: list[tuple[str, float, str]],
    audio_seconds: float,
) -> list[dict]:
    """Print rows of (name, seconds, note), the peer first, and return them."""
    peer = rows[0][1]
    print(f"\n**{title}**\n")
    print(f"| | ms | seconds of audio a second | times {rows[0][0]} | |")
    print("|---|---|---|---|---|")
    results = []
    for name, seconds, note in rows:
        rate = audio_seconds / seconds
        print(f"| {name} | {seconds * 1e3:.1f} | {rate:,.0f} | {peer / seconds:.2f} | {note} |")
        results.append({"title": title, "name": name, "seconds": seconds, "ratio": peer / seconds})
    return results


@torch.inference_mode()
def compare(
    device: str,
    size: str,
    clips: int,
    clip_seconds: int,
    repeats: int,
    shares: Sequence[float],
    bfloat16: bool,
    title: str,
) -> list[dict]:
    """Scene embeddings and mel of a batch of clips: literal, ours, ours with each option."""
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(clips, clip_seconds * SAMPLE_RATE, generator=generator)
    waveform = waveform.to(device)
    encoder = make_encoder(size)
    literal = LiteralPipeline(encoder).eval().to(device)
    # Whole chunks exactly: what both pipelines embed alike.
    whole = waveform[:, : waveform.shape[1] // (96 * 512) * 96 * 512 - 1]
    expected = literal(whole)
    options: dict[str, dict] = {"ours, float32": {}}
    if device.startswith("cuda") or bfloat16:
        options["ours, bfloat16"] = {"precision": "bfloat16"}
    if device.startswith("cuda"):
        for name in list(options):
            options[f"{name}, CUDA graphs"] = options[name]
        options["ours, bfloat16, compiled"] = {"precision": "bfloat16", "compile": True}
    fastest, own = list(options.items())[-1]
    options |= {f"{fastest}, tokens={share:g}": {**own, "tokens": share} for share in shares}
    runs: dict[str, Callable[[], object]] = {"the literal pipeline": partial(literal, waveform)}
    notes = ["nnAudio, float32; drops the last partial chunk"]
    for name, chosen in options.items():
        ours = Embedder(make_encoder(size), BOTH, **chosen).to(device)
        ours.cuda_graphs = "graphs" in name
        error = relative_error(ours.embed_scenes(whole), expected)
        runs[name] = partial(ours.embed_scenes, waveform)
        notes.append(f"largest relative difference {error:.1e}")
    taken = measure_in_turn([*runs.values()], device, repeats)
    if device == "cpu":
        peer = taken[0][1]
        notes = [
            f"CPU {busy * 1e3:.0f} ms, {peer / busy:.2f} times; {note}"
            for (_, busy), note in zip(taken, notes, strict=True)
        ]
    rows = [
        (name, seconds, note) for name, (seconds, _), note in zip(runs, taken, notes, strict=True)
    ]
    audio = f"{clips} clips of {clip_seconds} s"
    results = table(f"{title}: scene embeddings, {audio}", rows, clips * clip_seconds)
    nnaudio = measure(lambda: literal.mel(waveform), device, repeats)
    fast = measure(lambda: ours.mel(waveform), device, repeats)
    error = (
        (ours.mel(waveform) - literal.mel(waveform)).norm() / literal.mel(waveform).norm()
    ).item()
    rows = [
        ("nnAudio", nnaudio, ""),
        ("ours", fast, f"relative difference {error:.1e}"),
    ]
    return results + table(f"{title}: mel alone, {audio}", rows, clips * clip_seconds)


@torch.inference_mode()
def embed_windows(model: Embedder, waveform: Tensor) -> Tensor:
    """The slow way to timestamp embeddings: a whole chunk around each time, (1, S) -> (T, D)."""
    mel = model.mel(waveform)[0]
    times = torch.arange(0, waveform.shape[1] * 1000 / SAMPLE_RATE + 1e-9, model.hop_ms)
    centres = [round(t * SAMPLE_RATE / 1000 / 512) for t in times.tolist()]
    windows = [mel[:, max(c - 48, 0) : c + 48] for c in centres]
    vectors = torch.empty(len(windows), model.timestamp_embedding_size, device=mel.device)
    for width in {window.shape[1] for window in windows}:
        chosen = [i for i, window in enumerate(windows) if window.shape[1] == width]
        for some in torch.tensor(chosen).split(32 if mel.device.type == "cpu" else 1280):
            vectors[some] = model.pool_chunks(torch.stack([windows[i] for i in some]), some)
    return vectors


def compare_timestamps(device: str, size: str, seconds: int, title: str) -> list[dict]:
    """Timestamp embeddings of one sound beside chunks around the times: time, and agreement."""
    generator = torch.Generator().manual_seed(1)
    time_s = torch.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    pitch = 220 * 2 ** (torch.randint(0, 24, (2 * seconds,), generator=generator) / 12)
    phase = torch.cumsum(pitch.repeat_interleave(SAMPLE_RATE // 2) / SAMPLE_RATE, 0)
    notes = torch.sin(2 * torch.pi * phase) * torch.exp(-4 * (time_s % 0.5))
    waveform = (0.3 * notes + 0.01 * torch.randn(time_s.shape, generator=generator)).unsqueeze(0)
    waveform = waveform.to(device)
    precision = "bfloat16" if device.startswith("cuda") else "float32"
    model = Embedder(make_encoder(size), BOTH, precision=precision).to(device)
    ways = (lambda: embed_windows(model, waveform), lambda: model.embed_timestamps(waveform)[0][0])
    windows, tokens = (way() - way().mean(0) for way in ways)
    similarity = nn.functional.cosine_similarity(windows, tokens).mean().item()
    rows = [
        ("a chunk around each time", measure(ways[0], device, 1), precision),
        (
            "from tokens",
            measure(ways[1], device, 1),
            f"{precision}; cosine to the former, each less its mean over time: {similarity:.2f}",
        ),
    ]
    return table(
        f"{title}: timestamp embeddings every 50 ms, one sound of {seconds} s", rows, seconds
    )


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--size", choices=SIZES, default="vit-s", help="default: vit-s")
    add("--clips", type=int, nargs="+", help="a batch (default: 64 and 1 on CUDA, 2 on a CPU)")
    add("--seconds", type=int, default=30, help="of a clip (default: 30)")
    add("--timestamp-seconds", type=int, help="of their sound (default: 60, 10 on a CPU)")
    add("--tokens", type=float, nargs="+", default=[], help="also with these shares of the tokens")
    add("--bfloat16", action="store_true", help="also in bfloat16 on a CPU")
    add("--repeats", type=int, help="timed calls (default: 20 on CUDA, 5 on a CPU)")
    add("--threads", type=int, nargs="+", default=[1, 2], help="on a CPU (default: 1 2)")
    add("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except DeviceError as error:
        parser.error(str(error))
    on_cpu = device == "cpu"
    clips = options.clips or ([2] if on_cpu else [64, 1])
    repeats = options.repeats or (5 if on_cpu else 20)
    print(f"torch {torch.__version__}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    title, results = "CUDA", []
    if not on_cpu:
        # Shapes of all contestants are compiled in one process, more than torch allows at first.
        torch._dynamo.config.recompile_limit = 64
        print(torch.cuda.get_device_name())
    for threads in options.threads if on_cpu else [None]:
        if threads is not None:
            torch.set_num_threads(threads)
            title = f"CPU, {threads} thread{'s' * (threads > 1)}"
        for count in clips:
            results += compare(
                *(device, options.size, count, options.seconds, repeats, options.tokens),
                *(options.bfloat16, title),
            )
    seconds = options.timestamp_seconds or (10 if on_cpu else 60)
    results += compare_timestamps(device, options.size, seconds, title)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
