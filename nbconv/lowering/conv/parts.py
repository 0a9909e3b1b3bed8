"""Convolution by parts: the result in rectangles, each of which sums over the taps that see the image there.

For kernels whose taps often lie in the padding, as dilated ones do on small images."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np

from nbconv.graph import FLOAT32
from nbconv.graph.symbolic import settled
from nbconv.kernels.params import Addends, ConvBlocking, ConvImage
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.indirect_gemm import packed_weights, product, weights
from nbconv.lowering.conv.operands import bias
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.cost import weighted_product
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import Cut, ceil, cut, epilogue, padded
from nbconv.lowering.step import Work
from nbconv.lowering.window import Axis, seen_by, sliding

WORTH = 0.85
"""The part of the cost of all taps everywhere that parts must not exceed: they have blocks that are not full."""


class Side(NamedTuple):
    """A part along an axis: its results, and the taps that see the image from one of them at least."""

    begin: int
    size: int
    tap: int
    taps: int


@lru_cache(maxsize=1024)
def sides(axis: Axis, size: int, out: int, apart: bool) -> tuple[Side, ...]:
    """An axis of ``size`` cells and ``out`` results: a part for each set of taps, or one for all that see the image."""
    k, s, d, begin = axis[:4]
    starts = (o * s - begin for o in range(out))
    seen = [(max(0, -(start // d)), min(k, (size - 1 - start) // d + 1)) for start in starts]
    seen = [(first, end) if first < end else (0, 0) for first, end in seen]
    if not apart:
        some = [pair for pair in seen if pair[1]] or [(0, 1)]
        first = min(pair[0] for pair in some)
        return (Side(0, out, first, max(pair[1] for pair in some) - first),)
    found, at = [], 0
    for (first, end), same in groupby(seen):
        n = len(list(same))
        found.append(Side(at, n, first, max(1, end - first)))  # no tap sees the image: one reads zeros
        at += n
    return tuple(found)


@lru_cache(maxsize=1024)
def parts(g: Geometry, tile: int, itemsize: int) -> tuple[float, tuple[tuple[Side, Side], ...]]:
    """The cheapest way to cut a result, down and across, with its cost."""

    def cost(cut: tuple[tuple[Side, Side], ...]) -> float:
        total = 0.0
        for down, across in cut:
            pixels, k = g.n * down.size * across.size, down.taps * across.taps * g.ci * g.co
            total += weighted_product(2.0 * pixels * k, pixels, tile, itemsize * k)
        return total

    ways = []
    for apart in ((False, False), (True, False), (False, True), (True, True)):
        down, across = sides(g.down, g.h, g.oh, apart[0]), sides(g.across, g.w, g.ow, apart[1])
        ways.append(tuple((y, x) for y in down for x in across))
    return min(((cost(way), way) for way in dict.fromkeys(ways)), key=lambda found: found[0])


def found(p: ConvProblem) -> tuple[float, tuple[tuple[Side, Side], ...]]:
    return parts(p.geometry, p.target.tile().rows, p.itemsize)


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    if p.target.gpu or not p.constant or g.transposed or g.depthwise or g.small_channels:
        return False
    padded = any((*g.down[3:], *g.across[3:]))
    return padded and found(p)[0] <= WORTH * product(p)


def cost(p: ConvProblem) -> float:
    return found(p)[0]


def emit(to: Lowering, p: ConvProblem) -> None:
    p = p._replace(geometry=settled(p.geometry))  # the table is of numbers
    g, cut_parts = p.geometry, found(p)[1]
    og, co, ldy = g.co, g.groups * g.co, to.pitch or g.groups * g.co
    most = max(g.n * down.size * across.size for down, across in cut_parts)
    how = cut(to, most, g.ci, og, g.taps, g.groups)
    rows = [_rows(g.n * down.size * across.size, how, to.target.tile().rows) for down, across in cut_parts]
    ends = np.cumsum([ceil(g.n * d.size * a.size, r) for (d, a), r in zip(cut_parts, rows, strict=True)])
    table = [
        (end, r, d.begin, a.begin, d.size, a.size, d.tap, a.tap, d.taps, a.taps)
        for end, r, (d, a) in zip(ends, rows, cut_parts, strict=True)
    ]
    blocks, lanes, columns = int(ends[-1]), to.target.lanes, to.columns
    flops = sum(2 * g.n * d.size * a.size * d.taps * a.taps for d, a in cut_parts) * g.ci * co
    meant = 2 * g.n * g.oh * g.ow * co * g.ci * g.taps
    to.step(
        "conv.conv_parts",
        blocks * g.groups * ceil(ceil(og, columns), how.panels),
        work=flops,
        x=to.input(0),
        y=to.output(),
        w=packed_weights(to, g, weights(to, g), g.taps * g.ci, og, 0, og),
        addends=Addends(bias(to, g.groups, og, 1), to.residual, to.ldres),
        zeros=to.zeros(g.ci),
        parts=to.table("parts", np.array(table, np.int64)),
        image=ConvImage(g.n, g.h, g.w, to.ld(0), g.ci, g.oh, g.ow, ldy, og),
        window=sliding(g.down, g.across),
        epilogue=epilogue(to, g.groups, og, lanes, columns),
        kind="convolution",
        algorithm=f"conv {g.down.kernel}×{g.across.kernel} in {len(table)} parts, {how.panels} panels",
        does=Work(meant, flops, FLOAT32.itemsize * g.n * g.oh * g.ow * co, seen_by(g.down, g.across)),
        blocking=ConvBlocking(blocks, how.panels, how.tap_chunk, how.channel_chunk, padded(og, lanes, columns)),
    )


def _rows(pixels: int, how: Cut, tile: int) -> int:
    """Pixels of a block: of equal blocks, whole tiles."""
    return min(pixels, ceil(ceil(pixels, ceil(pixels, how.rows)), tile) * tile, how.rows)


PARTS = Implementation("parts", fits, emit, cost)
