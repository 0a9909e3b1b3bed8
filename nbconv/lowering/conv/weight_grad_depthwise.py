"""The gradient by a depthwise convolution's weights: sums over some rows of pixels each, then their sum."""

from __future__ import annotations

from nbconv.kernels.params import DenseImage, TapStrides
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.conv.weight_grad import Plane, merge, whole
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil
from nbconv.lowering.repack import channels_last
from nbconv.lowering.step import Work
from nbconv.lowering.window import seen_by, sliding


def fits(p: ConvProblem) -> bool:
    return p.geometry.depthwise


def emit(to: Lowering, p: ConvProblem) -> None:
    product(to, p.geometry, channels_last(to, 0), whole(to, p.geometry))


def product(to: Lowering, g: Geometry, x: Ref, plane: Plane) -> None:
    """Parts of the sum, then their sum."""
    c, n, oh, taps, lanes = g.groups, g.n, g.oh, g.taps, to.target.lanes
    kh, full = g.down.kernel, ceil(c, lanes) * lanes
    rows = ceil(n * oh, min(ceil(2 * to.target.units, to.gpu_split(1, 2 * full // lanes * kh)), n * oh))
    parts = ceil(n * oh, rows)
    sums = to.floats(parts * taps * full)
    to.step(
        "conv_grad.depthwise_grad_weight",
        to.gpu_split(parts, full // lanes * kh),
        work=8 * n * c * oh * g.ow * taps,
        x=x,
        dy=plane.dy,
        y=sums,
        n=n,
        image=DenseImage(g.h, g.w, c, oh, g.ow),
        window=sliding(g.down, g.across),
        rows=rows,
        padded=full,
        does=Work(seen=seen_by(g.down, g.across)),
    )
    merge(to, sums, parts, taps, 1, c, full, taps * full, TapStrides(1, 0, plane.taps, 0), plane.dw)


WEIGHT_GRAD_DEPTHWISE = Implementation("weight_grad_depthwise", fits, emit)
