"""The largest batch that a pre-training step takes, ours and the literal one, hybrid and base.

    python -m benchmarks.largest_batch --seconds 70
    python -m benchmarks.largest_batch --device cpu --size vit-ti --clips 3

Tries 1, 1.5, 2, 3, 4, 6, ... times a power of two on a store of random clips, upwards, until memory
or the store ends, and every loss is checked to be a number. Takes at most about --seconds. Results
also go to $OUT/largest_batch.json and .md, or the current folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.pretrain_step import (
    Bench,
    add_model_options,
    free,
    literal_step,
    our_step,
    peak_gb,
    require_finite,
    synchronise,
)

# What matters most first, in case time runs out; the sizes are where the search begins.
WAYS: list[tuple[str, dict[str, Any] | None, int]] = [
    ("ours, recomputed", {"recompute": True}, 65536),
    ("ours", {}, 32768),
    ("ours, loss at once", {"tile_rows": None}, 16384),
    ("literal", None, 8192),
]


def fits(bench: Bench, batch_size: int, settings: dict[str, Any] | None) -> tuple[float, float]:
    """Seconds and peak GB of a step of that size; inf where it does not fit."""
    free(bench.device)
    try:
        if settings is None:
            take = literal_step(bench, batch_size)
        else:
            take = our_step(bench, settings, batch_size, graph=False)
        take(0)
        synchronise(bench.device)
        start = time.perf_counter()
        loss = take(1)
        synchronise(bench.device)
        seconds = time.perf_counter() - start
        require_finite(loss)
        return seconds, peak_gb(bench.device)
    except torch.OutOfMemoryError:
        return math.inf, math.inf


def search(
    bench: Bench, settings: dict[str, Any] | None, first: int, deadline: float
) -> dict[str, Any]:
    """The largest size that fits, with its memory, its speed and what limits it."""
    clips = len(bench.store.lengths)
    sizes = sorted(part << power for power in range(18) for part in (2, 3))
    sizes = [size for size in sizes if size <= clips]
    at, too_large = sizes.index(max(size for size in sizes if size <= first)), len(sizes)
    best, why = None, "the store"
    while 0 <= at < too_large:
        if time.perf_counter() > deadline:
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
    return {"batch": size, "memory_gb": memory, "examples_per_s": rate, "limit": why}


def table_of(results: dict[str, dict[str, Any]], machine: dict[str, str]) -> str:
    """Markdown."""
    lines = [
        f"{machine['device']}, torch {machine['torch']}, {machine['date']}",
        "",
        "| largest batch | examples | peak GB | examples/s | limited by |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['batch']:,} | {row['memory_gb']:.0f} "
        f"| {row['examples_per_s']:,.0f} | {row['limit']} |"
        for name, row in results.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument(
        "--clips", type=int, default=262_144, help="of the random store, at least 2"
    )
    parser.add_argument("--clip-frames", type=int, default=96, help="frames of each")
    parser.add_argument("--seconds", type=float, default=130)
    options = parser.parse_args()
    if options.clips < 2:
        parser.error("--clips: must be at least 2, a batch of which each is the other's negative")
    began = time.perf_counter()
    bench = Bench(options)
    machine = bench.results["machine"]
    results: dict[str, dict[str, Any]] = {}
    folder = Path(os.environ.get("OUT", "."))
    for number, (way, settings, first) in enumerate(WAYS, 1):
        deadline = began + options.seconds * (0.2 + 0.2 * number)
        for label, patchings in (("hybrid", ["square", "vertical"]), ("base", ["square"])):
            options.patchings = patchings
            name = f"{label}, {way}"
            results[name] = search(bench, settings, first, deadline)
            print(f"{name}: {results[name]}", flush=True)
            report = {"options": vars(options), "machine": machine, "results": results}
            (folder / "largest_batch.json").write_text(json.dumps(report, indent=1))
            (folder / "largest_batch.md").write_text(table_of(results, machine))
    print(table_of(results, machine))


if __name__ == "__main__":
    main()
