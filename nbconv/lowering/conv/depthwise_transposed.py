"""Transposed depthwise convolutions: each pixel of the result gathers from the cells of x that reach it."""

from __future__ import annotations

from nbconv.kernels.params import DenseImage
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil
from nbconv.lowering.window import STRIP, sliding


def fits(p: ConvProblem) -> bool:
    return p.geometry.depthwise and p.geometry.transposed


def emit(to: Lowering, p: ConvProblem) -> None:
    """One step of `depthwise_transposed` in kernels/cpu/conv_grad.py, which calls x dy and y x."""
    g, c, lanes = p.geometry, p.geometry.groups, p.target.lanes
    full = ceil(c, lanes) * lanes
    zeros = to.zeros(full)
    to.step(
        "conv_grad.depthwise_transposed",
        to.gpu_split(g.n * g.oh, full // lanes * ceil(g.ow, STRIP)),
        work=8 * g.n * c * g.h * g.w * g.taps,
        dy=to.input(0),
        w=repack.rows(to, to.input(1), g.taps, c, 1, g.taps, full),
        b=repack.rows(to, to.input(2), 1, c, 0, 1, full) if to.has(2) else zeros,
        y=to.output(),
        image=DenseImage(g.oh, g.ow, c, g.h, g.w),
        window=sliding(g.down, g.across),
        padded=full,
    )


DEPTHWISE_TRANSPOSED = Implementation("depthwise_transposed", fits, emit)
