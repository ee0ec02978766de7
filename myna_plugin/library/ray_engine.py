"""A library on a Ray cluster: units of tracks go to actors, each with a device and decoders.

An actor does what one machine does (`embed_tracks`), so the rows are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from myna_plugin.api import Myna
from myna_plugin.library.building import embed_tracks, embed_units
from myna_plugin.library.parts import Unit, encode_part
from myna_plugin.library.progress import Progress
from myna_plugin.library.table import Facts
from myna_plugin.library.tracks import LibraryError, Track
from myna_plugin.model.identity import digest_weights


class RayEngine:
    """Embeds units with Ray Data: an actor for each GPU of the cluster, else for each node.

    Args:
        model: arguments of `Myna.from_pretrained`; files must be there on every node. Its
            "device" "auto" means CUDA where the cluster has GPUs.
        facts: what the library's rows are made with.
        workers: decoding processes an actor; None for the cores that are its share.
        batch_seconds: audio a pass; None chooses by device.

    Raises:
        LibraryError: Ray is missing.
    """

    def __init__(
        self,
        model: dict[str, Any],
        facts: Facts,
        *,
        workers: int | None = None,
        batch_seconds: float | None = None,
    ) -> None:
        try:
            import ray.data
        except ImportError as error:
            raise LibraryError(
                "--engine ray needs Ray: pip install 'myna-plugin[ray]', or leave it out"
            ) from error
        self._ray = ray
        self._model, self._facts = model, facts
        self._workers, self._batch_seconds = workers, batch_seconds

    def run(self, units: Sequence[Unit], progress: Progress) -> Iterator[tuple[Unit, bytes]]:
        """Parts of units, in no certain order; see `build_library`.

        Without a running cluster (RAY_ADDRESS) one is started on this machine.
        """
        ray = self._ray
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources = ray.cluster_resources()
        n_gpus = 0 if self._model["device"] == "cpu" else int(resources.get("GPU", 0))
        actors = min(n_gpus or sum(node["Alive"] for node in ray.nodes()), len(units))
        cores = max(int(resources["CPU"]) // actors, 1)
        # Ray Data's own tasks need a core too, or all would wait for one another.
        share = {"num_cpus": cores - 1 if cores > 1 else 0.5, "num_gpus": 1 if n_gpus else 0}
        arguments = {
            "model": {**self._model, "device": "cuda" if n_gpus else "cpu"},
            "facts": self._facts,
            "workers": self._workers or cores,
            "batch_seconds": self._batch_seconds,
        }
        # As JSON: Arrow takes no names that are no UTF-8.
        rows = [{"number": i, "tracks": json.dumps(unit.tracks)} for i, unit in enumerate(units)]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _UnitEmbedder,
            batch_size=1,
            fn_constructor_kwargs=arguments,
            concurrency=actors,
            **share,
        )
        for row in done.iter_rows():
            unit = units[row["number"]]
            progress.heard(row["seconds"])
            progress.done(len(unit.tracks))
            yield unit, row["content"]


class _UnitEmbedder:
    """What an actor holds: the model, on its device."""

    def __init__(
        self, model: dict[str, Any], facts: Facts, workers: int, batch_seconds: float | None
    ) -> None:
        self._myna = Myna.from_pretrained(**model)
        if digest_weights(self._myna.embedder.encoder.state_dict()) != facts["weights"]:
            raise LibraryError(f"{model['name']}: another file on this node; copy it to all nodes")
        self._facts, self._workers, self._batch_seconds = facts, workers, batch_seconds

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Embed one unit: its number and tracks become its number, part and seconds of audio."""
        found = json.loads(batch["tracks"][0])
        unit = Unit("", 0, tuple(Track(*fields) for fields in found))

        def embed(tracks: Any) -> Any:
            return embed_tracks(
                tracks,
                self._myna.embedder,
                timestamps=self._facts["timestamps"],
                workers=min(self._workers, len(unit.tracks)),
                batch_seconds=self._batch_seconds,
                seconds=self._facts["seconds"],
            )

        ((_, rows),) = embed_units([unit], embed)
        return {
            "number": [batch["number"][0]],
            "content": [encode_part(rows, self._facts)],
            "seconds": [sum(row.duration_s or 0.0 for row in rows)],
        }
