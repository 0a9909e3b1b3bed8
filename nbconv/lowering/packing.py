"""How weights are packed for the matrix kernels, and how their loops are cut."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from nbconv.graph import FLOAT32
from nbconv.graph.symbolic import apply
from nbconv.kernels.params import Epilogue
from nbconv.kernels.target import Target
from nbconv.lowering.context import Lowering

CACHE = 512 * 1024
"""Bytes of packed weights that one unit of work walks through: about half an L2 cache."""
DEPTH = 256
"""Most products summed before the sums are written back, so that a panel's chunk stays in L1."""
PIECE = 32 << 20
"""Bytes of weights that are packed at a time."""
PROCESSORS = 108
"""Multiprocessors of a GPU, among which tiles are shared out: an A100's."""
BYTE, LAUNCH = 12.5, 4e7
"""Flops that it could do while it moves a byte (19.5 Tflop/s, 1.55 TB/s), and while it begins one launch more (2 µs)."""
STEP = 8
"""Products that a GPU's tiles make at a time (`DEPTH` of kernels/cuda/_tile.py): parts of k are multiples of it."""
MOST_PARTS, LEAST_PRODUCTS = 32, 64
"""Most parts of a product's k on a GPU, and fewest products of each."""
WORTH = 0.9
"""The part of the cost that a split must not exceed: the costs are not known more closely."""
MAX_ROWS, MAX_TABLE = 256, 4096
"""Limits of kernels/cpu/conv.py and gemm.py."""


