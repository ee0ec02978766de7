"""Speed of the pre-training step against a literal textbook step, on one GPU.

    python benchmarks/pretrain_step.py                   # what the README's table shows, a minute
    python benchmarks/pretrain_step.py --parts --profile # products, kernels, and where time goes
    python benchmarks/pretrain_step.py --largest-batch   # at most --seconds

Both steps train the same model on the same random store in one process, first checked to give the
same loss and gradients from the same masks. A step includes drawing clips, crops and masks, the
gather, both passes and the optimiser. Every phase prints as it goes; results also go to
$OUT/pretrain_step.json and .md, or the current folder. The exit status is 1 if a check failed: a
loss or gradient that is not a number, or a float32 gradient off by more than 1e-5.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from literal_step import cut_crops, draw_tokens, literal_loss

from myna_plugin.model.encoder import SIZES, EncoderConfig, MynaEncoder, initialise
from myna_plugin.pretraining.step.acceleration import kernels_for
from myna_plugin.pretraining.step.crops import ResidentFrames, Views, ViewSampler
from myna_plugin.pretraining.step.fused import KernelOperations, PlainOperations
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from myna_plugin.pretraining.step.objective import ContrastiveObjective
from myna_plugin.pretraining.step.optimiser import build_adam
from myna_plugin.pretraining.step.training_step import TrainingStep

EXAMPLES = 411e6
"""Examples that the paper trains on: 500 epochs over 822,000 clips."""

START = time.perf_counter()


def say(text: str = "") -> None:
    print(f"[{time.perf_counter() - START:6.1f}s] {text}" if text else "", flush=True)


class RandomStore:
    """Clips of random mel power, drawn on the device and kept there."""

    def __init__(self, clips: int, frames: int, device: torch.device) -> None:
        self.lengths = np.full(clips, frames)
        self.offsets = np.arange(clips, dtype=np.int64) * frames
        self.resident = ResidentFrames.__new__(ResidentFrames)
        self.resident.frames = torch.empty(clips * frames, 128, dtype=torch.float16, device=device)
        for part in self.resident.frames.split(1 << 22):
            noise = torch.randn(part.shape, device=device, dtype=torch.float16)
            # Beyond e^11 float16 knows no numbers.
            part.copy_(noise.mul_(2).clamp_(-10, 10).exp_())
            # Sums and products of NaN are faster than those of numbers.
            assert part.isfinite().all(), "the random store holds a value that is not finite"


class Bench:
    """What all phases share: the store, the model's settings, and the results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device("cuda")
        self.store = RandomStore(options.clips, options.clip_frames, self.device)
        self.results: dict[str, Any] = {"options": vars(options), "machine": describe_machine()}
        self.failures: list[str] = []

    def encoder(self) -> MynaEncoder:
        config = EncoderConfig.of_size(
            self.options.size,
            patchings=tuple(self.options.patchings),
            projector=tuple(self.options.projector),
        )
        return initialise(MynaEncoder(config), 0).to(self.device)

    def sampler(self, batch_size: int) -> ViewSampler:
        return ViewSampler(
            self.store.offsets,
            self.store.lengths,
            batch_size=batch_size,
            patchings=self.options.patchings,
            device=self.device,
        )

    def objective(self, encoder: MynaEncoder, **settings: Any) -> ContrastiveObjective:
        groups = len(self.options.patchings)
        tile_rows = settings.pop("tile_rows", 1024)
        loss = ContrastiveLoss(tile_rows=tile_rows, n_groups=groups).to(self.device)
        return ContrastiveObjective(encoder, loss, self.store.resident, **settings)

    def flops(self, batch_size: int) -> float:
        """Of the products of one step: 6 per weight of the blocks and token."""
        size = SIZES[self.options.size]
        weights = size.depth * (4 * 64 * size.num_heads + 2 * size.mlp_dim) * size.embed_dim
        return 6.0 * weights * batch_size * 2 * len(self.options.patchings) * 5

    def fail(self, reason: str) -> None:
        say(f"CHECK FAILED: {reason}")
        self.failures.append(reason)
        self.results["failures"] = self.failures

    def save(self) -> None:
        folder = Path(os.environ.get("OUT", "."))
        text = json.dumps(self.results, indent=1, default=str)
        (folder / "pretrain_step.json").write_text(text)
        (folder / "pretrain_step.md").write_text(table_of(self.results))


