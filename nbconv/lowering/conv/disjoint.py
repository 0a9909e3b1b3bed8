"""Transposed convolutions whose kernels do not overlap, as those that double an image's size: one product makes all cells of
every kernel, and a copy puts them in their places."""

from __future__ import annotations

import numpy as np

from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.indirect_gemm import Weights, Wide, taps_steps
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.repack import WeightStrides, varies


def fits(p: ConvProblem) -> bool:
    return p.geometry.disjoint


def emit(to: Lowering, p: ConvProblem) -> None:
    g, kh, kw = p.geometry, p.geometry.down.kernel, p.geometry.across.kernel
    wide, source = kh * kw * g.co, to.input(1)
    cells = to.floats(g.n * g.h * g.w * wide)

    def make() -> np.ndarray:
        return to.value(1).reshape(g.ci, g.co, kh, kw).transpose(0, 2, 3, 1)

    if varies(to, 1):  # as (ci, kh, kw, co) first: columns are equally spaced then
        source = to.floats(g.ci * wide)
        to.copy(to.input(1), source, (g.ci, kh * kw, g.co), (wide, 1, kh * kw), (wide, g.co, 1))
    weights = Weights("apart", make, WeightStrides(0, 0, 0, 0, wide, 1, 1, 1, g.ci), source)
    one = (1, 1, 1, 0)
    taps_steps(to, g, weights, (g.h, g.w), one, one, wide=Wide(cells, wide))
    there = to.out_strides()
    yn, yc, yh, yw = there if g.axes == 2 else (*there[:2], 0, there[2])
    to.copy(
        cells,
        to.output(),
        (g.n, g.h, g.w, kh, kw, g.co),
        (g.h * g.w * wide, g.w * wide, wide, kw * g.co, g.co, 1),
        (yn, yh * kh, yw * kw, yh, yw, yc),
    )


DISJOINT = Implementation("disjoint_product", fits, emit)
