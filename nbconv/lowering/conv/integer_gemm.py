"""Convolutions and products of 8-bit integers: each block of pixels is gathered as a matrix in a thread's scratch memory,
multiplied with packed weights, and quantised again before it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nbconv.graph import FLOAT32
from nbconv.graph.symbolic import apply, settled
from nbconv.kernels.params import ConvImage
from nbconv.kernels.quantised_params import DotBlocking, Requantise
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.cost import reading
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import CACHE, MAX_ROWS, ceil, pack, padded
from nbconv.lowering.step import Work
from nbconv.lowering.window import seen_by, sliding

DTYPES = ("uint8", "int8")
ROWS, MORE_ROWS = 48 << 10, 320 << 10
"""Bytes of gathered rows of a unit, about: what a core's nearest cache holds, or more, where weights that its next one does
not hold are read again for each unit."""
UNITS = 8
"""Units that a step should have at least."""
GATHER, MOVED = 20.0, 12.0
"""Cycles that it takes to begin a row of a window, and bytes moved in one."""
TILED, DOTTED, STORED = 600.0, 90.0, 0.1
"""Products a cycle of AMX's tiles and of VNNI's, and cycles that a result takes more on its way through memory."""
GENERIC, GATHERED = 0.25, 2.0
"""Products of 16-bit integers without an instruction of their own, in terms of float32's; flops that the kernel of these
could do while a byte is gathered."""
BYTES = {"vnni": 4.0, "amx": 7.0}
"""Products of bytes, by what adds them up."""
SHORTS = {4: 1.8, 8: 1.2, 16: 1.1}
"""Products of 16-bit integers by pmaddwd, by lanes."""
TAP = {4: 120.0, 8: 350.0, 16: 800.0}
"""Flops that the kernel of float32 could do, by lanes, while a tap is gathered on its own: of a group, or a dilated one."""
OVER = 512
"""Bytes of A's rows below which there is room behind them."""
SQUARE = 32
"""Rows of a tile that AMX multiplies, of 16 words at a time."""
WORD = 4
"""Bytes that a step of the register tile multiplies."""


class Integers(NamedTuple):
    """What the integers of a product stand for, and what becomes of its sums.

    ``matrices`` gives w - w_zero as (groups, columns, k), int16; ``key`` says what they are made of. ``bias`` and ``scale``:
    one a column of all groups, ``bias`` int64. Results are limited to ``low`` … ``high`` and have ``size`` bytes, with 4 the
    sums as they are.
    """

    key: str
    matrices: Callable[[], np.ndarray]
    x_zero: int
    symmetric: bool
    """whether w less its zero point is an int8"""
    bias: np.ndarray | None
    scale: np.ndarray
    low: int = 0
    high: int = 255
    zero_point: int = 0
    size: int = 1


def fits(p: ConvProblem) -> bool:
    return not p.geometry.transposed


def cost_of(p: ConvProblem, symmetric: bool) -> float:
    """In flops of the kernel of float32 products: columns of panels are multiplied, filled or not."""
    g, goal = p.geometry, p.target
    pixels, k = g.n * g.oh * g.ow, g.taps * g.ci
    speed = BYTES[goal.dot] if symmetric and goal.dot else SHORTS[goal.lanes] if goal.triple.startswith("x86") else GENERIC
    columns = padded(g.co, goal.lanes, goal.columns)
    alone = g.taps if g.groups > 1 or g.across.dilation > 1 else 0
    row = 2 * k * columns / speed + GATHERED * k + TAP[goal.lanes] * alone
    return g.groups * (pixels * row + reading((1 if symmetric and goal.dot else 2) * k * columns))


def by_bytes(p: ConvProblem, q: Integers) -> bool:
    """Whether products of bytes are added up in an instruction; else integers of 16 bits are multiplied."""
    return q.symmetric and p.target.dot != ""


def by_squares(p: ConvProblem, unsigned: bool) -> bool:
    """Whether AMX's tiles pay: they take 64 products at a time, and rows that hold other numbers of them are gathered first;
    in cycles a pixel."""
    g = p.geometry
    k, m = g.taps * g.ci, g.n * g.oh * g.ow
    gather = GATHER * g.down.kernel + k / MOVED
    in_place = g.taps == 1 and g.down.stride == g.across.stride == 1 and unsigned
    squares = g.co * (ceil(k, 64) * 64 / TILED + STORED) + gather * (not in_place or k % 64 > 0 or m % 16 > 0)
    return squares < g.co * k / DOTTED + gather * (not in_place or k % WORD > 0)


