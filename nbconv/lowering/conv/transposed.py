"""Transposed convolutions by phases: results whose row and column leave the same remainders by the strides meet the same
taps, and read x at stride 1. Each such phase is a convolution of its own, an indirect GEMM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nbconv.kernels.params import Scatter
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.indirect_gemm import Weights, product, taps_steps
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil
from nbconv.lowering.repack import WeightStrides
from nbconv.lowering.window import Axis

NOTHING = (1, 1, 1, 1 << 30), (1, 1, 1, 0)
"""The window of a phase that no tap reaches: a zero tap in the padding leaves the bias."""


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    return g.transposed and not (g.depthwise or g.disjoint)


def cost(p: ConvProblem) -> float:
    """Of a single phase: there are alternatives at stride 1 only."""
    return product(p)


def emit(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    for part in phases(g):
        taps_steps(to, g, _weights(to, g, part), part.size, part.down, part.across, part.scatter)


class Phase(NamedTuple):
    """The taps ``ky`` × ``kx`` that slide over x as ``down`` and ``across`` say, (kernel, stride, dilation, begin), to
    ``size`` results, which go to y as ``scatter`` says."""

    ky: list[int]
    kx: list[int]
    down: tuple[int, int, int, int]
    across: tuple[int, int, int, int]
    size: tuple[int, int]
    scatter: Scatter


def phases(g: Geometry) -> Iterator[Phase]:
    """All of y's."""
    for top in range(min(g.down.stride, g.oh)):
        ky, vertical = phase(top, g.down)
        for left in range(min(g.across.stride, g.ow)):
            kx, horizontal = phase(left, g.across)
            v, h = (vertical, horizontal) if ky and kx else NOTHING
            size = ceil(g.oh - top, g.down.stride), ceil(g.ow - left, g.across.stride)
            yield Phase(ky, kx, v, h, size, Scatter(g.oh, g.ow, g.down.stride, g.across.stride, top, left))


def _weights(to: Lowering, g: Geometry, part: Phase) -> Weights:
    """The phase's taps of the weights, which ONNX has as (groups · ci, co, kh, kw)."""
    ky, kx, s = part.ky, part.kx, part.scatter

    def make() -> np.ndarray:
        full = to.value(1).reshape(g.groups, g.ci, g.co, g.down.kernel, g.across.kernel)
        some = full[:, :, :, ky][..., kx].transpose(0, 3, 4, 1, 2)
        return some.reshape(g.groups, len(ky) * len(kx), g.ci, g.co)

    key = f"transposed{g.groups}.{s.oy0}.{s.ox0}.{tuple(g.down[1:4])}.{tuple(g.across[1:4])}"
    return Weights(key, make, strides(g, ky, kx), to.input(1))


def strides(g: Geometry, ky: list[int], kx: list[int], z: int = 0, kd: int = 1) -> WeightStrides:
    """Of the taps ky × kx, in plane z of a kernel of ``kd``."""
    if not ky or not kx:
        return WeightStrides(0, 0, 0, 0, 0, 0, 0, 0, 0)
    down, across = (v[1] - v[0] if len(v) > 1 else 1 for v in (ky, kx))
    kw, taps = g.across.kernel, kd * g.taps
    group, base = g.ci * g.co * taps, z * g.taps + ky[0] * kw + kx[0]
    return WeightStrides(base, group, down * kw, across, g.co * taps, taps, len(ky), len(kx), g.ci)


def phase(p: int, axis: Axis) -> tuple[list[int], tuple[int, int, int, int]]:
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
