"""Whether other matrix products would make a block of the training step faster.

    python -m benchmarks.block_products                      # one H200, two minutes
    python -m benchmarks.block_products --device cpu --tokens 256

Three parts of a block are timed as the step has them (cuBLAS in bfloat16 and our Triton kernels)
and with other products: fp8 (e4m3, one scale a tensor, known beforehand) with kernels that write
the fp8 copy beside the bfloat16 one that the weight gradient reads; the same with the product's
result in fp8 too; and quack-kernels, whose products have GELU, its gradient or the residual in
their epilogue, if it is installed. Each is held against float64 first. Last comes a sum over a
block, in which every product that is not in the three parts is bfloat16 or fp8 like the rest.

Numbers are random; the cache is flushed before each measurement; contestants take turns. What
fails is told in its row. Quantising weights is not counted. The table also goes to
$OUT/block_products.md, or the current folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.block_contestants import (
    WIDTH,
    Call,
    Inputs,
    Narrow,
    PlainProducers,
    Results,
    by_quack,
    in_fp8,
    multiply,
    todays,
)
from benchmarks.pretrain_step import describe_machine, device_of, relative_error, say
from myna_plugin.pretraining.step.acceleration import kernels_for
from myna_plugin.pretraining.step.operations import choose_operations

BLOCKS = 12
TODAY = "today"
TASKS = {
    "a": "up + GELU",
    "b": "gradient through down and GELU, bias gradient",
    "c": "down + residual + norm",
}
PRODUCTS = {"qkv": (384, 1152), "out": (384, 384), "up": (384, 1536), "down": (1536, 384)}
COUNTED = ("up forward", "down forward", "down input gradient")
"""Products that the three tasks hold."""

COPIES = "fp8 copies of dx, attention's result and the gradients of both and of qkv"
COPIED = 3 * WIDTH + 1152
"""Bytes a token of what kernels outside the three tasks would write besides."""


def errors_of(found: Results, wanted: dict[str, Tensor]) -> str:
    """Relative error of every result."""
    return ", ".join(
        f"{name} {relative_error(value.double(), wanted[name.removesuffix('8')]):.1e}"
        for name, value in found.items()
    )  # fmt: skip


class Clock:
    """Times calls in turns, each after the cache was flushed."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds
        # Its filling also outlasts the launching of the call behind it.
        size = 1 << 30 if device.type == "cuda" else 1 << 20
        self.flush = torch.empty(size, dtype=torch.int8, device=device)

    def _once(self, call: Callable[[], object]) -> float:
        self.flush.zero_()
        if self.device.type != "cuda":
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e6
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3

    def __call__(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Median microseconds of each."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(self.rounds + 2):
            for name, call in calls.items():
                taken = self._once(call)
                if number >= 2:
                    times[name].append(taken)
        return {name: statistics.median(taken) for name, taken in times.items()}


@dataclass
class Bench:
    """What is measured so far.

    Attributes:
        times: microseconds of a contestant's task, by both names.
        products: microseconds of a product, by its name and dtype.
    """

    inputs: Inputs
    clock: Clock
    until: float
    rows: list[str] = field(default_factory=list)
    times: dict[tuple[str, str], float] = field(default_factory=dict)
    products: dict[tuple[str, str], float] = field(default_factory=dict)

    def row(self, *cells: str) -> None:
        self.rows.append("| " + " | ".join(cells) + " |")
        print(self.rows[-1], flush=True)

    def run(self, contestants: dict[str, Callable[[], dict[str, Call]]]) -> None:
        """Check, time and tell contestants, the first of which is today's."""
        made: dict[str, dict[str, Call]] = {}
        for name, make in contestants.items():
            try:
                made[name] = make()
            except Exception as error:  # noqa: BLE001  (told in its row)
                self.row("all", name, *_told(error))
        for task in TASKS:
            self._run_task(task, {name: calls[task] for name, calls in made.items()})

    def _run_task(self, task: str, calls: dict[str, Call]) -> None:
        errors, good = {}, {}
        for name, call in calls.items():
            try:
                if time.monotonic() > self.until:
                    raise TimeoutError("not run: --seconds-limit")
                errors[name] = errors_of(call(), self.inputs.wanted[task])
                good[name] = call
            except Exception as error:  # noqa: BLE001  (told in its row)
                self.row(f"{task}: {TASKS[task]}", name, *_told(error))
        try:
            times = self.clock(good)
        except Exception as error:  # noqa: BLE001  (told in its row)
            self.row(f"{task}: {TASKS[task]}", "all", *_told(error))
            return
        for name, taken in times.items():
            ratio = f"{taken / times[TODAY]:.3f}" if TODAY in times else ""
            self.row(f"{task}: {TASKS[task]}", name, f"{taken:.1f}", ratio, errors[name])
            self.times.setdefault((task, name), taken)

    def quickest(self, task: str, name: str) -> float:
        """Microseconds of a contestant's task, or of its best tile; KeyError if there are none."""
        fits = [
            taken
            for (of, who), taken in self.times.items()
            if of == task and (who == name or who.startswith(f"{name}, tile"))
        ]
        if not fits:
            raise KeyError(f"task {task}")
        return min(fits)

    def other_products(self, dtype: str) -> float:
        """Microseconds of a block's products that are in no task; weight gradients in bfloat16."""
        taken = 0.0
        for name in PRODUCTS:
            for kind in ("forward", "input gradient", "weight gradient"):
                if f"{name} {kind}" not in COUNTED:
                    of = "bf16" if kind == "weight gradient" else dtype
                    taken += self.products[f"{name} {kind}", of]
        return taken + (self.products[COPIES, dtype] if dtype == "fp8" else 0.0)


def _told(error: Exception) -> tuple[str, str, str]:
    """Cells of a row without a measurement."""
    text = " ".join(str(error).split()).replace("|", "/")[:300]
    return "", "", f"{type(error).__name__}: {text}"


def product_calls(
    tokens: int, inner: int, outer: int, device: torch.device
) -> dict[str, Callable[[], Any]]:
    """The three products of a linear layer, bfloat16 and fp8."""
    x = torch.randn(tokens, inner, device=device).bfloat16()
    dy = torch.randn(tokens, outer, device=device).bfloat16()
    weight = (torch.randn(outer, inner, device=device) * 0.05).bfloat16()
    x8, dy8, weight8 = Narrow.of(x), Narrow.of(dy), Narrow.of(weight)
    ops = choose_operations(x)
    weight8_t = Narrow.of(weight.T.contiguous())
    return {
        "forward": lambda: x @ weight.T,
        "input gradient": lambda: dy @ weight,
        "weight gradient": lambda: ops.weight_gradient(dy, x),
        "forward, fp8": lambda: multiply(x8, weight8),
        "input gradient, fp8": lambda: multiply(dy8, weight8_t),
    }


def time_products(bench: Bench) -> None:
    device = bench.inputs.x.device
    for name, (inner, outer) in PRODUCTS.items():
        try:
            times = bench.clock(product_calls(len(bench.inputs.x), inner, outer, device))
        except Exception as error:  # noqa: BLE001  (told in its row)
            bench.row(f"{name} {inner} → {outer}", "cuBLAS", *_told(error))
            continue
        for kind, taken in times.items():
            product, _, dtype = kind.partition(", ")
            bench.products[f"{name} {product}", dtype or "bf16"] = taken
            bench.row(
                f"{name} {inner} → {outer}, {product}", dtype or "bf16", f"{taken:.1f}", "", ""
            )


def time_copies(bench: Bench) -> None:
    """What producers outside the three tasks would write in fp8, as the filling of so much."""
    x = bench.inputs.x
    room = torch.empty(len(x) * COPIED, dtype=torch.int8, device=x.device)
    taken = bench.clock({COPIES: room.zero_})[COPIES]
    bench.products[COPIES, "fp8"] = taken
    bench.row(COPIES, "fp8", f"{taken:.1f}", "", "written only")


def sum_up(bench: Bench, names: list[str]) -> None:
    """A block with each contestant's tasks and the other products: the decision's last lines."""
    bench.row(f"{BLOCKS} blocks, ms", "other products", "a + b + c", "all", "all against today's")
    today = None
    for name in names:
        try:
            tasks = sum(bench.quickest(task, name) for task in TASKS)
            rest = bench.other_products("fp8" if "fp8" in name else "bf16")
        except KeyError as error:
            bench.row(name, "", "", "", f"not measured: {error.args[0]}")
            continue
        total = tasks + rest
        today = today or (total if name == TODAY else None)
        change = f"{100 * (total / today - 1):+.1f} %" if today else ""
        cells = (f"{BLOCKS * t / 1e3:.2f}" for t in (rest, tasks, total))
        bench.row(name, *cells, change)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", type=device_of, default="auto", help="auto, cpu or cuda")
    add("--tokens", type=int, default=81_920, help="a step's")
    add("--rounds", type=int, default=30, help="measurements of each, of which the median counts")
    add("--seconds-limit", type=float, default=200, help="nothing new is tried after that long")
    return parser.parse_args()


def all_contestants(bench: Bench) -> list[dict[str, Callable[[], dict[str, Call]]]]:
    """Those that take turns with each other, today's among each."""
    inputs = bench.inputs
    kernels = kernels_for(inputs.x)
    producers: Any = PlainProducers
    if kernels is not None:
        from benchmarks import fp8_kernels as producers
    today = {TODAY: partial(todays, inputs, choose_operations(inputs.x))}
    groups: list[dict[str, Callable[[], dict[str, Call]]]] = [
        {
            **today,
            NAMES[1]: partial(in_fp8, inputs, producers, False),
            NAMES[2]: partial(in_fp8, inputs, producers, True),
        }
    ]
    try:
        if kernels is None or inputs.x.device.type != "cuda":
            raise ImportError("quack-kernels needs a Hopper GPU and Triton")
        from benchmarks.quack_products import configs
    except Exception as error:  # noqa: BLE001  (told in its row)
        bench.row("all", "quack", *_told(error))
        return groups
    groups.append(dict(today))
    for name, narrow in ((NAMES[3], False), (NAMES[4], True)):
        for tile, config in configs().items():
            making = partial(by_quack, inputs, kernels, narrow, config)
            groups[1][f"{name}, tile {tile}"] = making
    return groups


NAMES = [TODAY, "fp8", "fp8, result in fp8 too", "quack", "quack, fp8"]


def main() -> None:
    options = parse_arguments()
    device = torch.device(options.device)
    until = time.monotonic() + options.seconds_limit
    machine = describe_machine(device)
    say(f"{machine}, {options.tokens:,} tokens")
    with torch.no_grad():
        clock = Clock(device, options.rounds)
        bench = Bench(Inputs(options.tokens, device), clock, until)
        bench.row("task", "products", "µs", "of today's", "relative error against float64")
        bench.row("---", "---", "---", "---", "---")
        first, *others = all_contestants(bench)
        try:
            bench.run(first)
            time_products(bench)
            time_copies(bench)
            for group in others:
                bench.run(group)
        finally:
            sum_up(bench, NAMES)
            save(bench, f"{machine['device']}, torch {machine['torch']}, {machine['date']}")


def save(bench: Bench, title: str) -> None:
    text = "\n".join([f"{title}, {len(bench.inputs.x):,} tokens", "", *bench.rows])
    (Path(os.environ.get("OUT", ".")) / "block_products.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
