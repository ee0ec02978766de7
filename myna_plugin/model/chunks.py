"""Spectrograms cut into chunks, and what is encoded of them put together again.

Scene embeddings take consecutive chunks, timestamp embeddings chunks that overlap by half; either
way the last chunk may be partial, down to a single frame, and is encoded over the patch columns
that it has. Nothing here asks whether gradients are kept.

Encoded chunks are lists of lists, [patching][layer]: the tokens after each of some blocks.

A scene embedding may be made of a share of the tokens: see `choose_tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from myna_plugin.common.numbers import check_number
from myna_plugin.model.audio import HOP_LENGTH, SAMPLE_RATE
from myna_plugin.model.encoder import PATCHINGS, MynaEncoder, token_grid

SHORTEST_HOP_MS = 1000 / SAMPLE_RATE
"""A sample: nothing is between two."""

Encoded = list[list[Tensor]]
"""[patching][layer]: tokens, shape (N, tokens, D), row-major over the grid of patches."""

TOKEN_SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of a chunk's tokens, how many may be encoded for a scene embedding."""

WITHOUT_FLOAT64 = "mps"
FEWEST_TOKENS = 6
"""Of a chunk, if it has so many: an eighth of a full one's 48. Pre-training sees 5."""

COLUMN_SHIFT = 3
"""Rows from a chosen token to the next column's. It shares no factor with the 8 rows of square
patches, so that a chunk's tokens come by every row."""

Encode = Callable[[Sequence[Tensor]], list[Encoded]]
"""Encodes cuts, chunks of one width each, shape (N, M, F)."""


def encode_chunks(
    encoder: MynaEncoder,
    cuts: Sequence[Tensor],
    patchings: Sequence[str],
    layers: Sequence[int],
    normed: bool = True,
    chosen: Sequence[Sequence[Tensor] | None] | None = None,
) -> list[Encoded]:
    """Tokens of chunks after some blocks, for each cut, all in one pass.

    Args:
        encoder: the model.
        cuts: mel power of chunks of one width, each (N, M, F), filled up with silence to whole
            patches here.
        patchings: of the encoder's.
        layers: blocks, from 1.
        normed: whether the tokens go through the encoder's final norm.
        chosen: for each cut, what `choose_tokens` gives; None for all tokens of all.
    """
    transformer = encoder.transformer
    tokens = []
    for i, cut in enumerate(cuts):
        own = chosen[i] if chosen else None
        for k, patching in enumerate(patchings):
            filled = fill_patches(cut, patching)
            tokens.append(encoder.tokens(filled, patching, own[k] if own else None))
    states = transformer.states(tokens, layers)
    if normed:
        states = [[transformer.norm(state) for state in own] for own in states]
    return [states[i : i + len(patchings)] for i in range(0, len(states), len(patchings))]


@cache
def compiled_encode() -> Callable[..., list[Encoded]]:
    """`encode_chunks` through `torch.compile`; one for all models, so models stay picklable.

    On CUDA its kernels are replayed as one graph for each shape: short sounds are bound by
    launching them.
    """
    return torch.compile(encode_chunks, mode="reduce-overhead")


def fill_patches(chunks: Tensor, patching: str) -> Tensor:
    """Continue chunks (N, M, F) with silence to a whole number of patch columns."""
    width = PATCHINGS[patching][1]
    return functional.pad(chunks, (0, -chunks.shape[-1] % width))


def check_share(tokens: object) -> float:
    """A share of the tokens, of `TOKEN_SHARES`.

    Raises:
        TypeError: no number.
        ValueError: another.
    """
    share = float(check_number("tokens", tokens, float, 0))
    if share not in TOKEN_SHARES:
        known = ", ".join(f"{share:g}" for share in TOKEN_SHARES)
        raise ValueError(f"tokens must be one of {known}, got {tokens!r}")
    return share


def choose_tokens(
    patchings: Sequence[str], n_frames: int, share: float, numbers: Tensor
) -> list[Tensor] | None:
    """Which tokens of chunks to encode, where that is a share of them.

    The columns of patches, one after the other, are a list of tokens. A chunk takes some that are
    evenly spaced in it, and begins one further than the chunk before it, so that 1 / share
    consecutive full chunks take every place of the grid once. Each column is entered
    `COLUMN_SHIFT` rows further than the one before: the tokens lie on a lattice, not in rows.

    It depends on a chunk's number in its sound alone, so never on the batch.

    Args:
        patchings: names from `PATCHINGS`.
        n_frames: frames of each chunk.
        share: of `TOKEN_SHARES`.
        numbers: of the chunks in their sounds, from 0, int64, shape (N,).

    Returns:
        For each patching, numbers of tokens in row-major order, int64, shape (N, k): k is the share
        rounded up, at least `FEWEST_TOKENS` or all there are. None for all tokens.

    >>> (chosen,) = choose_tokens(["square"], 96, 0.25, torch.tensor([0]))
    >>> grid = torch.zeros(48, dtype=int).index_fill(0, chosen[0], 1).view(8, 6)
    >>> for row in grid.tolist(): print(*row)
    1 0 0 0 1 0
    0 0 0 1 0 0
    0 0 1 0 0 0
    0 1 0 0 0 1
    1 0 0 0 1 0
    0 0 0 1 0 0
    0 0 1 0 0 0
    0 1 0 0 0 1
    """
    if share == 1:
        return None
    return [_choose(patching, n_frames, share, numbers) for patching in patchings]


