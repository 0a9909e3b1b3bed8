"""Transposed convolutions by phases: results whose row and column leave the same remainders by the strides meet the same
taps, and read x at stride 1. Each such phase is a convolution of its own, an indirect GEMM."""

from __future__ import annotations

import numpy as np

from nbconv.kernels.params import Scatter
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.indirect_gemm import Weights, product, taps_steps
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil
from nbconv.lowering.repack import WeightStrides
from nbconv.lowering.window import Axis


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    return g.transposed and not (g.depthwise or g.disjoint)


def cost(p: ConvProblem) -> float:
    """Of a single phase: there are alternatives at stride 1 only."""
    return product(p)


def emit(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    for top in range(min(g.down.stride, g.oh)):
        ky, vertical = _phase(top, g.down)
        for left in range(min(g.across.stride, g.ow)):
            kx, horizontal = _phase(left, g.across)
            v, h = vertical, horizontal
            if not ky or not kx:  # no tap reaches these cells: a zero tap in the padding leaves the bias
                v, h = (1, 1, 1, 1 << 30), (1, 1, 1, 0)
            size = ceil(g.oh - top, g.down.stride), ceil(g.ow - left, g.across.stride)
            scatter = Scatter(g.oh, g.ow, g.down.stride, g.across.stride, top, left)
            taps_steps(to, g, _weights(to, g, (top, left), ky, kx), size, v, h, scatter)


def _weights(to: Lowering, g: Geometry, phase: tuple[int, int], ky: list[int], kx: list[int]) -> Weights:
    """The taps ky × kx of the weights, which ONNX has as (groups · ci, co, kh, kw)."""

    def make() -> np.ndarray:
        full = to.value(1).reshape(g.groups, g.ci, g.co, g.down.kernel, g.across.kernel)
        some = full[:, :, :, ky][..., kx].transpose(0, 3, 4, 1, 2)
        return some.reshape(g.groups, len(ky) * len(kx), g.ci, g.co)

    key = f"transposed{g.groups}.{phase[0]}.{phase[1]}.{tuple(g.down[1:4])}.{tuple(g.across[1:4])}"
    return Weights(key, make, _strides(g, ky, kx), to.input(1))


def _strides(g: Geometry, ky: list[int], kx: list[int]) -> WeightStrides:
    if not ky or not kx:
        return WeightStrides(0, 0, 0, 0, 0, 0, 0, 0, 0)
    down, across = (v[1] - v[0] if len(v) > 1 else 1 for v in (ky, kx))
    kw, taps = g.across.kernel, g.taps
    group, base = g.ci * g.co * taps, ky[0] * kw + kx[0]
    return WeightStrides(base, group, down * kw, across, g.co * taps, taps, len(ky), len(kx), g.ci)


def _phase(p: int, axis: Axis) -> tuple[list[int], tuple[int, int, int, int]]:
    """The taps of a transposed convolution that meet output cells p, p + stride, …, and the (kernel, stride, dilation,
    begin) with which they slide over x: cell p + stride·i and tap k meet x at i + (p + begin - k·dilation) / stride."""
    kernel, stride, dilation, begin, _ = axis
    taps = [k for k in range(kernel) if (p + begin - k * dilation) % stride == 0]
    if not taps:
        return taps, (1, 1, 1, 0)
    step = taps[1] - taps[0] if len(taps) > 1 else 1
    first = (p + begin - taps[0] * dilation) // stride
    return taps, (len(taps), 1, -(step * dilation // stride), -first)


TRANSPOSED = Implementation("transposed_phases", fits, emit, cost)