def emit(to: Lowering, p: ConvProblem, q: Integers) -> None:
    """One step of kernels/cpu/quantised.py."""
    g = p.geometry
    in_bytes = by_bytes(p, q)
    lanes, columns, flip = p.target.lanes, p.columns, 0x80 if p.dtype == "int8" else 0
    m, k, og, co = g.n * g.oh * g.ow, g.taps * g.ci, g.co, g.groups * g.co
    down, across, (h, w), (oh, ow) = g.down[:4], g.across[:4], (g.h, g.w), (g.oh, g.ow)
    ldx, ldy = to.ld(0) if g.axes else g.ci, to.pitch or co
    if down == across == (1, 1, 1, 0) and (oh, ow) == (h, w):
        (h, w), (oh, ow) = (1, m), (1, m)
    square = in_bytes and p.target.dot == "amx" and settled(apply(by_squares, p, flip == 0))
    depth, whole = ceil(k, WORD if in_bytes else WORD // 2), WORD * SQUARE // 2 if square else WORD
    depth = ceil(depth, SQUARE // 2) * SQUARE // 2 if square else depth
    direct = in_bytes and not flip and g.taps == 1 and (h, w) == (1, m) and k % whole == 0 and not (square and m % 16)
    how = apply(blocking, p, m, depth, og, ldx if direct else 0, SQUARE if square else p.target.tile().rows)
    x_zero = q.x_zero + flip
    bias = constants(to, q, g, x_zero if in_bytes else 0, lanes, columns)
    packed = to.constant(
        f"{q.key}#dot{g.groups}.{int(in_bytes)}.{depth}", lambda: words(q.matrices(), in_bytes, depth, lanes, columns)
    )
    flops, stride = 2 * m * co * k, "" if down[1] == across[1] == 1 else f" /{down[1]}"
    to.step(
        f"quantised.conv_{'squares' if square else 'bytes' if in_bytes else 'shorts'}",
        apply(units, m, og, how.rows, how.panels, columns, g.groups),
        work=flops // 4,
        x=to.input(0),
        w=packed,
        bias=bias[0],
        y=to.output(),
        area=to.floats_per_thread(how.area // FLOAT32.itemsize) if how.area else None,
        image=ConvImage(m, h, w, ldx, g.ci, oh, ow, ldy, og),
        window=sliding(down, across),
        blocking=DotBlocking(how.rows, how.panels, how.padded, how.depth, how.lda, how.area),
        to8=Requantise(
            bias[1], q.low - q.zero_point, q.high - q.zero_point, q.zero_point, flip, x_zero, q.size
        ),
        kind="convolution" if g.taps > 1 else "dense" if m == 1 else "pointwise",
        algorithm=f"integers, conv {down[0]}×{across[0]}{stride}, {how.rows} rows × {how.panels} panels",
        does=Work(flops, flops, q.size * m * co, seen_by(down, across)),
    )  # fmt: skip


def blocking(p: ConvProblem, m: int, depth: int, og: int, direct: int, tile: int) -> DotBlocking:
    """For register tiles of ``tile`` rows. ``direct``: bytes from one row of A to the next where it is read in place, else
    0."""
    columns, lda = p.columns, direct or WORD * depth + 64 * (depth % 128 == 0)
    if not direct and tile != SQUARE and lda < OVER:
        lda += 32  # for a row of the window that is moved with what is behind it
    room = ROWS if WORD * depth * padded(og, p.target.lanes, columns) <= CACHE else MORE_ROWS
    most = max(tile, min(MAX_ROWS, room // lda) // tile * tile)
    blocks = ceil(m, most)
    rows = min(m, ceil(ceil(m, blocks), tile) * tile)
    all_panels = ceil(og, columns)
    panels = min(all_panels, max(1, 4 * CACHE // (WORD * depth * columns)))
    while panels > 1 and ceil(m, rows) * p.geometry.groups * ceil(all_panels, panels) < UNITS:
        panels = ceil(panels, 2)
    area = 0 if direct else ceil(ceil(rows, tile) * tile * lda, 64) * 64
    return DotBlocking(rows, panels, padded(og, p.target.lanes, columns), depth, lda, area)


def units(m: int, og: int, rows: int, panels: int, columns: int, groups: int) -> int:
    return ceil(m, rows) * groups * ceil(ceil(og, columns), panels)


def words(matrices: np.ndarray, in_bytes: bool, depth: int, lanes: int, columns: int) -> np.ndarray:
    """(groups, columns, k) packed in panels of 32-bit words, ``depth`` a column, of 4 bytes each or of 2 integers of 16
    bits."""
    each, dtype = (4, np.int8) if in_bytes else (2, np.int16)
    g, n, k = matrices.shape
    full = np.zeros((g, n, depth * each), dtype)
    full[:, :, :k] = matrices
    return pack(full.view(np.float32).transpose(0, 2, 1), lanes, columns).view(np.int32)


def constants(to: Lowering, q: Integers, g: Geometry, x_zero: int, lanes: int, columns: int) -> tuple[Ref, Ref]:
    """(the bias with what x's zero point adds, the scales), filled up as panels are."""

    def filled(values: np.ndarray, dtype: type) -> np.ndarray:
        full = np.zeros((g.groups, padded(g.co, lanes, columns)), dtype)
        full[:, : g.co] = values.reshape(g.groups, g.co)
        return full.reshape(-1)

    def bias() -> np.ndarray:
        total = np.zeros(g.groups * g.co, np.int64) if q.bias is None else q.bias
        if x_zero:
            total = total - x_zero * q.matrices().sum(axis=2, dtype=np.int64).reshape(-1)
        return filled(total.astype(np.int32), np.int32)

    key = to.known()
    return (
        to.constant(f"{key}#bias{x_zero}.{g.groups}x{g.co}.{columns}", bias),
        to.constant(f"{key}#scale{g.groups}x{g.co}.{columns}", lambda: filled(q.scale, np.float32)),
    )


INTEGER_GEMM = Implementation("integer_gemm", fits, emit, lambda p: cost_of(p, True), DTYPES)