def _choose(patching: str, n_frames: int, share: float, numbers: Tensor) -> Tensor:
    width = PATCHINGS[patching][1]
    rows, columns = token_grid(patching, -(-n_frames // width) * width)
    total = rows * columns
    count = min(max(math.ceil(total * share), FEWEST_TOKENS), total)
    even = torch.arange(count, device=numbers.device) * total // count
    place = (even + numbers.unsqueeze(-1) % round(1 / share)) % total
    column = place // rows
    return (place + COLUMN_SHIFT * column) % rows * columns + column


def cut_chunks(mel: Tensor, size: int, hop: int) -> list[Tensor]:
    """Cut spectrograms into chunks: full ones, then a partial one for what is left.

    Args:
        mel: shape (B, M, F).
        size: frames of a full chunk.
        hop: frames between chunk starts, at most `size`.

    Returns:
        Full chunks (B, K, M, size), if any, and the partial one (B, 1, M, rest), if any.

    >>> [tuple(cut.shape) for cut in cut_chunks(torch.zeros(2, 128, 200), 96, 96)]
    [(2, 2, 128, 96), (2, 1, 128, 8)]
    >>> [tuple(cut.shape) for cut in cut_chunks(torch.zeros(2, 128, 150), 96, 48)]
    [(2, 2, 128, 96), (2, 1, 128, 54)]
    """
    count = chunk_count(mel.shape[-1], size, hop)
    full = count - ((count - 1) * hop + size > mel.shape[-1])
    cuts = [mel.unfold(-1, size, hop)[:, :, :full].transpose(1, 2)] if full else []
    return cuts + [mel[:, None, :, full * hop :]] * (full < count)


def chunk_count(n_frames: int, size: int, hop: int) -> int:
    """Chunks of a sound, the partial one included.

    >>> [chunk_count(frames, 96, 48) for frames in (1, 96, 97, 144, 145)]
    [1, 1, 2, 2, 3]
    """
    return 1 + max(-(-(n_frames - size) // hop), 0)


def pool_tokens(encoded: Encoded, pooling: str) -> Tensor:
    """`token_moments` of chunks, (N, D): for each layer, the patchings one after the other."""
    states = [tokens for layer in zip(*encoded, strict=True) for tokens in layer]
    return torch.cat([token_moments(tokens, pooling) for tokens in states], dim=-1)


def _mean_token(tokens: Tensor) -> Tensor:
    return tokens.mean(-2)


def sum_type(device: torch.device) -> torch.dtype:
    """What sums over chunks are kept in: float64, where the device has it."""
    return torch.float32 if device.type == WITHOUT_FLOAT64 else torch.float64


def token_moments(
    tokens: Tensor, pooling: str, average: Callable[[Tensor], Tensor] = _mean_token
) -> Tensor:
    """What of tokens (..., N, D) is averaged over chunks, for `embed_moments` to make vectors of.

    Args:
        tokens: of some chunks.
        pooling: of `POOLINGS`.
        average: over the tokens, (..., N, D) -> (..., D).

    Returns:
        For "mean" the mean, float32, shape (..., D); for "mean-std" the mean and then the mean
        square, of `sum_type`, shape (..., 2 D).
    """
    if pooling == "mean":
        return average(tokens).float()
    tokens = tokens.float()
    mean = average(tokens)
    variance = average((tokens - mean.unsqueeze(-2)).square()).to(sum_type(tokens.device))
    # Squares are summed about the chunk's mean, and the mean's own is added in float64: to take it
    # off again after the chunks are averaged then cancels nothing that float32 holds.
    mean = mean.to(variance)
    return torch.cat([mean, variance + mean.square()], dim=-1)


def embed_moments(moments: Tensor, pooling: str, width: int) -> Tensor:
    """Embeddings of averaged `pool_tokens` (..., D): float32, the same shape.

    Args:
        moments: averaged over chunks.
        pooling: of `POOLINGS`; of "mean-std" each mean square becomes a standard deviation.
        width: of a token.
    """
    if pooling == "mean":
        return moments.float()
    mean, square = moments.unflatten(-1, (-1, 2, width)).unbind(-2)
    variance = square - mean.square()
    # No mere clamp: the root's slope at zero, where all tokens are equal, would make gradients NaN.
    varies = variance > 0
    deviation = torch.where(varies, variance, 1.0).sqrt() * varies
    return torch.stack([mean, deviation], dim=-2).flatten(-3).float()


def pool_consecutive(
    pool: Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]],
    mel: Tensor,
    size: int,
    first: int = 0,
) -> Tensor:
    """One vector a consecutive chunk of `size` frames: (B, M, F) -> (B, K, D).

    Args:
        pool: pools cuts, chunks of one width each: (N, M, F) and their numbers (N,) -> (N, D).
        mel: shape (B, M, F).
        size: frames of a full chunk.
        first: number of the first chunk in its sound.
    """
    cuts = cut_chunks(mel, size, size)
    numbers = []
    for cut in cuts:
        n_sounds, count = cut.shape[:2]
        numbers.append(torch.arange(first, first + count, device=mel.device).repeat(n_sounds))
        first += count
    pooled = pool([cut.flatten(0, 1) for cut in cuts], numbers)
    each = zip(pooled, cuts, strict=True)
    return torch.cat([vectors.unflatten(0, cut.shape[:2]) for vectors, cut in each], dim=1)


def consecutive_frames(n_frames: int, size: int) -> Tensor:
    """Frames of each consecutive chunk, float32, shape (K,).

    >>> consecutive_frames(200, 96)
    tensor([96., 96.,  8.])
    """
    return torch.tensor([float(min(size, n_frames - s)) for s in range(0, n_frames, size)])


def average_chunks(vectors: Tensor, frames: Tensor) -> Tensor:
    """Mean of chunks (B, K, D) by their frames (K,): (B, D), as exact as the vectors are.

    >>> average_chunks(torch.ones(1, 3, 1).double(), torch.ones(3)).item()
    1.0
    """
    frames = frames.to(vectors.dtype)
    return (vectors * (frames / frames.sum()).unsqueeze(-1)).sum(1)


def timestamp_count(n_samples: int, hop_ms: float) -> int:
    """Times 0, hop_ms, 2 hop_ms … that are not past the end of a sound at 16 kHz.

    >>> [timestamp_count(n, 50.0) for n in (1, 799, 800, 16_000)]
    [1, 1, 2, 21]
    """
    duration_ms = n_samples * 1000 / SAMPLE_RATE
    count = int(duration_ms / hop_ms) + 1
    # The quotient may round up to a whole number that the product then exceeds.
    return count - ((count - 1) * hop_ms > duration_ms)


def timestamp_grid(n_samples: int, hop_ms: float) -> tuple[Tensor, Tensor]:
    """Times of a sound in milliseconds and the same in frames, both float64, shape (T,)."""
    # float64: an hour holds millions of milliseconds.
    times = torch.arange(timestamp_count(n_samples, hop_ms), dtype=torch.float64) * hop_ms
    return times, times * SAMPLE_RATE / 1000 / HOP_LENGTH


def overlap_hop(chunk_frames: int) -> int:
    """Frames between overlapping chunks: half a chunk, in whole columns of every patching.

    >>> overlap_hop(96), overlap_hop(98)
    (48, 48)
    """
    widest = max(frames for _, frames in PATCHINGS.values())
    return max(chunk_frames // 2 // widest, 1) * widest


def column_grid(positions: Tensor, width: int, n_frames: int) -> tuple[Tensor, Tensor]:
    """Where positions fall between the centres of patch columns.

    A column of `width` frames is centred (width - 1) / 2 frames after its first. Positions before
    the first centre or after the last take that column alone.

    Args:
        positions: in frames, float64, shape (T,).
        width: frames of a column.
        n_frames: frames of the sound.

    Returns:
        The column before each position (T,) int64 and the weight of the next one (T,) in [0, 1).

    >>> column_grid(torch.tensor([0.0, 15.5, 40.0]).double(), 16, 32)
    (tensor([0, 0, 1]), tensor([0.0000, 0.5000, 0.0000], dtype=torch.float64))
    """
    last = -(-n_frames // width) - 1
    coordinate = ((positions - (width - 1) / 2) / width).clamp(0, last)
    lower = coordinate.floor()
    return lower.long(), coordinate - lower


def column_weights(n_columns: int, device: torch.device | None = None) -> Tensor:
    """Triangular weights of a chunk's columns, largest at its middle, none of them zero.

    >>> column_weights(6)
    tensor([0.1667, 0.5000, 0.8333, 0.8333, 0.5000, 0.1667])
    """
    centres = (torch.arange(n_columns, device=device) + 0.5) / n_columns
    return 1 - (2 * centres - 1).abs()


def frames_needed(
    positions: Tensor, patchings: Sequence[str], n_frames: int, size: int
) -> tuple[int, int]:
    """First frame, and one past the last, of all overlapping chunks that positions are read off.

    Args:
        positions: in frames, float64, ascending, shape (T,).
        patchings: names from `PATCHINGS`.
        n_frames: frames of the sound.
        size: frames of a full chunk.
    """
    hop = overlap_hop(size)
    widths = [PATCHINGS[patching][1] for patching in patchings]
    lowest = [int(column_grid(positions[:1], w, n_frames)[0]) * w for w in widths]
    highest = [(int(column_grid(positions[-1:], w, n_frames)[0]) + 2) * w - 1 for w in widths]
    first = max((min(lowest) - size) // hop + 1, 0)
    last = min(max(highest) // hop + 1, chunk_count(n_frames, size, hop))
    return first * hop, min((last - 1) * hop + size, n_frames)


def read_sequences(
    encode: Encode,
    mel: Tensor,
    start: int,
    positions: Tensor,
    patchings: Sequence[str],
    n_frames: int,
    size: int,
) -> list[Tensor]:
    """Vectors at some positions from the tokens of overlapping chunks, for each layer.

    Square tokens are averaged over the frequency rows, vertical tokens are as they are: one vector
    a patch column. Where two chunks give a column, the one it lies more centrally in counts more.
    Positions are read off by linear interpolation between the columns' centres.

    Args:
        encode: gives the tokens of the patchings.
        mel: the frames from `frames_needed`, or more whole chunks around them, shape (B, M, F). As
            all chunks that touch a column are there, a result does not depend on how the positions
            are cut into blocks.
        start: number of its first frame, a multiple of `overlap_hop(size)`.
        positions: in frames of the sound, float64, ascending, shape (T,).
        patchings: concatenated in this order.
        n_frames: frames of the sound.
        size: frames of a full chunk.

    Returns:
        For each layer that `encode` gives, float32, shape (B, T, D).
    """
    cuts = cut_chunks(mel, size, overlap_hop(size))
    pieces = [
        [[s.unflatten(0, cut.shape[:2]) for s in states] for states in encoded]
        for cut, encoded in zip(cuts, encode([cut.flatten(0, 1) for cut in cuts]), strict=True)
    ]
    read = []
    for i, patching in enumerate(patchings):
        width = PATCHINGS[patching][1]
        lower, fraction = column_grid(positions, width, n_frames)
        lower = (lower - start // width).to(mel.device)
        weight = fraction.float().to(mel.device).unsqueeze(-1)
        states = zip(*(piece[i] for piece in pieces), strict=True)
        sequences = [_merge_columns(own, patching, mel.shape[-1], size) for own in states]
        upper = (lower + 1).clamp(max=sequences[0].shape[1] - 1)
        read.append([torch.lerp(s[:, lower], s[:, upper], weight) for s in sequences])
    return [torch.cat(parts, dim=-1) for parts in zip(*read, strict=True)]


def _merge_columns(pieces: Sequence[Tensor], patching: str, n_frames: int, size: int) -> Tensor:
    """Weighted mean of overlapping chunks, column by column.

    Args:
        pieces: tokens of consecutive chunks, each piece of chunks of one width: (B, K, tokens, D).
        patching: whose tokens they are.
        n_frames: frames that the chunks cover together.
        size: frames of a full chunk.

    Returns:
        float32, shape (B, columns, D).
    """
    rows, full_columns = token_grid(patching, size)
    width = PATCHINGS[patching][1]
    hop, n_columns = overlap_hop(size) // width, -(-n_frames // width)
    device = pieces[0].device
    total = torch.zeros(len(pieces[0]), n_columns, pieces[0].shape[-1], device=device)
    weights = torch.zeros(n_columns, device=device)
    first = 0
    for tokens in pieces:
        columns = tokens.float().unflatten(2, (rows, -1)).mean(2)
        count, n = columns.shape[1:3]
        weight = column_weights(full_columns, device)[:n]
        starts = torch.arange(first, first + count, device=device)[:, None] * hop
        index = (starts + torch.arange(n, device=device)).flatten()
        total.index_add_(1, index, (columns * weight[:, None]).flatten(1, 2))
        weights.index_add_(0, index, weight.repeat(count))
        first += count
    return total / weights[:, None]
