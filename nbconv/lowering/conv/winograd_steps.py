"""Winograd's filtering in three steps, for GPUs: all of x is transformed, multiplied by points, a group after another, and
transformed back."""

from __future__ import annotations

from functools import partial

from nbconv.kernels.params import Addends, Epilogue, Scatter, Tiles
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv import winograd
from nbconv.lowering.conv.operands import bias
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.gemm.steps import Factors, Results, gemm
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import BYTE, LAUNCH, ceil, cut, epilogue, padded, product_cost
from nbconv.lowering.step import Work


def fits(p: ConvProblem, size: int) -> bool:
    """Neither transformed weights nor tiles and products may take more than their limits."""
    return p.target.gpu and winograd.serves(p, size) and _moved(p, size) <= p.scratch_limit


def _moved(p: ConvProblem, size: int) -> int:
    """Bytes of transformed tiles, and of their products."""
    g = p.geometry
    return p.itemsize * (size + 2) ** 2 * winograd.tiles(g, size) * g.groups * (g.ci + g.co)


def cost(p: ConvProblem, size: int) -> float:
    """The products, what the steps read and write, and their launches."""
    g, points = p.geometry, (size + 2) ** 2
    found = g.groups * product_cost(p, winograd.tiles(g, size), g.ci, g.co, 1, batch=points)
    images, weights = g.n * g.oh * g.ow * g.groups * (g.ci + g.co), g.groups * points * g.ci * g.co
    return found + BYTE * (2 * _moved(p, size) + p.itemsize * (images + weights)) + (1 + g.groups) * LAUNCH


def emit(to: Lowering, p: ConvProblem, size: int) -> None:
    """Steps of kernels/cuda/winograd.py."""
    g, lanes, columns, (ph, pw) = p.geometry, p.target.lanes, p.columns, winograd.padding(p.geometry)
    channels, out = g.groups * g.ci, g.groups * g.co
    points, total = (size + 2) ** 2, winograd.tiles(g, size)
    tiles = Tiles(ceil(g.oh, size), ceil(g.ow, size), total, size)
    v, m = to.floats(points * total * channels), to.floats(points * total * out)
    to.step(
        "winograd.transform_input",
        total * ceil(channels, lanes),
        work=32 * points * total * channels,
        x=to.input(0),
        v=v,
        h=g.h,
        width=g.w,
        ldx=to.ld(0),
        c=channels,
        ph=ph,
        pw=pw,
        tiles=tiles,
        writes=("v",),
        kind="winograd",
        does=Work(0, 0, p.itemsize * points * total * channels),
    )
    for i in range(g.groups):
        for first, last in winograd.pieces(to, p, size):
            multiply(to, p, size, i, (first, last), v.at(i * g.ci), m.at(i * g.co + first))
    to.step(
        "winograd.transform_output",
        total * ceil(out, lanes),
        work=32 * points * total * out,
        m=m,
        addends=Addends(bias(to, 1, out), to.residual, to.ldres),
        y=to.output(),
        oh=g.oh,
        ow=g.ow,
        c=out,
        ldy=to.pitch or out,
        tiles=tiles,
        epilogue=epilogue(to, 1, out, lanes, columns),
        kind="winograd",
        does=Work(0, 0, p.itemsize * g.n * g.oh * g.ow * out),
    )


def multiply(to: Lowering, p: ConvProblem, size: int, i: int, part: tuple[int, int], v: Ref, m: Ref) -> None:
    """The products of group i, to output channels from ``part``'s first to its last."""
    g, count, points, total = p.geometry, part[1] - part[0], (size + 2) ** 2, winograd.tiles(p.geometry, size)
    channels, out, full = g.groups * g.ci, g.groups * g.co, padded(count, p.target.lanes, p.columns)
    addends = Addends(to.zeros(full))
    wanted = Results(total, count, points, False, m, out, total * out, addends, Epilogue(), (1, total), Scatter(1, total))
    packed = winograd.filters(to, g, size, i, part[0], count)
    how = cut(to, total, g.ci, count, 1, batch=points)
    factors = Factors(g.ci, v, channels, total * channels, packed, g.ci * full)
    gemm(to, how, wanted, factors, "winograd", 18 * g.n * g.oh * g.ow * count * g.ci)


def row(size: int) -> Implementation:
    return Implementation(
        f"winograd_steps_{size}", partial(fits, size=size), partial(emit, size=size), partial(cost, size=size)
    )


WINOGRAD_STEPS_4, WINOGRAD_STEPS_2 = row(4), row(2)
