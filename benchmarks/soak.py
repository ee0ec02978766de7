"""Whether a run that is killed at any moment loses anything.

    python -m benchmarks.soak [--kills 200] [--seed 0] [--commands embed probe] [--at-once 2]

Makes tiny inputs (noise, a random model, a task of two pitches), and runs prepare, pretrain, embed,
hear-eval and probe to their end once. Then each is started again and again elsewhere, killed one to
four times, at a random moment of the time that it took, by SIGKILL, SIGTERM or SIGINT (that as a
terminal sends it: to the workers too), and at last left to reach its end. Lost is

- a result that differs from the uninterrupted run's: every byte of a store, a trained model and a
  library, every score of hear-eval and probe;
- a run that does not end, or cannot go on;
- after SIGTERM and SIGINT: another status than 143 and 130 (0 where pretrain has saved a
  checkpoint), a traceback of ours, a file left in $TMPDIR;
- after any, a process left after 5 s (`--left-s`: where many share the cores, ending takes longer).

Prints survived / lost for each command and signal, and what was lost, with the log of the run in
which it was; the exit status is then 1. What a run of which something was lost has written is kept.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.random import Generator
from tqdm import tqdm

from benchmarks.library import make_encoder
from myna_plugin.common.files import PARTIALS, digest_path, read_json
from myna_plugin.common.threads import map_ahead
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.probing.tasks.hear_format import write_task
from myna_plugin.probing.tasks.task import SPLITS, ClipRule, Item, Task

MYNA = "-m myna_plugin.cli"
MODEL = "--device cpu --model {inputs}/model.safetensors"
COMMANDS = {
    "prepare": f"{MYNA} prepare {{inputs}}/music {{out}}/store --workers 2",
    "pretrain": f"{MYNA} pretrain --store {{inputs}}/store --out {{out}}/run --resume "
    "size=vit-ti depth=1 batch_size=4 held_out_clips=4 max_steps=60 log_every=5 monitor_every=20 "
    "checkpoint_every=10 device=cpu tensorboard=false",
    "embed": f"{MYNA} embed {{inputs}}/music --out {{out}}/library.parquet --workers 2 {MODEL}",
    "hear-eval": f"-m myna_plugin.hear_eval --module myna_plugin {MODEL} --tasks-dir {{out}}/tasks "
    "--embeddings-dir {out}/embeddings --results {out}/scores.json --grid faster --grid-points 1",
    "probe": f"{MYNA} probe --task hear --root {{inputs}}/tasks/pitches {MODEL} "
    "--out {out}/probe --cache {out}/cache --grid fast --patience 3 --workers 2",
}
"""Arguments of Python; {out} is a folder that holds a copy of the tasks."""

RESULTS: dict[str, Callable[[Path], Any]] = {
    "prepare": lambda out: digest_path(out / "store"),
    "pretrain": lambda out: digest_path(out / "run" / "final.safetensors"),
    "embed": lambda out: digest_path(out / "library.parquet"),
    "hear-eval": lambda out: [task["scores"] for task in read_json(out / "scores.json")["tasks"]],
    "probe": lambda out: [
        read_json(out / "probe/results.json")[key] for key in ("scores", "parts")
    ],
}

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STATUSES = {signal.SIGTERM: (143, -signal.SIGTERM), signal.SIGINT: (130, -signal.SIGINT)}
"""The negative ones: before Python itself has started."""

START_S = 0.5
"""Before that Python itself is starting, which shows a traceback of its own after Ctrl-C."""

KILLS_AT_MOST = 4
ENDS_S = 300.0


@dataclass(frozen=True)
class Soak:
    """Inputs, and what uninterrupted runs came to.

    Attributes:
        inputs: folder of what commands read.
        left_s: how long other processes may outlive the killed one.
        expected: result by command.
        seconds: that it took.
        left: names in $TMPDIR by command, of what torch and others keep there.
    """

    inputs: Path
    left_s: float
    expected: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left: dict[str, Set[str]] = field(default_factory=dict)


class Run:
    """A command under way, in a process group and with a $TMPDIR of its own.

    Args:
        soak: what it reads.
        name: of the command.
        out: folder of what it writes; the log of every run is kept there.
    """

    def __init__(self, soak: Soak, name: str, out: Path) -> None:
        self.left_s = soak.left_s
        self.usual = soak.left.get(name, frozenset())
        self.temporary = out / "tmp"
        self.log = out / f"log-{len(list(out.glob('log-*')))}"
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        command = [sys.executable, *shlex.split(COMMANDS[name].format(inputs=soak.inputs, out=out))]
        environment = os.environ | {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self, seconds: float) -> int | None:
        """The exit status, None if it goes on after so long."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self, number: signal.Signals | None) -> list[str]:
        """Wait for the end, after a signal if there is one; what is wrong with it."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        elif number:
            self.process.send_signal(number)
        status = self.wait(ENDS_S)
        faults = [] if status is not None else [f"does not end in {ENDS_S:.0f} s"]
        deadline = time.monotonic() + self.left_s
        while self._signal_group(0) and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._signal_group(0):
            faults.append(f"left after {self.left_s:.0f} s: {self._describe_group()}")
            self._signal_group(signal.SIGKILL)
        self.process.wait()
        text = self.log.read_text(errors="replace")
        last = (text.strip().splitlines() or [""])[-1]
        if number is None and status:
            faults.append(f"status {status}: {last}")
        if number in STATUSES and status not in (None, 0, *STATUSES[number]):
            faults.append(f"status {status}: {last}")
        if "Traceback" in text and "myna_plugin" in text:
            faults.append(f"traceback: {last}")
        left = set(os.listdir(self.temporary)) - self.usual
        if number != signal.SIGKILL and left:
            faults.append(f"left in $TMPDIR: {', '.join(left)}")
        return faults

    def _describe_group(self) -> str:
        command = ["ps", "-o", "stat=,args=", "-g", str(self.process.pid)]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        return "; ".join(line.strip()[:80] for line in lines) or "a process"

    def _signal_group(self, number: int) -> bool:
        """Whether there was a process to send a signal to."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