def ceil(n: int, d: int) -> int:
    """n / d, rounded up."""
    return -(-n // d)


def padded(n: int, lanes: int, columns: int) -> int:
    """Columns that n columns take when packed: full panels, the last one half as wide where that is enough."""
    rest = n % columns
    return n - rest + (0 if rest == 0 else lanes if rest <= lanes else columns)


def pack(matrices: np.ndarray, lanes: int, columns: int, drop: Callable[[], None] | None = None) -> np.ndarray:
    """(groups, k, n) → per group the panels one after another, each (k, width), zero-filled past n; float32, flat. ``drop``
    is called after every `PIECE` bytes: what was read of the matrices need not stay in memory."""
    g, k, n = matrices.shape
    full = n // columns * columns
    packed = np.empty((g, k * padded(n, lanes, columns)), np.float32)
    if full:
        head = packed[:, : k * full].reshape(g, full // columns, k, columns)
        panels = matrices[:, :, :full].reshape(g, k, full // columns, columns).transpose(0, 2, 1, 3)
        step = max(1, PIECE // (FLOAT32.itemsize * g * k * columns))
        for i in range(0, panels.shape[1], step):
            head[:, i : i + step] = panels[:, i : i + step]
            if drop is not None and i + step < panels.shape[1]:
                drop()
    if full < n:
        tail = packed[:, k * full :].reshape(g, k, -1)
        tail[:, :, : n - full] = matrices[:, :, full:]
        tail[:, :, n - full :] = 0
    return packed.reshape(-1)


def pad_bias(bias: np.ndarray | None, groups: int, n: int, lanes: int, columns: int) -> np.ndarray:
    """(groups·n) → (groups, padded) with zeros; zeros alone when there is none. Float32, flat."""
    full = np.zeros((groups, padded(n, lanes, columns)), np.float32)
    if bias is not None:
        full[:, :n] = bias.reshape(groups, n)
    return full.reshape(-1)


class Cut(NamedTuple):
    """How the loops of a product are cut: rows and panels of a unit, taps and channels of a chunk of k, units in all.
    ``parts``: on a GPU, the chunks of k where each is made by units of its own (`nbconv.lowering.gemm.split_k`), else 1."""

    rows: int
    panels: int
    tap_chunk: int
    channel_chunk: int
    units: int
    parts: int


class Machine(Protocol):
    """What a product's loops are cut for: a `Lowering`, or the problem of an implementation list."""

    @property
    def target(self) -> Target: ...
    @property
    def columns(self) -> int: ...
    @property
    def scratch_limit(self) -> float: ...


class Limits(NamedTuple):
    """A `Machine` and no more."""

    target: Target
    columns: int
    scratch_limit: float


def cut(to: Machine, m: int, k: int, n: int, taps: int, groups: int = 1, batch: int = 1) -> Cut:
    """For a convolution's ``groups``, or a ``batch``, of (m, k·taps) × (k·taps, n) products: `whole`, or where that costs
    clearly less, `split`."""
    return apply(partial(_cut, Limits(to.target, to.columns, to.scratch_limit)), m, k, n, taps, groups, batch)


def _cut(to: Machine, m: int, k: int, n: int, taps: int, groups: int, batch: int) -> Cut:
    found, parts = whole(to, m, k, n, taps, groups, batch), split(to, m, k, n, taps, groups, batch)
    results = groups * batch * m * n
    if parts is not None and cut_cost(to, parts, results) < WORTH * cut_cost(to, found, results):
        return parts
    return found


def whole(to: Machine, m: int, k: int, n: int, taps: int, groups: int = 1, batch: int = 1) -> Cut:
    """Units that sum all of k."""
    columns, tile = to.columns, to.target.tile().rows
    if to.target.tiles:
        return min(_tiled(to, m, k, n, taps, groups * batch, k), key=lambda how: cut_cost(to, how, groups * batch * m * n))
    tap_chunk, channel_chunk = max(1, DEPTH // k), k
    if k > DEPTH:
        tap_chunk, channel_chunk = 1, ceil(k, ceil(k, DEPTH))
    tap_chunk = min(tap_chunk, taps, MAX_TABLE // tile)
    rows = min(12 * tile, MAX_ROWS, MAX_TABLE // tap_chunk) // tile * tile
    blocks = ceil(m, rows)
    rows = min(m, ceil(ceil(m, blocks), tile) * tile)
    blocks = ceil(m, rows)
    all_panels = ceil(n, columns)
    panels = min(all_panels, max(1, CACHE // (FLOAT32.itemsize * k * taps * columns)))
    while panels > 1 and blocks * groups * ceil(all_panels, panels) < 8:
        panels = ceil(panels, 2)
    return Cut(rows, panels, tap_chunk, channel_chunk, batch * blocks * groups * ceil(all_panels, panels), 1)


def split(to: Machine, m: int, k: int, n: int, taps: int, groups: int = 1, batch: int = 1) -> Cut | None:
    """Units that sum parts of k, on a GPU where tiles are fewer than multiprocessors; None where that cannot be."""
    matrices = groups * batch
    if not to.target.tiles or whole(to, m, k, n, taps, groups, batch).units >= PROCESSORS:
        return None
    chunks = (ceil(ceil(k, parts), STEP) * STEP for parts in range(2, MOST_PARTS + 1))
    held = FLOAT32.itemsize * matrices * m * n
    chunks = (c for c in chunks if c < k and taps * c >= LEAST_PRODUCTS and held * ceil(k, c) <= to.scratch_limit)
    cuts = (how for c in chunks for how in _tiled(to, m, k, n, taps, matrices, c))
    return min(cuts, key=lambda how: cut_cost(to, how, matrices * m * n), default=None)


def _tiled(to: Machine, m: int, k: int, n: int, taps: int, matrices: int, chunk: int) -> list[Cut]:
    """A GPU's cuts into chunks of k, for each of its tiles that n fills."""
    parts, found = ceil(k, chunk), []
    for rows, wide, _ in to.target.tiles:
        if wide >= min(n, to.columns):
            units = matrices * ceil(m, rows) * ceil(n, wide) * parts
            found.append(Cut(rows, ceil(wide, to.columns), taps, chunk, units, parts))
    return found


def cut_cost(to: Machine, how: Cut, results: int) -> float:
    """The flops that a GPU could do meanwhile: its busiest multiprocessor's, who does so many steps of a unit, times all of
    them; and for parts of k, that their sums of so many ``results`` are written, and read by one launch more."""
    rows, columns, speed = next(tile for tile in to.target.tiles if tile[0] == how.rows)
    steps = how.tap_chunk * ceil(how.channel_chunk, STEP)
    busiest = ceil(how.units, PROCESSORS) * rows * columns * STEP * steps / speed
    return 2 * PROCESSORS * busiest + (LAUNCH + BYTE * 2 * FLOAT32.itemsize * results * how.parts if how.parts > 1 else 0)


def product_cost(to: Machine, m: int, k: int, n: int, taps: int, groups: int = 1, batch: int = 1) -> float:
    """The cost of such products on a GPU, cut as `cut` says, in flops that it could do meanwhile."""
    return cut_cost(to, cut(to, m, k, n, taps, groups, batch), groups * batch * m * n)


def epilogue(to: Lowering, groups: int, n: int, lanes: int, columns: int, part: slice | None = None) -> Epilogue:
    """The epilogue as a kernel's parameter, for ``groups`` times n channels packed in panels of ``columns``.
    ``part``: the channels of y that the kernel makes; where it makes more than y has, they are repeated."""
    found = {}
    if to.affine is not None:
        for name in ("scale", "shift"):
            values = getattr(to.affine, name)
            values = np.resize(values if part is None else values[part], groups * n)
            key = f"{to.affine.key}#{name}{groups}x{n}.{columns}" + (f".{part.start}" if part else "")
            found[name] = to.constant(key, lambda values=values: pad_bias(values, groups, n, lanes, columns))
    return to.epilogue._replace(**found)
