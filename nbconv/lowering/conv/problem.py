"""What a convolution asks for: its geometry, and all else that the choice of an implementation depends on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbconv.graph import CHANNELS_LAST
from nbconv.kernels.target import Target
from nbconv.lowering.context import Lowering
from nbconv.lowering.window import Axis, Window, flat, plane

SMALL_CHANNELS = 16
"""Input channels below which a row of the window is multiplied at a time instead of its pixels."""


class Geometry(NamedTuple):
    """A convolution of images (n, groups · ci, h, w) to (n, groups · co, oh, ow); one over a single axis has h = 1.

    Where it is ``transposed``, ``down`` and ``across`` are the window with which y's gradient would flow back to x.
    """

    transposed: bool
    axes: int
    """spatial axes of x"""
    n: int
    groups: int
    ci: int
    co: int
    h: int
    w: int
    oh: int
    ow: int
    down: Axis
    across: Axis

    @property
    def taps(self) -> int:
        return self.down.kernel * self.across.kernel

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a filter of its own, and one only."""
        return self.groups > 1 and self.ci == self.co == 1

    @property
    def multiplied(self) -> bool:
        """Whether each channel has several filters of its own."""
        return self.groups > 1 and self.ci == 1 and self.co > 1 and not self.transposed

    @property
    def small_channels(self) -> bool:
        """Whether rows of a window are multiplied at a time: channels are few, and all taps of a row neighbours."""
        few = self.ci < SMALL_CHANNELS and self.groups == 1 and not self.transposed
        return few and self.across.kernel > 1 and self.across.dilation == 1

    @property
    def disjoint(self) -> bool:
        """Whether this is transposed, and the kernels that x's cells add do not overlap, and tile y."""
        if not self.transposed or self.groups > 1:
            return False
        if self.taps == 1:  # kernels of one cell need no such care
            return False
        sides = (self.down, self.h, self.oh), (self.across, self.w, self.ow)
        return all(axis[:4] == (axis.kernel, axis.kernel, 1, 0) and out == n * axis.kernel for axis, n, out in sides)


class ConvProblem(NamedTuple):
    """``constant``: whether the weights are; ``contiguous``: whether x is, channels last, and no view of a wider value. The
    limits are those of `Lowering`."""

    geometry: Geometry
    dtype: str
    constant: bool
    contiguous: bool
    target: Target
    packed_limit: float
    scratch_limit: float

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.dtype).itemsize

    @property
    def columns(self) -> int:
        """Columns of a full panel of packed weights."""
        return self.target.columns


def geometry(x: tuple[int, ...], ci: int, co: int, window: Window, groups: int, transposed: bool = False) -> Geometry:
    """Of a convolution of x with ``ci`` to ``co`` channels a group."""
    oh, ow = window.out if len(window.out) == 2 else (1, window.out[0])
    return Geometry(transposed, len(x) - 2, x[0], groups, ci, co, *plane(x), oh, ow, *flat(window))


def matrix(m: int, k: int, n: int) -> Geometry:
    """A product (m, k) × (k, n), as a convolution of one row of m pixels."""
    one = Axis(1, 1, 1, 0, 0)
    return Geometry(False, 0, 1, 1, k, n, 1, m, 1, m, one, one)


def problem(to: Lowering, found: Geometry, w: int = 1) -> ConvProblem:
    """Of the node that is lowered, whose weights are input ``w``."""
    name, x, weights = to.node.inputs[0], to.inputs[0], to.inputs[w]
    contiguous = to.layout(name) is CHANNELS_LAST and to.ld(0) == x.shape[1]
    return ConvProblem(found, x.dtype.name, bool(weights.constant), contiguous, to.target, to.packed_limit, to.scratch_limit)
