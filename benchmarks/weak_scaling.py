"""Weak scaling of the pre-training step: the same batch per GPU on 1 GPU and on several.

    python -m benchmarks.weak_scaling                      # 1 and 2 GPUs, about a minute
    python -m benchmarks.weak_scaling --processes 1 2 4
    python -m benchmarks.weak_scaling --size vit-ti --batch-size 8 --clips 64 --steps 2  # on a CPU

A step includes drawing clips, crops and masks, the gather, both passes with negatives from all
GPUs, the averaging of gradients and the optimiser. Efficiency is the time of a step on 1 GPU over
that on several; both with a CUDA graph of the step and without. Results also go to
$OUT/weak_scaling.json and .md, or the current folder.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.random_store import RandomStore
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.pretraining.run import distributed
from myna_plugin.pretraining.step.crops import ViewSampler
from myna_plugin.pretraining.step.losses import ContrastiveLoss, rank, world_size
from myna_plugin.pretraining.step.objective import ContrastiveObjective
from myna_plugin.pretraining.step.optimiser import build_optimiser
from myna_plugin.pretraining.step.training_step import TrainingStep

ROOT = Path(__file__).parents[1]
WARM_STEPS = 6
PATCHINGS = ("square", "vertical")


def build_step(
    options: argparse.Namespace, store: RandomStore, device: torch.device, graph: bool
) -> tuple[TrainingStep, ViewSampler]:
    config = EncoderConfig.of_size(options.size, patchings=PATCHINGS, projector=(384, 128))
    encoder = initialise(MynaEncoder(config), 0).to(device)
    loss = ContrastiveLoss(tile_rows=1024, n_groups=len(PATCHINGS)).to(device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    objective = ContrastiveObjective(encoder, loss, store.resident, dtype=dtype)
    optimiser = build_optimiser("adam", objective)
    distributed.average_before_update(optimiser)
    sampler = ViewSampler(
        store.offsets,
        store.lengths,
        batch_size=options.batch_size * world_size(),
        patchings=PATCHINGS,
        device=device,
        rank=rank(),
        world_size=world_size(),
    )
    return TrainingStep(objective, optimiser, graph), sampler


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(
    step: TrainingStep, sampler: ViewSampler, options: argparse.Namespace, device: torch.device
) -> list[float]:
    """Milliseconds a step, of each repeat, of the slowest process."""
    for number in range(WARM_STEPS):
        step(sampler.draw(number))
    times = []
    for repeat in range(options.repeats):
        distributed.wait_for_all()
        synchronise(device)
        start = time.perf_counter()
        for number in range(options.steps):
            losses = step(sampler.draw(WARM_STEPS + repeat * options.steps + number))
        synchronise(device)
        taken = torch.tensor((time.perf_counter() - start) / options.steps * 1e3, device=device)
        if world_size() > 1:
            dist.all_reduce(taken, dist.ReduceOp.MAX)
        times.append(taken.item())
    if not losses.isfinite().all():
        raise RuntimeError(f"the losses are {losses.tolist()}")
    return times


def work(options: argparse.Namespace) -> None:
    """What each process that torchrun starts does."""
    device = distributed.launched_device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {}
    with distributed.process_group(device):
        store = RandomStore(options.clips, options.clip_frames, device)
        for mode in ("eager", "graph") if device.type == "cuda" else ("eager",):
            step, sampler = build_step(options, store, device, mode == "graph")
            times = time_steps(step, sampler, options, device)
            results[mode] = {"ms": statistics.median(times), "all": times}
            if distributed.is_first():
                print(f"{world_size()} processes, {mode}: {results[mode]['ms']:.2f} ms", flush=True)
                # After each mode, so that one that fails does not take the other with it.
                options.worker.write_text(json.dumps(results))
            del step


def launch(processes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Results of a number of processes, by mode."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), "-m", "benchmarks.weak_scaling"]
        command += ["--worker", str(path)]
        for name in ("size", "batch_size", "clips", "clip_frames", "steps", "repeats"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        # A session of its own, so that a time-out ends the processes that torchrun started too.
        process = subprocess.Popen(command, start_new_session=True, cwd=ROOT)
        try:
            status = process.wait(options.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if status:
            print(f"{processes} processes ended with status {status}", flush=True)
        return json.loads(path.read_text()) if path.exists() else {}


def table_of(results: dict[int, dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines = [
        f"{device}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; hybrid {options.size}, "
        f"{options.batch_size} clips per process, 90 % masked",
        "",
        "| processes | step | ms / step | examples / s | efficiency |",
        "|---|---|---|---|---|",
    ]
    for processes, modes in results.items():
        for mode, row in modes.items():
            alone = results.get(1, {}).get(mode)
            efficiency = f"{alone['ms'] / row['ms']:.1%}" if alone else "not measured"
            rate = processes * options.batch_size / row["ms"] * 1e3
            lines.append(f"| {processes} | {mode} | {row['ms']:.2f} | {rate:,.0f} | {efficiency} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", default="vit-s")
    parser.add_argument("--batch-size", type=int, default=4096, help="clips per process")
    parser.add_argument("--clips", type=int, default=20_000, help="clips in the random store")
    parser.add_argument("--clip-frames", type=int, default=313)
    parser.add_argument("--steps", type=int, default=30, help="steps a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=80, help="seconds, of each number")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    results = {processes: launch(processes, options) for processes in options.processes}
    table = table_of(results, options)
    print(table)
    folder = Path(os.environ.get("OUT", "."))
    (folder / "weak_scaling.md").write_text(table)
    (folder / "weak_scaling.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
