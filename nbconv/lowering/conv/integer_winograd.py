"""Winograd's F(2×2, 3×3) of 8-bit integers, where no instruction adds up products of bytes: exact, with 16 products in the
place of 36."""

from __future__ import annotations

import numpy as np

from nbconv.graph.symbolic import apply
from nbconv.kernels.params import ConvImage, Filtering
from nbconv.kernels.quantised_params import Requantise
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import winograd
from nbconv.lowering.conv.integer_gemm import DTYPES, SHORTS, WORD, Integers, constants, words
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.conv.winograd_fused import SKEW, tiling
from nbconv.lowering.cost import weighted_product
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil, padded
from nbconv.lowering.step import Work

SIZE, POINTS = 2, 16
"""Results of a tile in each direction, and points at which products are summed."""
SHORT = WORD // 2
"""Bytes of a transformed cell or weight."""
FEWEST = 8
"""Fewest channels of a group, in and out."""
MOST = (2**31 - 1) // (4 * 9 * 128 * 255)
"""Most channels in: four times the sum of products, of signed bytes with weights less their zero points, is an int32."""


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    square = g.down[:3] == g.across[:3] == (3, 1, 1) and g.axes == 2 and not g.transposed
    if not square or p.target.dot or not p.target.triple.startswith("x86") or g.groups > winograd.GROUPS:
        return False
    return FEWEST <= g.ci <= MOST and g.co >= FEWEST and SHORT * POINTS * g.ci * g.co <= p.packed_limit


def cost(p: ConvProblem) -> float:
    """The products of each group, and what the transforms read and write."""
    g, goal, total = p.geometry, p.target, winograd.tiles(p.geometry, SIZE)
    weights = POINTS * g.ci * padded(g.co, goal.lanes, goal.columns)
    product = weighted_product(2.0 * total * weights / SHORTS[goal.lanes], total, goal.tile().rows, SHORT * weights)
    return g.groups * (product + 8.0 * total * POINTS * (g.ci / 2 + g.co))


def emit(to: Lowering, p: ConvProblem, q: Integers) -> None:
    """Steps of kernels/cpu/quantised_winograd.py, a group after another."""
    g, lanes, columns = p.geometry, p.target.lanes, p.columns
    ci, co, out, full = g.ci, g.co, g.groups * g.co, padded(g.co, lanes, columns)
    flip = 0 if p.dtype == "int8" else 0x80
    depth, pixels = ceil(ci, 2), g.n * g.oh * g.ow
    found = apply(tiling, p, SIZE, co, SHORT, columns)
    area = POINTS * (found.tiles * (depth + columns) + 2 * SKEW)
    bias, scale = constants(to, q, g, q.x_zero - flip, lanes, columns)
    packed = to.constant(f"{q.key}#winograd_shorts{g.groups}", lambda: weights(q.matrices(), g, depth, lanes, columns))
    zeros = to.constant(f"#zero_points{q.x_zero}x{ci}", lambda: np.full(ci, q.x_zero & 0xFF, np.uint8))
    for i in range(g.groups):
        to.step(
            "quantised_winograd.winograd",
            ceil(found.total, found.tiles) * ceil(co, found.group),
            work=POINTS * found.total * ci * co // 2,
            x=to.input(0).at(i * ci),
            w=packed.at(i * POINTS * depth * full),
            bias=bias.at(i * full),
            y=to.output().at(i * co),
            padding=zeros,
            area=to.floats_per_thread(area),
            image=ConvImage(pixels, g.h, g.w, to.ld(0), ci, g.oh, g.ow, to.pitch or out, co),
            filtering=Filtering(
                g.down.begin, g.across.begin, SIZE, found.tiles, columns, found.group, 2 * depth, full, area
            ),
            to8=Requantise(
                scale.at(i * full), q.low - q.zero_point, q.high - q.zero_point, q.zero_point, flip, q.x_zero, q.size
            ),
            writes=("y", "area"),
            kind="winograd",
            algorithm=f"integers, Winograd F(2×2,3×3), {found.tiles} tiles",
            does=Work(18 * pixels * ci * co, 2 * POINTS * found.total * ci * co, q.size * pixels * co),
        )  # fmt: skip


def weights(matrices: np.ndarray, g: Geometry, depth: int, lanes: int, columns: int) -> np.ndarray:
    """(groups, co, 9·ci) → 4·G g Gᵀ, integers of 16 bits: for each group the panels of columns one after another, in each a
    (ci, columns) matrix a point."""
    taps = matrices.reshape(g.groups * g.co, 3, 3, g.ci).transpose(1, 2, 0, 3)
    half = doubled(taps).swapaxes(0, 1)  # (kx, ky', …)
    full = doubled(half).swapaxes(0, 1).reshape(POINTS, g.groups, g.co, g.ci)
    panels = [
        words(full[:, i, j : j + columns], False, depth, lanes, columns)
        for i in range(g.groups)
        for j in range(0, g.co, columns)
    ]
    return np.concatenate(panels)


def doubled(taps: np.ndarray) -> np.ndarray:
    """2·G g for three arrays g."""
    first, middle, last = taps
    ends = first + last
    return np.stack([2 * first, ends + middle, ends - middle, 2 * last])


INTEGER_WINOGRAD = Implementation("integer_winograd", fits, emit, cost, DTYPES)
