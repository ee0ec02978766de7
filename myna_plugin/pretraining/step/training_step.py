"""One training step: loss, gradients, update; on a GPU captured once and replayed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from myna_plugin.pretraining.step.crops import Views

EAGER_STEPS = 3
"""Steps taken before capture, so that everything lazy (libraries, optimiser state) exists."""


class TrainingStep:
    """Loss, backward pass and update.

    With `graph` the first steps run as usual; then everything that the GPU does in a step is
    recorded once (a CUDA graph) and replayed, which leaves the CPU nothing to launch but the
    drawing of views. Shapes must then stay the same from step to step.

    Args:
        objective: views -> loss of every patching, shape (G,).
        optimiser: updates the objective's parameters; must be capturable for `graph`.
        graph: whether to capture; needs a CUDA device.
    """

    def __init__(
        self, objective: nn.Module, optimiser: torch.optim.Optimizer, graph: bool = False
    ) -> None:
        self.objective = objective
        self.optimiser = optimiser
        self.graph = graph
        self._taken = 0
        self._captured: tuple[torch.cuda.CUDAGraph, Views, Tensor] | None = None

    def __call__(self, views: Views) -> Tensor:
        """Take a step; returns the loss of every patching before it, shape (G,).

        The result is only valid until the next call.
        """
        if not self.graph:
            return self._run(views)
        if self._captured is None:
            if self._taken < EAGER_STEPS:
                self._taken += 1
                return self._run_beside(views)
            self._captured = self._capture(views)
        graph, static, losses = self._captured
        _copy_views(static, views)
        graph.replay()
        return losses

    def _run(self, views: Views) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.objective(views)
        losses.mean().backward()
        self.optimiser.step()
        return losses.detach()

    def _run_beside(self, views: Views) -> Tensor:
        """A step on a side stream, as capture asks of the steps before it."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            losses = self._run(views)
        torch.cuda.current_stream().wait_stream(side)
        return losses

    def _capture(self, views: Views) -> tuple[torch.cuda.CUDAGraph, Views, Tensor]:
        static = Views(
            views.sounds.clone(),
            views.starts.clone(),
            views.tokens.clone(),
            None if views.patches is None else views.patches.clone(),
        )
        self.optimiser.zero_grad(set_to_none=True)
        # The graph keeps memory of its own: what the steps before it took must be free for it.
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        # Only this thread is watched for what a graph cannot hold: another one may be pinning the
        # memory of the coming views.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            losses = self._run(static)
        return graph, static, losses


def _copy_views(target: Views, source: Views) -> None:
    target.sounds.copy_(source.sounds, non_blocking=True)
    target.starts.copy_(source.starts, non_blocking=True)
    target.tokens.copy_(source.tokens, non_blocking=True)
    if target.patches is not None and source.patches is not None:
        target.patches.copy_(source.patches, non_blocking=True)
