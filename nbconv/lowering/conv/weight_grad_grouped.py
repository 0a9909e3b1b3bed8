"""The gradient by the weights of convolutions of few channels a group, as many in as out: a vector over all groups whose
channels it has, as in `nbconv.lowering.conv.grouped`. Sums over some rows of pixels each, then their sum."""

from __future__ import annotations

from nbconv.kernels.params import DenseImage, TapStrides
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.grouped import cost, fills_vectors
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.conv.weight_grad import merge
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil
from nbconv.lowering.repack import channels_last
from nbconv.lowering.step import Work
from nbconv.lowering.window import seen_by, sliding

AT_ONCE, MOST = 4, 8
"""Inputs of a group whose sums stay in registers, and most that a group has: more fill the tiles of products."""


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    return fills_vectors(p) and g.ci % AT_ONCE == 0 and g.ci <= MOST and g.groups * g.co % p.target.lanes == 0


def emit(to: Lowering, p: ConvProblem) -> None:
    g, lanes = p.geometry, to.target.lanes
    c, cg, taps, lines = g.groups * g.co, g.ci, g.taps, g.n * g.oh
    vectors = c // lanes
    rows = ceil(lines, min(ceil(2 * to.target.units, vectors), lines))
    parts = ceil(lines, rows)
    size = taps * cg * c
    sums = to.floats(parts * size)
    to.step(
        "grouped_grad.grouped_grad_weight",
        parts * vectors,
        work=2 * lines * g.ow * size,
        x=channels_last(to, 0),
        dy=channels_last(to, 1),
        y=sums,
        n=g.n,
        cg=cg,
        image=DenseImage(g.h, g.w, c, g.oh, g.ow),
        window=sliding(g.down, g.across),
        rows=rows,
        does=Work(seen=seen_by(g.down, g.across)),
    )
    strides = TapStrides(1, taps, cg * taps, lanes * cg * taps)
    merge(to, sums, parts, taps, cg, lanes, lanes, size, strides, to.output(), vectors)


WEIGHT_GRAD_GROUPED = Implementation("weight_grad_grouped", fits, emit, cost)
