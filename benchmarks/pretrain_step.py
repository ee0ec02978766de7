"""Speed of the pre-training step against a literal textbook step.

    python -m benchmarks.pretrain_step            # what the README's table shows, a minute
    python -m benchmarks.pretrain_step --profile  # and where the time goes
    python -m benchmarks.pretrain_step --device cpu --size vit-ti --batch-size 8 --clips 16

Both steps train the same model on the same random store in one process, first checked to give the
same loss and gradients from the same masks. A step includes drawing clips, crops and masks, the
gather, both passes and the optimiser. On a CPU all is in float32 and plain torch. Every phase
prints as it goes; results also go to $OUT/pretrain_step.json and .md, or the current folder. The
exit status is 1 if a check failed: a loss or gradient that is not a number, or a float32 gradient
off by more than 1e-5.
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
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.literal_step import cut_crops, draw_tokens, literal_loss
from benchmarks.random_store import RandomStore
from myna_plugin.common.devices import DeviceError, choose_device
from myna_plugin.model.encoder import SIZES, EncoderConfig, MynaEncoder, initialise
from myna_plugin.pretraining.step.acceleration import kernels_for
from myna_plugin.pretraining.step.crops import ViewSampler
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from myna_plugin.pretraining.step.objective import ContrastiveObjective
from myna_plugin.pretraining.step.operations import KernelOperations, PlainOperations
from myna_plugin.pretraining.step.optimiser import build_optimiser
from myna_plugin.pretraining.step.training_step import TrainingStep

EXAMPLES = 411e6
"""Examples that the paper trains on: 500 epochs over 822,000 clips."""

START = time.perf_counter()


def say(text: str) -> None:
    print(f"[{time.perf_counter() - START:6.1f}s] {text}", flush=True)


class Bench:
    """What all phases share: the store, the model's settings, and the results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.store = RandomStore(options.clips, options.clip_frames, self.device)
        machine = describe_machine(self.device)
        self.results: dict[str, Any] = {"options": vars(options), "machine": machine}
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

    def objective(
        self, encoder: MynaEncoder, tile_rows: int | None = 1024, **settings: Any
    ) -> ContrastiveObjective:
        groups = len(self.options.patchings)
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


def describe_machine(device: torch.device) -> dict[str, str]:
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    versions["device"] = platform.machine()
    if device.type == "cuda":
        versions["device"] = torch.cuda.get_device_name(device)
    if kernels_for(torch.empty(0, device=device)) is not None:
        import triton

        versions["triton"] = triton.__version__
    return versions | {"date": time.strftime("%Y-%m-%d")}


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gb(device: torch.device) -> float:
    """Most memory taken since `free`; not a number on a CPU, which does not count it."""
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else math.nan


def time_calls(
    function: Callable[[], object], device: torch.device, calls: int, repeats: int = 5
) -> float:
    """Median milliseconds of a call, several in a row, after two to warm up."""
    function()
    function()
    times = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        synchronise(device)
        times.append((time.perf_counter() - start) / calls * 1e3)
    return statistics.median(times)


def measure_ceilings(bench: Bench) -> None:
    """Rates of one large matrix product and of one large copy."""
    side, numbers = (8192, 1 << 30) if bench.on_gpu else (512, 1 << 22)
    a, b = (torch.randn(side, side, device=bench.device, dtype=bench.dtype) for _ in range(2))
    rate = 2 * side**3 / time_calls(lambda: a @ b, bench.device, 10) / 1e9
    source = torch.randn(numbers, device=bench.device, dtype=bench.dtype)
    target = torch.empty_like(source)
    moved = 2 * source.element_size() * numbers
    copy = moved / time_calls(lambda: target.copy_(source), bench.device, 3) / 1e9
    bench.results["ceilings"] = {"matmul_tflops": rate, "copy_tbytes": copy, "side": side}
    say(f"matrix product {side}^3: {rate:.2f} TFLOP/s; copy: {copy:.2f} TB/s")
    bench.save()


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def check(bench: Bench, variants: dict[str, dict[str, Any]]) -> None:
    """Loss and gradients of every variant against the literal step, same masks."""
    torch.backends.cuda.matmul.allow_tf32 = False
    encoder = bench.encoder()
    views = bench.sampler(min(128, bench.options.batch_size)).draw(0)
    crops = cut_crops(bench.store.resident.frames, views.starts[0].flatten())
    tokens = {n: views.tokens[i].flatten(0, 1) for i, n in enumerate(bench.options.patchings)}
    expected = literal_loss(encoder, crops, tokens)
    wanted = flat_gradient(expected, encoder)
    rows = bench.results.setdefault("correctness", {})
    cases = {"the default, float32": {"dtype": torch.float32}, **variants}
    for name, settings in cases.items():
        dtype = settings.get("dtype", bench.dtype)
        loss = bench.objective(encoder, **{**settings, "dtype": dtype})(views).mean()
        gradient = flat_gradient(loss, encoder)
        of_loss = abs(loss.item() - expected.item()) / expected.item()
        errors = of_loss, relative_error(gradient, wanted)
        rows[name] = dict(zip(("loss_error", "gradient_error"), errors, strict=True))
        say(
            f"  {name}: relative error of the loss {errors[0]:.1e}, of the gradient {errors[1]:.1e}"
        )
        limit = 1e-5 if dtype == torch.float32 else math.inf
        if not all(math.isfinite(error) and error <= limit for error in errors):
            bench.fail(f"{name}: errors {errors} exceed {limit:g}")
    bench.save()


def flat_gradient(loss: Tensor, encoder: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(encoder.parameters()))])


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


