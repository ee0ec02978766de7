"""The random numbers of training: the same for every head of a batch size.

All heads of a batch size see the same batches. They also share one uniform number per (row, input
feature) and per (row, hidden unit) of a step; a head with dropout p keeps where that number is
above p. So each head by itself has ordinary, independent dropout, yet a step costs one draw
however many heads train, and what a head sees does not depend on which others train beside it.
"""

from __future__ import annotations

import numpy as np
import torch

PERIOD = 8
"""Training steps between two evaluations. Source: JukeMIR."""

STREAMS = {"batches": 0, "inputs": 1, "hidden": 2}


class StepDraws:
    """Batches and dropout draws of one batch size, a period of `PERIOD` steps at a time.

    `advance` overwrites the same tensors, so that a captured CUDA graph may read them. The numbers
    depend on the seed, the batch size and the kind of device alone.

    Attributes:
        rows: rows of train in each step's batch, drawn without replacement, (PERIOD, B).
        inputs: uniform in [0, 1), for input dropout, (PERIOD, B, D).
        hidden: by hidden width U, uniform in [0, 1), for hidden dropout, (PERIOD, B, U).
    """

    def __init__(
        self,
        batch_size: int,
        n_rows: int,
        n_features: int,
        hidden_units: set[int],
        seed: int,
        device: torch.device,
    ) -> None:
        """Prepare the streams.

        Args:
            batch_size: rows of a step as configured; all rows where there are fewer.
            n_rows: rows N of train.
            n_features: width D.
            hidden_units: widths of the hidden layers to draw for.
            seed: of the experiment.
            device: where to draw.
        """

        def stream(name: str, width: int = 0) -> torch.Generator:
            generator = torch.Generator(device)
            entropy = np.random.SeedSequence([seed, batch_size, STREAMS[name], width])
            generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
            return generator

        batch = min(batch_size, n_rows)
        self.rows = torch.empty(PERIOD, batch, dtype=torch.int64, device=device)
        self.inputs = torch.empty(PERIOD, batch, n_features, device=device)
        self.hidden = {
            width: torch.empty(PERIOD, batch, width, device=device)
            for width in hidden_units
            if width
        }
        self._keys = torch.empty(PERIOD, n_rows, device=device)
        self._batch_stream = stream("batches")
        self._input_stream = stream("inputs")
        self._hidden_streams = {width: stream("hidden", width) for width in self.hidden}

    def advance(self, hidden_units: set[int]) -> None:
        """Draw the next period.

        Args:
            hidden_units: widths that some head still needs; once left out, out for good.
        """
        self._keys.uniform_(generator=self._batch_stream)
        self.rows.copy_(self._keys.argsort(dim=1, stable=True)[:, : self.rows.shape[1]])
        self.inputs.uniform_(generator=self._input_stream)
        for width in hidden_units & self.hidden.keys():
            self.hidden[width].uniform_(generator=self._hidden_streams[width])
