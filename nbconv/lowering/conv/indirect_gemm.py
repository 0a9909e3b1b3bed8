"""Indirect GEMM (Dukhan 2019): an indirection buffer holds one pointer per output pixel and tap. Taps outside the image
point at a row of zeros, so that no im2col buffer is written. The algorithm of every convolution that no other takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from nbconv.graph import FLOAT32
from nbconv.kernels.params import Addends, ConvBlocking, ConvImage, Scatter
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.operands import Image, bias, image
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.cost import weighted_product
from nbconv.lowering.gemm.steps import Results, finish, sums
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import Cut, cut, epilogue, pack, padded, product_cost
from nbconv.lowering.repack import WeightStrides, varies
from nbconv.lowering.step import Work
from nbconv.lowering.window import seen_by, sliding

GAIN = 0.8
"""The part of its cost that a direct product counts for on a GPU: Winograd rounds more, and costs are rough."""


class Weights(NamedTuple):
    """Packed under ``key`` from the (groups, taps, ci, co) matrices that ``make`` gives, or, where they are no constants,
    from ``source`` by steps, unless they are ``packed`` already."""

    key: str
    make: Callable[[], np.ndarray]
    strides: WeightStrides
    source: Ref
    packed: Ref | None = None


class Wide(NamedTuple):
    """Results that are not y's channels: where they go, and how many channels there are; the bias is repeated."""

    ref: Ref
    channels: int


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    return not (g.transposed or g.depthwise or g.small_channels)


def cost(p: ConvProblem) -> float:
    return product(p)


def product(p: ConvProblem) -> float:
    """The cost of the direct product, of a group on a processor."""
    g = p.geometry
    pixels = g.n * g.oh * g.ow
    if p.target.gpu:
        return GAIN * product_cost(p, pixels, g.ci, g.co, g.taps, g.groups)
    weights = g.taps * g.ci * g.co
    return weighted_product(2.0 * pixels * weights, pixels, p.target.tile().rows, p.itemsize * weights)


def emit(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    taps_steps(to, g, weights(to, g), (g.oh, g.ow), g.down[:4], g.across[:4])


def weights(to: Lowering, g: Geometry) -> Weights:
    """As ONNX has those of a Conv, (groups · co, ci, kh, kw)."""
    taps, kw = g.taps, g.across.kernel

    def make() -> np.ndarray:
        return to.value(1).reshape(g.groups, g.co, g.ci, taps).transpose(0, 3, 2, 1)

    strides = WeightStrides(0, taps * g.ci * g.co, kw, 1, taps, g.ci * taps, g.down.kernel, kw, g.ci)
    return Weights(f"conv{g.groups}", make, strides, to.input(1))


def taps_steps(
    to: Lowering,
    g: Geometry,
    w: Weights,
    size: tuple[int, int],
    down: tuple[int, ...],
    across: tuple[int, ...],
    scatter: Scatter | None = None,
    source: Image | None = None,
    wide: Wide | None = None,
    bias_input: int = 2,
) -> None:
    """One step of `conv` in kernels/cpu/conv.py, of x, or of the image ``source``, to (oh, ow) = ``size`` results, which go
    to y as ``scatter`` says. ``down`` and ``across`` are (kernel, stride, dilation, begin). Weights that are packed here, of
    one group, may be packed some columns at a time, with a step each."""
    y, co = wide or (to.output(), g.groups * g.co)
    repeats, og = co // (g.groups * g.co), co // g.groups
    (oh, ow), ws, (ref, h, width, ldx, cg) = size, w.strides, source or image(to, g)
    scatter = scatter or Scatter(oh, ow)
    lanes, columns, ldy = to.target.lanes, to.columns, co if wide else to.pitch or co
    (kh, sh), (kw, sw) = down[:2], across[:2]
    m, taps, stride = g.n * oh * ow, kh * kw, "" if sh == sw == 1 else f" /{sh}"
    kind = "convolution" if g.taps > 1 else "dense" if m == 1 else "pointwise"
    if down == across == (1, 1, 1, 0) and scatter == Scatter(oh, ow) and (oh, ow) == (h, width):
        h, width, oh, ow, scatter = 1, m, 1, m, Scatter(1, m)  # one row of pixels: one sequence of addresses
    parted = varies(to, 1) and ws.kh and g.groups == 1 and not wide
    for first, last in to.pieces(og, FLOAT32.itemsize * taps * cg) if parted else [(0, og)]:
        n, part = last - first, slice(first, last) if last - first < og else None
        how = cut(to, m, cg, n, taps, g.groups)
        packed = packed_weights(to, g, w, taps * cg, og, first, n)
        addends = Addends(bias(to, g.groups, n, repeats, part, bias_input), to.residual and to.residual.at(first), to.ldres)
        done = epilogue(to, g.groups, n, lanes, columns, part)
        wanted = Results(m, n, g.groups, True, y.at(first), ldy, n, addends, done, (oh, ow), scatter)
        found = sums(to, how, wanted)
        flops = 2 * m * g.groups * n * cg * taps
        to.step(
            "conv.conv",
            how.units,
            work=flops,
            x=ref,
            y=found.y,
            w=packed,
            addends=found.addends,
            zeros=to.zeros(cg),
            image=ConvImage(m, h, width, ldx, cg, oh, ow, found.ldy, n),
            window=sliding(down, across),
            scatter=found.scatter,
            epilogue=found.epilogue,
            kind=kind,
            algorithm=partial(_described, (kh, kw), stride, how),
            does=Work(flops, flops, FLOAT32.itemsize * m * g.groups * n, seen_by(down, across)),
            blocking=ConvBlocking(how.rows, how.panels, how.tap_chunk, how.channel_chunk, padded(n, lanes, columns)),
        )
        finish(to, how, found, wanted, kind)


def _described(kernel: tuple[int, int], stride: str, how: Cut) -> str:
    chunks = f"{how.tap_chunk}×{how.channel_chunk}"
    return f"conv {kernel[0]}×{kernel[1]}{stride}, {how.rows} rows × {how.panels} panels, k {chunks}"


def packed_weights(to: Lowering, g: Geometry, w: Weights, k: int, og: int, first: int, n: int) -> Ref:
    """Panels of n of a group's og columns."""
    lanes, columns, groups = to.target.lanes, to.columns, g.groups
    if not w.strides.kh:  # no tap meets these cells
        return to.constant(f"#zeros{groups}x{k}x{og}", lambda: np.zeros(groups * k * padded(og, lanes, columns), np.float32))
    if w.packed is not None:
        return w.packed
    if varies(to, 1):
        return repack.panels(to, w.source.at(first * w.strides.co), w.strides, groups, n)
    return to.constant(
        f"{to.node.inputs[1]}#{w.key}", lambda: pack(w.make().reshape(groups, k, og), lanes, columns, to.drop)
    )


INDIRECT_GEMM = Implementation("indirect_gemm", fits, emit, cost)
