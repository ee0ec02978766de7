"""The whole grid of heads against a plain loop over its configurations.

    python -m benchmarks.probe_grid --device cuda \\
        --tasks gtzan emomusic giantsteps magnatagatune --plain-seconds 3 --no-equality
    python -m benchmarks.probe_grid --threads 2 --tasks gtzan --patience 16

Ours is timed whole: all configurations to the end of their early stopping, standardisation and
selection included. The plain loop (autograd, nn.Dropout, torch.optim.Adam, a metric of
scikit-learn every eight steps) would take hours, so a sample of it is timed: for each of the four
kinds of head (linear or perceptron, batches of 64 or 256) the milliseconds of a training step,
evaluations included, in the fastest of four runs that share `--plain-seconds`. Its time for the
grid is then EXTRAPOLATED: the steps that each configuration took (the same in both, as equality
shows) times the milliseconds of a step of its kind. A smaller `--patience` shortens ours and leaves
what a step costs about as it is. On a processor, "cores busy" below the number of threads says that
something else was running.

Equality: some configurations, one of each kind and the winner, are run to their end by the plain
loop with the batches and dropout draws of ours.

Embeddings are random, of the data set's size and split, with classes, tags or values that can be
learned in part. Where the variable OUT names a folder, probe_grid.json and probe_grid.md are
written there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_loop import PlainResult, train_alone

from myna_plugin.probing.heads import (
    GRID,
    HeadConfig,
    HeadTask,
    Selection,
    Split,
    build_grid,
    select,
)

N_FEATURES = 768
LATENT = 24
CLIPS_PER_TRACK = 4
PLAIN_RUNS = 4

# Key errors that earn something, by semitones above the reference: the same mode, then the other.
KEY_WORTH = {0: 1.0, 7: 0.5}
OTHER_MODE_WORTH = {0: 0.2}


def key_worth() -> np.ndarray:
    """A weighted key score's worth of each pair of 24 keys, major before minor."""
    worth = np.zeros((24, 24))
    for right in range(24):
        for made in range(24):
            same_mode = right // 12 == made // 12
            table = KEY_WORTH if same_mode else OTHER_MODE_WORTH
            worth[right, made] = table.get((made - right) % 12, 0.0)
            relative = -3 if right < 12 else 3
            if not same_mode and (made - right - relative) % 12 == 0:
                worth[right, made] = 0.3
    return worth


@dataclass(frozen=True)
class Case:
    """A data set's size, and its metric for the plain loop."""

    loss: str
    n_outputs: int
    rows: tuple[int, int, int]
    metric: str | np.ndarray
    plain_metric: Callable[[np.ndarray, np.ndarray], float]
    rules: tuple[str, ...] = ()


def accuracy(targets: np.ndarray, logits: np.ndarray) -> float:
    return float(accuracy_score(targets, logits.argmax(1)))


def tags_auc(targets: np.ndarray, logits: np.ndarray) -> float:
    return float(roc_auc_score(targets, logits, average="macro"))


def best_rule_key_score(targets: np.ndarray, logits: np.ndarray) -> float:
    """The weighted key score of tracks of `CLIPS_PER_TRACK` rows each, by the best of the rules."""
    clips = logits.reshape(-1, CLIPS_PER_TRACK, 24)
    odds = np.exp(clips - clips.max(-1, keepdims=True))
    votes = np.eye(24)[clips.argmax(-1)].sum(1)
    probabilities = (odds / odds.sum(-1, keepdims=True)).mean(1)
    worth, right = key_worth(), targets[::CLIPS_PER_TRACK]
    return max(
        float(worth[right, outputs.argmax(-1)].mean())
        for outputs in (votes, clips.max(1), clips.mean(1), probabilities)
    )


CASES = {
    "gtzan": Case("cross_entropy", 10, (443, 197, 290), "accuracy", accuracy),
    "magnatagatune": Case("bce", 50, (18706, 1825, 5329), "roc_auc_macro", tags_auc),
    "giantsteps": Case(
        "cross_entropy",
        24,
        (3688, 944, 2408),  # 3687, 942 and 2406, rounded to whole tracks of four clips
        key_worth(),
        best_rule_key_score,
        ("vote", "max", "mean_logit", "mean_probability"),
    ),
    "emomusic": Case("mse", 2, (504, 115, 125), "r2", lambda t, y: float(r2_score(t, y))),
}


