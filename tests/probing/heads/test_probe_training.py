"""Heads trained together against the same heads trained alone in a plain loop."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_loop import train_alone
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from myna_plugin.probing.heads import HeadConfig, HeadScore, HeadTask, Split, build_grid
from myna_plugin.probing.heads.draws import PERIOD, StepDraws
from myna_plugin.probing.heads.layers import initial_parameters
from myna_plugin.probing.heads.selection import prepare_data
from myna_plugin.probing.heads.stack import HeadStack, dropout_factors
from myna_plugin.probing.heads.training import group_heads, train_heads

N_FEATURES = 12
GRID = build_grid(
    hidden_units=(0, 10),
    batch_size=(16, 64),
    learning_rate=(3e-3, 3e-2),
    dropout=(0.25, 0.5),
    l2=(0.0, 1e-2),
)
PATIENCE = 6

Trained = dict[int, tuple[HeadScore, dict[str, torch.Tensor]]]


def no_scores(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    return {}


TASKS = {
    "classes": HeadTask("cross_entropy", 4, "accuracy", no_scores),
    "tags": HeadTask("bce", 5, "roc_auc_macro", no_scores),
    "values": HeadTask("mse", 2, "r2", no_scores),
}

LIBRARY_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda targets, logits: accuracy_score(targets, logits.argmax(1)),
    "roc_auc_macro": roc_auc_score,
    "r2": r2_score,
}


def make_split(task: HeadTask, n_rows: int, seed: int) -> Split:
    """Embeddings from which the targets can be learned in part, of uneven scale."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(N_FEATURES, task.n_outputs))
    features = rng.normal(size=(n_rows, N_FEATURES))
    values = features @ directions + 2 * rng.normal(size=(n_rows, task.n_outputs))
    scale = np.linspace(0.2, 3.0, N_FEATURES)
    targets = {
        "cross_entropy": values.argmax(1),
        "bce": (values > 3).astype(np.int64),
        "mse": values,
    }[task.loss]
    return Split(features * scale + 1.0, targets)


def train_together(
    task: HeadTask,
    grid: tuple[HeadConfig, ...] = GRID,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
    patience: int = PATIENCE,
) -> Trained:
    data = prepare_data(
        make_split(task, 90, 1), make_split(task, 60, 2), task, torch.device(device), dtype
    )[0]
    return {
        position: (score, parameters)
        for stack in train_heads(grid, data, seed, patience, False)
        for position, score, parameters in stack
    }