def describe_machine() -> dict[str, str]:
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    versions["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    if kernels_for(torch.empty(0, device="cuda")) is not None:
        import triton

        versions["triton"] = triton.__version__
    return versions | {"date": time.strftime("%Y-%m-%d")}


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


# --------------------------------------------------------------------------------------
# Ceilings
# --------------------------------------------------------------------------------------


def time_graph(function: Callable[[], object], calls: int = 5, repeats: int = 5) -> float:
    """Median milliseconds of a call, replayed from a CUDA graph of several."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / calls)
    return statistics.median(times)


def measure_ceilings(bench: Bench) -> None:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * 8192**3 / time_graph(lambda: a @ b, calls=10) / 1e9
    source = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copy = 4 * (1 << 30) / time_graph(lambda: target.copy_(source), calls=3) / 1e9
    bench.results["ceilings"] = {"matmul_tflops": rate, "copy_tbytes": copy}
    say(f"matrix product 8192^3 in bf16: {rate:.0f} TFLOP/s; copy: {copy:.2f} TB/s")
    bench.save()


# --------------------------------------------------------------------------------------
# Correctness
# --------------------------------------------------------------------------------------


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def check(bench: Bench, variants: dict[str, dict[str, Any]]) -> None:
    """Loss and gradients of every variant against the literal step, same masks."""
    torch.backends.cuda.matmul.allow_tf32 = False
    encoder = bench.encoder()
    views = bench.sampler(128).draw(0)
    crops = cut_crops(bench.store.resident.frames, views.starts[0].flatten())
    tokens = {n: views.tokens[i].flatten(0, 1) for i, n in enumerate(bench.options.patchings)}
    expected = literal_loss(encoder, crops, tokens)
    wanted = flat_gradient(expected, encoder)
    rows = {}
    cases = {"kernels, float32": {}, **variants}
    for name, settings in cases.items():
        settings = {k: v for k, v in settings.items() if k not in ("graph", "compile")}
        dtype = torch.float32 if name.endswith("float32") else torch.bfloat16
        try:
            loss = bench.objective(encoder, dtype=dtype, **settings)(views).mean()
            gradient = flat_gradient(loss, encoder)
        except Exception as error:  # noqa: BLE001 - one variant's failure must not end the rest
            say(f"  {name}: FAILED, {type(error).__name__}: {str(error)[:300]}")
            rows[name] = {"error": repr(error)[:500]}
            bench.fail(f"{name}: {type(error).__name__}")
            continue
        rows[name] = {
            "loss_error": abs(loss.item() - expected.item()) / expected.item(),
            "gradient_error": relative_error(gradient, wanted),
        }
        say(
            f"  {name}: relative error of the loss {rows[name]['loss_error']:.1e}, "
            f"of the gradient {rows[name]['gradient_error']:.1e}"
        )
        errors = tuple(rows[name].values())
        limit = 1e-5 if dtype == torch.float32 else math.inf
        if not all(math.isfinite(error) and error <= limit for error in errors):
            bench.fail(f"{name}: errors {errors} exceed {limit:g}")
    bench.results.setdefault("correctness", {}).update(rows)
    bench.save()


def flat_gradient(loss: Tensor, encoder: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(encoder.parameters()))])


# --------------------------------------------------------------------------------------
# Whole steps
# --------------------------------------------------------------------------------------


Step = Callable[[int], Tensor]
"""Takes the step of that number and gives its loss."""


def require_finite(loss: Tensor) -> None:
    """FloatingPointError unless a loss is finite: other speeds are not those of training."""
    if not loss.isfinite().all():
        raise FloatingPointError(f"the loss is {loss.tolist()}")


@dataclasses.dataclass
class Timing:
    """Of one variant: milliseconds a step (median of repeats) with their spread, and memory."""

    ms: float
    spread: float
    memory_gb: float
    setup_s: float


def time_steps(take: Step, steps: int, repeats: int, warm: int) -> Timing:
    """Wall-clock time of steps, all of their work included."""
    begin = time.perf_counter()
    for number in range(warm):
        take(number)
    torch.cuda.synchronize()
    setup = time.perf_counter() - begin
    times = []
    for repeat in range(repeats):
        start = time.perf_counter()
        for number in range(steps):
            loss = take(warm + repeat * steps + number)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / steps * 1e3)
        require_finite(loss)
    memory = torch.cuda.max_memory_allocated() / 1e9
    return Timing(statistics.median(times), max(times) - min(times), memory, setup)


def our_step(bench: Bench, settings: dict[str, Any], batch_size: int) -> Step:
    settings = dict(settings)
    graph, compiled = settings.pop("graph", True), settings.pop("compile", False)
    objective = bench.objective(bench.encoder(), dtype=torch.bfloat16, **settings)
    if compiled:
        objective.fused = CompiledTransformer(objective.encoder.transformer)
    step = TrainingStep(objective, build_adam(objective.encoder.parameters()), graph)
    sampler = bench.sampler(batch_size)
    return lambda number: step(sampler.draw(number))


class CompiledTransformer:
    """The transformer as a user would speed it up: autocast, torch.compile, attention by sums."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.copies = self
        self.block = torch.compile(compiled_block)

    def refresh(self) -> None:
        """Autocast makes its own copies."""

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            for module in self.transformer.layers:
                x = self.block(x, module)
            return self.transformer.norm(x).to(torch.bfloat16)


def compiled_block(x: Tensor, module: nn.Module) -> Tensor:
    attention, feed_forward = module[0], module[1]
    sequences, length, _ = x.shape
    qkv = attention.to_qkv(attention.norm(x)).view(sequences, length, 3, attention.num_heads, 64)
    query, key, value = qkv.unbind(2)
    scores = (query[:, :, None] * key[:, None]).sum(-1, dtype=torch.float32) / 8
    weights = scores.softmax(2).to(value.dtype)
    mixed = (weights[..., None] * value[:, None]).sum(2)
    x = x + attention.to_out(mixed.flatten(2))
    return x + feed_forward(x)


def literal_step(bench: Bench, batch_size: int) -> Step:
    encoder = bench.encoder()
    optimiser = torch.optim.Adam(encoder.parameters(), lr=3e-4, weight_decay=1e-5)
    sampler = bench.sampler(batch_size)
    frames = bench.store.resident.frames

    def take(number: int) -> Tensor:
        views: Views = sampler.draw(number)
        crops = cut_crops(frames, views.starts[0].flatten())
        tokens = {
            patching: draw_tokens(len(crops), 48, 5, bench.device)
            for patching in bench.options.patchings
        }
        optimiser.zero_grad()
        loss = literal_loss(encoder, crops, tokens)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return take


def time_variant(bench: Bench, name: str, make: Callable[[], Step]) -> None:
    free()
    base = torch.cuda.memory_allocated() / 1e9
    literal = name == "literal"
    slow = name in ("literal", "plain torch")
    try:
        take = make()
        timing = time_steps(
            take,
            3 if slow else bench.options.steps,
            1 if literal else 3,
            2 if literal else 6,
        )
    except Exception as error:  # noqa: BLE001 - one variant's failure must not end the rest
        say(f"{name}: FAILED, {type(error).__name__}: {str(error)[:400]}")
        bench.results.setdefault("steps", {})[name] = {"error": repr(error)[:800]}
        return
    batch = bench.options.batch_size
    rate = bench.flops(batch) / timing.ms / 1e9
    fraction = rate / bench.results["ceilings"]["matmul_tflops"]
    row = dataclasses.asdict(timing) | {
        "examples_per_s": batch / timing.ms * 1e3,
        "tflops": rate,
        "fraction": fraction,
        "hours": EXAMPLES / batch * timing.ms / 3.6e6,
        "store_gb": base,
    }
    bench.results.setdefault("steps", {})[name] = row
    say(
        f"{name}: {timing.ms:.2f} ms (± {timing.spread:.2f}), {row['examples_per_s']:,.0f} "
        f"examples/s, {100 * fraction:.1f} % of the ceiling, {timing.memory_gb:.1f} GB, "
        f"{row['hours']:.1f} h for 411 M, set up in {timing.setup_s:.0f} s"
    )
    bench.save()


# --------------------------------------------------------------------------------------
# Products and kernels one by one
# --------------------------------------------------------------------------------------

NORM_BACKWARD_CANDIDATES = [
    (2, 1, 12, 1), (1, 1, 16, 1), (4, 1, 8, 1), (2, 1, 8, 3), (1, 1, 12, 3), (2, 2, 8, 1),
    (4, 4, 4, 1), (4, 4, 4, 3),
]  # fmt: skip
GELU_BACKWARD_CANDIDATES = [(4, 4, 8, 1), (2, 4, 12, 1), (8, 4, 4, 1), (8, 8, 4, 1)]
TILE_CANDIDATES = [(16, 3, 1), (32, 6, 2)]


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def time_parts(bench: Bench) -> None:
    """Products and memory-bound kernels alone.

    Sets the kernels' fastest settings for the rest of the run.
    """
    kernels = kernels_for(torch.empty(0, device="cuda"))
    shape = SIZES[bench.options.size]
    dim, inner, mlp = shape.embed_dim, 64 * shape.num_heads, shape.mlp_dim
    n_rows = bench.options.batch_size * 2 * len(bench.options.patchings) * 5
    rows: list[dict[str, Any]] = []

    def timed(name: str, call: Callable[[], object], unit: str, amount: float) -> float:
        """`amount` in floating-point operations or bytes."""
        try:
            ms = time_graph(call)
        except Exception as error:  # noqa: BLE001 - one part's failure must not end the rest
            torch.cuda.synchronize()
            say(f"  {name}: {type(error).__name__} {str(error)[:150]}")
            rows.append({"part": name, "error": repr(error)[:300]})
            return float("inf")
        rate = amount / ms / 1e9
        rows.append({"part": name, "us": 1e3 * ms, unit: rate})
        say(f"  {name}: {1e3 * ms:.0f} us, {rate:.{0 if unit[0] == 'T' else 2}f} {unit}")
        return ms

    def product(name: str, call: Callable[[], object], flops: float) -> None:
        timed(name, call, "TFLOP/s", flops)

    for name, n_in, n_out in (
        ("to_qkv", dim, 3 * inner),
        ("to_out", inner, dim),
        ("up", dim, mlp),
        ("down", mlp, dim),
    ):
        x, dy, w = random(n_rows, n_in), random(n_rows, n_out), random(n_out, n_in)
        calls: dict[str, Callable[[], object]] = {
            f"{name}": lambda x=x, w=w: x @ w.T,
            f"{name} input gradient": lambda dy=dy, w=w: dy @ w,
            f"{name} weight gradient": lambda dy=dy, x=x: torch.mm(
                dy.T, x, out_dtype=torch.float32
            ),
        }
        for label, call in calls.items():
            product(label, call, 2 * n_rows * n_in * n_out)

    def moved(name: str, numbers: int, call: Callable[[], object]) -> float:
        return timed(name, call, "tbytes/s", 2 * numbers)

    x, y, z = (random(n_rows, dim) for _ in range(3))
    h, g = random(n_rows, mlp), random(n_rows, mlp)
    qkv, mixed = random(n_rows, 3 * inner), random(n_rows, inner)
    vector = random(dim, dtype=torch.float32)
    mean = random(n_rows, dtype=torch.float32)
    rstd = mean.exp()
    u = n_rows * dim
    moved("norm", 2 * u, lambda: kernels.add_norm(x, None, None, vector, vector, 1e-5))
    moved("add_norm", 4 * u, lambda: kernels.add_norm(x, y, vector, vector, vector, 1e-5))

    def go_back() -> None:
        partial = x.new_empty(3, kernels.norm_programs(x), dim, dtype=torch.float32)
        kernels.norm_backward(x, y, mean, rstd, vector, z, partial)

    for name, candidates, numbers, call in (
        ("NORM_BACKWARD", NORM_BACKWARD_CANDIDATES, 4 * u, go_back),
        (
            "GELU_BACKWARD", GELU_BACKWARD_CANDIDATES, 3 * n_rows * mlp,
            lambda: kernels.gelu_backward(g, h),
        ),
    ):  # fmt: skip
        best = []
        for candidate in candidates:
            settings = kernels.RowSettings(*candidate)
            setattr(kernels, name, settings)
            best.append((moved(f"{name.lower()} {candidate}", numbers, call), candidate))
        fastest = min(best)[1]
        setattr(kernels, name, kernels.RowSettings(*fastest))
        say(f"  {name} = RowSettings{fastest}")
    moved("gelu", 2 * n_rows * mlp, lambda: kernels.gelu(h))
    heads = shape.num_heads
    for tile in TILE_CANDIDATES:
        moved(
            f"attention {tile}", 4 * n_rows * inner,
            lambda tile=tile: kernels.attention(qkv, 5, heads, tile),
        )  # fmt: skip
        moved(
            f"attention_backward {tile}", 7 * n_rows * inner,
            lambda tile=tile: kernels.attention_backward(qkv, mixed, 5, heads, tile),
        )  # fmt: skip

    pairs, width = bench.options.batch_size, 128
    unit = nn.functional.normalize(random(2, 2 * pairs, width, dtype=torch.float32), dim=-1)
    half, weight = unit.bfloat16(), random(2, 2 * pairs, dtype=torch.float32)
    flops = 2 * 2 * (2 * pairs) ** 2 * width
    for name, factor, call in (
        ("loss", 1, lambda: kernels.log_denominators(half, half, 0.1, False, 0)),
        (
            "loss backward", 2,
            lambda: kernels.log_denominators_backward(half, half, weight, weight, 0.1, False, 0),
        ),
    ):  # fmt: skip
        product(name, call, factor * flops)

    sampler = bench.sampler(pairs)
    views = sampler.draw(0)
    resident = bench.store.resident
    for group, patching in enumerate(bench.options.patchings):
        starts, tokens = views.starts[group].flatten(), views.tokens[group].flatten(0, 1)
        moved(
            f"gather {patching}", 2 * tokens.numel() * 256,
            lambda starts=starts, tokens=tokens, patching=patching: resident.patches(
                starts, tokens, patching, dtype=torch.bfloat16, norm=True
            ),
        )  # fmt: skip
    start = time.perf_counter()
    for number in range(20):
        sampler.draw(number)
    queued = time.perf_counter() - start
    torch.cuda.synchronize()
    total = time.perf_counter() - start
    say(f"  drawing views: {50 * queued:.2f} ms to queue, {50 * total:.2f} ms to run")
    rows.append({"part": "drawing views", "us": 5e4 * total})
    bench.results["parts"] = rows
    bench.save()


# --------------------------------------------------------------------------------------
# Profile, largest batch
# --------------------------------------------------------------------------------------


def profile(bench: Bench, name: str, settings: dict[str, Any], steps: int = 3) -> None:
    free()
    take = our_step(bench, settings, bench.options.batch_size)
    for number in range(6):
        take(number)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as trace:
        for number in range(steps):
            take(6 + number)
        torch.cuda.synchronize()
    rows = [
        {
            "kernel": event.key[:110],
            "calls": event.count / steps,
            "ms": event.self_device_time_total / steps / 1e3,
        }
        for event in trace.key_averages()
        if event.self_device_time_total > 0
    ]
    rows.sort(key=lambda row: -row["ms"])
    total = sum(row["ms"] for row in rows)
    say(f"kernels of one step of '{name}', {total:.2f} ms in all:")
    for row in rows[:45]:
        print(f"  {row['ms']:7.3f} ms {row['calls']:6.1f} x  {row['kernel']}", flush=True)
    bench.results["profile"] = {"variant": name, "total_ms": total, "kernels": rows[:80]}
    bench.save()


def fits(bench: Bench, batch_size: int, settings: dict[str, Any] | None) -> tuple[float, float]:
    """Seconds and peak GB of a step of that size; inf where it does not fit."""
    free()
    try:
        if settings is None:
            take = literal_step(bench, batch_size)
        else:
            take = our_step(bench, {**settings, "graph": False}, batch_size)
        take(0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = take(1)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        require_finite(loss)
        return seconds, torch.cuda.max_memory_allocated() / 1e9
    except torch.OutOfMemoryError:
        return float("inf"), float("inf")


def largest_batch(
    bench: Bench, name: str, settings: dict[str, Any] | None, first: int, deadline: float
) -> None:
    """The largest of 1, 1.5, 2, 3, 4, 6, ... times 1,024 that fits, upwards from `first`."""
    sizes = sorted(part << power for power in range(9, 19) for part in (2, 3))
    sizes = [size for size in sizes if size <= len(bench.store.lengths)]
    at, too_large = sizes.index(first), len(sizes)
    best, why = None, "the store"
    while 0 <= at < too_large:
        if time.perf_counter() - START > deadline:
            why = "time"
            break
        seconds, memory = fits(bench, sizes[at], settings)
        if math.isfinite(seconds):
            best = sizes[at], memory, sizes[at] / seconds
            at += 1
        else:
            too_large, why = at, "memory"
            at -= best is None
    size, memory, rate = best or (0, 0.0, 0.0)
    say(f"{name}: {size:,} ({memory:.0f} GB, {rate:,.0f} examples/s), limited by {why}")
    row = {"batch": size, "memory_gb": memory, "examples_per_s": rate, "limit": why}
    bench.results.setdefault("largest_batch", {})[name] = row
    bench.save()


# --------------------------------------------------------------------------------------


def table_of(results: dict[str, Any]) -> str:
    """Markdown of what has been measured so far."""
    machine, lines = results["machine"], []
    lines += [f"{machine['gpu']}, torch {machine['torch']}, {machine['date']}", ""]
    if "ceilings" in results:
        ceilings = results["ceilings"]
        lines += [
            f"Matrix ceiling {ceilings['matmul_tflops']:.0f} TFLOP/s (bf16, 8192³), "
            f"copy {ceilings['copy_tbytes']:.2f} TB/s.",
            "",
        ]
    if "steps" in results:
        lines += [
            "| step | ms | examples/s | × literal | of ceiling | peak GB | hours for 411 M |",
            "|---|---|---|---|---|---|---|",
        ]
        literal = results["steps"].get("literal", {}).get("ms")
        for name, row in results["steps"].items():
            if "error" in row:
                lines.append(f"| {name} | failed | | | | | |")
                continue
            times = f"{literal / row['ms']:.1f}" if literal else ""
            lines.append(
                f"| {name} | {row['ms']:.2f} ± {row['spread'] / 2:.2f} "
                f"| {row['examples_per_s']:,.0f} | {times} | {100 * row['fraction']:.1f} % "
                f"| {row['memory_gb'] - row['store_gb']:.1f} | {row['hours']:.1f} |"
            )
        lines.append("")
    if "largest_batch" in results:
        lines += [
            "| largest batch | examples | peak GB | examples/s | limited by |",
            "|---|---|---|---|---|",
        ]
        for name, row in results["largest_batch"].items():
            lines.append(
                f"| {name} | {row['batch']:,} | {row['memory_gb']:.0f} "
                f"| {row['examples_per_s']:,.0f} | {row['limit']} |"
            )
    if results.get("failures"):
        lines += ["", "CHECKS FAILED:", *results["failures"]]
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--size", choices=SIZES, default="vit-s")
    parser.add_argument("--patchings", nargs="+", default=["square", "vertical"])
    parser.add_argument("--projector", nargs="*", type=int, default=[384, 128])
    parser.add_argument("--clips", type=int, default=50_000, help="of the random store")
    parser.add_argument("--clip-frames", type=int, default=313, help="frames of each: ten seconds")
    parser.add_argument("--steps", type=int, default=15, help="a repeat; 3 repeats are timed")
    parser.add_argument("--parts", action="store_true", help="time every product and kernel alone")
    parser.add_argument("--profile", action="store_true", help="kernels of the fastest variant")
    parser.add_argument("--compile", action="store_true", help="time a torch.compile variant too")
    parser.add_argument("--largest-batch", action="store_true", help="only search that")
    parser.add_argument("--seconds", type=float, default=130, help="for --largest-batch")
    parser.add_argument("--no-literal", action="store_true", help="leave the literal step out")
    return parser.parse_args()


def search_largest_batches(bench: Bench) -> None:
    options = bench.options
    runs = [
        ("literal", None, 8192),
        ("ours, loss at once", {"tile_rows": None}, 16384),
        ("ours", {}, 32768),
        ("ours, recomputed", {"recompute": True}, 65536),
    ]
    # What matters most first, in case time runs out.
    for number, (name, settings, first) in enumerate(reversed(runs)):
        for patchings in (["square", "vertical"], ["square"]):
            options.patchings = patchings
            label = "base" if len(patchings) == 1 else "hybrid"
            deadline = options.seconds * (0.4, 0.6, 0.8, 1.0)[number]
            largest_batch(bench, f"{label}, {name}", settings, first, deadline)


def main() -> None:
    options = parse_arguments()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device")
    if options.largest_batch:
        options.clips, options.clip_frames = 262_144, 96
    bench = Bench(options)
    say(f"{bench.results['machine']}, store of {options.clips:,} clips")
    measure_ceilings(bench)
    if options.largest_batch:
        search_largest_batches(bench)
    else:
        time_everything(bench)
    print("\n" + table_of(bench.results), flush=True)
    if bench.failures:
        sys.exit(1)


def time_everything(bench: Bench) -> None:
    options = bench.options
    kernels = kernels_for(torch.empty(0, device="cuda"))
    variants: dict[str, dict[str, Any]] = {"plain torch": {"operations": PlainOperations()}}
    if kernels is not None:
        if options.parts:
            time_parts(bench)
            free()
        variants["kernels"] = {"operations": KernelOperations(kernels)}
    check(bench, variants)
    for name, settings in variants.items():
        time_variant(bench, name, lambda s=settings: our_step(bench, s, options.batch_size))
    if not options.no_literal:
        time_variant(bench, "literal", lambda: literal_step(bench, options.batch_size))
    steps = bench.results["steps"]
    done = {n: steps[n]["ms"] for n in variants if "ms" in steps.get(n, {})}
    fastest = min(done, key=lambda name: done[name])
    say(f"fastest: {fastest}")
    if options.profile:
        profile(bench, fastest, variants[fastest])
    if options.compile:
        name = "torch.compile, attention by sums"
        settings = {"operations": PlainOperations(), "compile": True}
        time_variant(bench, name, lambda: our_step(bench, settings, options.batch_size))


if __name__ == "__main__":
    main()
