"""Winograd's filtering in one step: a unit transforms a block of tiles, multiplies it by all points' weights, and transforms
it back, in one thread's scratch memory."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from nbconv.graph import FLOAT32
from nbconv.graph.symbolic import apply
from nbconv.kernels.params import Addends, ConvImage, Filtering
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import winograd
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.cost import SHARED_CACHE, weighted_product
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import CACHE, ceil, epilogue, pad_bias, padded
from nbconv.lowering.repack import varies
from nbconv.lowering.step import Work

SKEW = 16
"""Floats behind each point's matrices, as kernels/cpu/winograd.py has it."""


class Tiling(NamedTuple):
    """How a convolution is cut."""

    tiles: int
    """tiles a unit"""
    group: int
    """output channels a unit"""
    columns: int
    """output channels at a time"""
    total: int
    """tiles in all"""


def fits(p: ConvProblem, size: int) -> bool:
    return not p.target.gpu and winograd.serves(p, size)


def cost(p: ConvProblem, size: int) -> float:
    """The products of a group, and what the transforms read and write."""
    g, points, total = p.geometry, (size + 2) ** 2, winograd.tiles(p.geometry, size)
    weights = points * g.ci * g.co
    product = weighted_product(2.0 * total * weights, total, p.target.tile().rows, p.itemsize * weights)
    return product + 8.0 * total * (points * g.ci + (points + size * size) * g.co)


def emit(to: Lowering, p: ConvProblem, size: int) -> None:
    """Steps of kernels/cpu/winograd.py, a group after another. Weights that are transformed here may be so some columns at
    a time."""
    for i in range(p.geometry.groups):
        for first, last in winograd.pieces(to, p, size):
            step(to, p, size, i, first, last - first)


def step(to: Lowering, p: ConvProblem, size: int, i: int, first: int, count: int) -> None:
    """Channels ``first`` … of group i."""
    g, lanes, columns = p.geometry, p.target.lanes, p.columns
    ci, out, (ph, pw) = g.ci, g.groups * g.co, winograd.padding(g)
    found = apply(tiling, p, size, count, p.itemsize, 2 * columns)
    pixels, points, inner = g.n * g.oh * g.ow, (size + 2) ** 2, ceil(ci, lanes) * lanes
    area = points * (found.tiles * (inner + found.columns) + 2 * SKEW)
    bias, at = to.node.inputs[2] if to.has(2) else "", i * g.co + first
    mine = slice(at, at + count)
    packed = winograd.filters(to, g, size, i, first, count)
    if varies(to, 2):
        b = repack.bias(to, to.input(2).at(at), 1, count)
    else:
        b = to.constant(
            f"{bias}#{i}.{g.groups}x{g.co}" + (f".{first}" if count < g.co else ""),
            lambda: pad_bias(to.value(2)[mine] if bias else None, 1, count, lanes, columns),
        )
    to.step(
        "winograd.winograd",
        ceil(found.total, found.tiles) * ceil(count, found.group),
        work=2 * points * found.total * ci * count,
        x=to.input(0).at(i * ci),
        y=to.output().at(at),
        addends=Addends(b, to.residual and to.residual.at(at), to.ldres),
        scratch=to.floats_per_thread(area),
        w=packed,
        zeros=to.zeros(ci),
        image=ConvImage(pixels, g.h, g.w, to.ld(0), ci, g.oh, g.ow, to.pitch or out, count),
        filtering=Filtering(
            ph, pw, size, found.tiles, found.columns, found.group, inner, padded(count, lanes, columns), area
        ),
        epilogue=epilogue(to, 1, count, lanes, columns, mine),
        writes=("y", "scratch"),
        kind="winograd",
        algorithm=lambda: f"Winograd F({size}×{size},3×3), {found.tiles} tiles × {found.columns} columns",
        does=Work(18 * pixels * ci * count, 2 * points * found.total * ci * count, p.itemsize * pixels * count),
    )


def tiling(p: ConvProblem, size: int, co: int, itemsize: int, columns: int) -> Tiling:
    """The blocks for ``co`` output channels, ``columns`` at a time at most; ``itemsize``: bytes of a transformed cell or
    weight, of which 4 bytes are summed.

    Weights that fit a core's cache stay there while units of tiles go by. Larger ones are read once where that is possible:
    then units are groups of output channels, each for many tiles, whose transform is repeated.
    """
    ci, points, total = p.geometry.ci, (size + 2) ** 2, winograd.tiles(p.geometry, size)
    rows, lanes = p.target.tile().rows, p.target.lanes
    inner, all_columns = ceil(ci, lanes) * lanes, ceil(co, p.columns) * p.columns
    columns = min(all_columns, columns)
    tiles = int(0.75 * CACHE) // (points * (itemsize * inner + FLOAT32.itemsize * columns)) // rows * rows
    nbytes = itemsize * points * ci * co
    if nbytes > CACHE:
        tiles = max(tiles, 4 * rows if nbytes > SHARED_CACHE // 2 else 2 * rows)
    tiles = max(rows, min(tiles, 8 * rows))
    blocks = ceil(total, tiles)
    if nbytes > 2 * CACHE and blocks < 4:
        group = max(p.columns, ceil(ceil(co, ceil(4, blocks)), p.columns) * p.columns)
        if blocks * ceil(co, group) == 1:
            blocks = 2
        return Tiling(ceil(total, blocks), group, min(columns, group), total)
    if total > rows:
        tiles = ceil(ceil(total, max(2, blocks)), 4) * 4
    return Tiling(min(tiles, total), all_columns, columns, total)


def row(size: int) -> Implementation:
    return Implementation(f"winograd_{size}", partial(fits, size=size), partial(emit, size=size), partial(cost, size=size))


WINOGRAD_4, WINOGRAD_2 = row(4), row(2)