def compare_with_plain_loop(
    task: HeadTask,
    trained: Trained,
    positions: range,
    tolerance: float,
    dtype: torch.dtype,
    device: str = "cpu",
    patience: int = PATIENCE,
) -> None:
    train, valid = make_split(task, 90, 1), make_split(task, 60, 2)
    metric = LIBRARY_METRICS[str(task.metric)]
    for position in positions:
        alone = train_alone(
            GRID[position],
            (train.features, train.targets),
            valid.features,
            lambda logits: metric(valid.targets, logits),
            task.loss,
            task.n_outputs,
            dtype=dtype,
            device=device,
            patience=patience,
        )
        score, parameters = trained[position]
        assert score.config == GRID[position]
        assert alone.steps > alone.best_step > 0  # else next to nothing would be compared
        assert score.valid_score == pytest.approx(alone.valid_score, abs=tolerance)
        assert (score.best_step, score.steps) == (alone.best_step, alone.steps)
        for name, value in alone.head.state_dict().items():
            torch.testing.assert_close(parameters[name], value.cpu(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_head_is_the_same_trained_alone_in_a_plain_loop(name: str) -> None:
    trained = train_together(TASKS[name])
    assert sorted(trained) == list(range(len(GRID)))
    compare_with_plain_loop(TASKS[name], trained, range(0, len(GRID), 13), 1e-9, torch.float64)


def test_a_head_learns_nothing_of_tags_that_are_not_known() -> None:
    """As in a plain loop whose loss leaves them out, also with dropout, L2 and a hidden layer."""
    task = TASKS["tags"]
    train, valid = make_split(task, 90, 1), make_split(task, 60, 2)
    targets = train.targets.astype(np.float64)
    targets[np.random.default_rng(3).random(targets.shape) < 0.6] = np.nan
    grid = GRID[3::10]
    data = prepare_data(
        Split(train.features, targets), valid, task, torch.device("cpu"), torch.float64
    )[0]
    stacks = train_heads(grid, data, 0, PATIENCE, False)
    for position, score, parameters in (head for stack in stacks for head in stack):
        alone = train_alone(
            grid[position],
            (train.features, targets),
            valid.features,
            lambda logits: roc_auc_score(valid.targets, logits),
            "bce_of_known",
            task.n_outputs,
            dtype=torch.float64,
            patience=PATIENCE,
        )
        assert alone.steps > alone.best_step > 0
        assert (score.best_step, score.steps) == (alone.best_step, alone.steps)
        for name, value in alone.head.state_dict().items():
            torch.testing.assert_close(parameters[name], value, atol=1e-9, rtol=0)


def test_a_head_is_the_same_in_single_precision() -> None:
    task = TASKS["values"]
    trained = train_together(task, dtype=torch.float32)
    compare_with_plain_loop(task, trained, range(2, len(GRID), 13), 1e-4, torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_head_is_the_same_on_a_gpu(name: str) -> None:
    # Patience for some periods beyond those between two looks, so that graphs are replayed and
    # captured again without the heads that have stopped.
    trained = train_together(TASKS[name], device="cuda", patience=40)
    positions = range(0, len(GRID), 9)
    compare_with_plain_loop(TASKS[name], trained, positions, 1e-7, torch.float64, "cuda", 40)


def test_a_head_does_not_depend_on_which_others_are_trained() -> None:
    task = TASKS["classes"]
    together = train_together(task)
    for position in (0, 21, 42, 63):
        score, parameters = train_together(task, GRID[position : position + 1])[0]
        assert score == together[position][0]
        for name, value in parameters.items():
            torch.testing.assert_close(value, together[position][1][name], atol=1e-9, rtol=0)


def test_stacks_of_several_variants_give_what_stacks_of_one_give() -> None:
    # On a processor stacks are of one variant each; on a GPU they are as large as can be.
    task = TASKS["tags"]
    data = prepare_data(
        make_split(task, 90, 1), make_split(task, 60, 2), task, torch.device("cpu"), torch.float64
    )[0]
    expected = train_together(task)
    with torch.no_grad():
        for positions in group_heads(GRID, by_variant=False):
            config = GRID[positions[0]]
            draws = StepDraws(
                config.batch_size, 90, N_FEATURES, {config.hidden_units}, 0, torch.device("cpu")
            )
            stack = HeadStack(
                [GRID[position] for position in positions],
                positions,
                initial_parameters(config, N_FEATURES, task.n_outputs, 0),
                data,
                draws,
                PATIENCE,
            )
            found = 0
            while stack.configs:
                draws.advance({config.hidden_units})
                stack.train_period()
                for position, score, parameters in stack.retire(least_share=0.25):
                    found += 1
                    assert score.valid_score == pytest.approx(expected[position][0].valid_score)
                    assert score.steps == expected[position][0].steps
                    for name, value in parameters.items():
                        other = expected[position][1][name]
                        torch.testing.assert_close(value, other, atol=1e-9, rtol=0)
            assert found == len(positions) == 16


INTERRUPTED = """
import _thread, sys, threading, time
sys.path.insert(0, sys.argv[1])
import torch
from test_probe_training import TASKS, train_together
torch.set_num_threads(2)
def interrupt():
    time.sleep(float(sys.argv[2]))
    print("interrupting", flush=True)
    _thread.interrupt_main()
threading.Thread(target=interrupt, daemon=True).start()
try:
    train_together(TASKS["classes"], patience=10**9)
except KeyboardInterrupt:
    names = [thread.name for thread in threading.enumerate()]
    print(names.count("probing"), torch.get_num_threads())
"""


def test_ctrl_c_ends_training_and_its_threads() -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(Path(__file__).parent), "1.0"]
    environment = os.environ | {
        "PYTHONPATH": f"{Path(__file__).parents[3]}:{Path(__file__).parents[2]}"
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["interrupting", "0", "2"], done.stderr


def test_an_error_in_a_thread_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: HeadStack) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(HeadStack, "train_period", fail)
    with pytest.raises(MemoryError, match="no room"):
        train_together(TASKS["classes"])


def test_training_is_deterministic_for_a_seed() -> None:
    task = TASKS["classes"]
    first, again, other = (
        train_together(task, GRID[:8], torch.float32, seed=seed) for seed in (3, 3, 4)
    )
    for position in range(8):
        assert first[position][0] == again[position][0]
        for name, value in first[position][1].items():
            assert torch.equal(value, again[position][1][name])
            assert not torch.equal(value, other[position][1][name])


def test_initial_weights_are_within_pytorchs_bounds() -> None:
    config = build_grid(hidden_units=(64,))[0]
    parameters = initial_parameters(config, 100, 7, seed=0)
    for name, fan_in in (("hidden", 100), ("output", 64)):
        for kind in ("weight", "bias"):
            largest = parameters[f"{name}.{kind}"].abs().max().item()
            assert 0.5 * fan_in**-0.5 < largest <= fan_in**-0.5


def test_batches_hold_no_row_twice_and_reach_all_rows_evenly() -> None:
    draws = StepDraws(16, 40, 3, {0}, 0, torch.device("cpu"))
    counts = torch.zeros(40)
    for _ in range(500):
        draws.advance({0})
        for rows in draws.rows:
            assert len(rows.unique()) == 16
            counts[rows] += 1
    share = counts / (500 * PERIOD)
    assert (share - 16 / 40).abs().max() < 0.04  # five standard deviations of a binomial


def test_a_batch_larger_than_train_is_all_of_train() -> None:
    draws = StepDraws(64, 40, 3, {0}, 0, torch.device("cpu"))
    draws.advance({0})
    assert draws.rows.sort().values.tolist() == [list(range(40))] * PERIOD


def test_what_a_head_sees_does_not_depend_on_whether_hidden_layers_are_trained() -> None:
    alone, beside = (
        StepDraws(8, 20, 3, widths, 0, torch.device("cpu")) for widths in ({0}, {0, 5})
    )
    for draws, widths in ((alone, {0}), (beside, {0, 5})):
        draws.advance(widths)
        draws.advance(widths)
    assert torch.equal(alone.rows, beside.rows)
    assert torch.equal(alone.inputs, beside.inputs)


@pytest.mark.parametrize("dropout", [0.25, 0.5, 0.75])
def test_dropout_keeps_the_share_and_the_expectation(dropout: float) -> None:
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    factors = dropout_factors(uniform, dropout, torch.float64)
    assert set(factors.abs().unique().tolist()) == {0.0, 1 / (1 - dropout)}
    assert factors.mean().item() == pytest.approx(1.0, abs=0.02)


def test_every_configuration_is_in_one_stack() -> None:
    for by_variant, n_stacks in ((False, 4), (True, 16)):
        groups = group_heads(GRID, by_variant)
        assert len(groups) == n_stacks
        assert sorted(position for group in groups for position in group) == list(range(len(GRID)))
