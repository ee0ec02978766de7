"""One head trained alone, in the plainest way: what heads trained together are held against."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.probing.heads import HeadConfig
from myna_plugin.probing.heads.draws import StepDraws
from myna_plugin.probing.heads.layers import build_head, initial_parameters


def bce_of_known(logits: Tensor, targets: Tensor) -> Tensor:
    """Where a target is NaN, not known, there is no loss; the mean is over all targets."""
    known = ~targets.isnan()
    loss = functional.binary_cross_entropy_with_logits(
        logits[known], targets[known], reduction="sum"
    )
    return loss / targets.numel()


LOSS_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "bce": functional.binary_cross_entropy_with_logits,
    "bce_of_known": bce_of_known,
    "mse": functional.mse_loss,
}


class GivenDropout(nn.Module):
    """Dropout that takes its random numbers instead of drawing them."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.uniform = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (self.uniform > self.p) / (1 - self.p)


@dataclass
class PlainResult:
    """What the plain loop came to; `head` has its best weights, `seconds` is for the loop alone."""

    valid_score: float
    best_step: int
    steps: int
    head: nn.Sequential
    seconds: float


def train_alone(
    config: HeadConfig,
    train: tuple[np.ndarray, np.ndarray],
    valid: np.ndarray,
    metric: Callable[[np.ndarray], float],
    loss: str,
    n_outputs: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    patience: int = 256,
    shared_draws: bool = True,
    max_steps: float = float("inf"),
) -> PlainResult:
    """Train one head with autograd, torch.optim.Adam and a library's metric.

    Args:
        config: of the head.
        train: features (N, D) and targets.
        valid: features (V, D).
        metric: from logits of `valid` (V, C) to the score.
        loss: a key of `LOSS_FUNCTIONS`.
        n_outputs: C.
        seed: of the experiment.
        device: where to train.
        dtype: of training.
        patience: evaluations without a new best after which to stop.
        shared_draws: whether to take batches and dropout from `StepDraws`, as heads trained
            together do, instead of from torch.randperm and nn.Dropout.
        max_steps: where to break off, for timing.
    """
    features, targets = train
    if config.standardize:
        scaler = StandardScaler().fit(features)
        features, valid = scaler.transform(features), scaler.transform(valid)
    x, x_valid = (torch.from_numpy(a).to(device, dtype) for a in (features, valid))
    y = torch.from_numpy(targets).to(device)
    y = y if loss == "cross_entropy" else y.to(dtype)

    head = build_head(config, x.shape[1], n_outputs)
    head.load_state_dict(initial_parameters(config, x.shape[1], n_outputs, seed))
    draws = None
    if shared_draws:
        draws = StepDraws(
            config.batch_size, *x.shape, {config.hidden_units}, seed, torch.device(device)
        )
        for name, layer in head.named_children():
            if isinstance(layer, nn.Dropout):
                setattr(head, name, GivenDropout(config.dropout))
    head.to(device, dtype)
    optimizer = torch.optim.Adam(head.parameters(), lr=config.learning_rate, weight_decay=config.l2)

    best, best_step, best_weights, stale, step = -np.inf, 0, None, 0, 0
    start = time.perf_counter()
    while True:
        if step % 8 == 0:
            head.eval()
            with torch.no_grad():
                score = metric(head(x_valid).cpu().numpy())
            head.train()
            if score > best:
                best, best_step, stale = score, step, 0
                best_weights = copy.deepcopy(head.state_dict())
            else:
                stale += 1
            if stale == patience or step >= max_steps:
                break
            if draws is not None:
                draws.advance({config.hidden_units})
        if draws is None:
            rows = torch.randperm(len(x), device=device)[: config.batch_size]
        else:
            rows = draws.rows[step % 8]
            head.input_dropout.uniform = draws.inputs[step % 8]
            if config.hidden_units:
                head.hidden_dropout.uniform = draws.hidden[config.hidden_units][step % 8]
        optimizer.zero_grad()
        LOSS_FUNCTIONS[loss](head(x[rows]), y[rows]).backward()
        optimizer.step()
        step += 1
    seconds = time.perf_counter() - start
    head.load_state_dict(best_weights)
    return PlainResult(float(best), best_step, step, head.eval(), seconds)