def time_steps(take: Step, device: torch.device, steps: int, repeats: int, warm: int) -> Timing:
    """Wall-clock time of steps, all of their work included."""
    begin = time.perf_counter()
    for number in range(warm):
        take(number)
    synchronise(device)
    setup = time.perf_counter() - begin
    times = []
    for repeat in range(repeats):
        start = time.perf_counter()
        for number in range(steps):
            loss = take(warm + repeat * steps + number)
        synchronise(device)
        times.append((time.perf_counter() - start) / steps * 1e3)
        require_finite(loss)
    return Timing(statistics.median(times), max(times) - min(times), peak_gb(device), setup)


def our_step(
    bench: Bench, settings: dict[str, Any], batch_size: int, graph: bool | None = None
) -> Step:
    objective = bench.objective(bench.encoder(), dtype=bench.dtype, **settings)
    optimiser = build_optimiser("adam", objective)
    step = TrainingStep(objective, optimiser, bench.on_gpu if graph is None else graph)
    sampler = bench.sampler(batch_size)
    return lambda number: step(sampler.draw(number))


def literal_step(bench: Bench, batch_size: int) -> Step:
    encoder = bench.encoder()
    optimiser = torch.optim.Adam(encoder.parameters(), lr=3e-4, weight_decay=1e-5)
    sampler = bench.sampler(batch_size)
    frames = bench.store.resident.frames

    def take(number: int) -> Tensor:
        views = sampler.draw(number)
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
    free(bench.device)
    options = bench.options
    base = torch.cuda.memory_allocated() / 1e9 if bench.on_gpu else math.nan
    literal = name == "literal"
    timing = time_steps(
        make(),
        bench.device,
        min(3, options.steps) if name in ("literal", "plain torch") else options.steps,
        1 if literal else options.repeats,
        2 if literal else 6,
    )
    rate = bench.flops(options.batch_size) / timing.ms / 1e9
    fraction = rate / bench.results["ceilings"]["matmul_tflops"]
    row = dataclasses.asdict(timing) | {
        "examples_per_s": options.batch_size / timing.ms * 1e3,
        "tflops": rate,
        "fraction": fraction,
        "hours": EXAMPLES / options.batch_size * timing.ms / 3.6e6,
        "store_gb": base,
    }
    bench.results.setdefault("steps", {})[name] = row
    say(
        f"{name}: {timing.ms:.2f} ms (± {timing.spread:.2f}), {row['examples_per_s']:,.0f} "
        f"examples/s, {100 * fraction:.1f} % of the ceiling, {timing.memory_gb:.1f} GB, "
        f"{row['hours']:.1f} h for 411 M, set up in {timing.setup_s:.0f} s"
    )
    bench.save()


def profile(bench: Bench, name: str, settings: dict[str, Any], steps: int = 3) -> None:
    """Milliseconds of every kernel of a step."""
    free(bench.device)
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


def table_of(results: dict[str, Any]) -> str:
    """Markdown of what has been measured so far."""
    machine, lines = results["machine"], []
    lines += [f"{machine['device']}, torch {machine['torch']}, {machine['date']}", ""]
    if "ceilings" in results:
        ceilings = results["ceilings"]
        lines += [
            f"Matrix ceiling {ceilings['matmul_tflops']:.2f} TFLOP/s ({ceilings['side']}³), "
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
            times = f"{literal / row['ms']:.1f}" if literal else ""
            lines.append(
                f"| {name} | {row['ms']:.2f} ± {row['spread'] / 2:.2f} "
                f"| {row['examples_per_s']:,.0f} | {times} | {100 * row['fraction']:.1f} % "
                f"| {row['memory_gb'] - row['store_gb']:.1f} | {row['hours']:.1f} |"
            )
        lines.append("")
    if results.get("failures"):
        lines += ["", "CHECKS FAILED:", *results["failures"]]
    return "\n".join(lines) + "\n"


def device_of(text: str) -> str:
    """For argparse: see `choose_device`."""
    try:
        return choose_device(text)
    except DeviceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What is trained, and on which device."""
    add = parser.add_argument
    add("--device", type=device_of, default="auto", help="auto, cpu or cuda")
    add("--size", choices=SIZES, default="vit-s")
    add("--patchings", nargs="+", default=["square", "vertical"])
    add("--projector", nargs="*", type=int, default=[384, 128])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--clips", type=int, default=50_000, help="of the random store")
    parser.add_argument("--clip-frames", type=int, default=313, help="frames of each: ten seconds")
    parser.add_argument("--steps", type=int, default=15, help="a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="kernels of the fastest variant")
    parser.add_argument("--no-literal", action="store_true", help="leave the literal step out")
    options = parser.parse_args()
    if options.device == "cpu" and options.profile:
        parser.error("--profile needs a CUDA device")
    return options


def main() -> None:
    options = parse_arguments()
    bench = Bench(options)
    say(f"{bench.results['machine']}, store of {options.clips:,} clips")
    measure_ceilings(bench)
    time_everything(bench)
    print("\n" + table_of(bench.results), flush=True)
    if bench.failures:
        sys.exit(1)


def time_everything(bench: Bench) -> None:
    options = bench.options
    variants: dict[str, dict[str, Any]] = {"plain torch": {"operations": PlainOperations()}}
    kernels = kernels_for(torch.empty(0, device=bench.device))
    if kernels is not None:
        variants["kernels"] = {"operations": KernelOperations(kernels)}
    check(bench, variants)
    for name, settings in variants.items():
        time_variant(bench, name, partial(our_step, bench, settings, options.batch_size))
    if not options.no_literal:
        time_variant(bench, "literal", partial(literal_step, bench, options.batch_size))
    if options.profile:
        fastest = min(variants, key=lambda name: bench.results["steps"][name]["ms"])
        profile(bench, fastest, variants[fastest])


if __name__ == "__main__":
    main()
