"""A head as a module: a linear layer, or a perceptron with one hidden layer."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from myna_plugin.probing.heads.grid import Config, HeadConfig


def build_head(config: Config, n_features: int, n_outputs: int) -> nn.Sequential:
    """The head of a configuration: dropout on the input and after the hidden layer, ReLU between.

    Args:
        config: hidden width and dropout are used.
        n_features: input width D.
        n_outputs: output width C.

    >>> head = build_head(HeadConfig(True, 4, 64, 1e-3, 0.5, 0.0), 3, 2)
    >>> [name for name, _ in head.named_parameters()]
    ['hidden.weight', 'hidden.bias', 'output.weight', 'output.bias']
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(input_dropout=nn.Dropout(config.dropout))
    width = n_features
    if config.hidden_units:
        layers["hidden"] = nn.Linear(n_features, config.hidden_units)
        layers["relu"] = nn.ReLU()
        layers["hidden_dropout"] = nn.Dropout(config.dropout)
        width = config.hidden_units
    layers["output"] = nn.Linear(width, n_outputs)
    return nn.Sequential(layers)


def initial_parameters(
    config: HeadConfig, n_features: int, n_outputs: int, seed: int
) -> dict[str, Tensor]:
    """PyTorch's own initialisation of `build_head`, the same for all heads of a hidden width.

    Args:
        config: the hidden width is used.
        n_features: input width D.
        n_outputs: output width C.
        seed: of the experiment. The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(build_head(config, n_features, n_outputs).state_dict())
