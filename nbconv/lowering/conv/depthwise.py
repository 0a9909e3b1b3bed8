"""Depthwise convolutions, one filter a channel: strips of pixels of which each input vector is loaded once. Where a channel
has several filters, x's are written as often first. The gradient by x at stride 1 is such a convolution, by turned
filters."""

from __future__ import annotations

import numpy as np

from nbconv.graph.symbolic import apply
from nbconv.kernels.params import DenseImage
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil, epilogue, pad_bias
from nbconv.lowering.repack import varies
from nbconv.lowering.step import Work
from nbconv.lowering.window import seen_by, sliding

BAND = 16
"""Most rows of a unit."""
NEAR = 8192
"""Floats of the rows that a window sees, of a unit's channels: they stay in L1."""
LEAST = 4
"""Vectors of channels that a unit has at least: neighbours in memory."""
SLOW = "depthwise windows with strides load each cell for each tap, but for those 3, 5 or 7 wide at stride 2"


def fits(p: ConvProblem) -> bool:
    return p.geometry.depthwise and not p.geometry.transposed


def emit(to: Lowering, p: ConvProblem) -> None:
    strips(to, p, to.input(0))


def fits_multiplied(p: ConvProblem) -> bool:
    g = p.geometry
    return g.multiplied and not p.target.gpu and p.itemsize * g.n * g.h * g.w * g.groups * g.co <= p.scratch_limit


def cost_multiplied(p: ConvProblem) -> float:
    """A channel's products, all of which fill vectors."""
    g = p.geometry
    return 2.0 * g.n * g.oh * g.ow * g.taps * g.co


def emit_multiplied(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    size = g.n * g.h * g.w * g.groups * g.co
    x, here = to.floats(size), to.strides(0)
    n, c, h, w = here if g.axes == 2 else (*here[:2], 0, here[2])
    there = (g.h * g.w * g.groups * g.co, g.co, g.w * g.groups * g.co, g.groups * g.co, 1)
    to.copy(to.input(0), x, (g.n, g.groups, g.h, g.w, g.co), (n, c, h, w, 0), there)
    strips(to, p, x)


def fits_turned(p: ConvProblem) -> bool:
    """Whether the transpose slides, too: at stride 1, over windows that begin in the padding or at the first cell."""
    g = p.geometry
    slides = all(axis.stride == 1 and axis.turned().begin >= 0 for axis in (g.down, g.across))
    return g.depthwise and g.transposed and slides and not p.target.gpu


def emit_turned(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    there = g._replace(transposed=False, down=g.down.turned(), across=g.across.turned())
    strips(to, p._replace(geometry=there), to.input(0), turned=True)


def strips(to: Lowering, p: ConvProblem, x: Ref, turned: bool = False) -> None:
    """One step of kernels/cpu/depthwise.py, of x as it lies there, a channel for each of y's. ``turned``: filters are read
    from their ends."""
    g, c, lanes, units = p.geometry, p.geometry.groups * p.geometry.co, p.target.lanes, p.target.units
    vectors = ceil(c, lanes)
    pieces = min(vectors, units // 2)
    if not p.target.gpu:
        near = apply(max, LEAST * lanes, NEAR // apply(max, 1, g.down.kernel * g.w))  # channels
        pieces = apply(min, vectors, ceil(c, near))
    band = apply(min, BAND, ceil(g.oh, ceil(units // 2, pieces)))
    piece, full = ceil(vectors, pieces) * lanes, vectors * lanes

    def weights() -> np.ndarray:
        packed = np.zeros((g.taps, full), np.float32)
        packed[:, :c] = to.value(1).reshape(c, g.taps)[:, :: -1 if turned else 1].T
        return packed

    bias = to.node.inputs[2] if to.has(2) else ""
    if varies(to, 1):
        first, step = (g.taps - 1, -1) if turned else (0, 1)
        packed = repack.rows(to, to.input(1).at(first), g.taps, c, step, g.taps, full)
    else:
        packed = to.constant(f"{to.node.inputs[1]}#depthwise{'/turned' if turned else ''}", weights)
    if varies(to, 2):
        b = repack.rows(to, to.input(2), 1, c, 0, 1, full)
    else:
        b = to.constant(f"{bias}#lanes{c}", lambda: pad_bias(to.value(2) if bias else None, 1, c, lanes, lanes))
    size = g.n * c * g.oh * g.ow
    to.step(
        "depthwise.depthwise",
        g.n * ceil(g.oh, band) * ceil(c, piece),
        work=8 * size * g.taps,
        x=x,
        y=to.output(),
        w=packed,
        b=b,
        image=DenseImage(g.h, g.w, c, g.oh, g.ow),
        window=sliding(g.down, g.across),
        padded=full,
        band=band,
        piece=piece,
        epilogue=epilogue(to, 1, c, lanes, lanes),
        kind="depthwise",
        slow="" if _in_strips(p) else SLOW,
        algorithm=lambda: f"depthwise {g.down.kernel}×{g.across.kernel} /{g.down.stride}",
        does=Work(2 * size * g.taps, 2 * size * g.taps, p.itemsize * size, seen_by(g.down, g.across)),
    )


def _in_strips(p: ConvProblem) -> bool:
    """Whether the kernel's strips share what they load; of a window that reaches far past the image, they may still not."""
    across = p.geometry.across
    return across.stride == 1 or (across.stride == 2 and across.kernel in (3, 5, 7) and across.dilation == 1)


DEPTHWISE = Implementation("depthwise", fits, emit)
TURNED = Implementation("depthwise_turned", fits_turned, emit_turned)
MULTIPLIED = Implementation("depthwise_multiplied", fits_multiplied, emit_multiplied, cost_multiplied)