def make_inputs(inputs: Path) -> None:
    """Noise in two formats, a random model, and a task of two pitches at another rate."""
    generator = np.random.default_rng(0)
    (inputs / "music").mkdir(parents=True)
    for i in range(24):
        noise = generator.uniform(-0.3, 0.3, SAMPLE_RATE * 6)
        soundfile.write(inputs / "music" / f"{i}.{('wav', 'flac')[i % 2]}", noise, SAMPLE_RATE)
    save_checkpoint(make_encoder("vit-ti"), inputs / "model.safetensors")
    task = Task(
        "pitches",
        "pitches",
        "",
        ("low", "high"),
        "cross_entropy",
        ("accuracy",),
        "accuracy",
        {},
        "",
        ClipRule("", None),
    )
    items, rate = [], 8_000
    for split, label, i in itertools.product(SPLITS, task.labels, range(6)):
        path = inputs / "tones" / f"{split}-{label}-{i}.wav"
        path.parent.mkdir(exist_ok=True)
        pitch = (200 if label == "low" else 300) * (1 + 0.2 * i)
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * np.arange(rate) / rate), rate)
        items.append(Item(path.stem, path.stem, path, label, split))
    write_task(task, items, inputs / "tasks" / "pitches", rate)


def begin(inputs: Path, out: Path) -> None:
    """A folder for a command to write into."""
    shutil.copytree(inputs / "tasks", out / "tasks")


def run_whole(inputs: Path, names: Iterable[str], left_s: float) -> Soak:
    """Commands once, without a kill; SystemExit if one fails. The first makes pretrain's store."""
    soak = Soak(inputs, left_s)
    for name in names:
        out = inputs / "whole" / name
        begin(inputs, out)
        start = time.monotonic()
        run = Run(soak, name, out)
        status = run.wait(ENDS_S)
        if status != 0:
            raise SystemExit(f"{name}, not killed: status {status}; see {run.log}")
        soak.seconds[name] = time.monotonic() - start
        soak.left[name] = frozenset(os.listdir(run.temporary))
        soak.expected[name] = RESULTS[name](out)
        if name == "prepare":
            shutil.copytree(out / "store", inputs / "store")
    return soak


