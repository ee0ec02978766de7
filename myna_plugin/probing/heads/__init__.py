"""Linear and shallow probes on fixed embeddings: a grid of heads, selected on validation.

It sees arrays, never an encoder or a file.

>>> import numpy as np
>>> from myna_plugin.probing.heads import HeadTask, Split, build_grid, select
>>> rng = np.random.default_rng(0)
>>> def make_split(n):
...     classes = rng.integers(0, 2, n)
...     return Split(rng.normal(size=(n, 8)) + classes[:, None], classes)
>>> def accuracy(outputs, targets):
...     return {"accuracy": (outputs.argmax(1) == targets).mean()}
>>> task = HeadTask("cross_entropy", 2, metric="accuracy", score=accuracy)
>>> grid = build_grid(hidden_units=(0,), batch_size=(64,), learning_rate=(1e-2,), dropout=(0.25,))
>>> selection = select(make_split(80), make_split(40), task, grid, progress=False)
>>> len(selection.heads), selection.score(make_split(40)).scores["accuracy"] > 0.8
(6, True)
"""

from myna_plugin.probing.heads.combining import RULES
from myna_plugin.probing.heads.early_stopping import PATIENCE, HeadScore
from myna_plugin.probing.heads.grid import (
    FAST_GRID,
    GRID,
    GRIDS,
    Grid,
    HeadConfig,
    LinearConfig,
    build_grid,
)
from myna_plugin.probing.heads.losses import LOSSES
from myna_plugin.probing.heads.neighbours import NEIGHBOURS, score_neighbours
from myna_plugin.probing.heads.scoring import METRICS, tabulate_pair_scores
from myna_plugin.probing.heads.selection import (
    ProbeResult,
    Selection,
    select,
    summarize_scores,
)
from myna_plugin.probing.heads.splits import HeadTask, Split

__all__ = [
    "FAST_GRID",
    "GRID",
    "GRIDS",
    "LOSSES",
    "METRICS",
    "NEIGHBOURS",
    "PATIENCE",
    "RULES",
    "Grid",
    "HeadConfig",
    "HeadScore",
    "HeadTask",
    "LinearConfig",
    "ProbeResult",
    "Selection",
    "Split",
    "build_grid",
    "score_neighbours",
    "select",
    "summarize_scores",
    "tabulate_pair_scores",
]
