"""When and how a 3×3 convolution at stride 1 goes through Winograd's minimal filtering: weights, blocks, cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbconv.lowering.context import Lowering
from nbconv.lowering.packing import BYTE, CACHE, LAUNCH, ceil, pack, product_cost

G = {
    4: np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24,
    -1 / 12, 1 / 6], [0, 0, 1]]),
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
}  # fmt: skip
"""The weights' transform for tiles of 4×4 and 2×2 results, at the points of kernels/cpu/_winograd.py."""

OWN, SHARED, MEMORY = 1.0, 5.0, 8.0
"""What reading a byte of weights costs, in flops of the matrix kernel: from the core's cache, the shared one, memory."""
SHARED_CACHE = 16 << 20
"""Bytes of weights above which they are taken to come from memory."""

GAIN = 0.8
"""The part of direct convolution's cost that Winograd's must stay below on a GPU: it rounds more, and costs are rough."""

SKEW = 16
"""Floats behind each point's matrices, as kernels/cpu/winograd.py has it."""


class Tiling(NamedTuple):
    """How a convolution is cut."""

    size: int
    """results a tile's side"""
    tiles: int
    """tiles a unit"""
    group: int
    """output channels a unit"""
    columns: int
    """output channels at a time"""
    total: int
    """tiles in all"""


def choose(to: Lowering, n: int, oh: int, ow: int, ci: int, co: int, groups: int = 1) -> int:
    """The side of the cheapest tiles for a 3×3 convolution of stride 1, ci to co channels a group, or 0 where direct
    convolution is cheaper: by the cost model, unless ``to.choices`` knows better; none whose weights take more than
    ``to.packed_limit``."""
    if ci < 12 or co < 12 or not to.target.winograd:
        return 0
    if to.target.gpu:
        return _choose_on_gpu(to, n, oh, ow, ci, co, groups)
    chosen = to.choices.get(geometry(n, oh, ow, ci, co))
    if chosen is not None:
        return chosen
    best, least = 0, _cost(18.0 * n * oh * ow * ci * co, n * oh * ow, to.target.tile().rows, 36.0 * ci * co)
    for size in (4, 2):
        points, total = (size + 2) ** 2, n * ceil(oh, size) * ceil(ow, size)
        if 4 * points * ci * co > to.packed_limit:
            continue
        cost = _cost(2.0 * points * total * ci * co, total, to.target.tile().rows, 4.0 * points * ci * co)
        cost += 8.0 * total * (points * ci + (points + size * size) * co)
        if cost < least:
            best, least = size, cost
    return best


def _choose_on_gpu(to: Lowering, n: int, oh: int, ow: int, ci: int, co: int, groups: int) -> int:
    """As `choose`. Costs are in flops that a GPU does meanwhile: of products as `product_cost` has them, and what Winograd's
    steps read and write `BYTE` each. None whose transformed tiles or products
    take more than ``to.scratch_limit``."""
    pixels, channels = n * oh * ow, groups * (ci + co)
    best, least = 0, GAIN * product_cost(to, pixels, ci, co, 9, groups)
    for size in (4, 2):
        points, total = (size + 2) ** 2, n * ceil(oh, size) * ceil(ow, size)
        filters = 4 * points * ci * co
        moved = 4 * points * total * channels
        if filters > to.packed_limit or moved > to.scratch_limit:
            continue
        cost = groups * product_cost(to, total, ci, co, 1, batch=points)
        cost += BYTE * (2 * moved + 4 * pixels * channels + groups * filters) + (1 + groups) * LAUNCH
        if cost < least:
            best, least = size, cost
    return best


def geometry(n: int, oh: int, ow: int, ci: int, co: int) -> str:
    """The name of such a convolution in tables of choices."""
    return f"winograd {n}x{ci}x{oh}x{ow} to {co}"


def tiling(to: Lowering, size: int, n: int, oh: int, ow: int, ci: int, co: int) -> Tiling:
    """The convolution in tiles of size × size."""
    total = n * ceil(oh, size) * ceil(ow, size)
    return Tiling(size, *_blocks(to, (size + 2) ** 2, total, ci, co), total)


def _cost(flops: float, rows: int, tile: int, nbytes: float) -> float:
    """A matrix product's cost in flops: slower where its register tiles are low, plus reading the weights."""
    height = rows / ceil(rows, tile)
    filled = min(1.0, 0.4 + 0.9 * height / tile)
    return flops / filled + nbytes * (OWN if nbytes <= CACHE else SHARED if nbytes <= SHARED_CACHE else MEMORY)


def _blocks(to: Lowering, points: int, total: int, ci: int, co: int) -> tuple[int, int, int]:
    """(tiles a unit, output channels a unit, output channels at a time).

    Weights that fit a core's cache stay there while units of tiles go by. Larger ones are read once where that is possible:
    then units are groups of output channels, each for many tiles, whose transform is repeated.
    """
    rows, lanes = to.target.tile().rows, to.target.lanes
    inner, all_columns = ceil(ci, lanes) * lanes, ceil(co, to.columns) * to.columns
    columns = min(all_columns, 2 * to.columns)
    tiles = int(0.75 * CACHE) // (4 * points * (inner + columns)) // rows * rows
    nbytes = 4 * points * ci * co
    if nbytes > CACHE:
        tiles = max(tiles, 4 * rows if nbytes > SHARED_CACHE // 2 else 2 * rows)
    tiles = max(rows, min(tiles, 8 * rows))
    blocks = ceil(total, tiles)
    if nbytes > 2 * CACHE and blocks < 4:
        group = max(to.columns, ceil(ceil(co, ceil(4, blocks)), to.columns) * to.columns)
        if blocks * ceil(co, group) == 1:
            blocks = 2
        return ceil(total, blocks), group, min(columns, group)
    if total > rows:
        tiles = ceil(ceil(total, max(2, blocks)), 4) * 4
    return min(tiles, total), all_columns, columns


def weights(w: np.ndarray, size: int, lanes: int, columns: int) -> np.ndarray:
    """(co, ci, 3, 3) → transformed and packed, a panelled (ci, co) matrix a point."""
    co, ci = w.shape[:2]
    g = G[size].astype(np.float32)
    edge = size + 2
    across = np.ascontiguousarray(w.transpose(3, 2, 1, 0)).reshape(3, 3 * ci * co)  # kx first, then (ky, ci, co)
    half = (g @ across).reshape(edge, 3, ci * co)
    full = np.matmul(g, half)  # (kx', ky', ci·co)
    return pack(full.transpose(1, 0, 2).reshape(edge * edge, ci, co), lanes, columns)
