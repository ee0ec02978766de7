"""Average the weights of encoders that were trained on from one and the same.

Where several runs went on from one model, what lies between them is a model as well, often with
the strengths of each (model soups, Wortsman et al. 2022, arXiv 2203.05482). Of models that were
begun apart it is none.

\b
Examples:
  python -m recipes.average OUT.safetensors last/final.safetensors distil/final.safetensors
  python -m recipes.average OUT.safetensors last/final.safetensors distil/final.safetensors=2

FILE=2 counts twice. OUT.safetensors is an encoder for `load_model`, without projector, that reads
what the first FILE names. Exit status: 0 done, 2 bad input.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import click
import torch
from torch import Tensor

from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.model.checkpoint import load_encoder, load_weights, save_checkpoint
from myna_plugin.model.encoder import MynaEncoder
from myna_plugin.model.identity import digest_weights

LEAST_COSINE = 0.5
"""Models that went on from one were .997 alike, models begun apart .09 at most (nine of ours)."""


def average(states: list[dict[str, Tensor]], counts: list[float]) -> dict[str, Tensor]:
    """The mean of each parameter, a state counted so many times; summed in float64."""
    mean = {}
    for name, tensor in states[0].items():
        total = torch.zeros_like(tensor, dtype=torch.float64)
        for state, count in zip(states, counts, strict=True):
            total += count * state[name].double()
        mean[name] = (total / sum(counts)).to(tensor.dtype)
    return mean


def _refuse_strangers(states: list[dict[str, Tensor]], files: list[str]) -> None:
    """InputError if the weights of a file point elsewhere than those of the first."""
    first, *others = (torch.cat([t.flatten() for t in s.values() if t.ndim > 1]) for s in states)
    for other, file in zip(others, files[1:], strict=True):
        cosine = float(torch.cosine_similarity(first, other, dim=0))
        if cosine < LEAST_COSINE:
            raise InputError(
                f"{file}: was begun apart from {files[0]} (cosine of their weights "
                f"{cosine:.2f}), and the average of such is no model"
            )


def _counted(text: str) -> tuple[str, float]:
    """A FILE, and how many times it counts."""
    file, equals, count = text.rpartition("=")
    if not equals or Path(text).is_file():
        return text, 1.0
    try:
        value = float(count)
    except ValueError:
        value = -1
    if not 0 < value < float("inf"):
        raise InputError(f"{text}: after = there must be a number above 0, as in {file}=2")
    return file, value


def _read(files: list[str]) -> list[MynaEncoder]:
    first = load_encoder(files[0])
    others = [deepcopy(first) for _ in files[1:]]
    for encoder, file in zip(others, files[1:], strict=True):
        load_weights(encoder, file)
    return [first, *others]


@click.command("average", cls=ToldCommand, help=__doc__)
@click.argument("out", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
def main(out: Path, files: tuple[str, ...]) -> None:
    names, counts = zip(*map(_counted, files), strict=True)
    if len(names) < 2:
        raise InputError("one FILE has no average; name a new file first, then two or more")
    if out.exists():
        raise InputError(
            f"{out}: is there, and would be lost; name a new file first, then the FILEs"
        )
    encoders = _read(list(names))
    states = [encoder.state_dict() for encoder in encoders]
    _refuse_strangers(states, list(names))
    encoders[0].load_state_dict(average(states, list(counts)))
    parts = {digest_weights(state): count for state, count in zip(states, counts, strict=True)}
    save_checkpoint(encoders[0], out, {"average of": json.dumps(parts)})
    click.echo(f"{out}: the average of {len(names)}; myna_plugin.load_model({str(out)!r})")


if __name__ == "__main__":
    main()
