"""Convolutions over three axes: x is copied into padded volumes, and each plane of the kernel is a convolution of images,
whose results are added to those before."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from nbconv.graph import FLOAT32
from nbconv.kernels.params import Epilogue
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.indirect_gemm import Weights, Wide, taps_steps
from nbconv.lowering.conv.operands import Image
from nbconv.lowering.conv.problem import SMALL_CHANNELS, Geometry
from nbconv.lowering.repack import WeightStrides, varies
from nbconv.lowering.window import Window, spatial

NO_BIAS = 99
"""An input that no node has."""


class Volume(NamedTuple):
    """Volumes (d, h, w), channels last, and the padding before each axis that they have been given."""

    ref: Ref
    d: int
    h: int
    w: int
    begin: tuple[int, ...]


class Turns:
    """Sums that are made in turns, one for each plane of a kernel: each adds to what the one before made, the first to the
    residual; the last one's are y."""

    def __init__(self, to: Lowering, most: int) -> None:
        """``most`` turns."""
        n, self.channels, *size = to.outputs[0].shape
        self.to, self.last, self.residual, self.ldres = to, (to.epilogue, to.affine), to.residual, to.ldres
        self.other = to.floats(n * prod(size) * self.channels) if most > 1 else to.output()

    def begin(self, turn: int, turns: int, pixel: int) -> Wide:
        """Set what is added and done to results from this pixel of y on, and say where they go."""
        to, last = self.to, turn == turns - 1
        here, before = (to.output(), self.other) if (turns - turn) % 2 else (self.other, to.output())
        to.epilogue, to.affine = self.last if last else (Epilogue(), None)
        to.residual, to.ldres = self.residual and self.residual.at(pixel * self.ldres), self.ldres
        if turn:
            to.residual, to.ldres = before.at(pixel * self.channels), self.channels
        return Wide(here.at(pixel * self.channels), self.channels)


def is_padded(window: Window) -> bool:
    """Whether x is copied, from whatever layout it has."""
    return any((*window.begin, *window.end))


def lower_volume(to: Lowering, window: Window, groups: int) -> None:
    """The steps of a Conv with this window over x (n, ci, d, h, w)."""
    n, c = to.inputs[0].shape[:2]
    co, cg, kd, _, kw = to.inputs[1].shape
    (deep, down, across), (od, oh, ow) = spatial(window), window.out
    x, d, h, w, _ = padded_volume(to, window.begin, window.end)
    few = c < SMALL_CHANNELS and groups == 1 and kw > 1 and across.dilation == 1  # a row of the window is one tap
    sides = down._replace(begin=0, end=0), across._replace(begin=0, end=0)
    g = Geometry(False, 2, od, groups, cg, co // groups, h, w, oh, ow, *sides)
    columns, floats = (1, across.stride, 1, 0) if few else sides[1][:4], kw * cg if few else cg
    turns, together = Turns(to, kd), d == od * deep.stride  # the batch's planes are equally spaced
    for z, weights in enumerate(packed_once(to, [plane_weights(to, z, groups) for z in range(kd)], groups, co // groups)):
        for i in range(1 if together else n):
            taps_steps(
                to,
                g._replace(n=n * od) if together else g,
                weights,
                (oh, ow),
                sides[0][:4],
                columns,
                source=Image(x.at((i * d + z * deep.dilation) * h * w * c), deep.stride * h, w, c, floats),
                wide=turns.begin(z, kd, i * od * oh * ow),
                bias_input=NO_BIAS if z else 2,
            )


def padded_volume(to: Lowering, begin: tuple[int, ...], end: tuple[int, ...]) -> Volume:
    """x, or, with padding, steps that copy it into zero-filled volumes with room for that, channels last."""
    n, c, *size = to.inputs[0].shape
    d, h, w = (s + a + b for s, a, b in zip(size, begin, end, strict=True))
    if not any((*begin, *end)):
        return Volume(to.input(0), d, h, w, begin)
    y = to.floats(n * d * h * w * c)
    to.fill(y, n * d * h * w * c)
    front, top, left = begin
    there = (d * h * w * c, 1, h * w * c, w * c, c)
    to.copy(to.input(0), y.at(((front * h + top) * w + left) * c), (n, c, *size), to.strides(0), there)
    return Volume(y, d, h, w, begin)


def packed_once(to: Lowering, planes: list[Weights], groups: int, n: int) -> Iterator[Weights]:
    """These planes of a kernel, which are equally spaced; where they vary, each is packed once for all samples, and of one
    group all at once, unless that takes too much memory."""
    first = planes[0].strides
    if not varies(to, 1) or not first.kh:
        yield from planes
    elif groups == 1 and FLOAT32.itemsize * len(planes) * repack.panel_floats(to, first, n) <= to.scratch_limit:
        apart = planes[1].strides.base - first.base if len(planes) > 1 else 0
        found = repack.planes(to, planes[0].source, first._replace(group=apart), len(planes), n)
        yield from (w._replace(packed=y) for w, y in zip(planes, found, strict=True))
    else:
        yield from (w._replace(packed=repack.panels(to, w.source, w.strides, groups, n)) for w in planes)


def plane_weights(to: Lowering, z: int, groups: int) -> Weights:
    """A plane of the kernel, of (groups · co, ci, kd, kh, kw)."""
    co, cg, kd, kh, kw = to.inputs[1].shape
    taps, whole = kh * kw, kd * kh * kw

    def make() -> np.ndarray:
        return to.value(1)[:, :, z].reshape(groups, co // groups, cg, taps).transpose(0, 3, 2, 1)

    strides = WeightStrides(z * taps, whole * cg * (co // groups), kw, 1, whole, cg * whole, kh, kw, cg)
    return Weights(f"conv{groups}.plane{z}", make, strides, to.input(1))
