"""Convolutions of few inputs a group, in strips of pixels, a vector of results after the other: of groups with as many
results as inputs (ResNeXt, RegNet), with a vector over all groups that its channels are of, and 3×3 ones of one group (the
first layers of most networks), which read an image as it lies. At stride 1 their gradients by the input are such, too."""

from __future__ import annotations

import numpy as np

from nbconv.graph.symbolic import apply
from nbconv.kernels.params import Addends
from nbconv.kernels.strip_params import Strips
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.operands import bias
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil, epilogue
from nbconv.lowering.repack import WeightStrides, varies
from nbconv.lowering.step import Work
from nbconv.lowering.window import Axis, seen_by, sliding

BAND = 16
"""Most rows of a unit."""
NEAR = 8192
"""Floats of the weights of a unit's channels, or little more: they stay in L1."""


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    if g.transposed and (p.constant or any(axis.stride > 1 or axis.begin < 0 for axis in sides(g))):
        return False
    return fills_vectors(p) and packs(p)


def fills_vectors(p: ConvProblem) -> bool:
    """Whether groups have as many channels in as out, and fill vectors together or alone."""
    g, lanes = p.geometry, p.target.lanes
    if p.target.gpu or g.groups == 1 or not 1 < g.ci == g.co <= lanes or lanes % g.ci:
        return False
    return g.ci == lanes or (p.target.triple.startswith("x86") and lanes > 4)


def fits_first(p: ConvProblem) -> bool:
    g = p.geometry
    _, stride, _, *pads = g.across
    few = g.small_channels and g.across.kernel == 3 and stride <= 2 and max(pads) <= 1
    return few and not p.target.gpu and packs(p)


def sides(g: Geometry) -> tuple[Axis, Axis]:
    """The window that slides, down and across."""
    return (g.down.turned(), g.across.turned()) if g.transposed else (g.down, g.across)


def packs(p: ConvProblem) -> bool:
    """Whether weights can be packed in vectors: those that vary have no part of one."""
    g = p.geometry
    return p.constant or g.groups * g.co % p.target.lanes == 0


def cost(p: ConvProblem) -> float:
    """A group's products, all of which fill vectors."""
    g = p.geometry
    return 2.0 * g.n * g.oh * g.ow * g.taps * g.ci * g.co


def emit(to: Lowering, p: ConvProblem) -> None:
    """One step of kernels/cpu/grouped.py."""
    g, lanes, columns, units = p.geometry, p.target.lanes, p.columns, p.target.units
    c = g.groups * g.co
    vectors = ceil(c, lanes)
    pieces = ceil(vectors, max(1, NEAR // (g.taps * g.ci * lanes)))
    piece = ceil(vectors, pieces) * lanes
    band = apply(min, BAND, ceil(g.oh, ceil(units // 2, pieces)))
    size = g.n * c * g.oh * g.ow
    flops = 2 * size * g.taps * g.ci
    here = to.strides(0)
    xn, xc, xh, xw = here if g.axes == 2 else (*here[:2], 0, here[2])
    to.step(
        "grouped.grouped",
        g.n * ceil(c, piece) * ceil(g.oh, band),
        work=2 * flops,
        x=to.input(0),
        y=to.output(),
        w=weights(to, p),
        addends=Addends(bias(to, 1, c), to.residual, to.ldres),
        zeros=to.zeros(1),
        strips=Strips(
            g.h, g.w, g.oh, g.ow, g.ci, c, to.pitch or c, xn, xh, xw, xc, lanes if g.groups > 1 else 0, band, piece
        ),
        window=sliding(*sides(g)),
        epilogue=epilogue(to, 1, c, lanes, columns),
        kind="convolution",
        algorithm=lambda: f"strips {g.down.kernel}×{g.across.kernel} /{g.down.stride}, {g.ci} inputs",
        does=Work(flops, flops, p.itemsize * size, seen_by(*sides(g))),
    )


def weights(to: Lowering, p: ConvProblem) -> Ref:
    """(vectors, kh, kw, ci, lanes), of (groups · co, ci, kh, kw); transposed of (groups · ci, co, kh, kw), turned round."""
    g, lanes = p.geometry, p.target.lanes
    c, taps, kw = g.groups * g.co, g.taps, g.across.kernel
    vectors = ceil(c, lanes)
    if g.transposed:
        y, line = to.floats(c * g.ci * taps), g.co * taps
        shape, here = (vectors, taps, g.ci, lanes // g.co, g.co), (lanes * line, -1, line, g.ci * line, taps)
        to.copy(to.input(1).at(taps - 1), y, shape, here, (taps * g.ci * lanes, g.ci * lanes, lanes, g.co, 1))
        return y
    if varies(to, 1):
        strides = WeightStrides(0, lanes * g.ci * taps, kw, 1, taps, g.ci * taps, g.down.kernel, kw, g.ci)
        return repack.panels(to, to.input(1), strides, vectors, lanes)

    def make() -> np.ndarray:
        packed = np.zeros((vectors * lanes, g.ci * taps), np.float32)
        packed[:c] = to.value(1).reshape(c, g.ci * taps)
        return packed.reshape(vectors, lanes, g.ci, taps).transpose(0, 3, 2, 1).reshape(-1)

    return to.constant(f"{to.node.inputs[1]}#grouped{g.groups}", make)


GROUPED = Implementation("grouped", fits, emit, cost)
FIRST_LAYER = Implementation("first_layer", fits_first, emit)
