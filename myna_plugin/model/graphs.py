"""Functions on a CUDA device as graphs: short work is bound by launching kernels one by one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST_GRAPHS = 16
"""Each holds kernels, an input and a result; the memory between the two they share."""

MOST_SEEN = 1_000
"""Shapes that are remembered to have come once."""

Function = Callable[[Sequence[Tensor]], list[Tensor]]


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Tensor]


class Graphs:
    """Calls whose shapes come a second time are captured, and replayed from then on.

    Not at the first: where every sound has a length of its own, each would be captured in vain,
    which takes as long as some calls. For the same reason none makes room for another.
    """

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        self._most = most
        self._begin(())

    def _begin(self, addresses: tuple[int, ...]) -> None:
        self._addresses = addresses
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, _Captured] = {}
        self._pool: Any = None

    def call(
        self,
        function: Function,
        inputs: Sequence[Tensor],
        weights: Iterable[Tensor],
        key: Hashable = None,
    ) -> list[Tensor]:
        """What the function gives, tensors of the caller's own.

        Args:
            function: its kernels follow from `key` and the inputs' shapes alone, and it never
                waits for the device.
            inputs: on a CUDA device.
            weights: what else it reads. Their numbers may change, but where they lie elsewhere
                all is captured anew: a graph would read what lies there now.
            key: all else that it depends on.
        """
        addresses = tuple(weight.data_ptr() for weight in weights)
        if addresses != self._addresses:
            self._begin(addresses)
        key = (key, *((tuple(own.shape), own.dtype, own.device) for own in inputs))
        if key not in self._graphs:
            if key not in self._seen or len(self._graphs) >= self._most:
                if len(self._seen) < MOST_SEEN:
                    self._seen.add(key)
                return function(inputs)
            self._graphs[key] = self._capture(function, inputs)
        captured = self._graphs[key]
        for own, given in zip(captured.inputs, inputs, strict=True):
            own.copy_(given)
        captured.graph.replay()
        return [output.clone() for output in captured.outputs]

    def _capture(self, function: Function, inputs: Sequence[Tensor]) -> _Captured:
        device = inputs[0].device
        with torch.cuda.device(device):
            own = [given.clone() for given in inputs]
            # Libraries make their workspaces at a first call, which may not be captured.
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                function(own)
            torch.cuda.current_stream(device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = function(own)
            self._pool = graph.pool()
        return _Captured(graph, own, outputs)