def make_splits(case: Case) -> list[Split]:
    """Embeddings that are partly redundant, as real ones are, and targets learnable in part."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(LATENT, N_FEATURES)) / LATENT**0.5
    directions = rng.normal(size=(LATENT, case.n_outputs)) / LATENT**0.5
    per_item = CLIPS_PER_TRACK if case.rules else 1
    splits = []
    for n_rows in case.rows:
        items = np.repeat(np.arange(n_rows // per_item), per_item)
        latent = rng.normal(size=(n_rows // per_item, LATENT))[items]
        values = latent @ directions
        noise = rng.normal(size=(len(items) // per_item, case.n_outputs))[items]
        noisy = values + 0.3 * noise
        rank = noisy.argsort(0).argsort(0) / len(noisy)
        targets = {
            "cross_entropy": noisy.argmax(1),
            # From a tag on 18 % of the clips to one on 1 %, as of MagnaTagATune's fifty.
            "bce": (rank > 1 - np.geomspace(0.18, 0.01, case.n_outputs)).astype(np.int64),
            "mse": noisy,
        }[case.loss]
        features = latent @ mixing + 0.5 * rng.normal(size=(len(items), N_FEATURES))
        splits.append(Split(features, targets, items if case.rules else None))
    return splits


def kind(config: HeadConfig) -> str:
    name = f"MLP {config.hidden_units}" if config.hidden_units else "linear"
    return f"{name}, batch {config.batch_size}"


def to_task(case: Case) -> HeadTask:
    options = {"rules": case.rules} if case.rules else {}
    return HeadTask(case.loss, case.n_outputs, case.metric, lambda *_: {}, **options)


def time_ours(
    case: Case, splits: list[Split], arguments: argparse.Namespace
) -> tuple[Selection, float, float]:
    """The selection, its seconds, and how many cores were busy for it."""
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start, start_cpu = time.perf_counter(), time.process_time()
    selection = select(
        splits[0],
        splits[1],
        to_task(case),
        arguments.configs,
        device=arguments.device,
        patience=arguments.patience,
        progress=arguments.progress,
    )
    seconds = time.perf_counter() - start
    return selection, seconds, (time.process_time() - start_cpu) / seconds


def run_plain(
    case: Case, splits: list[Split], config: HeadConfig, **options: object
) -> PlainResult:
    train, valid = splits[:2]
    return train_alone(
        config,
        (train.features, train.targets),
        valid.features,
        lambda logits: case.plain_metric(valid.targets, logits),
        case.loss,
        case.n_outputs,
        **options,
    )


def time_plain(
    case: Case, splits: list[Split], config: HeadConfig, arguments: argparse.Namespace
) -> tuple[float, int]:
    """Seconds of a step, evaluations included, and the steps that it was timed over.

    The fastest of some runs counts: what else a machine does makes the plain loop slower.
    """
    options = {"device": arguments.device, "shared_draws": False, "patience": 10**9}
    share = arguments.plain_seconds / PLAIN_RUNS
    once = run_plain(case, splits, config, max_steps=16, **options)
    once = run_plain(case, splits, config, max_steps=16, **options)
    steps = max(16, int(once.steps * share / once.seconds))
    runs = [run_plain(case, splits, config, max_steps=steps, **options) for _ in range(PLAIN_RUNS)]
    return min(run.seconds / run.steps for run in runs), sum(run.steps for run in runs)


def compare(
    case: Case, splits: list[Split], selection: Selection, arguments: argparse.Namespace
) -> list[dict[str, object]]:
    """Run a head of each kind, and the winner, in the plain loop with the same random numbers."""
    chosen: dict[str, int] = {}
    for number, (head, config) in enumerate(zip(selection.heads, arguments.configs, strict=True)):
        # Of each kind one that stops early, so that the comparison takes seconds.
        best = chosen.setdefault(kind(config), number)
        if head.steps < selection.heads[best].steps:
            chosen[kind(config)] = number
    rows: list[dict[str, object]] = []
    for number in dict.fromkeys([*chosen.values(), selection.winner]):
        head, config = selection.heads[number], arguments.configs[number]
        alone = run_plain(
            case,
            splits,
            config,
            device=arguments.device,
            patience=arguments.patience,
        )
        row: dict[str, object] = {
            "head": kind(config),
            "config": config.to_dict(),
            "ours": [head.valid_score, head.best_step, head.steps],
            "alone": [alone.valid_score, alone.best_step, alone.steps],
        }
        if number == selection.winner:
            features = splits[1].features
            if selection.scaler is not None:
                features = selection.scaler.transform(features)
            alone.head.cpu()
            with torch.no_grad():
                logits = alone.head(torch.from_numpy(features)).numpy()
            row["head"] = f"{row['head']} (winner)"
            row["largest_difference_of_logits"] = float(
                np.abs(logits - selection.predict(splits[1].features)).max()
            )
        rows.append(row)
        print("  equality:", json.dumps(row), flush=True)
    return rows


def benchmark(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    case = CASES[name]
    splits = make_splits(case)
    print(f"{name}: rows {case.rows}, {case.n_outputs} outputs", flush=True)
    selection, seconds, cores = time_ours(case, splits, arguments)
    winner = selection.heads[selection.winner]
    memory = torch.cuda.max_memory_allocated() / 2**30 if arguments.device == "cuda" else None
    print(
        f"  ours: {len(selection.heads)} heads in {seconds:.1f} s ({cores:.2f} cores busy); "
        f"winner {winner.valid_score:.4f} ({kind(arguments.configs[selection.winner])})"
        + ("" if memory is None else f"; at most {memory:.1f} GiB on the GPU"),
        flush=True,
    )
    of_kind: dict[str, list[int]] = {}
    for head, config in zip(selection.heads, arguments.configs, strict=True):
        of_kind.setdefault(kind(config), []).append(head.steps)
    kinds = {}
    for label, steps in of_kind.items():
        config = next(
            config
            for config in arguments.configs
            if kind(config) == label
            and (config.standardize, config.dropout, config.learning_rate) == (True, 0.5, 1e-4)
        )
        step_seconds, timed = time_plain(case, splits, config, arguments)
        kinds[label] = {
            "heads": len(steps),
            "steps": sum(steps),
            "plain_ms_per_step": 1e3 * step_seconds,
            "plain_steps_timed": timed,
            "plain_seconds_extrapolated": step_seconds * sum(steps),
        }
        print(f"  plain: {label}: {json.dumps(kinds[label])}", flush=True)
    plain = sum(float(row["plain_seconds_extrapolated"]) for row in kinds.values())
    ratio = plain / seconds
    print(
        f"  plain loop {plain:.0f} s (extrapolated), ours {seconds:.1f} s: {ratio:.1f} x",
        flush=True,
    )
    rows = compare(case, splits, selection, arguments) if name in arguments.equality else []
    return {
        "task": name,
        "heads": len(selection.heads),
        "ours_seconds": seconds,
        "ours_busy_cores": cores,
        "plain_seconds_extrapolated": plain,
        "ratio": ratio,
        "kinds": kinds,
        "equality": rows,
        "gpu_gib": memory,
        "mean_steps": float(np.mean([head.steps for head in selection.heads])),
    }


def to_markdown(results: list[dict[str, Any]], about: dict[str, object]) -> str:
    lines = [
        f"Grid of heads on {about['device']}: {about['command']} ({about['date']}, torch "
        f"{about['torch']}, {about['threads']} threads). The plain loop's time is extrapolated "
        "from a sample of its steps; ours is measured.",
        "",
        "| embeddings | heads | mean steps | ours | cores busy | GPU memory | plain, extrapolated "
        "| ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        memory = "" if row["gpu_gib"] is None else f"{row['gpu_gib']:.1f} GiB"
        lines.append(
            f"| {row['task']} | {row['heads']} | {row['mean_steps']:.0f} | "
            f"{row['ours_seconds']:.1f} s | {row['ours_busy_cores']:.2f} | "
            f"{memory} | "
            f"{row['plain_seconds_extrapolated']:.0f} s | {row['ratio']:.1f} |"
        )
    total = sum(row["ours_seconds"] for row in results)
    lines += ["", f"Ours, all {len(results)} grids of the above: {total:.1f} s.", ""]
    if any(row["equality"] for row in results):
        lines += [
            "| the same head alone in the plain loop | score, best step, steps: together | alone |",
            "|---|---|---|",
        ]
    for row in results:
        for head in row["equality"]:
            lines.append(f"| {row['task']}: {head['head']} | {head['ours']} | {head['alone']} |")
            if "largest_difference_of_logits" in head:
                difference = head["largest_difference_of_logits"]
                lines.append(
                    f"| its logits on validation | largest difference {difference:.1e} | |"
                )
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tasks", nargs="+", choices=sorted(CASES), default=["gtzan"])
    parser.add_argument(
        "--two",
        dest="configs",
        action="store_const",
        const=build_grid((True,), batch_size=(64,), learning_rate=(1e-4,), dropout=(0.5,), l2=(0,)),
        default=GRID,
        help="two heads, to try it",
    )
    parser.add_argument("--patience", type=int, default=256, help="evaluations without a new best")
    parser.add_argument("--plain-seconds", type=float, default=6.0, help="for each kind of head")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--equality",
        nargs="*",
        choices=sorted(CASES),
        default=["gtzan"],
        help="tasks of which some heads are trained alone, too; minutes for magnatagatune",
    )
    parser.add_argument("--no-equality", dest="equality", action="store_const", const=[])
    parser.add_argument("--progress", action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor()
    about = {
        "command": f"python {' '.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "device": name or platform.machine(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "threads": arguments.threads,
        "patience": arguments.patience,
    }
    print(json.dumps(about), flush=True)
    # Libraries load and set themselves up before anything is timed.
    case = CASES["gtzan"]
    few = build_grid((True,), (0, 512), (64,), (1e-3,), (0.5,), (0.0,))
    train, valid, _ = make_splits(case)
    patience = min(20, arguments.patience)
    device = arguments.device
    select(train, valid, to_task(case), few, device=device, patience=patience, progress=False)
    results = []
    for task in arguments.tasks:
        results.append(benchmark(task, arguments))
        table = to_markdown(results, about)
        if folder := os.environ.get("OUT"):
            report = json.dumps({"about": about, "results": results}, indent=1)
            Path(folder, "probe_grid.json").write_text(report)
            Path(folder, "probe_grid.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
