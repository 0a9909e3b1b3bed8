"""Gradients of a convolution by its weights and bias: products over pixels, in parts that a further step adds. Input 0 is x,
input 1 dy."""

from __future__ import annotations

from typing import NamedTuple

from nbconv.graph import FLOAT32
from nbconv.kernels.params import ConvImage, GradBlocking, Pixels, TapStrides
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.operands import Image
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil, padded
from nbconv.lowering.repack import channels_last
from nbconv.lowering.step import Work
from nbconv.lowering.window import seen_by, sliding

FEW = 8
"""Input channels below which a row of the window serves as its channels."""
PARTIAL = 8 << 20
"""Bytes of all parts of a gradient that are held before they are added."""
SIDES = 384 << 10
"""Bytes of a chunk of pixels, of both sides."""
MERGED = 8
"""Rows that a unit of `merge` in kernels/cuda/conv_grad.py adds."""
MAX_PIXELS, HELD = 512, 256
"""Pixels of a chunk at most: by which the sum is cut into parts, and which kernels/cpu/conv_grad.py holds."""


def small_channels(g: Geometry) -> bool:
    """Whether input channels are few, and all taps of a row of the window neighbours."""
    return g.groups == 1 and g.ci < FEW and g.across.kernel > 1 and g.across.dilation == 1


def fits(p: ConvProblem) -> bool:
    return not (p.geometry.depthwise or small_channels(p.geometry))


def cost(p: ConvProblem) -> float:
    """A group's products: tiles are multiplied, filled or not."""
    g = p.geometry
    return 2.0 * g.n * g.oh * g.ow * g.taps * g.ci * padded(g.co, p.target.lanes, p.columns)


class Plane(NamedTuple):
    """A plane of a kernel of ``taps`` taps: what is multiplied with x, and where its gradient goes."""

    dy: Ref
    dw: Ref
    taps: int


def whole(to: Lowering, g: Geometry) -> Plane:
    """A kernel over images: one plane."""
    return Plane(channels_last(to, 1), to.output(), g.taps)


def emit(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    image = Image(channels_last(to, 0), g.h, g.w, g.groups * g.ci, g.ci)
    product(to, g, image, g.down[:4], g.across[:4], whole(to, g))


def product(to: Lowering, g: Geometry, image: Image, down: tuple[int, ...], across: tuple[int, ...], plane: Plane) -> None:
    """Parts of the sum, then their sum, turned to lie as w does; of one group, some channels of dy at a time. Where a row of
    the window is one tap, its ``image.cg`` "channels" are taps of ci channels, the taps outermost."""
    groups, og, cg, m, count, target = g.groups, g.co, image.cg, g.n * g.oh * g.ow, down[0] * across[0], to.target
    full = ceil(padded(og, target.lanes, to.columns), to.columns) * to.columns
    size = groups * count * cg * full
    columns = min(full, max(to.columns, target.sums // (FLOAT32.itemsize * count * cg) // to.columns * to.columns))
    blocks = to.gpu_split(groups * ceil(og, columns), ceil(count * cg, target.tile().rows))
    chunk = 2 * target.pixels or max(64, min(MAX_PIXELS, SIDES // (FLOAT32.itemsize * (cg + columns))))
    parts = max(1, min(ceil(target.units, blocks), PARTIAL // (FLOAT32.itemsize * size), ceil(m, chunk)))
    pixels = ceil(m, parts)
    chunk = ceil(pixels, ceil(pixels, min(chunk, HELD)))
    parts = ceil(m, pixels)
    for first, last in pieces(to, og, columns, FLOAT32.itemsize * parts * count * cg) if groups == 1 else [(0, og)]:
        n = last - first
        blocks = to.gpu_split(groups * ceil(n, columns), ceil(count * cg, target.tile().rows))
        full = ceil(padded(n, target.lanes, to.columns), to.columns) * to.columns
        size = groups * count * cg * full
        sums = to.floats(parts * size)
        to.step(
            "conv_grad.conv_grad_weight",
            parts * blocks,
            work=2 * m * count * cg * groups * n,
            x=image.ref,
            dy=plane.dy.at(first),
            y=sums,
            zeros=to.zeros(cg),
            image=ConvImage(m, image.h, image.w, image.ldx, cg, g.oh, g.ow, groups * og, n),
            window=sliding(down, across),
            does=Work(seen=seen_by(down, across)),
            blocking=GradBlocking(groups, parts, pixels, min(columns, full), chunk, full),
        )
        co = g.ci * plane.taps
        strides = TapStrides(1, plane.taps, co, og * co)
        merge(to, sums, parts, g.taps, g.ci, n, full, size, strides, plane.dw.at(first * co), groups)


def pieces(to: Lowering, n: int, columns: int, nbytes: int) -> list[tuple[int, int]]:
    """As `Lowering.pieces`, in whole blocks of columns, so that each sum is what it is in one piece."""
    found = to.pieces(n, nbytes)
    step = ceil(found[0][1], columns) * columns
    return [(i, min(n, i + step)) for i in range(0, n, step)]


def merge(
    to: Lowering,
    x: Ref,
    parts: int,
    taps: int,
    cg: int,
    og: int,
    full: int,
    step: int,
    strides: TapStrides,
    y: Ref,
    groups: int = 1,
) -> None:
    """The step that adds parts: see `merge` in kernels/cpu/conv_grad.py."""
    to.step(
        "conv_grad.merge",
        to.gpu_split(groups * ceil(og, to.target.lanes), ceil(taps * cg, MERGED)),
        work=8 * parts * step,
        x=x,
        y=y,
        parts=parts,
        taps=taps,
        cg=cg,
        og=og,
        padded=full,
        step=step,
        strides=strides,
    )


def channel_sums(to: Lowering) -> None:
    """The gradient by the bias, output 1."""
    c, lanes = to.inputs[1].shape[1], to.target.lanes
    total, full = to.inputs[1].size // c, ceil(c, lanes) * lanes
    pixels = ceil(total, min(ceil(2 * to.target.units, to.gpu_split(1, 4 * full // lanes)), ceil(total, 64)))
    parts = ceil(total, pixels)
    sums = to.floats(parts * full)
    to.step(
        "conv_grad.channel_sums",
        to.gpu_split(parts, full // lanes),
        work=8 * total * c,
        x=channels_last(to, 1),
        y=sums,
        split=Pixels(pixels, total, c),
        padded=full,
    )
    merge(to, sums, parts, 1, 1, c, full, full, TapStrides(0, 0, 1, 0), to.output(1))


WEIGHT_GRAD = Implementation("weight_grad", fits, emit, cost)