def is_made(out: Path) -> bool:
    """Whether there is a whole library, which `embed` would refuse to make again."""
    library = out / "library.parquet"
    return library.exists() and not library.with_name(f"{library.name}.parts").exists()


def kill(
    soak: Soak, name: str, out: Path, generator: Generator
) -> list[tuple[signal.Signals, str]]:
    """Kill a command some times, and let it reach its end; the signals, and what was lost."""
    begin(soak.inputs, out)
    killed: list[signal.Signals] = []
    faults: list[str] = []
    for _ in range(generator.integers(1, KILLS_AT_MOST + 1)):
        number = SIGNALS[generator.integers(len(SIGNALS))]
        moment = generator.uniform(START_S, START_S + soak.seconds[name])
        run = Run(soak, name, out)
        if run.wait(moment) is not None:
            faults += run.end(None)
            break
        killed.append(number)
        faults += [
            f"{number.name} at {moment:.1f} s: {fault} ({run.log})" for fault in run.end(number)
        ]
        if is_made(out):
            break
    if not is_made(out):
        faults += Run(soak, name, out).end(None)
    try:
        if RESULTS[name](out) != soak.expected[name]:
            faults.append("another result")
    except (ValueError, OSError) as error:
        faults.append(f"no result: {error}")
    faults += [f"left {path.relative_to(out)}" for path in out.rglob(PARTIALS)]
    if not faults:
        shutil.rmtree(out)
    return [(number, "; ".join(faults)) for number in killed]


def main() -> int:
    """Kill, print, and give 1 if something was lost."""
    parser = argparse.ArgumentParser(description="Kill runs at random moments; is anything lost?")
    parser.add_argument("--kills", type=int, default=200, help="at least (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of commands, signals and moments")
    parser.add_argument(
        "--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="COMMAND",
        help="default: all",
    )  # fmt: skip
    parser.add_argument("--at-once", type=int, default=1, help="runs (default: %(default)s)")
    parser.add_argument("--left-s", type=float, default=5, help="seconds (default: %(default)s)")
    options = parser.parse_args()
    # A shell has what runs in its background ignore it, and so would the runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    counts, lost = Counter[tuple[str, signal.Signals, bool]](), list[str]()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    make_inputs(folder / "inputs")
    soak = run_whole(
        folder / "inputs", dict.fromkeys(("prepare", *options.commands)), options.left_s
    )

    def live(number: int) -> tuple[str, list[tuple[signal.Signals, str]]]:
        name = options.commands[number % len(options.commands)]
        generator = np.random.default_rng((options.seed, number))
        return name, kill(soak, name, folder / str(number), generator)

    # Ctrl-C ends it with the kills so far.
    with suppress(KeyboardInterrupt), tqdm(total=options.kills, unit="kill") as bar:
        for name, kills in map_ahead(live, itertools.count(), options.at_once):
            for number, fault in kills:
                counts[name, number, bool(fault)] += 1
            if kills and kills[0][1]:
                killed = ", ".join(number.name for number, _ in kills)
                lost.append(f"{name} ({killed}): {kills[0][1]}")
                bar.write(lost[-1], sys.stderr)
            bar.update(len(kills))
            if counts.total() >= options.kills:
                break
    print(f"{counts.total()} kills, survived / lost:\n")
    print(f"| | {' | '.join(number.name for number in SIGNALS)} |\n|---|---|---|---|")
    for name in options.commands:
        cells = (f"{counts[name, n, False]} / {counts[name, n, True]}" for n in SIGNALS)
        print(f"| {name} | {' | '.join(cells)} |")
    if lost:
        print(f"\nLost (see {folder}):", *lost, sep="\n- ")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
