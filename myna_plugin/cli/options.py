"""Options that several sub-commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import click

from myna_plugin.common.options import FOLDER, JsonObject, Number
from myna_plugin.model.chunks import SHORTEST_HOP_MS, TOKEN_SHARES
from myna_plugin.model.encoder import POOLINGS

Command = Callable[..., Any]

MODEL = click.option(
    "--model",
    default="",
    metavar="CHECKPOINT",
    help="tiny, the small packaged model; myna-base, myna-vertical, myna-hybrid or myna-85m; a "
    ".safetensors, .pth or .pt file; a folder for transformers; or owner/name.  "
    "[default: the packaged model]",
)

EMBEDDING = click.option(
    "--embedding",
    type=click.Choice(["auto", "square", "vertical", "hybrid"]),
    default="auto",
    show_default=True,
    help="Which patches to embed with; auto takes all that the model has.",
)

MODEL_OPTIONS = click.option(
    "--model-options", type=JsonObject(), default="{}", help="load_model's keyword arguments."
)

CACHE = click.option(
    "--cache",
    type=FOLDER,
    help="Folder of embeddings.  [default: $MYNA_PLUGIN_CACHE, or ~/.cache/myna_plugin/embeddings]",
)


def hop_ms_option(meaning: str, default: float | None = 50.0) -> Callable[[Command], Command]:
    """--hop-ms; what its vectors are, and a default of None, is the command's to say."""
    return click.option(
        "--hop-ms",
        type=Number(float, SHORTEST_HOP_MS),
        default=default,
        show_default=default is not None,
        help=meaning,
    )


class LayersType(click.ParamType):
    """Numbers of blocks, separated by commas."""

    name = "N,N…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse N,N…; which blocks there are the model knows.

        >>> LayersType().convert("8,12", None, None)
        (8, 12)
        """
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"must be numbers of blocks, such as 8,12, got {value!r}", param, ctx)
        return tuple(map(int, parts))


SCENE_LAYERS = click.option(
    "--scene-layers",
    type=LayersType(),
    metavar="N,N…",
    help="Transformer blocks, from 1, whose mean tokens an embedding joins.  "
    "[default: the checkpoint's, else the last]",
)

SCENE_POOLING = click.option(
    "--scene-pooling",
    type=click.Choice(list(POOLINGS)),
    help="What of the tokens an embedding joins: their mean, or also their standard deviation.  "
    "[default: the checkpoint's, else mean]",
)


class ShareType(click.ParamType):
    """One of `TOKEN_SHARES`, as 1/n or a decimal number."""

    name = "1/n"
    known: ClassVar[dict[str, float]] = {
        text: share for share in TOKEN_SHARES for text in (f"1/{1 / share:g}", f"{share:g}")
    }

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse it.

        >>> ShareType().convert("1/4", None, None), ShareType().convert("0.25", None, None)
        (0.25, 0.25)
        """
        if str(value) not in self.known:
            self.fail(f"must be 1, 1/2, 1/4 or 1/8, got {value!r}", param, ctx)
        return self.known[str(value)]


TOKENS = click.option(
    "--tokens",
    type=ShareType(),
    metavar="1/n",
    help="Of its tokens, the share that an embedding is made of: 1, or for speed 1/2, 1/4 or 1/8; "
    "sequences over time need all.  [default: 1]",
)


class PatternType(click.ParamType):
    """A pattern that some name or path may match."""

    name = "PATTERN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what matches nothing, or leads elsewhere."""
        parts = str(value).strip("/").split("/")
        if {"", ".", ".."} & {*parts}:
            self.fail(f"must be a name, or a path from the folder on, got {value!r}", param, ctx)
        return str(value)


class ShardType(click.ParamType):
    """i/n as a pair of numbers."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse i/n.

        >>> ShardType().convert("2/4", None, None)
        (2, 4)
        """
        if isinstance(value, tuple):
            return value
        i, slash, n = str(value).partition("/")
        if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
            self.fail(f"must be i/n with i from 1 to n, got {value!r}", param, ctx)
        return int(i), int(n)
