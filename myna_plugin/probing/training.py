"""Train all heads of a grid: in stacks, on the processor or as CUDA graphs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import torch
from tqdm import tqdm

from myna_plugin.probing.draws import PERIOD, StepDraws
from myna_plugin.probing.grid import HeadConfig
from myna_plugin.probing.heads import initial_parameters
from myna_plugin.probing.stack import HeadStack, TrainedHead, TrainingData

GRAPH_PERIODS = 16
"""Periods between two looks at which heads have stopped, on a GPU: each look waits for it."""

GRAPH_LEAST_SHARE = 0.25
"""Share of a stack that must have stopped before its graph is captured anew without them."""


def group_heads(configs: Sequence[HeadConfig], by_variant: bool) -> list[list[int]]:
    """Numbers of the heads that form each stack.

    Args:
        configs: the grid.
        by_variant: whether heads must also share standardisation and dropout. That saves memory
            traffic, for more and smaller stacks.
    """
    groups: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for position, config in enumerate(configs):
        key: tuple[float, ...] = (config.hidden_units, config.batch_size)
        if by_variant:
            key += (config.standardize, config.dropout)
        groups[key].append(position)
    return list(groups.values())


def train_heads(
    configs: Sequence[HeadConfig],
    data: TrainingData,
    seed: int,
    patience: int,
    progress: bool,
) -> Iterator[TrainedHead]:
    """Train every head until it stops.

    Args:
        configs: the grid.
        data: what to train and evaluate on.
        seed: of initial weights, batches and dropout.
        patience: evaluations without a new best after which a head stops.
        progress: whether to show a progress bar.

    Yields:
        Every head, in the order in which they stop.
    """
    n_rows, n_features = data.train[False].shape
    n_outputs, device = data.targets.shape[1], data.targets.device
    widths: dict[int, set[int]] = defaultdict(set)
    for config in configs:
        widths[config.batch_size].add(config.hidden_units)
    draws = {
        batch_size: StepDraws(batch_size, n_rows, n_features, hidden_units, seed, device)
        for batch_size, hidden_units in widths.items()
    }
    on_cpu = device.type == "cpu"
    stacks = []
    for positions in group_heads(configs, by_variant=on_cpu):
        chosen = [configs[position] for position in positions]
        initial = initial_parameters(chosen[0], n_features, n_outputs, seed)
        stacks.append(
            HeadStack(chosen, positions, initial, data, draws[chosen[0].batch_size], patience)
        )
    rounds = _run_on_cpu(stacks, draws) if on_cpu else _run_on_gpu(stacks, draws, device)
    with tqdm(total=len(configs), unit="head", desc="probing", disable=not progress) as bar:
        for steps, stopped in rounds:
            if stopped:
                bar.set_postfix_str(f"step {steps}", refresh=False)
                bar.update(len(stopped))
            yield from stopped


def _run_on_cpu(
    stacks: list[HeadStack], draws: dict[int, StepDraws]
) -> Iterator[tuple[int, list[TrainedHead]]]:
    """Steps done so far, and the heads that have stopped since the last time.

    Each core trains stacks of its own: all of the work is shared out, not the large products alone,
    and results do not depend on the number of cores.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # which threads started from here on inherit
    try:
        with ThreadPoolExecutor(min(n_threads, len(stacks))) as pool:
            for period in count(1):
                _advance(stacks, draws)
                # The longest first, so that all cores finish at about the same time.
                stacks.sort(key=HeadStack.estimate_cost, reverse=True)
                for done in [pool.submit(stack.train_period) for stack in stacks]:
                    done.result()
                yield period * PERIOD, [trained for stack in stacks for trained in stack.retire()]
                stacks = [stack for stack in stacks if stack.configs]
                if not stacks:
                    return
    finally:
        torch.set_num_threads(n_threads)


def _run_on_gpu(
    stacks: list[HeadStack], draws: dict[int, StepDraws], device: torch.device
) -> Iterator[tuple[int, list[TrainedHead]]]:
    """Steps done so far, and the heads that have stopped since the last time."""
    drawing = torch.cuda.current_stream(device)
    runners = [_GraphRunner(stack, drawing) for stack in stacks]
    for look in count(1):
        for _ in range(GRAPH_PERIODS):
            for runner in runners:
                drawing.wait_stream(runner.stream)
            _advance([runner.stack for runner in runners], draws)
            for runner in runners:
                runner.train_period()
        steps = look * GRAPH_PERIODS * PERIOD
        yield steps, [trained for runner in runners for trained in runner.retire()]
        runners = [runner for runner in runners if runner.stack.configs]
        if not runners:
            return


def _advance(stacks: list[HeadStack], draws: dict[int, StepDraws]) -> None:
    """Draw the next period of all batch sizes and hidden widths that are still trained."""
    needed: dict[int, set[int]] = defaultdict(set)
    for stack in stacks:
        needed[stack.batch_size].add(stack.hidden_units)
    for batch_size, hidden_units in needed.items():
        draws[batch_size].advance(hidden_units)


class _GraphRunner:
    """Trains a stack on a stream of its own, replaying a CUDA graph of one period.

    The kernels of one stack are too small to fill a GPU, and too many to launch one by one.
    """

    def __init__(self, stack: HeadStack, drawing: torch.cuda.Stream) -> None:
        self.stack = stack
        self.stream = torch.cuda.Stream(drawing.device)
        self._drawing = drawing
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_warm = False

    def train_period(self) -> None:
        """Train on the period that was drawn last."""
        self.stream.wait_stream(self._drawing)
        with torch.cuda.stream(self.stream):
            if not self._is_warm:  # libraries set themselves up, which no graph may hold
                self.stack.train_period()
                self._is_warm = True
                return
            if self._graph is None:
                self._graph = torch.cuda.CUDAGraph()
                # As torch.cuda.graph does, but without waiting for the other streams.
                self._graph.capture_begin(capture_error_mode="thread_local")
                self.stack.train_period()
                self._graph.capture_end()
            self._graph.replay()

    def retire(self) -> list[TrainedHead]:
        """See `HeadStack.retire`."""
        with torch.cuda.stream(self.stream):
            results = self.stack.retire(GRAPH_LEAST_SHARE)
        if results:
            self._graph, self._is_warm = None, False
        return results
