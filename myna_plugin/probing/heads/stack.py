"""Heads trained as one: stacked parameters, and one matrix product for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from myna_plugin.probing.heads.draws import PERIOD, StepDraws
from myna_plugin.probing.heads.early_stopping import EarlyStopping, HeadScore
from myna_plugin.probing.heads.grid import HeadConfig
from myna_plugin.probing.heads.losses import Loss
from myna_plugin.probing.heads.validation import ValidationMetric

Parameters = dict[str, Tensor]
"""Parameters of H heads, named as `build_head` names them: (H, outputs, inputs), (H, outputs)."""

TrainedHead = tuple[int, HeadScore, Parameters]
"""A head's position in the grid, what it came to, and the weights of its best evaluation."""

EVALUATION_ROWS = 4096
"""Validation rows that are evaluated at a time, which bounds the memory of hidden layers."""


def first_layer(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The layer of every head that takes features.

    Args:
        inputs: shape (1, B, D) if all heads share them, which makes it one matrix product; else
            (H, B, D).
        weight: shape (H, O, D).
        bias: shape (H, O).

    Returns:
        Shape (H, B, O).
    """
    if len(inputs) > 1:
        return torch.baddbmm(bias.unsqueeze(1), inputs, weight.transpose(1, 2))
    outputs = torch.addmm(bias.flatten(), inputs[0], weight.flatten(0, 1).T)
    return outputs.unflatten(1, bias.shape).transpose(0, 1)


def compute_logits(
    parameters: Parameters, inputs: Tensor, hidden_keep: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Logits of all heads.

    Args:
        parameters: of H heads.
        inputs: the batch, after input dropout if any, shape (1, B, D) or (H, B, D).
        hidden_keep: what hidden units are multiplied by, shape (1, B, U) or (H, B, U); None for no
            dropout.

    Returns:
        Logits (H, B, C), and the hidden layer after dropout (H, B, U), None for linear heads.
    """
    weight, bias = parameters["output.weight"], parameters["output.bias"]
    if "hidden.weight" not in parameters:
        return first_layer(inputs, weight, bias), None
    hidden = first_layer(inputs, parameters["hidden.weight"], parameters["hidden.bias"]).relu_()
    if hidden_keep is not None:
        hidden.mul_(hidden_keep)
    # Few outputs: on a processor the product is twice as fast this way round as rows first.
    logits = torch.bmm(weight, hidden.transpose(1, 2)).add_(bias.unsqueeze(2))
    return logits.transpose(1, 2), hidden


def compute_gradients(
    parameters: Parameters,
    gradients: Parameters,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    hidden_keep: Tensor | None,
) -> None:
    """Gradients of each head's mean loss on a batch, written into `gradients`.

    Args:
        parameters: of H heads.
        gradients: where to write, of the same names and shapes.
        loss: what to differentiate.
        inputs: see `compute_logits`.
        targets: encoded targets, shape (B, C).
        hidden_keep: see `compute_logits`.
    """
    logits, hidden = compute_logits(parameters, inputs, hidden_keep)
    slope = loss.gradient(logits, targets)  # (H, B, C)
    if hidden is None:
        _first_layer_gradients(gradients, "output", slope, inputs)
        return
    torch.bmm(slope.transpose(1, 2), hidden, out=gradients["output.weight"])
    torch.sum(slope, 1, out=gradients["output.bias"])
    hidden_slope = torch.empty_like(hidden)
    torch.bmm(slope, parameters["output.weight"], out=hidden_slope)
    # A unit passes its slope on where it is positive: neither dropped nor stopped by the ReLU.
    hidden_slope.mul_(hidden.sign_())
    if hidden_keep is not None:
        hidden_slope.mul_(hidden_keep)
    _first_layer_gradients(gradients, "hidden", hidden_slope, inputs)


def _first_layer_gradients(
    gradients: Parameters, layer: str, slope: Tensor, inputs: Tensor
) -> None:
    """Write the gradients of `first_layer`'s weight and bias, given those of its outputs."""
    weight = gradients[f"{layer}.weight"]
    if len(inputs) > 1:
        torch.bmm(slope.transpose(1, 2), inputs, out=weight)
    else:
        torch.mm(slope.transpose(0, 1).flatten(1).T, inputs[0], out=weight.flatten(0, 1))
    torch.sum(slope, 1, out=gradients[f"{layer}.bias"])


@dataclass(frozen=True)
class TrainingData:
    """What heads are trained and evaluated on.

    Attributes:
        train: features without and with standardisation, each (N, D).
        targets: encoded targets of train, shape (N, C).
        valid: features of validation without and with standardisation, each (V, D).
        metric: scores logits of validation.
        loss: what to minimise.
    """

    train: dict[bool, Tensor]
    targets: Tensor
    valid: dict[bool, Tensor]
    metric: ValidationMetric
    loss: Loss


class HeadStack:
    """Heads of one hidden width and batch size, trained side by side.

    They see the same batches. Those that also share standardisation and dropout, a variant, see
    the same inputs; a stack of one variant has a single matrix product for the first layer of all
    heads. Each head has its own learning rate, L2 penalty and early stopping. Everything stays on
    the device: only `retire` waits for it.

    Attributes:
        configs: of the heads that are still trained.
        positions: of these heads in the grid.
        batch_size: of all of them, as configured.
        hidden_units: of all of them.
    """

    def __init__(
        self,
        configs: Sequence[HeadConfig],
        positions: Sequence[int],
        initial: Parameters,
        data: TrainingData,
        draws: StepDraws,
        patience: int,
    ) -> None:
        """Start all heads from the same weights and evaluate them once.

        Args:
            configs: H configurations of one hidden width and batch size.
            positions: of each in the grid.
            initial: weights of one head.
            data: to train and evaluate on.
            draws: of the batch size.
            patience: evaluations without a new best after which a head stops.
        """
        self.batch_size, self.hidden_units = configs[0].batch_size, configs[0].hidden_units
        # In order of variant, so that those that share validation features lie side by side.
        order = sorted(range(len(configs)), key=lambda head: _variant(configs[head]))
        self.configs = [configs[head] for head in order]
        self.positions = [positions[head] for head in order]
        self._data, self._draws = data, draws
        n_heads, device = len(configs), data.targets.device
        self._parameters = {
            name: value.to(data.targets).expand(n_heads, *value.shape).contiguous()
            for name, value in initial.items()
        }
        self._best, self._exp_avg, self._exp_avg_sq = (
            {name: torch.zeros_like(value) for name, value in self._parameters.items()}
            for _ in range(3)
        )
        self._updates = torch.zeros(n_heads, len(initial), device=device)
        self._stopping = EarlyStopping(n_heads, patience, device)
        self._prepare()
        self._evaluate()

    def train_period(self) -> None:
        """The steps of one period of the draws, then an evaluation."""
        rows = self._draws.rows
        targets = self._data.targets.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        # Of each variant, shape (variants, PERIOD, B, D), and below (variants, PERIOD, B, U).
        inputs = torch.stack(
            [
                self._data.train[standardize]
                .index_select(0, rows.flatten())
                .unflatten(0, rows.shape)
                .mul_(dropout_factors(self._draws.inputs, dropout, targets.dtype))
                for standardize, dropout in self._variants
            ]
        )
        hidden_keep = None
        if self.hidden_units:
            uniform = self._draws.hidden[self.hidden_units]
            hidden_keep = torch.stack(
                [dropout_factors(uniform, dropout, targets.dtype) for _, dropout in self._variants]
            )
        for step in range(PERIOD):
            compute_gradients(
                self._parameters,
                self._gradients,
                self._data.loss,
                self._of_heads(inputs[:, step]),
                targets[step],
                None if hidden_keep is None else self._of_heads(hidden_keep[:, step]),
            )
            self._update()
        self._evaluate()

    def _of_heads(self, of_variants: Tensor) -> Tensor:
        """From one per variant to one per head, or to one for all of them."""
        if len(self._variants) == 1:
            return of_variants
        return of_variants.index_select(0, self._variant_of_head)

    def retire(self, least_share: float = 0.0) -> list[TrainedHead]:
        """Take out the heads that have stopped, so that nothing more is computed for them.

        Args:
            least_share: share of the heads that must have stopped for it to be worth the effort.

        Returns:
            The heads taken out.
        """
        active = self._stopping.active.tolist()
        stopped = [head for head, is_active in enumerate(active) if not is_active]
        if len(stopped) < max(1, least_share * len(active)):
            return []
        results = [
            (
                self.positions[head],
                self._stopping.result(head, self.configs[head]),
                {name: value[head].cpu() for name, value in self._best.items()},
            )
            for head in stopped
        ]
        self._continue_with([head for head, is_active in enumerate(active) if is_active])
        return results

    def _update(self) -> None:
        """A step of Adam for each head, with its own learning rate and L2 penalty."""
        for (learning_rate, l2), tensors in self._adam_tensors.items():
            parameters, gradients, exp_avg, exp_avg_sq, updates = tensors
            adam(
                parameters,
                gradients,
                exp_avg,
                exp_avg_sq,
                [],
                updates,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=learning_rate,
                weight_decay=l2,
                eps=1e-8,
                maximize=False,
            )

    def _prepare(self) -> None:
        """Set up what depends on which heads there are."""
        self._variants = sorted({_variant(config) for config in self.configs})
        numbers = [self._variants.index(_variant(config)) for config in self.configs]
        self._variant_of_head = torch.tensor(numbers, device=self._updates.device)
        self._gradients = {
            name: torch.empty_like(value) for name, value in self._parameters.items()
        }
        stacked = (self._parameters, self._gradients, self._exp_avg, self._exp_avg_sq)
        # Heads with the same learning rate and L2 penalty are updated by one call.
        self._adam_tensors: dict[tuple[float, float], tuple[list[Tensor], ...]] = {}
        for head, config in enumerate(self.configs):
            key = (config.learning_rate, config.l2)
            lists = self._adam_tensors.setdefault(key, ([], [], [], [], []))
            for tensors, chosen in zip(stacked, lists, strict=False):
                chosen.extend(value[head] for value in tensors.values())
            lists[-1].extend(self._updates[head].unbind())

    def _evaluate(self) -> None:
        """Score all heads on validation and keep the weights of those with a new best."""
        n_raw = sum(not config.standardize for config in self.configs)
        logits = torch.cat(
            [
                self._valid_logits(heads, standardize)
                for standardize, heads in ((False, slice(0, n_raw)), (True, slice(n_raw, None)))
                if self.configs[heads]
            ]
        )
        improved = self._stopping.update(*self._data.metric(logits))
        if improved.device.type == "cpu":
            heads = improved.nonzero().squeeze(1)
            for name, value in self._parameters.items():
                self._best[name].index_copy_(0, heads, value.index_select(0, heads))
            return
        # Which heads they are is known to the device alone, and asking would make it wait.
        for name, value in self._parameters.items():
            chosen = improved.view(-1, *[1] * (value.ndim - 1))
            torch.where(chosen, value, self._best[name], out=self._best[name])

    def _valid_logits(self, heads: slice, standardize: bool) -> Tensor:
        """Logits (h, V, C) of h neighbouring heads that share validation features."""
        parameters = {name: value[heads] for name, value in self._parameters.items()}
        parts = self._data.valid[standardize].split(EVALUATION_ROWS)
        return torch.cat(
            [compute_logits(parameters, part.unsqueeze(0))[0] for part in parts], dim=1
        )

    def _continue_with(self, heads: list[int]) -> None:
        """Go on with the heads of these numbers alone."""
        self.configs = [self.configs[head] for head in heads]
        self.positions = [self.positions[head] for head in heads]
        chosen = torch.tensor(heads, dtype=torch.int64, device=self._updates.device)
        for tensors in (self._parameters, self._best, self._exp_avg, self._exp_avg_sq):
            for name, value in tensors.items():
                tensors[name] = value.index_select(0, chosen)
        self._updates = self._updates.index_select(0, chosen)
        self._stopping.keep(chosen)
        self._prepare()


def _variant(config: HeadConfig) -> tuple[bool, float]:
    """What decides which inputs a head sees, beyond its batch size."""
    return config.standardize, config.dropout


def dropout_factors(uniform: Tensor, dropout: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by: 0 where `uniform` is up to p, 1 / (1 - p) where it is above."""
    # Rounding up is several times as fast as comparing and converting.
    return uniform.sub(dropout).ceil_().to(dtype).mul_(1.0 / (1.0 - dropout))
