"""Train all heads of a grid: in stacks, on the processor or as CUDA graphs."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from queue import SimpleQueue
from threading import Event, Thread

import torch
from tqdm import tqdm

from myna_plugin.probing.heads.draws import PERIOD, StepDraws
from myna_plugin.probing.heads.grid import HeadConfig
from myna_plugin.probing.heads.layers import initial_parameters
from myna_plugin.probing.heads.stack import HeadStack, TrainedHead, TrainingData

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
    done: Collection[int] = (),
) -> Iterator[list[TrainedHead]]:
    """Train every head until it stops.

    Args:
        configs: the grid.
        data: what to train and evaluate on.
        seed: of initial weights, batches and dropout.
        patience: evaluations without a new best after which a head stops.
        progress: whether to show a progress bar.
        done: positions of heads that need no training; a stack is left out if all of its are.

    Yields:
        The heads of a stack, once all of them have stopped: stack by stack, each the same whatever
        is left out.
    """
    device = data.targets.device
    on_cpu = device.type == "cpu"
    groups = [
        positions
        for positions in group_heads(configs, by_variant=on_cpu)
        if not set(positions) <= set(done)
    ]
    plan = _GridTraining(configs, data, seed, patience)
    rounds = _run_on_cpu(groups, plan) if on_cpu else _run_on_gpu(groups, plan, device)
    stopped: dict[int, list[TrainedHead]] = defaultdict(list)
    group_of = {position: i for i, group in enumerate(groups) for position in group}
    n_done = len(configs) - len(group_of)
    with tqdm(
        total=len(configs), initial=n_done, unit="head", desc="probing", disable=not progress
    ) as bar:
        for steps, heads in rounds:
            if heads:
                bar.set_postfix_str(f"step {steps}", refresh=False)
                bar.update(len(heads))
            for head in heads:
                number = group_of[head[0]]
                stopped[number].append(head)
                if len(stopped[number]) == len(groups[number]):
                    yield stopped.pop(number)


class _GridTraining:
    """What every stack of a grid is made from."""

    def __init__(
        self, configs: Sequence[HeadConfig], data: TrainingData, seed: int, patience: int
    ) -> None:
        self.configs, self._data, self._seed, self._patience = configs, data, seed, patience
        self._n_features, n_outputs = data.train[False].shape[1], data.targets.shape[1]
        # Here and not where a thread starts its stack: it goes by the global random state.
        self._initial = {
            config.hidden_units: initial_parameters(config, self._n_features, n_outputs, seed)
            for config in configs
        }

    def make_draws(self, batch_size: int, hidden_units: set[int]) -> StepDraws:
        """The batches and dropout draws of a batch size, from the first step on."""
        n_rows, device = len(self._data.targets), self._data.targets.device
        return StepDraws(batch_size, n_rows, self._n_features, hidden_units, self._seed, device)

    def make_stack(self, positions: Sequence[int], draws: StepDraws) -> HeadStack:
        """The heads at these positions of the grid, before their first step."""
        chosen = [self.configs[position] for position in positions]
        initial = self._initial[chosen[0].hidden_units]
        return HeadStack(chosen, positions, initial, self._data, draws, self._patience)


def _run_on_cpu(
    groups: list[list[int]], plan: _GridTraining
) -> Iterator[tuple[int, list[TrainedHead]]]:
    """Steps of a stack so far, and those of its heads that have stopped since the last time.

    Each core takes one stack after another to its end: all of the work is shared out, not the
    large products alone, few heads are in memory, and results do not depend on the number of cores.
    """
    # The longest first, so that all cores finish at about the same time.
    waiting = deque(sorted(groups, key=lambda group: _estimate_cost(plan.configs, group)))
    # Not futures: Ctrl-C could strike while one's lock is held, and leave it shut for ever.
    answers: SimpleQueue[tuple[int, list[TrainedHead]] | BaseException] = SimpleQueue()
    stop = Event()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # which threads started from here on inherit
    workers = [
        Thread(None, _train_stacks, "probing", (waiting, plan, answers, stop), daemon=True)
        for _ in range(min(n_threads, len(groups)))
    ]
    try:
        for worker in workers:
            worker.start()
        remaining = sum(map(len, groups))
        while remaining:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            remaining -= len(answer[1])
            yield answer
    finally:
        stop.set()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
        torch.set_num_threads(n_threads)


def _train_stacks(
    waiting: deque[list[int]],
    plan: _GridTraining,
    answers: SimpleQueue[tuple[int, list[TrainedHead]] | BaseException],
    stop: Event,
) -> None:
    """Train stacks until none is waiting; an error is an answer, too."""
    try:
        while not stop.is_set():
            try:
                positions = waiting.pop()
            except IndexError:
                return
            config = plan.configs[positions[0]]
            draws = plan.make_draws(config.batch_size, {config.hidden_units})
            stack = plan.make_stack(positions, draws)
            for period in count(1):
                draws.advance({config.hidden_units})
                stack.train_period()
                answers.put((period * PERIOD, stack.retire()))
                if stop.is_set() or not stack.configs:
                    break
    except BaseException as error:  # noqa: BLE001 (it is raised where the heads are awaited)
        answers.put(error)


def _estimate_cost(configs: Sequence[HeadConfig], group: list[int]) -> tuple[int, int]:
    """What a step of a stack costs, comparable among stacks: the first layer's outputs."""
    config = configs[group[0]]
    return config.hidden_units, len(group) * config.batch_size


def _run_on_gpu(
    groups: list[list[int]], plan: _GridTraining, device: torch.device
) -> Iterator[tuple[int, list[TrainedHead]]]:
    """Steps done so far, and the heads that have stopped since the last time."""
    widths: dict[int, set[int]] = defaultdict(set)
    for group in groups:
        config = plan.configs[group[0]]
        widths[config.batch_size].add(config.hidden_units)
    draws = {size: plan.make_draws(size, hidden_units) for size, hidden_units in widths.items()}
    drawing = torch.cuda.current_stream(device)
    runners = [
        _GraphRunner(plan.make_stack(group, draws[plan.configs[group[0]].batch_size]), drawing)
        for group in groups
    ]
    for look in count(1) if runners else ():
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
